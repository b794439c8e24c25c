//! The checks of `[[notify]]`.

use std::time::Duration;

use crate::notify::Settings;
use crate::notify::format::Format;

use super::checks::check_period;
use super::report::Report;
use super::shape::File;
use super::tree::Path;

/// The maximum number of receivers: each costs a little whenever the status is checked.
const MOST: usize = 16;

pub(super) fn check(file: &File, report: &mut Report<'_>) {
    let section = Path::default().key("notify");
    if file.notify.len() > MOST {
        report.error(&section, format!("{} receivers; {MOST} are the most", file.notify.len()), None);
    }
    for (n, settings) in file.notify.iter().enumerate() {
        check_one(&section.index(n), settings, report);
    }
}

fn check_one(path: &Path, settings: &Settings, report: &mut Report<'_>) {
    if settings.address().is_none() {
        let help = "write an address as in \"https://hooks.slack.com/services/…\"";
        return report.error(&path.key("url"), "is no address of http or https", Some(help.into()));
    }
    let is_telegram = settings.format() == Format::Telegram;
    if is_telegram && settings.chat.is_none() {
        let help = "write the id of the chat, as in chat = \"-1001234567890\"";
        report.error(path, "Telegram wants `chat`", Some(help.into()));
    }
    if !is_telegram && settings.chat.is_some() {
        let message = format!("only format = \"telegram\" has a chat, this is {}", settings.format().name());
        report.error(&path.key("chat"), message, None);
    }
    if settings.events.is_empty() {
        report.error(&path.key("events"), "is empty: this receiver would be told nothing", None);
    }
    check_period(&path.key("after"), settings.after, false, report);
    check_period(&path.key("every"), settings.every, false, report);
    if settings.every.get() < Duration::from_secs(1) {
        report.error(&path.key("every"), "is shorter than 1s", None);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests;

    const BEGINNING: &str = "primary = \"sentry\"\n[upstreams.sentry]\n[[projects]]\nname = \"shop\"\nid = \"1\"\n\
                             public_key = \"key\"\nupstreams.sentry = \"http://key@h/1\"\n";

    fn lines(end: &str) -> String {
        tests::lines(&format!("{BEGINNING}{end}"))
    }

    #[test]
    fn problems_of_a_receiver_are_reported_without_its_address() {
        let good = "[[notify]]\nurl = \"https://hooks.slack.com/services/hunter2\"\nevents = [\"upstream_down\"]\n";
        assert_eq!(lines(good), "no problems in config.toml");
        for (wrong, said) in [
            ("[[notify]]\nurl = \"hunter2\"\n", "notify[0].url: is no address"),
            ("[[notify]]\nurl = \"https://api.telegram.org/hunter2/sendMessage\"\n", "Telegram wants `chat`"),
            ("[[notify]]\nurl = \"https://ntfy.sh/hunter2\"\nchat = \"1\"\n", "only format = \"telegram\" has a chat"),
            ("[[notify]]\nurl = \"https://ntfy.sh/hunter2\"\nevents = []\n", "is empty"),
            ("[[notify]]\nurl = \"https://ntfy.sh/hunter2\"\nevents = [\"switsch\"]\n", "switch"),
            ("[[notify]]\nurl = \"https://ntfy.sh/hunter2\"\nevery = \"10ms\"\n", "every: is shorter than 1s"),
            ("[notify]\nurl = \"https://ntfy.sh/hunter2\"\n", "in double brackets"),
        ] {
            let lines = lines(wrong);
            assert!(lines.contains(said) && !lines.contains("hunter2"), "{wrong}{lines}");
        }
    }
}
