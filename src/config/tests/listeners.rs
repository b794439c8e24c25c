//! The options of the listeners: which values are accepted, and the messages about the others.

use super::{GOOD, lines};

#[test]
fn trusted_proxies_are_addresses_and_ranges_and_nothing_else() {
    let fine = "no problems in config.toml";
    let said =
        |server: &str| lines(&GOOD.replace("[upstreams.sentry]", &format!("[server]\n{server}\n[upstreams.sentry]")));
    assert_eq!(said(r#"trusted_proxies = ["10.0.0.0/8", "fd00::/8", "127.0.0.1", "::ffff:10.0.0.9"]"#), fine);
    let wrong = said(r#"trusted_proxies = ["127.0.0.1", "10.1.2.3/8"]"#);
    assert!(wrong.starts_with("config.toml:4:33: server.trusted_proxies[1]"), "{wrong}");
    assert!(wrong.contains(r#""10.0.0.0/8" is the whole range"#), "{wrong}");
    assert!(said(r#"trusted_proxies = ["cloudflare"]"#).contains("no address and no range"));
    let everybody = said(r#"trusted_proxies = ["::/0"]"#);
    assert!(everybody.contains("warning") && everybody.contains("everybody is believed"), "{everybody}");
    assert!(said("proxy_protocol = true").contains("there are none"));
    assert_eq!(said("proxy_protocol = true\ntrusted_proxies = [\"10.0.0.1\"]"), fine);
    assert!(said("keep_alive = \"0s\"").contains("shorter than 1s"));
}

#[test]
fn a_short_admin_token_gets_a_warning_that_does_not_show_it() {
    let said = |token: &str| {
        lines(&GOOD.replace("[upstreams.sentry]", &format!("[admin]\ntoken = \"{token}\"\n[upstreams.sentry]")))
    };
    let short = said("12345");
    let expected = "config.toml:4:9: warning: admin.token: has fewer than 16 characters: whoever guesses it can switch the primary";
    assert!(short.starts_with(expected) && short.contains("openssl rand -hex 32"), "{short}");
    assert!(!short.contains("12345"), "{short}");
    assert!(said("0123456789abcde").contains("fewer than 16"));
    assert_eq!(said("0123456789abcdef"), "no problems in config.toml");
}

#[test]
fn listen_addresses_that_exclude_each_other_are_reported() {
    let said = |server: &str, admin: &str| {
        let sections = format!("[server]\nlisten = [{server}]\n[admin]\nlisten = \"{admin}\"\n[upstreams.sentry]");
        lines(&GOOD.replace("[upstreams.sentry]", &sections))
    };
    let two = said(r#""0.0.0.0:1", "127.0.0.1:1""#, "127.0.0.1:2");
    assert!(two.contains("server.listen[1]: 0.0.0.0:1 in this list takes this address, too"), "{two}");
    let admin = said(r#""[::]:1", "0.0.0.0:2""#, "127.0.0.1:2");
    assert!(admin.contains("admin.listen: [server] listens on 0.0.0.0:2, which takes this address, too"), "{admin}");
    assert!(said(r#""127.0.0.1:1", "127.0.0.1:1""#, "127.0.0.1:2").contains("is listed twice"));
    for fine in [r#""[::]:1", "0.0.0.0:1""#, r#""[::]:1", "127.0.0.1:1""#, r#""0.0.0.0:0", "127.0.0.1:0""#] {
        assert_eq!(said(fine, "127.0.0.1:2"), "no problems in config.toml");
    }
}
