//! Items of an envelope: their types, the quantities that they count as, and their limits.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::category::{Category, Quantities};

const MIB: u64 = 1024 * 1024;
const KIB: u64 = 1024;
/// The number of bytes that are kept of an unknown type's name: nearly ten times the longest name of the protocol. Trackers get the
/// header line as it came. The bound is needed because an envelope may have a thousand items, each with a name as long as a line.
const KEPT_NAME: usize = 128;

macro_rules! item_types {
    ($($Type:ident = $name:literal, $size_limit:expr;)+) => {
        /// The type of an item. Unknown types are kept and forwarded unchanged.
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[allow(missing_docs, reason = "the names are the protocol's")]
        pub enum ItemType {
            $($Type,)+
            /// Any other type: its name, or the beginning of it.
            Unknown(Box<str>),
        }

        /// The names of the known types, which a configuration may name.
        pub const KNOWN: [&str; [$($name),+].len()] = [$($name),+];

        impl ItemType {
            /// The type of that name; `profile_chunk_ui` is an alias of `profile_chunk` (getsentry/relay,
            /// `relay-server/src/envelope/item.rs`).
            pub fn from_name(name: &str) -> Self {
                match name {
                    $($name => Self::$Type,)+
                    "profile_chunk_ui" => Self::ProfileChunk,
                    other => Self::Unknown(other[..other.floor_char_boundary(KEPT_NAME)].into()),
                }
            }

            /// The name on the wire.
            pub fn name(&self) -> &str {
                match self {
                    $(Self::$Type => $name,)+
                    Self::Unknown(name) => name,
                }
            }

            /// The greatest size of one item of this type in bytes (getsentry/relay, `relay-config`, defaults); `None` where only the limit
            /// of the envelope applies.
            pub const fn size_limit(&self) -> Option<u64> {
                match self {
                    $(Self::$Type => $size_limit,)+
                    Self::Unknown(_) => None,
                }
            }
        }
    };
}

item_types! {
    Event = "event", Some(MIB);
    Transaction = "transaction", Some(MIB);
    Security = "security", Some(MIB);
    RawSecurity = "raw_security", Some(MIB);
    Attachment = "attachment", Some(200 * MIB);
    FormData = "form_data", Some(MIB);
    UserReport = "user_report", Some(MIB);
    Feedback = "feedback", Some(MIB);
    Profile = "profile", Some(50 * MIB);
    ProfileChunk = "profile_chunk", Some(50 * MIB);
    ReplayEvent = "replay_event", Some(MIB);
    ReplayRecording = "replay_recording", Some(10 * MIB);
    ReplayVideo = "replay_video", Some(10 * MIB);
    CheckIn = "check_in", Some(100 * KIB);
    Log = "log", Some(12 * MIB);
    TraceMetric = "trace_metric", Some(12 * MIB);
    Span = "span", Some(12 * MIB);
    Session = "session", Some(10 * MIB);
    Sessions = "sessions", Some(10 * MIB);
    Statsd = "statsd", Some(MIB);
    MetricBuckets = "metric_buckets", Some(MIB);
    ClientReport = "client_report", Some(100 * KIB);
    Nel = "nel", None;
    UnrealReport = "unreal_report", Some(200 * MIB);
}

impl<'de> Deserialize<'de> for ItemType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match Self::from_name(&name) {
            Self::Unknown(name) => Err(de::Error::unknown_variant(&name, &KNOWN)),
            known => Ok(known),
        }
    }
}

impl Serialize for ItemType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl ItemType {
    /// Whether this item belongs to the event of its envelope and shares its fate: it is limited, refused or dropped as a repeat with it.
    pub const fn depends_on_event(&self) -> bool {
        matches!(
            self,
            Self::Attachment
                | Self::FormData
                | Self::UserReport
                | Self::Feedback
                | Self::ReplayEvent
                | Self::Profile
                | Self::Security
                | Self::RawSecurity
                | Self::UnrealReport
        )
    }

    /// Whether this is the event of its envelope, which other items depend on. A crash report may be one as well:
    /// [`Counting::makes_event`].
    pub const fn is_event(&self) -> bool {
        matches!(self, Self::Event | Self::Transaction)
    }

    /// Whether trackers make an event of such an item in an envelope without one: crash reports, and events in other formats
    /// (getsentry/relay, `relay-server/src/envelope/item.rs`, `Item::creates_event`). `attachment_type` is the one in the item's header.
    pub fn is_crash_report(&self, attachment_type: Option<&str>) -> bool {
        const KINDS: [&str; 5] = [
            "event.minidump",
            "event.applecrashreport",
            "event.payload",
            "event.breadcrumbs",
            "playstation.prosperodump",
        ];
        match self {
            Self::UnrealReport => true,
            Self::Attachment => attachment_type.is_some_and(|kind| KINDS.contains(&kind)),
            _ => false,
        }
    }

    /// The most items of this type in one envelope, as `(group, limit)`. Types of one group count together. `None` means no limit.
    ///
    /// From getsentry/relay, `relay-server/src/utils/sizes.rs`, with one difference: there the first five groups and events count together.
    /// Here each group counts by itself and events have no limit, because some trackers take an envelope with several.
    pub const fn count_limit(&self) -> Option<(Group, u16)> {
        Some(match self {
            Self::Transaction => (Group::Transaction, 1),
            Self::Security | Self::RawSecurity => (Group::Security, 1),
            Self::ReplayEvent => (Group::ReplayEvent, 1),
            Self::Feedback => (Group::Feedback, 1),
            Self::FormData => (Group::FormData, 1),
            Self::Attachment | Self::UnrealReport => (Group::Attachment, 30),
            Self::CheckIn => (Group::CheckIn, 1),
            Self::Session | Self::Sessions => (Group::Session, 100),
            Self::Profile | Self::ProfileChunk => (Group::Profile, 1),
            Self::ReplayRecording => (Group::ReplayRecording, 1),
            Self::ReplayVideo => (Group::ReplayVideo, 1),
            _ => return None,
        })
    }
}

/// Types that [`ItemType::count_limit`] counts together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is named after its types")]
pub enum Group {
    Transaction,
    Security,
    ReplayEvent,
    Feedback,
    FormData,
    Attachment,
    CheckIn,
    Session,
    Profile,
    ReplayRecording,
    ReplayVideo,
}

impl Group {
    /// The number of groups.
    pub const COUNT: usize = Self::ReplayVideo as usize + 1;
}

/// The greatest size of all attachments of an envelope together in bytes (getsentry/relay, `relay-config`, defaults).
pub const ATTACHMENTS_LIMIT: u64 = 200 * MIB;

/// The fields of an item's header that decide what it counts as.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counting {
    /// `item_count` of a container.
    pub item_count: Option<u64>,
    /// Whether `platform` names a user interface.
    pub user_interface: bool,
    /// Whether the event of its envelope is made of this crash report: the first one of an envelope without an event. It also counts as
    /// that event (getsentry/relay, `relay-server/src/utils/rate_limits.rs`, `infer_event_category`).
    pub makes_event: bool,
}

impl ItemType {
    /// Adds the quantities of an item of this type with `bytes` of payload ("Rate Limiting"; getsentry/relay, `Item::quantities`).
    pub fn count(&self, bytes: u64, counting: Counting, into: &mut Quantities) {
        // The header may claim any number, but a container cannot hold more entries than bytes.
        let pieces = counting.item_count.unwrap_or(1).clamp(1, bytes.max(1));
        into.add(Category::Error, counting.makes_event.into());
        let category = match self {
            Self::Event => Category::Error,
            Self::Transaction => Category::Transaction,
            Self::Security | Self::RawSecurity => Category::Security,
            Self::Attachment => {
                into.add(Category::Attachment, bytes);
                return into.add(Category::AttachmentItem, 1);
            }
            Self::UserReport | Self::Feedback => Category::Feedback,
            Self::Profile => Category::Profile,
            Self::ProfileChunk if counting.user_interface => Category::ProfileChunkUi,
            Self::ProfileChunk => Category::ProfileChunk,
            Self::ReplayEvent | Self::ReplayRecording | Self::ReplayVideo => Category::Replay,
            Self::CheckIn => Category::Monitor,
            Self::Log => {
                into.add(Category::LogByte, bytes);
                return into.add(Category::LogItem, pieces);
            }
            Self::TraceMetric => return into.add(Category::TraceMetric, pieces),
            Self::Span => return into.add(Category::Span, pieces),
            Self::Session | Self::Sessions => Category::Session,
            Self::Statsd | Self::MetricBuckets => Category::MetricBucket,
            Self::ClientReport => Category::Internal,
            Self::UnrealReport if counting.makes_event => return,
            Self::UnrealReport | Self::FormData | Self::Nel | Self::Unknown(_) => Category::Unknown,
        };
        into.add(category, 1);
    }

    /// The quantities of an item with one byte of payload: its categories are those whose limits hold it back.
    pub fn categories(&self, counting: Counting) -> Quantities {
        let mut quantities = Quantities::new();
        self.count(1, counting, &mut quantities);
        quantities
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_unknown_ones_are_kept() {
        for name in ["event", "replay_video", "metric_buckets", "something_new"] {
            assert_eq!(ItemType::from_name(name).name(), name);
        }
        assert_eq!(ItemType::from_name("profile_chunk_ui"), ItemType::ProfileChunk);
        for name in KNOWN {
            assert!(!matches!(ItemType::from_name(name), ItemType::Unknown(_)), "{name}");
        }
    }

    #[test]
    fn the_name_of_an_unknown_type_is_cut() {
        for (sent, kept) in
            [("x".repeat(128), 128), ("x".repeat(65_500), 128), ("é".repeat(100), 128), ("€".repeat(100), 126)]
        {
            let name = ItemType::from_name(&sent);
            assert!(name.name().len() == kept && sent.starts_with(name.name()), "{sent}");
        }
    }

    #[test]
    fn attachments_count_bytes_and_pieces_and_logs_count_bytes_and_entries() {
        let mut q = Quantities::new();
        ItemType::Attachment.count(2048, Counting::default(), &mut q);
        ItemType::Log.count(100, Counting { item_count: Some(5), ..Counting::default() }, &mut q);
        assert_eq!(q.to_string(), "attachment=2048 attachment_item=1 log_byte=100 log_item=5");
    }

    #[test]
    fn a_crash_report_that_makes_the_event_also_counts_as_an_error() {
        let crash = Counting { makes_event: true, ..Counting::default() };
        let count = |kind: ItemType, counting| {
            let mut q = Quantities::new();
            kind.count(100, counting, &mut q);
            q.to_string()
        };
        assert_eq!(count(ItemType::Attachment, crash), "error=1 attachment=100 attachment_item=1");
        assert_eq!(count(ItemType::UnrealReport, crash), "error=1");
        assert_eq!(count(ItemType::UnrealReport, Counting::default()), "unknown=1");
        let categories: Vec<_> = ItemType::Attachment.categories(crash).iter().map(|(category, _)| category).collect();
        assert_eq!(categories, [Category::Error, Category::Attachment, Category::AttachmentItem]);
    }
}
