//! Envelopes for tests: generated, or recorded from real SDKs.

use std::path::PathBuf;

use serde_json::Value;

/// The key of the first project of a test's relay.
pub(crate) const KEY: &str = "5ca1ab1e0ddba11c0ffee0decade0b0e";

/// A new event id.
pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// An envelope with one error event.
pub(crate) fn error(id: &str) -> String {
    envelope(id, "event", &format!(r#"{{"event_id":"{id}","message":"a message","level":"error"}}"#))
}

/// An envelope with one item.
pub(crate) fn envelope(id: &str, kind: &str, payload: &str) -> String {
    format!("{{\"event_id\":\"{id}\"}}\n{{\"type\":\"{kind}\",\"length\":{}}}\n{payload}\n", payload.len())
}

/// One item of an envelope.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Item {
    pub(crate) kind: String,
    /// Header line, newline and payload, byte for byte.
    pub(crate) bytes: Vec<u8>,
    /// Whether a blank line precedes the item.
    pub(crate) after_blank: bool,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(&self.bytes))
    }
}

/// The items of an envelope, parsed independently of the relay's parser.
pub(crate) fn items(envelope: &[u8]) -> Vec<Item> {
    let line = |at: usize| envelope[at..].iter().position(|b| *b == b'\n').map_or(envelope.len(), |n| at + n);
    let (mut at, mut after_blank, mut items) = (line(0) + 1, false, vec![]);
    while at < envelope.len() {
        if envelope[at] == b'\n' {
            (at, after_blank) = (at + 1, true);
            continue;
        }
        let head = &envelope[at..line(at)];
        let header: Value = serde_json::from_slice(head).expect("an item's header");
        let start = (line(at) + 1).min(envelope.len());
        let end = header["length"].as_u64().map_or_else(|| line(start), |length| start + length as usize);
        let kind = header["type"].as_str().expect("a type").to_owned();
        // An envelope that ends with an item's header line has an empty payload there.
        items.push(Item { kind, bytes: [head, b"\n", &envelope[start..end]].concat(), after_blank });
        (at, after_blank) = (end + 1, false);
    }
    items
}

/// A request that was recorded from a real SDK.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) name: String,
    pub(crate) query: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) event_id: Option<String>,
    /// Type and category of each item.
    pub(crate) items: Vec<(String, String)>,
    /// The body as it was sent, compressed if the SDK compressed it.
    pub(crate) body: Vec<u8>,
}

impl Recorded {
    /// The key that the requests were recorded with.
    pub(crate) const KEY: &'static str = "a1b2c3d4e5f60718293a4b5c6d7e8f90";

    /// All recorded requests, sorted by name.
    pub(crate) fn all() -> Vec<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/envelopes");
        let mut all: Vec<Self> = std::fs::read_dir(&folder)
            .expect("the folder of recorded envelopes")
            .map(|entry| entry.expect("a file of it").path())
            .filter(|path| path.to_string_lossy().ends_with(".http.json"))
            .map(|path| Self::read(&path))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(all.len() >= 25, "only {} recorded envelopes are there", all.len());
        all
    }

    /// The recorded request with this name.
    pub(crate) fn named(name: &str) -> Self {
        Self::all().into_iter().find(|recorded| recorded.name == name).unwrap_or_else(|| panic!("no fixture {name}"))
    }

    fn read(path: &std::path::Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a description");
        let json: Value = serde_json::from_str(&text).expect("a description in JSON");
        let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pairs = json["headers"].as_array().expect("headers").iter();
        let items = json["items"].as_array().expect("items").iter();
        let body = path.with_file_name(string(&json["body_file"]));
        let name = path.file_name().expect("a name").to_string_lossy().replace(".http.json", "");
        Self {
            name,
            query: string(&json["query"]),
            path: string(&json["path"]),
            headers: pairs.map(|pair| (string(&pair[0]), string(&pair[1]))).collect(),
            event_id: json["event_id"].as_str().map(str::to_owned),
            items: items.map(|item| (string(&item["type"]), string(&item["category"]))).collect(),
            body: std::fs::read(body).expect("a body"),
        }
    }

    /// The request's headers without those that the HTTP client sets by itself.
    pub(crate) fn sent_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = ["host", "connection", "content-length", "transfer-encoding", "accept-encoding"];
        let all = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        all.filter(move |(name, _)| !own.contains(&name.to_ascii_lowercase().as_str()))
    }

    /// The decoded body.
    pub(crate) fn decoded(&self) -> Vec<u8> {
        let encoding = self.sent_headers().find(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
        let encodings =
            switchyard::intake::decode::encodings(encoding.map_or("", |(_, value)| value)).expect("an encoding");
        let body = switchyard::intake::decode::decode(self.body.clone().into(), &encodings, 10 << 20);
        body.expect("a recorded body is well formed").to_vec()
    }
}
