//! The changes that Sentry makes: read in its documentation and in the sources of getsentry/relay and getsentry/sentry, not seen.

use super::{
    Drift, OVERWRITTEN, added, address_of_the_sender, always, boolean_in_pythons_letters, default_of_breadcrumb,
    left_out, path_of_url, same_as_text, scrubbed,
};

/// The drift from which Sentry corrects a clock, in microseconds.
const CLOCK_DRIFT: f64 = 55.0 * 60.0 * 1e6;

pub(in crate::content) const SENTRY: &[Drift] = &[
    Drift {
        at: &["level"],
        what: "an event without a level is an error",
        source: "getsentry/relay, protocol/event.rs",
        may: |leaf| added(leaf) && leaf.there.as_str() == Some("error"),
    },
    Drift {
        at: &["timestamp", "breadcrumbs/*/timestamp"],
        what: "an event without a time gets one",
        source: "getsentry/relay, normalization",
        may: added,
    },
    Drift {
        at: &["timestamp", "breadcrumbs/*/timestamp"],
        what: "a clock that is off by 55 minutes or more is set right",
        source: "getsentry/relay, clock_drift.rs, MINIMUM_CLOCK_DRIFT",
        may: |leaf| matches!((leaf.sent.as_f64(), leaf.there.as_f64()), (Some(sent), Some(there)) if (sent - there).abs() >= CLOCK_DRIFT),
    },
    Drift {
        at: &["message/formatted"],
        what: "a template with parameters is filled in",
        source: "getsentry/relay, normalize/logentry.rs",
        may: added,
    },
    Drift {
        at: &["exception/*/type"],
        what: "a type that stands in the value is taken out of it",
        source: "getsentry/relay, handles_type_in_value",
        may: added,
    },
    Drift {
        at: &["exception/*/value"],
        what: "a value that begins with the type loses it",
        source: "getsentry/relay, handles_type_in_value",
        may: |leaf| leaf.are(|sent, there| sent.split_once(':').is_some_and(|(_, rest)| rest.trim() == there)),
    },
    Drift {
        at: &["exception/*/frames"],
        what: "of more than 250 frames 250 are kept",
        source: "getsentry/relay, enforce_frame_hard_limit",
        may: |leaf| {
            leaf.sent.as_array().is_some_and(|frames| frames.len() > 250)
                && leaf.there.as_array().is_some_and(|frames| frames.len() == 250)
        },
    },
    Drift {
        at: &["exception/*/frames/*/function"],
        what: "a function named ? is none, and long ones lose their arguments",
        source: "getsentry/relay, process_frame; getsentry/sentry, trim_function_name",
        may: |leaf| {
            leaf.sent.as_str() == Some("?") && left_out(leaf)
                || leaf.are(|sent, there| !there.is_empty() && sent.contains(there))
        },
    },
    Drift {
        at: &["exception/*/frames/*/filename"],
        what: "of a file's URL the path is kept",
        source: "getsentry/relay, process_non_raw_frame",
        may: path_of_url,
    },
    Drift {
        at: &["exception/*/frames/*/in_app"],
        what: "rules for stack traces decide whether a frame is in the app",
        source: "docs.sentry.io, Stack Trace Rules",
        may: always,
    },
    Drift {
        at: &["breadcrumbs/*/level", "breadcrumbs/*/type"],
        what: "breadcrumbs get the default level and type",
        source: "getsentry/relay, protocol/breadcrumb.rs",
        may: default_of_breadcrumb,
    },
    Drift {
        at: &["tags/*"],
        what: "tags are added from contexts, user and request",
        source: "getsentry/sentry, plugins/sentry_interface_types",
        may: added,
    },
    Drift {
        at: OVERWRITTEN,
        what: "tags of these names are written over",
        source: "getsentry/sentry, event_manager.py",
        may: |leaf| !leaf.there.is_null(),
    },
    Drift {
        at: &["tags/*"],
        what: "true and false become True and False",
        source: "getsentry/relay, LenientString",
        may: boolean_in_pythons_letters,
    },
    Drift {
        at: &["tags/*"],
        what: "a tag with a key that is not allowed is left out",
        source: "getsentry/relay, protocol/tags.rs",
        may: |leaf| {
            left_out(leaf)
                && (leaf.key(0).len() > 200
                    || !leaf.key(0).chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c)))
        },
    },
    Drift {
        at: &["user/*"],
        what: "a user's place is added",
        source: "getsentry/relay, normalize/user.rs",
        may: added,
    },
    Drift {
        at: &["user/ip_address"],
        what: "addresses are not kept where the project says so, and {{auto}} becomes the sender's",
        source: "docs.sentry.io, Prevent Storing of IP Addresses",
        may: |leaf| left_out(leaf) || address_of_the_sender(leaf),
    },
    Drift {
        at: &["contexts/*", "contexts/*/*"],
        what: "contexts and their fields are added",
        source: "getsentry/relay, normalize/contexts.rs",
        may: added,
    },
    Drift {
        at: &["contexts/**", "user/*"],
        what: "a context's numbers become text and the other way around",
        source: "getsentry/relay, LenientString",
        may: same_as_text,
    },
    Drift {
        at: &["extra/**", "contexts/**", "breadcrumbs/*/data/**"],
        what: "what is nested deeper than seven steps is kept as text",
        source: "getsentry/relay, trimming.rs",
        may: |leaf| leaf.path.len() > 5 && (leaf.sent.is_object() || leaf.sent.is_array()) && leaf.there.is_string(),
    },
    Drift {
        at: &["release", "environment"],
        what: "spaces around it are taken away",
        source: "getsentry/relay, protocol/event.rs",
        may: |leaf| leaf.are(|sent, there| sent.trim() == there),
    },
    Drift {
        at: &["**"],
        what: "a long text is cut and ends with three dots",
        source: "getsentry/relay, trimming.rs",
        may: |leaf| {
            leaf.are(|sent, there| {
                there.strip_suffix("...").is_some_and(|start| start.len() >= 50 && sent.starts_with(start))
            })
        },
    },
    Drift {
        at: &["**"],
        what: "what the project's scrubbing takes for a secret is filtered",
        source: "docs.sentry.io, Server-Side Data Scrubbing",
        may: scrubbed,
    },
];
