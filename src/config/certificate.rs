//! The certificate that `[server]` names, read with the rest of the file so that a reload takes over all of it or nothing.

use std::path::Path as FilePath;

use crate::http::settings::Server;
use crate::http::tls::{Certificate, CertificateError};

use super::report::Report;
use super::tree::Path;

/// The certificate to serve, if one is named and all is well with it.
pub(super) fn read(server: &Server, report: &mut Report<'_>) -> Option<Certificate> {
    let section = Path::default().key("server");
    let (certificate, key) = (section.key("tls_cert"), section.key("tls_key"));
    match (&server.tls_cert, &server.tls_key) {
        (Some(of_certificate), Some(of_key)) => load(of_certificate, of_key, (&certificate, &key), report),
        // What was taken out because it is no text is told already.
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
    let help =
        why.contains("cannot be read").then(|| "the user that runs the daemon must be able to read it".to_owned());
    report.error(place, why, help);
    None
}

fn missing(at: &Path, what: &str, report: &mut Report<'_>) -> Option<Certificate> {
    report.error(at, format!("is missing: {what}"), Some("tls_cert and tls_key go together".to_owned()));
    None
}
