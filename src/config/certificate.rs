//! Reads the certificates that `[server]` and `[upstreams.NAME]` name. They are read together with the file, so that a reload takes over
//! all of it or nothing.

use std::path::Path as FilePath;

use crate::delivery::settings::Settings as Upstream;
use crate::delivery::transport::tls::{Credentials, Unfit};
use crate::http::listener::tls::{Certificate, CertificateError};
use crate::http::settings::Server;

use super::report::Report;
use super::tree::Path;

/// The certificate to serve; `None` when none is named or it cannot be used.
pub(super) fn read(server: &Server, report: &mut Report<'_>) -> Option<Certificate> {
    let section = Path::default().key("server");
    let (certificate, key) = (section.key("tls_cert"), section.key("tls_key"));
    match (&server.tls_cert, &server.tls_key) {
        (Some(of_certificate), Some(of_key)) => load(of_certificate, of_key, (&certificate, &key), report),
        // An option of the wrong kind was taken out, and is reported already.
        (None, Some(_)) if !report.has(&certificate) => missing(&certificate, "the certificate of this key", report),
        (Some(_), None) if !report.has(&key) => missing(&key, "the key of this certificate", report),
        _ => None,
    }
}

fn load(
    certificate: &FilePath,
    key: &FilePath,
    (at_certificate, at_key): (&Path, &Path),
    report: &mut Report<'_>,
) -> Option<Certificate> {
    let (place, why) = match Certificate::load(certificate, key) {
        Ok(certificate) => return Some(certificate),
        Err(CertificateError::Certificate(why)) => (at_certificate, why),
        Err(CertificateError::Key(why)) => (at_key, why),
    };
    unreadable(place, why, report);
    None
}

/// The contents of the files that an upstream's section names; the default when none is named or one cannot be used.
pub(super) fn read_upstream(name: &str, upstream: &Upstream, report: &mut Report<'_>) -> Credentials {
    let section = Path::default().key("upstreams").key(name);
    let (certificate, key) = (section.key("tls_client_cert"), section.key("tls_client_key"));
    let own = match (&upstream.tls_client_cert, &upstream.tls_client_key) {
        (Some(certificate), Some(key)) => Some((certificate.as_path(), key.as_path())),
        (None, Some(_)) if !report.has(&certificate) => {
            incomplete(&certificate, "the certificate of this key", "tls_client_cert and tls_client_key", report);
            None
        }
        (Some(_), None) if !report.has(&key) => {
            incomplete(&key, "the key of this certificate", "tls_client_cert and tls_client_key", report);
            None
        }
        _ => None,
    };
    let (place, why) = match Credentials::load(upstream.tls_ca.as_deref(), own) {
        Ok(credentials) => return credentials,
        Err(Unfit::Authority(why)) => (section.key("tls_ca"), why),
        Err(Unfit::Certificate(why)) => (certificate, why),
        Err(Unfit::Key(why)) => (key, why),
    };
    unreadable(&place, why, report);
    Credentials::default()
}

fn unreadable(place: &Path, why: String, report: &mut Report<'_>) {
    let help =
        why.contains("cannot be read").then(|| "the user that runs the daemon must be able to read it".to_owned());
    report.error(place, why, help);
}

fn missing(at: &Path, what: &str, report: &mut Report<'_>) -> Option<Certificate> {
    incomplete(at, what, "tls_cert and tls_key", report);
    None
}

fn incomplete(at: &Path, what: &str, both: &str, report: &mut Report<'_>) {
    report.error(at, format!("is missing: {what}"), Some(format!("{both} go together")));
}
