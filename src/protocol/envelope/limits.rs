//! The limits of an envelope: the size of each item, the number of items of a type, the size of all attachments ("Size Limits";
//! getsentry/relay, `relay-server/src/utils/sizes.rs`). The first item over a limit is named, and the whole envelope is refused.
//!
//! The entries of containers (logs, trace metrics) are not counted: that would need their payloads.

use crate::protocol::item::{ATTACHMENTS_LIMIT, Group, ItemType};

use super::EnvelopeError;

/// The items of one envelope that were admitted so far.
#[derive(Debug, Default)]
pub(super) struct Limits {
    counts: [u16; Group::COUNT],
    /// The bytes of all attachments.
    attachments: u64,
}

impl Limits {
    /// Admits the next item, of `size` bytes.
    pub(super) fn admit(&mut self, kind: &ItemType, size: u64) -> Result<(), EnvelopeError> {
        if let Some(limit) = kind.size_limit().filter(|limit| size > *limit) {
            return Err(EnvelopeError::ItemTooLarge { kind: kind.name().to_owned(), size, limit });
        }
        if let Some((group, limit)) = kind.count_limit() {
            let count = &mut self.counts[group as usize];
            if *count == limit {
                return Err(EnvelopeError::TooManyOf { kind: kind.name().to_owned(), limit });
            }
            *count += 1;
        }
        if matches!(kind, ItemType::Attachment | ItemType::UnrealReport) {
            self.attachments += size;
            if self.attachments > ATTACHMENTS_LIMIT {
                return Err(EnvelopeError::AttachmentsTooLarge { size: self.attachments, limit: ATTACHMENTS_LIMIT });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// The error of the first of these items that is over a limit.
    fn offence(items: &[(&str, u64)]) -> Option<String> {
        let mut limits = Limits::default();
        let mut admitted = items.iter().map(|(kind, size)| limits.admit(&ItemType::from_name(kind), *size));
        admitted.find_map(Result::err).map(|error| error.to_string())
    }

    #[test]
    fn the_number_of_items_of_a_type_is_limited() {
        for (kinds, limit) in [
            (["transaction", "transaction"], 1),
            (["security", "raw_security"], 1),
            (["replay_event", "replay_event"], 1),
            (["feedback", "feedback"], 1),
            (["form_data", "form_data"], 1),
            (["check_in", "check_in"], 1),
            (["profile", "profile_chunk"], 1),
            (["replay_recording", "replay_recording"], 1),
            (["replay_video", "replay_video"], 1),
            (["attachment", "attachment"], 30),
            (["sessions", "session"], 100),
        ] {
            let [kind, offender] = kinds;
            let mut items = vec![(kind, 1); limit];
            assert_eq!(offence(&items), None, "{kind}");
            items.push((offender, 1));
            let expected = format!("one {offender} item too many: {limit} in one envelope is the limit");
            assert_eq!(offence(&items), Some(expected));
        }
        assert_eq!(offence(&[("event", 1); 900]), None);
        assert_eq!(offence(&[("x_unknown", 1); 900]), None);
    }

    #[test]
    fn the_size_of_an_item_is_limited() {
        for (kind, limit) in [
            ("event", MIB),
            ("transaction", MIB),
            ("profile", 50 * MIB),
            ("profile_chunk", 50 * MIB),
            ("attachment", 200 * MIB),
            ("unreal_report", 200 * MIB),
            ("replay_video", 10 * MIB),
            ("span", 12 * MIB),
        ] {
            assert_eq!(offence(&[(kind, limit)]), None, "{kind}");
            let expected = format!("the {kind} item has {} bytes, more than its limit of {limit}", limit + 1);
            assert_eq!(offence(&[(kind, limit + 1)]), Some(expected));
        }
        assert_eq!(offence(&[("x_unknown", u64::MAX)]), None);
    }

    #[test]
    fn events_of_different_types_are_counted_separately() {
        let kinds = ["event", "event", "transaction", "security", "replay_event", "feedback", "form_data"];
        assert_eq!(offence(&kinds.map(|kind| (kind, 1))), None);
    }

    #[test]
    fn the_size_of_all_attachments_together_is_limited() {
        assert_eq!(offence(&[("attachment", 100 * MIB), ("attachment", 100 * MIB), ("event", MIB)]), None);
        let expected = "the attachment items have 209715201 bytes together, more than their limit of 209715200";
        assert_eq!(offence(&[("attachment", 200 * MIB), ("attachment", 1)]).as_deref(), Some(expected));
    }

    #[test]
    fn the_first_item_over_a_limit_is_named() {
        let error = offence(&[("check_in", 1), ("event", MIB + 1), ("check_in", 1)]);
        assert_eq!(error.as_deref(), Some("the event item has 1048577 bytes, more than its limit of 1048576"));
    }
}
