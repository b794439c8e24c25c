//! Checks that several sections share.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::units::Period;

use super::report::Report;
use super::suggest::nearest;
use super::tree::Path;

/// The maximum of `max_in_flight` of an upstream.
pub(super) const MOST_IN_FLIGHT: u16 = 256;
/// Longer than any sensible period, short enough for every timer.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

/// Reports a reference to an upstream that does not exist.
pub(super) fn check_names_an_upstream(path: &Path, name: &str, known: &[String], report: &mut Report<'_>) {
    if known.iter().any(|known| known == name) || known.is_empty() {
        return;
    }
    let help = match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("there are: {}", known.join(", ")),
    };
    let message = format!("`{}` names no upstream", report.quote(path));
    report.error(path, message, Some(help));
}

/// Reports a name that cannot be a metric label or a part of a path. `what` is "an upstream" or "a project".
pub(super) fn check_name(path: &Path, name: &str, what: &str, at_key: bool, report: &mut Report<'_>) {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        return;
    }
    let message = format!("the name of {what} is 1 to 64 letters, digits, - and _");
    if at_key { report.error_at_key(path, message, None) } else { report.error(path, message, None) }
}

pub(super) fn check_period(path: &Path, period: Period, nonzero: bool, report: &mut Report<'_>) {
    if nonzero && period.get().is_zero() {
        report.error(path, "is zero: nothing could ever be delivered", None);
    } else if period.get() > LONGEST {
        report.error(path, "is longer than 3650d", None);
    }
}

/// Whether `host` and `port` lead to one of our own listeners, as far as is known without a DNS query.
pub(super) fn is_own_address(host: &str, port: u16, listen: &[SocketAddr]) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_canonical()),
        // These names may resolve to either family.
        Err(_) if host.eq_ignore_ascii_case("localhost") || host.ends_with(".localhost") => None,
        Err(_) => return false,
    };
    listen.iter().filter(|address| address.port() == port && port != 0).any(|address| {
        let own = address.ip().to_canonical();
        match ip {
            None => own.is_loopback() || own.is_unspecified(),
            // Connecting to the unspecified address reaches this machine.
            Some(ip) if ip.is_unspecified() => own.is_loopback() || own.is_unspecified(),
            Some(ip) => own == ip || (own.is_unspecified() && ip.is_loopback()),
        }
    })
}
