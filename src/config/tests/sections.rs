//! The messages about sections and values of a wrong kind.

use super::{GOOD, lines};

#[test]
fn a_section_in_double_brackets_is_named_as_the_problem() {
    for (section, line) in [
        ("server", "keep_alive = \"1s\""),
        ("admin", "open_on_loopback = false"),
        ("journal", "path = \"x\""),
        ("limits", "error = \"1/s\""),
        ("canary", "interval = \"5m\""),
        ("upstreams.other", "kind = \"sentry\""),
        ("upstreams.sentry.shadow", "items = [\"event\"]"),
        ("limits.storm", "limit = 1"),
    ] {
        let said = lines(&format!("{GOOD}[[{section}]]\n{line}\n"));
        let expected =
            format!("{section}: is written as a list of sections (a section stands in single brackets, [{section}]");
        assert!(said.contains(&expected), "{said}");
        assert!(!said.contains("expected"), "{said}");
    }
    assert!(!lines(&format!("{GOOD}[[notify]]\nurl = 5\n")).contains("single brackets"));
}

#[test]
fn kinds_of_values_have_everyday_names() {
    for (section, line, said) in [
        ("report", "max_refused = -1", "expected a whole number, found integer `-1`"),
        ("verify", "max_repairs = \"2\"", "expected a whole number, found string"),
        ("server", "proxy_protocol = 1", "expected true or false, found integer `1`"),
        ("admin", "listen = 8485", "expected an address, found integer `8485` (an address is an IP and a port"),
        ("journal", "path = 5", "expected a string, found integer `5` (write it in quotes"),
        ("journal", "sync = 5", "expected a string (write it in quotes"),
    ] {
        let told = lines(&format!("{GOOD}[{section}]\n{line}\n"));
        assert!(told.contains(said), "{told}");
    }
}
