//! Turns the shape of the file into a [`Config`], and checks what needs more than one value.
//!
//! Rule: every check runs, whatever the others found. Nothing here reads files, the network or the clock.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::content;
use crate::delivery::proxies::{Choice, InvalidProxy};
use crate::delivery::settings::{LONGEST_AGE, Settings as Upstream};
use crate::http::host;
use crate::journal::MAX_TARGETS;
use crate::policy::limits::{self, Limits};

use super::Config;
use super::checks::{MOST_IN_FLIGHT, check_name, check_names_an_upstream, check_period};
use super::notifications;
use super::projects;
use super::report::Report;
use super::requests;
use super::shape::File;
use super::shared;
use super::suggest::nearest;
use super::tree::Path;
use super::{api, canary};

/// The configuration without its certificate. It is usable only if the report has no errors.
pub(super) fn resolve(file: File, report: &mut Report<'_>) -> Config {
    let top = Path::default();
    let known = known_upstreams(&file, report);
    check_upstreams(&file, report);
    check_listeners(&file, report);
    check_sizes_and_periods(&file, report);
    let primary = match &file.primary {
        Some(name) => {
            check_names_an_upstream(&top.key("primary"), name, &known, report);
            name.as_str().into()
        }
        None => {
            let help = format!("write primary = \"{}\" at the top", known.first().map_or("NAME", String::as_str));
            report.error(&top.key("primary"), "is missing: which upstream does the team trust now?", Some(help));
            Arc::default()
        }
    };
    let projects = projects::resolve(&file, &known, report);
    shared::check(&file, report);
    canary::check(&file, report);
    api::check(&file, report);
    notifications::check(&file, report);
    check_accepted(&file, report);
    let limits =
        file.projects.iter().filter_map(|project| Some((project.name.as_deref()?.into(), project.limits.clone())));
    let limits = limits.filter(|(_, own)| *own != limits::Settings::default()).collect();
    let browsers =
        file.projects.iter().filter_map(|project| Some((project.name.as_deref()?.into(), project.browsers?)));
    let browsers = browsers.collect();
    Config {
        primary,
        mirror: file.mirror,
        server: file.server,
        certificate: None,
        admin: file.admin,
        journal: file.journal,
        dedup: file.dedup,
        limits: Limits { all: file.limits, own: limits, browsers },
        report: file.report,
        canary: file.canary,
        verify: file.verify,
        notify: file.notify,
        upstreams: file.upstreams.into_iter().map(|(name, settings)| (name.into(), settings)).collect(),
        projects,
    }
}

/// Reports fields of `accept_drift` that belong to no part of an event that is compared.
fn check_accepted(file: &File, report: &mut Report<'_>) {
    let path = Path::default().key("report").key("accept_drift");
    for (position, field) in file.report.accept_drift.iter().enumerate() {
        if !content::PARTS.contains(&field.part()) {
            let help = match nearest(field.part(), content::PARTS) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("these are compared: {}", content::PARTS.join(", ")),
            };
            report.error(&path.index(position), "names no part of an event that is compared", Some(help));
        }
    }
}

/// The upstreams that the file names, including those that were taken out because of errors.
fn known_upstreams(file: &File, report: &Report<'_>) -> Vec<String> {
    let written = report.keys(&Path::default().key("upstreams"));
    if written.is_empty() { file.upstreams.keys().cloned().collect() } else { written }
}

fn check_upstreams(file: &File, report: &mut Report<'_>) {
    let section = Path::default().key("upstreams");
    let count = file.upstreams.len();
    if count == 0 && !report.knows_about(&section) {
        report.error(&section, "there is no upstream", Some("add a section [upstreams.NAME] for each tracker".into()));
    }
    if count > MAX_TARGETS {
        report.error_at_key(&section, format!("{count} upstreams; {MAX_TARGETS} are the most"), None);
    }
    for (name, upstream) in &file.upstreams {
        let path = section.key(name);
        check_name(&path, name, "an upstream", true, report);
        check_upstream(&path, upstream, report);
    }
}

fn check_upstream(path: &Path, upstream: &Upstream, report: &mut Report<'_>) {
    if upstream.max_in_flight.get() > MOST_IN_FLIGHT {
        report.error(&path.key("max_in_flight"), format!("{MOST_IN_FLIGHT} is the most"), None);
    }
    check_period(&path.key("timeout"), upstream.timeout, true, report);
    check_period(&path.key("max_age"), upstream.max_age, true, report);
    check_period(&path.key("max_connection_age"), upstream.max_connection_age, false, report);
    if upstream.max_age > LONGEST_AGE {
        report.error(&path.key("max_age"), format!("is longer than {LONGEST_AGE}"), None);
    }
    if matches!(upstream.proxy, Choice::Invalid(_)) {
        report.error(&path.key("proxy"), InvalidProxy.to_string(), Some("\"none\" is a direct connection".into()));
    }
    requests::check(path, upstream, report);
}

/// The shortest token without a warning. In hex digits it has the 64 bits that OWASP's ASVS 4.0.3 demands of a session token (V3.2.2).
/// Version 5 demands 128 (7.2.3); the suggested command gives 256.
const SHORTEST_TOKEN: usize = 16;

fn check_listeners(file: &File, report: &mut Report<'_>) {
    let (server, admin) = (Path::default().key("server").key("listen"), Path::default().key("admin"));
    let listen = &file.server.listen;
    if listen.is_empty() && !report.knows_about(&server) {
        report.error(&server, "is empty: SDKs need an address to send to", Some("leave it out for the default".into()));
    }
    check_proxies(file, report);
    for (position, address) in listen.iter().enumerate() {
        match listen[..position].iter().find(|other| is_taken(*address, **other)) {
            Some(same) if same == address => {
                report.error(&server.index(position), "this address is listed twice", None)
            }
            Some(other) => {
                report.error(&server.index(position), format!("{other} in this list takes this address, too"), None)
            }
            None => {}
        }
    }
    match listen.iter().find(|other| is_taken(file.admin.listen, **other)) {
        Some(same) if *same == file.admin.listen => {
            report.error(&admin.key("listen"), "[server] listens on this address already", None);
        }
        Some(other) => {
            report.error(
                &admin.key("listen"),
                format!("[server] listens on {other}, which takes this address, too"),
                None,
            );
        }
        None => {}
    }
    match &file.admin.token {
        Some(token) if token.expose().trim().is_empty() => report.error(&admin.key("token"), "is empty", None),
        Some(token) if token.expose().trim().chars().count() < SHORTEST_TOKEN => {
            let message =
                format!("has fewer than {SHORTEST_TOKEN} characters: whoever guesses it can switch the primary");
            let help = "`openssl rand -hex 32` makes a good one";
            report.warning(&admin.key("token"), message, Some(help.into()));
        }
        None if !is_loopback(file.admin.listen.ip()) => {
            let help = "add token = \"${SWITCHYARD_ADMIN_TOKEN}\" to [admin], or listen on 127.0.0.1";
            let message = "everybody who reaches this address could switch the primary: a token is required";
            report.error(&admin.key("listen"), message, Some(help.into()));
        }
        _ => {}
    }
    for (position, host) in file.admin.hosts.iter().enumerate() {
        if !host::is_name(host) {
            let help =
                "a name alone, as in \"relay.example.org\": no scheme, port, path or wildcard; addresses need none";
            report.error(&admin.key("hosts").index(position), "is no host name", Some(help.into()));
        }
    }
}

fn check_proxies(file: &File, report: &mut Report<'_>) {
    let server = Path::default().key("server");
    let proxies = server.key("trusted_proxies");
    if file.server.proxy_protocol && file.server.trusted_proxies.is_empty() && !report.knows_about(&proxies) {
        let help = "add trusted_proxies = [\"10.0.0.0/8\"] with the addresses of your proxies";
        let message = "only trusted_proxies may send a header of the PROXY protocol, and there are none";
        report.error(&server.key("proxy_protocol"), message, Some(help.into()));
    }
    for (position, network) in file.server.trusted_proxies.iter().enumerate() {
        if network.is_everything() {
            let message = "everybody is believed: any client can say that it is another";
            report.warning(&proxies.index(position), message, None);
        }
    }
}

fn check_sizes_and_periods(file: &File, report: &mut Report<'_>) {
    let top = Path::default();
    let (server, journal) = (top.key("server"), top.key("journal"));
    for (path, size) in [
        (server.key("max_body"), file.server.max_body),
        (server.key("max_inflight_bytes"), file.server.max_inflight_bytes),
        (journal.key("max_size"), file.journal.max_size),
    ] {
        if size.get() == 0 {
            report.error(&path, "is zero: nothing would fit", None);
        }
    }
    if file.server.max_body > file.journal.max_size {
        let message = "the largest body is larger than the whole journal: such a body will be refused";
        let path = if report.has(&server.key("max_body")) { server.key("max_body") } else { journal.key("max_size") };
        report.warning(&path, message, None);
    }
    if file.server.keep_alive.get() < Duration::from_secs(1) {
        report.error(&server.key("keep_alive"), "is shorter than 1s", None);
    }
    check_period(&server.key("keep_alive"), file.server.keep_alive, false, report);
    check_period(&journal.key("retain"), file.journal.retain, false, report);
    check_period(&top.key("dedup").key("window"), file.dedup.window, false, report);
}

/// Whether the two addresses cannot both be listened on: they are equal, or one of them is every address of this machine.
fn is_taken(one: SocketAddr, other: SocketAddr) -> bool {
    let is_every = one.ip().is_unspecified() || other.ip().is_unspecified();
    let is_same = one.ip() == other.ip() || (is_every && one.is_ipv4() == other.is_ipv4());
    is_same && one.port() == other.port() && one.port() != 0
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}
