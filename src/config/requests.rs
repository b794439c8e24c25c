//! The checks of the options about sent requests: `headers`, `compress` and `mend` in `[upstreams.NAME]`.
//!
//! Rule: the value of a header is never shown.

use crate::delivery::compress::Compress;
use crate::delivery::settings::{Kind, Settings};

use super::report::Report;
use super::tree::Path;

/// Checks the options of the upstream at `path`.
pub(super) fn check(path: &Path, upstream: &Settings, report: &mut Report<'_>) {
    check_headers(path, upstream, report);
    let compress = path.key("compress");
    match (upstream.compress, upstream.kind) {
        (Some(Compress::Zstd), kind @ (Kind::Glitchtip | Kind::Bugsink)) => {
            let message = format!("a {} knows no zstd", kind.name());
            report.error(&compress, message, Some("write \"gzip\", or leave it out for what suits its kind".into()));
        }
        (Some(Compress::Gzip), Kind::Glitchtip) => {
            let message = "a GlitchTip 5 reads some compressed envelopes byte by byte, at two seconds a MiB";
            report.warning(&compress, message, None);
        }
        _ => {}
    }
    if !upstream.mend.is_empty() && upstream.kind != Kind::Glitchtip {
        let message = format!("only a glitchtip needs it, and this is of kind {}", upstream.kind.name());
        report.error(&path.key("mend"), message, Some("leave it out".into()));
    }
}

fn check_headers(path: &Path, upstream: &Settings, report: &mut Report<'_>) {
    let (section, headers) = (path.key("headers"), &upstream.headers);
    for (name, problem) in headers.problems() {
        match name {
            Some(name) => report.error_at_key(&section.key(name), problem, None),
            None => report.error_at_key(&section, problem, None),
        }
    }
    let Some(authorization) = headers.authorization() else { return };
    let place = section.key(authorization);
    if upstream.api.is_some() {
        let help = "let what stands before the tracker take another header, or leave out [upstreams.NAME.api]";
        let message = "the token of the api section goes in this header, too, and a request has one";
        report.error_at_key(&place, message, Some(help.into()));
    }
    let value = headers.iter().find(|(name, _)| *name == authorization).map_or("", |(_, value)| value.expose());
    if !value.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic ")) {
        let help =
            "this is for what stands before a tracker; a token of the tracker's own API belongs in no header here";
        let message = "requests that the relay passes on to the primary carry it, whoever sends them";
        report.warning(&place, message, Some(help.into()));
    }
}

#[cfg(test)]
mod tests {
    use crate::config::diagnostics::Form;
    use crate::config::parse;

    fn lines(end: &str) -> String {
        let beginning = "primary = \"a\"\n[[projects]]\nname = \"shop\"\nid = \"1\"\npublic_key = \"k\"\n\
                         upstreams.a = \"http://k@h/1\"\n[upstreams.a]\n";
        let loaded = parse("config.toml", &format!("{beginning}{end}"), &|_| Some("hunter2".to_owned()));
        loaded.map_or_else(|problems| problems, |loaded| loaded.warnings).render(Form::Lines)
    }

    #[test]
    fn unfit_headers_are_reported_at_their_places_without_their_values() {
        let wrong = "[upstreams.a.headers]\nHost = \"hunter2\"\nX-A = \"\"\n\"X b\" = \"hunter2\"\nX-C = 5\n\
                     Content-Encoding = \"gzip\"\nX-D = \"hunter2\\n\"\n";
        insta::assert_snapshot!(lines(wrong), @r##"
        config.toml:9:1: upstreams.a.headers.Host: is a header that the relay sets itself
        config.toml:10:1: upstreams.a.headers.X-A: is empty
        config.toml:11:1: upstreams.a.headers."X b": is no name of a header
        config.toml:12:7: upstreams.a.headers.X-C: expected a string, found an integer (write it in quotes; a period or a size with its unit, as in "30s" or "64MiB")
        config.toml:13:1: upstreams.a.headers.Content-Encoding: is a header that the relay sets itself
        config.toml:14:1: upstreams.a.headers.X-D: has characters that no header may have
        6 problems in config.toml
        "##);
        let fine = "headers = { CF-Access-Client-Id = \"${ID}\", Authorization = \"Basic aHVudGVyMg==\" }\n";
        assert_eq!(lines(fine), "no problems in config.toml");
    }

    #[test]
    fn zstd_is_refused_for_trackers_without_it() {
        for kind in ["glitchtip", "bugsink"] {
            let told = lines(&format!("kind = \"{kind}\"\ncompress = \"zstd\"\n"));
            assert!(
                told.contains(&format!("config.toml:9:12: upstreams.a.compress: a {kind} knows no zstd")),
                "{told}"
            );
        }
        assert!(lines("kind = \"glitchtip\"\ncompress = \"gzip\"\n").contains("warning: upstreams.a.compress"));
        for fine in ["kind = \"sentry\"\ncompress = \"zstd\"\n", "kind = \"bugsink\"\ncompress = \"gzip\"\n"] {
            assert_eq!(lines(fine), "no problems in config.toml");
        }
        let told = lines("compress = \"br\"\n");
        assert!(told.contains("upstreams.a.compress: expected one of `zstd`, `gzip`, `none`, found `br`"), "{told}");
    }

    #[test]
    fn an_authorization_header_beside_an_api_token_is_refused() {
        let both = "headers = { authorization = \"Basic aHVudGVyMg==\" }\n\
                    kind = \"bugsink\"\napi = { token = \"hunter2\" }\n";
        insta::assert_snapshot!(lines(both), @r##"
        config.toml:8:13: upstreams.a.headers.authorization: the token of the api section goes in this header, too, and a request has one (let what stands before the tracker take another header, or leave out [upstreams.NAME.api])
        1 problem in config.toml
        "##);
        let lent = lines("headers = { Authorization = \"Bearer hunter2\" }\n");
        assert!(
            lent.contains("warning: upstreams.a.headers.Authorization: requests that the relay passes on"),
            "{lent}"
        );
        let second = lines("headers = { Authorization = \"Sentry sentry_key=hunter2\" }\n");
        assert!(second.contains("is a second key beside the one of the DSN"), "{second}");
        assert!(!format!("{lent}{second}").contains("hunter2"));
    }

    #[test]
    fn mend_is_refused_for_kinds_other_than_glitchtip() {
        let told = lines("kind = \"bugsink\"\nmend = [\"release\"]\n");
        assert!(
            told.contains("config.toml:9:8: upstreams.a.mend: only a glitchtip needs it, and this is of kind bugsink"),
            "{told}"
        );
        assert_eq!(lines("kind = \"glitchtip\"\nmend = [\"release\"]\n"), "no problems in config.toml");
        let told = lines("kind = \"glitchtip\"\nmend = [\"tags\"]\n");
        assert!(told.contains("upstreams.a.mend") && told.contains("`release`"), "{told}");
    }
}
