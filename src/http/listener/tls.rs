//! TLS for the public listener: the certificate, read from files, and the handshake. Knows no HTTP.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::delivery::transport::tls::{certificates, read};

use super::socket::Socket;

/// The first byte of a TLS connection, which announces a handshake record (RFC 8446, section 5.1).
pub(super) const HANDSHAKE: u8 = 0x16;

/// A certificate with its key, ready to be served. `Debug` shows neither.
#[derive(Clone)]
pub struct Certificate {
    config: Arc<ServerConfig>,
    content: u64,
}

/// Why there is no certificate to serve.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file of the certificate is at fault.
    #[error("{0}")]
    Certificate(String),
    /// The file of the key is at fault.
    #[error("{0}")]
    Key(String),
}

impl Certificate {
    /// Reads a certificate with the chain below it, and its key, both in PEM form.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or holds no certificate or no key, or the key is not that of the certificate.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let read_certificate = read(certificate).map_err(CertificateError::Certificate)?;
        let read_key = read(key).map_err(CertificateError::Key)?;
        let chain = certificates(&read_certificate).map_err(CertificateError::Certificate)?;
        let private = PrivateKeyDer::from_pem_slice(&read_key)
            .map_err(|_| CertificateError::Key("holds no private key in PEM form".to_owned()))?;
        let mut hasher = DefaultHasher::new();
        (&read_certificate, &read_key).hash(&mut hasher);
        Ok(Self { config: Arc::new(server(chain, private)?), content: hasher.finish() })
    }

    /// A hash of both files, which differs between certificates and reveals nothing about them.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Does the handshake with a client that has begun one.
    pub(super) async fn accept(&self, socket: Socket) -> io::Result<TlsStream<Socket>> {
        TlsAcceptor::from(Arc::clone(&self.config)).accept(socket).await
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

fn server(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, CertificateError> {
    let versions = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| CertificateError::Certificate(error.to_string()))?;
    let config = versions.with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            CertificateError::Key("is not the key of the certificate".to_owned())
        }
        rustls::Error::InvalidCertificate(_) => CertificateError::Certificate(error.to_string()),
        other => CertificateError::Key(other.to_string()),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new certificate and its key, in PEM form.
    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn load(certificate: &str, key: &str) -> Result<Certificate, String> {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("cert.pem"), certificate).unwrap();
        std::fs::write(at("key.pem"), key).unwrap();
        Certificate::load(&at("cert.pem"), &at("key.pem")).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn a_certificate_loads_with_its_key_and_differs_from_others() {
        let (a, b) = (pair(), pair());
        let loaded = load(&a.0, &a.1).unwrap();
        assert_eq!(loaded, load(&a.0, &a.1).unwrap());
        assert_ne!(loaded, load(&b.0, &b.1).unwrap());
        assert_eq!(format!("{loaded:?}"), "Certificate");
        // A chain may have several certificates, and a file more than PEM.
        assert!(load(&format!("{}{}", a.0, b.0), &format!("# a remark\n{}", a.1)).is_ok());
    }

    #[test]
    fn a_refused_certificate_names_the_file_at_fault() {
        let (a, b) = (pair(), pair());
        for (certificate, key, file, why) in [
            ("", &*a.1, "Certificate", "holds no certificate"),
            (&*a.1, &*a.1, "Certificate", "holds no certificate"),
            (&*a.0, "nonsense", "Key", "holds no private key"),
            (&*a.0, &*b.1, "Key", "not the key"),
        ] {
            let error = load(certificate, key).unwrap_err();
            assert!(error.starts_with(file) && error.contains(why), "{error}");
        }
        let missing = Certificate::load(Path::new("/nowhere/cert.pem"), Path::new("/nowhere/key.pem")).unwrap_err();
        assert!(matches!(&missing, CertificateError::Certificate(why) if why.contains("/nowhere/cert.pem")));
        let device = Certificate::load(Path::new("/dev/null"), Path::new("/dev/null")).unwrap_err();
        assert!(device.to_string().contains("not a regular file"), "{device}");
    }
}
