//! TLS in front of an upstream: generated certificates, and a server that forwards what it decrypts.
//!
//! Rule: it knows bytes and no HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::net;

/// A certificate with its key.
pub(crate) struct Pair {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) pem: String,
    pub(crate) key: KeyPair,
}

impl Pair {
    /// A self-signed certificate for `name`; `is_ca` marks it as an authority, as `openssl req -x509` does.
    pub(crate) fn self_signed(name: &str, is_ca: bool) -> Self {
        let (mut params, key) = (params(name), KeyPair::generate().expect("a key"));
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let made = params.self_signed(&key).expect("a certificate");
        Self { certificate: made.der().clone(), pem: made.pem(), key }
    }

    /// A self-signed certificate for `name` that expired years ago.
    pub(crate) fn expired(name: &str) -> Self {
        let (mut params, key) = (params(name), KeyPair::generate().expect("a key"));
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let made = params.self_signed(&key).expect("a certificate");
        Self { certificate: made.der().clone(), pem: made.pem(), key }
    }

    /// Writes certificate and key as `NAME.pem` and `NAME.key`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> [PathBuf; 2] {
        let files = [folder.join(format!("{name}.pem")), folder.join(format!("{name}.key"))];
        std::fs::write(&files[0], &self.pem).expect("a certificate's file");
        std::fs::write(&files[1], self.key.serialize_pem()).expect("a key's file");
        files
    }
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).expect("a name")
}

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = params("authority.test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of one's own");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// A certificate for `name` that the authority has signed.
    pub(crate) fn signs(&self, name: &str) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let made = params(name).signed_by(&key, &self.0).expect("a certificate");
        Pair { certificate: made.der().clone(), pem: made.pem(), key }
    }

    fn certificate(&self) -> &rcgen::Certificate {
        self.0.as_ref()
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate().pem()
    }
}

/// A TLS server that forwards everything to a plain one.
pub(crate) struct Front {
    pub(crate) port: u16,
    _tasks: JoinSet<()>,
}

impl Front {
    /// Starts a server before `behind`, a `host:port`. With `clients`, it admits only clients with a certificate of that authority.
    pub(crate) async fn start(pair: &Pair, clients: Option<&Authority>, behind: String) -> Self {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.expect("versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.certificate().der().clone()).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let config = builder.with_single_cert(vec![pair.certificate.clone()], key).expect("a server's side");
        let (acceptor, port) = (TlsAcceptor::from(Arc::new(config)), net::free_port());
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a listener");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                connections.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let Ok(mut server) = TcpStream::connect(behind).await else { return };
                    drop(copy_bidirectional(&mut stream, &mut server).await);
                });
            }
        });
        Self { port, _tasks: tasks }
    }
}

/// A folder with the file `ca.pem` that holds `pem`, and the path of the file.
pub(crate) fn file(pem: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::with_prefix("switchyard-").expect("a folder");
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, pem).expect("a file");
    (folder, path)
}
