//! TLS to upstreams: the trusted certificates, and a certificate of our own. Trusted are the system's certificate authorities, or Mozilla's
//! if the system has none, and those in the files of an upstream's section.
//!
//! Rule: the system's authorities are read once for the process, an upstream's files with each load of the configuration.

use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, LazyLock, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// The largest file of certificates or a key, in bytes.
const LARGEST: u64 = 1024 * 1024;

static ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let error = found.errors.first().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(error, "the system has no certificate authorities, using Mozilla's");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
});

static CONFIG: LazyLock<ClientConfig> =
    LazyLock::new(|| ClientConfig::builder().with_root_certificates(ROOTS.clone()).with_no_client_auth());

static NOBODY: LazyLock<ClientConfig> =
    LazyLock::new(|| ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth());

/// The configuration for upstreams whose section names no files. Clones share the authorities and the sessions to resume.
pub fn config() -> ClientConfig {
    CONFIG.clone()
}

/// The configuration for connections without TLS: it trusts no certificate.
pub(super) fn nobody() -> ClientConfig {
    NOBODY.clone()
}

/// The content of an upstream's files: further trusted certificates, and a certificate of our own. The debug form shows neither.
#[derive(Clone, Default)]
pub struct Credentials(Option<Arc<Loaded>>);

struct Loaded {
    trusted: Vec<CertificateDer<'static>>,
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    content: u64,
    /// Made with the first connection.
    config: OnceLock<Result<ClientConfig, Error>>,
}

/// Which file is unfit, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unfit {
    /// The file with trusted certificates.
    #[error("{0}")]
    Authority(String),
    /// The file with our certificate.
    #[error("{0}")]
    Certificate(String),
    /// The file with the key of our certificate.
    #[error("{0}")]
    Key(String),
}

impl Credentials {
    /// Reads the files, all in PEM form: `ca` has further trusted certificates, `own` our certificate and its key.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or holds nothing of the kind, or the key is not that of the certificate.
    pub fn load(ca: Option<&Path>, own: Option<(&Path, &Path)>) -> Result<Self, Unfit> {
        if ca.is_none() && own.is_none() {
            return Ok(Self::default());
        }
        let mut hasher = DefaultHasher::new();
        let trusted = ca.map(|path| trusted(path, &mut hasher).map_err(Unfit::Authority)).transpose()?;
        let own = own.map(|files| pair(files, &mut hasher)).transpose()?;
        let (trusted, content) = (trusted.unwrap_or_default(), hasher.finish());
        Ok(Self(Some(Arc::new(Loaded { trusted, own, content, config: OnceLock::new() }))))
    }

    /// A hash of the files' content, which says nothing about it; `None` without files.
    pub fn content(&self) -> Option<u64> {
        self.0.as_ref().map(|loaded| loaded.content)
    }

    /// The configuration for connections to that upstream.
    pub(super) fn config(&self) -> Result<ClientConfig, Error> {
        let Some(loaded) = &self.0 else { return Ok(config()) };
        loaded.config.get_or_init(|| loaded.make()).clone()
    }
}

impl Loaded {
    fn make(&self) -> Result<ClientConfig, Error> {
        let mut roots = ROOTS.clone();
        roots.add_parsable_certificates(self.trusted.iter().cloned());
        let inner =
            WebPkiServerVerifier::builder(Arc::new(roots)).build().map_err(|e| Error::General(e.to_string()))?;
        let verifier = Arc::new(Named { inner, named: self.trusted.clone() });
        let builder = ClientConfig::builder().dangerous().with_custom_certificate_verifier(verifier);
        match &self.own {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()),
        }
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.content() == other.content()
    }
}

impl Eq for Credentials {}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

fn trusted(path: &Path, hasher: &mut impl Hasher) -> Result<Vec<CertificateDer<'static>>, String> {
    let content = read(path)?;
    content.hash(hasher);
    let found = certificates(&content)?;
    let mut roots = RootCertStore::empty();
    match found.iter().try_for_each(|certificate| roots.add(certificate.clone())) {
        Ok(()) => Ok(found),
        Err(error) => Err(format!("holds a certificate that cannot be read: {error}")),
    }
}

fn pair(
    (certificate, key): (&Path, &Path),
    hasher: &mut impl Hasher,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Unfit> {
    let (of_certificate, of_key) = (read(certificate).map_err(Unfit::Certificate)?, read(key).map_err(Unfit::Key)?);
    (&of_certificate, &of_key).hash(hasher);
    let chain = certificates(&of_certificate).map_err(Unfit::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&of_key)
        .map_err(|_| Unfit::Key("holds no private key in PEM form".to_owned()))?;
    let builder = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    match builder.with_client_auth_cert(chain.clone(), key.clone_key()) {
        Ok(_) => Ok((chain, key)),
        Err(Error::InconsistentKeys(_)) => Err(Unfit::Key("is not the key of the certificate".to_owned())),
        Err(error @ Error::InvalidCertificate(_)) => Err(Unfit::Certificate(error.to_string())),
        Err(error) => Err(Unfit::Key(error.to_string())),
    }
}

/// The certificates of a file in PEM form, at least one.
///
/// # Errors
///
/// When it holds none.
pub fn certificates(content: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let found = found.ok().filter(|found| !found.is_empty());
    found.ok_or_else(|| "holds no certificate in PEM form".to_owned())
}

/// The content of a regular file of at most 1 MiB: a pipe would hold up the loader.
///
/// # Errors
///
/// When there is no such file, or it is larger.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = vec![];
    let outcome = std::fs::metadata(path).and_then(|metadata| match metadata.is_file() {
        true => File::open(path)?.take(LARGEST + 1).read_to_end(&mut content),
        false => Err(io::Error::other("not a regular file")),
    });
    match outcome {
        Ok(read) if read as u64 > LARGEST => Err(format!("{} is larger than 1 MiB", path.display())),
        Ok(_) => Ok(content),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

/// Trusts the authorities, and any server's certificate that is itself in the file. A self-signed certificate is signed by no authority,
/// and `openssl req -x509` marks it as an authority, which no server's certificate may be.
#[derive(Debug)]
struct Named {
    inner: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(Error::InvalidCertificate(why)) = &verified else { return verified };
        if !self.named.contains(end_entity) || is_about_time(why) {
            return verified;
        }
        match verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name) {
            // A certificate without any name is known by being in the file.
            Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }))
                if presented.is_empty() =>
            {
                Ok(ServerCertVerified::assertion())
            }
            named => named.map(|()| ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Whether a certificate is invalid because of the time, which is checked first.
fn is_about_time(why: &CertificateError) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(why, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}
