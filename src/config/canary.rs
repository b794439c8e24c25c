//! The checks of `[canary]`: events that the relay sends to see whether events get through.

use std::time::Duration;

use super::checks::check_period;
use super::report::Report;
use super::shape::File;
use super::suggest::nearest;
use super::tree::Path;

/// The shortest interval: how often the daemon looks after canaries.
const SHORTEST: Duration = Duration::from_secs(1);

pub(super) fn check(file: &File, report: &mut Report<'_>) {
    let section = Path::default().key("canary");
    check_periods(&section, file, report);
    check_project(&section.key("project"), file, report);
    let is_meant = file.canary.interval.is_some() || report.has(&section.key("interval"));
    if report.has(&section) && !is_meant {
        let help = "write how often one is sent, as in interval = \"5m\"";
        report.warning(&section, "without `interval` there is no canary", Some(help.into()));
    }
}

fn check_periods(section: &Path, file: &File, report: &mut Report<'_>) {
    let (interval, timeout) = (section.key("interval"), section.key("timeout"));
    let settings = &file.canary;
    if settings.timeout.get().is_zero() {
        report.error(&timeout, "is zero: no canary could ever be in time", None);
    }
    let Some(every) = settings.interval else { return };
    if every.get() < SHORTEST {
        return report.error(&interval, "is shorter than 1s", None);
    }
    check_period(&interval, every, false, report);
    if settings.timeout >= every {
        let place = if report.has(&timeout) { &timeout } else { &interval };
        let message = format!("the timeout of {} is not shorter than the interval of {every}", settings.timeout);
        let help = "whether one got through is decided before the next is sent";
        report.error(place, message, Some(help.into()));
    }
}

fn check_project(path: &Path, file: &File, report: &mut Report<'_>) {
    let Some(name) = &file.canary.project else { return };
    let known: Vec<&str> = file.projects.iter().filter_map(|project| project.name.as_deref()).collect();
    if known.is_empty() || known.contains(&&**name) {
        return;
    }
    let help = match nearest(name, known.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("there are: {}", known.join(", ")),
    };
    let message = format!("`{}` names no project", report.quote(path));
    report.error(path, message, Some(help));
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{self, GOOD};

    fn lines(end: &str) -> String {
        tests::lines(&format!("{GOOD}{end}"))
    }

    #[test]
    fn problems_of_canaries_are_reported_at_their_places() {
        let wrong = "[canary]\nintervall = \"5m\"\ninterval = \"30s\"\nproject = \"shpo\"\n";
        insta::assert_snapshot!(lines(wrong), @r##"
        config.toml:14:1: canary.intervall: unknown key (did you mean `interval`?)
        config.toml:15:12: canary.interval: the timeout of 1m is not shorter than the interval of 30s (whether one got through is decided before the next is sent)
        config.toml:16:11: canary.project: `shpo` names no project (did you mean `shop`?)
        3 problems in config.toml
        "##);
        let none = "[canary]\ntimeout = \"0s\"\n";
        insta::assert_snapshot!(lines(none), @r##"
        config.toml:13:1: warning: canary: without `interval` there is no canary (write how often one is sent, as in interval = "5m")
        config.toml:14:11: canary.timeout: is zero: no canary could ever be in time
        1 problem, 1 warning in config.toml
        "##);
        let short = lines("[canary]\ninterval = \"200ms\"\n");
        assert!(short.contains("canary.interval: is shorter than 1s"), "{short}");
    }
}
