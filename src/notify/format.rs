//! The message for each kind of receiver: the payload that it documents, with nothing in the text that it would interpret.
//!
//! Texts hold words of upstreams and clients. No receiver may take them for a mention of people, for markup, or for further lines.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::policy::incidents::{Notice, Phase};
use crate::printable;

/// The kinds of receivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An incoming webhook of Slack, <https://api.slack.com/messaging/webhooks>.
    Slack,
    /// An incoming webhook of Mattermost, <https://developers.mattermost.com/integrate/webhooks/incoming/>.
    Mattermost,
    /// A webhook of Discord, <https://discord.com/developers/docs/resources/webhook#execute-webhook>.
    Discord,
    /// `sendMessage` of Telegram's bot API, <https://core.telegram.org/bots/api#sendmessage>.
    Telegram,
    /// A topic of ntfy, <https://docs.ntfy.sh/publish/>.
    Ntfy,
    /// The relay's own JSON: `text`, and each of the `notices`.
    Json,
}

/// The request to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The other headers.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body.
    pub body: String,
}

/// The longest line of a notice, in characters.
const LINE: usize = 300;
/// The longest text, in characters: Discord takes 2,000, the others more.
const TEXT: usize = 1_900;

impl Format {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Mattermost => "mattermost",
            Self::Discord => "discord",
            Self::Telegram => "telegram",
            Self::Ntfy => "ntfy",
            Self::Json => "json",
        }
    }

    /// The format of a well-known host; [`Format::Json`] for any other.
    pub fn of_host(host: &str) -> Self {
        match host {
            "hooks.slack.com" => Self::Slack,
            "discord.com" | "discordapp.com" => Self::Discord,
            "api.telegram.org" => Self::Telegram,
            "ntfy.sh" => Self::Ntfy,
            _ => Self::Json,
        }
    }

    /// The message about these notices. `chat` is the chat of a Telegram bot.
    pub fn payload(self, notices: &[Notice], chat: Option<&str>) -> Payload {
        let text = text(notices);
        let body = match self {
            Self::Slack => json!({ "text": without_markup(&text) }),
            Self::Mattermost => json!({ "text": without_links(&without_mentions(&text)) }),
            Self::Discord => json!({ "content": without_links(&text), "allowed_mentions": { "parse": [] } }),
            Self::Telegram => {
                json!({ "chat_id": chat, "text": text, "link_preview_options": { "is_disabled": true } })
            }
            Self::Json => json!({ "text": text, "notices": notices }),
            Self::Ntfy => return ntfy(text, notices),
        };
        Payload { content_type: "application/json", headers: vec![], body: body.to_string() }
    }
}

/// ntfy takes the plain text as the body, and the priority in a header.
fn ntfy(text: String, notices: &[Notice]) -> Payload {
    let is_urgent = notices.iter().any(|notice| notice.phase == Phase::Began);
    let headers = vec![("Title", "Switchyard"), ("Priority", if is_urgent { "high" } else { "default" })];
    Payload { content_type: "text/plain; charset=utf-8", headers, body: text }
}

/// One line for each notice, as many as fit.
fn text(notices: &[Notice]) -> String {
    let mut text = String::new();
    for (n, notice) in notices.iter().enumerate() {
        let line = line(notice);
        if text.chars().count() + line.chars().count() > TEXT {
            text.push_str(&format!("\nand {} more", notices.len() - n));
            break;
        }
        if n > 0 {
            text.push('\n');
        }
        text.push_str(&line);
    }
    text
}

fn line(notice: &Notice) -> String {
    let mark = match notice.phase {
        Phase::Began => "PROBLEM",
        Phase::Ended => "OK",
        Phase::Happened => "INFO",
    };
    let text: String = printable::in_a_line(&notice.text).take(LINE).collect();
    format!("[{mark}] {text}")
}

/// Slack reads `&`, `<` and `>` as markup: <https://api.slack.com/reference/surfaces/formatting#escaping>.
fn without_markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Mattermost reads `@channel` as a mention wherever it stands. A zero-width space prevents that.
fn without_mentions(text: &str) -> String {
    text.replace('@', "@\u{200b}")
}

/// Mattermost and Discord make links and images of `[words](address)`. An upstream's words must not show one address and link to another.
fn without_links(text: &str) -> String {
    text.replace("](", "]\u{200b}(")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::clock::Timestamp;
    use crate::policy::incidents::Event;

    use super::*;

    fn notice(phase: Phase, text: &str) -> Notice {
        let (event, subject) = (Event::UpstreamDown, "glitchtip".to_owned());
        Notice { event, subject, phase, text: text.to_owned(), at: Timestamp::from_millis(1_700_000_000_000) }
    }

    fn body(format: Format, text: &str) -> Value {
        serde_json::from_str(&format.payload(&[notice(Phase::Began, text)], Some("-100")).body).unwrap()
    }

    #[test]
    fn each_format_is_as_its_service_documents_it() {
        let text = "[PROBLEM] glitchtip is down";
        assert_eq!(body(Format::Slack, "glitchtip is down"), json!({ "text": text }));
        assert_eq!(body(Format::Mattermost, "glitchtip is down"), json!({ "text": text }));
        let discord = json!({ "content": text, "allowed_mentions": { "parse": [] } });
        assert_eq!(body(Format::Discord, "glitchtip is down"), discord);
        let telegram = json!({ "chat_id": "-100", "text": text, "link_preview_options": { "is_disabled": true } });
        assert_eq!(body(Format::Telegram, "glitchtip is down"), telegram);
        let json = body(Format::Json, "glitchtip is down");
        assert_eq!((&json["text"], &json["notices"][0]["phase"]), (&json!(text), &json!("began")));
        let ntfy = Format::Ntfy.payload(&[notice(Phase::Ended, "glitchtip is back")], None);
        assert_eq!((ntfy.body.as_str(), ntfy.headers[1].1), ("[OK] glitchtip is back", "default"));
    }

    #[test]
    fn foreign_text_becomes_no_markup_no_mention_and_no_further_line() {
        assert_eq!(body(Format::Slack, "<!channel> & co")["text"], "[PROBLEM] &lt;!channel&gt; &amp; co");
        assert!(!body(Format::Mattermost, "@channel")["text"].as_str().unwrap().contains("@channel"));
        for (format, field) in [(Format::Mattermost, "text"), (Format::Discord, "content")] {
            assert_eq!(body(format, "![a](http://h/b)")[field], "[PROBLEM] ![a]\u{200b}(http://h/b)");
        }
        assert_eq!(body(Format::Json, "a\nb\u{1b}[2J")["text"], "[PROBLEM] a b [2J");
    }

    #[test]
    fn a_message_is_never_longer_than_a_receiver_takes() {
        let notices = vec![notice(Phase::Began, &"é".repeat(5000)); 50];
        let payload = Format::Discord.payload(&notices, None);
        let body: Value = serde_json::from_str(&payload.body).unwrap();
        let content = body["content"].as_str().unwrap();
        assert!(content.chars().count() <= 2000 && content.ends_with("more"), "{content}");
    }
}
