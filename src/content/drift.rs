//! What trackers are known to change in an event, a table for each kind. A row forgives a difference at its place and nowhere else.
//!
//! Rule: a row is here because a source says so or because it was seen, and has a test. What a service would miss is no drift: an
//! exception, a frame or a tag that is gone is a difference whatever the reason.

use serde_json::Value;

use super::walk::Step;

/// A row: one thing that a tracker changes.
#[derive(Debug)]
pub struct Drift {
    /// Where, with `/` between steps, `*` for one and `**` for any number at the end.
    pub at: &'static [&'static str],
    /// What it does.
    pub what: &'static str,
    /// Where that is known from.
    pub source: &'static str,
    may: fn(&Leaf<'_>) -> bool,
}

/// A place where two events differ.
#[derive(Debug)]
pub struct Leaf<'a> {
    pub(super) path: &'a [Step<'a>],
    pub(super) sent: &'a Value,
    pub(super) there: &'a Value,
}

impl Drift {
    /// Whether this row forgives the difference.
    pub(super) fn allows(&self, leaf: &Leaf<'_>) -> bool {
        self.at.iter().any(|pattern| is_at(pattern, leaf.path)) && (self.may)(leaf)
    }
}

fn is_at(pattern: &str, path: &[Step<'_>]) -> bool {
    let mut steps = path.iter();
    for part in pattern.split('/') {
        match (part, steps.next()) {
            ("**", _) => return true,
            (_, None) => return false,
            ("*", Some(_)) => {}
            (name, Some(Step::Key(key))) if name == *key => {}
            _ => return false,
        }
    }
    steps.next().is_none()
}

impl<'a> Leaf<'a> {
    fn key(&self, from_the_end: usize) -> &'a str {
        match self.path.iter().rev().nth(from_the_end) {
            Some(Step::Key(key)) => key,
            _ => "",
        }
    }

    fn texts(&self) -> Option<(&'a str, &'a str)> {
        Some((self.sent.as_str()?, self.there.as_str()?))
    }

    fn are(&self, may: impl FnOnce(&str, &str) -> bool) -> bool {
        self.texts().is_some_and(|(sent, there)| may(sent, there))
    }
}

const fn always(_: &Leaf<'_>) -> bool {
    true
}

fn added(leaf: &Leaf<'_>) -> bool {
    leaf.sent.is_null()
}

fn left_out(leaf: &Leaf<'_>) -> bool {
    leaf.there.is_null()
}

fn default_of_breadcrumb(leaf: &Leaf<'_>) -> bool {
    added(leaf) && matches!((leaf.key(0), leaf.there.as_str()), ("level", Some("info")) | ("type", Some("default")))
}

fn boolean_in_pythons_letters(leaf: &Leaf<'_>) -> bool {
    leaf.are(|sent, there| matches!(sent, "true" | "false") && sent.eq_ignore_ascii_case(there))
}

/// Whether both are the same as text: `5` and `"5"`.
fn same_as_text(leaf: &Leaf<'_>) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    text(leaf.sent).is_some_and(|sent| text(leaf.there).is_some_and(|there| sent.eq_ignore_ascii_case(&there)))
}

fn address_of_the_sender(leaf: &Leaf<'_>) -> bool {
    leaf.sent.as_str() == Some("{{auto}}")
}

fn scrubbed(leaf: &Leaf<'_>) -> bool {
    let marks = ["[Filtered]", "[ip]", "[email]", "[creditcard]"];
    leaf.there.as_str().is_some_and(|there| marks.iter().any(|mark| there.contains(mark)))
}

/// Whether a URL became its path.
fn path_of_url(leaf: &Leaf<'_>) -> bool {
    leaf.are(|sent, there| {
        let Some((_, rest)) = ["file:", "http:", "https:", "applewebdata:"]
            .iter()
            .find_map(|scheme| sent.split_at_checked(scheme.len()).filter(|(start, _)| start == scheme))
        else {
            return false;
        };
        let path = rest.strip_prefix("//").map_or(rest, |rest| rest.find('/').map_or("", |at| &rest[at..]));
        path.split(['?', '#']).next() == Some(there)
    })
}

const OVERWRITTEN: &[&str] = &[
    "tags/environment",
    "tags/release",
    "tags/server_name",
    "tags/user.id",
    "tags/user.email",
    "tags/user.username",
    "tags/browser",
    "tags/browser.name",
    "tags/os.name",
    "tags/device",
];

/// The event as it was sent is kept in `data`.
pub(super) const BUGSINK: &[Drift] = &[];

pub(super) const GLITCHTIP: &[Drift] = &[
    Drift {
        at: &["level"],
        what: "its API does not tell an event's level",
        source: "5.2, run; apps/issue_events/schema.py, IssueEventSchema",
        may: left_out,
    },
    Drift {
        at: &["timestamp", "breadcrumbs/*/timestamp"],
        what: "an event without a time gets one",
        source: "apps/event_ingest/schema.py, IngestIssueEvent.timestamp",
        may: added,
    },
    Drift {
        at: &["message/formatted"],
        what: "a message is cut at 8,192 characters",
        source: "apps/event_ingest/schema.py, EventMessage.formatted",
        may: |leaf| leaf.are(|sent, there| there.chars().count() == 8192 && sent.starts_with(there)),
    },
    Drift {
        at: &["message/formatted"],
        what: "a template with parameters is filled in",
        source: "apps/event_ingest/schema.py, EventMessage.set_formatted",
        may: added,
    },
    Drift {
        at: &["exception/*/frames/*/filename"],
        what: "of a file's URL the path is kept",
        source: "apps/event_ingest/schema.py, StackTraceFrame.normalize_files",
        may: path_of_url,
    },
    Drift {
        at: &["exception/*/frames/*/in_app"],
        what: "a frame that does not say whether it is in the app gets an answer",
        source: "apps/issue_events/schema.py, EventException",
        may: added,
    },
    Drift {
        at: &["breadcrumbs/*/level", "breadcrumbs/*/type"],
        what: "breadcrumbs get the default level and type",
        source: "5.2, run; apps/shared/schema/event.py, EventBreadcrumb",
        may: default_of_breadcrumb,
    },
    Drift {
        at: &["breadcrumbs/*/level"],
        what: "a level that it does not know becomes info",
        source: "apps/shared/schema/event.py, EventBreadcrumb.level",
        may: |leaf| {
            leaf.are(|sent, there| there == "info" && !["fatal", "error", "warning", "info", "debug"].contains(&sent))
        },
    },
    Drift {
        at: &["tags/*"],
        what: "tags are added from user, contexts, release, environment and server name",
        source: "5.2, run; apps/event_ingest/process_event.py, generate_tags",
        may: added,
    },
    Drift {
        at: OVERWRITTEN,
        what: "tags of these names are written over",
        source: "apps/event_ingest/process_event.py, generate_tags",
        may: |leaf| !leaf.there.is_null(),
    },
    Drift {
        at: &["tags/*"],
        what: "true and false become True and False",
        source: "apps/event_ingest/schema.py, CoercedStr",
        may: boolean_in_pythons_letters,
    },
    Drift {
        at: &["user/*"],
        what: "of a user only known fields are kept",
        source: "5.2, run; apps/shared/schema/user.py, EventUser",
        may: |leaf| {
            left_out(leaf)
                && !["id", "username", "email", "ip_address", "subscription", "geo", "name", "segment"]
                    .contains(&leaf.key(0))
        },
    },
    Drift {
        at: &["user/ip_address"],
        what: "{{auto}} becomes the sender's address",
        source: "develop.sentry.dev, User interface",
        may: address_of_the_sender,
    },
    Drift {
        at: &["contexts/*"],
        what: "contexts are added from the request's user agent",
        source: "apps/event_ingest/process_event.py, generate_contexts",
        may: added,
    },
    Drift {
        at: &["contexts/*/type"],
        what: "a context gets its type",
        source: "5.2, run; apps/shared/schema/contexts.py, default_types",
        may: added,
    },
    Drift {
        at: &["contexts/*/*"],
        what: "of a context with a schema only the schema's fields are kept",
        source: "5.2, run; apps/shared/schema/contexts.py",
        may: |leaf| left_out(leaf) && kept_by_glitchtip(leaf.key(1)).is_some_and(|kept| !kept.contains(&leaf.key(0))),
    },
    Drift {
        at: &["contexts/*/*"],
        what: "a context's numbers become text and the other way around",
        source: "apps/shared/schema/contexts.py",
        may: same_as_text,
    },
    Drift {
        at: &["**"],
        what: "NUL characters are taken out",
        source: "apps/event_ingest/utils.py, remove_bad_chars",
        may: |leaf| leaf.are(|sent, there| sent.contains('\0') && sent.replace('\0', "") == there),
    },
    Drift {
        at: &["**"],
        what: "what a project's scrubber takes for a secret is filtered",
        source: "6; apps/event_ingest/pii_scrubber.py",
        may: scrubbed,
    },
];

pub(super) const SENTRY: &[Drift] = &[
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
        what: "a clock that is off by 55 seconds or more is set right",
        source: "getsentry/relay, clock_drift.rs, MINIMUM_CLOCK_DRIFT",
        may: |leaf| matches!((leaf.sent.as_f64(), leaf.there.as_f64()), (Some(sent), Some(there)) if (sent - there).abs() >= 55e6),
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

/// What GlitchTip keeps of a context that it has a schema for.
fn kept_by_glitchtip(context: &str) -> Option<&'static [&'static str]> {
    Some(match context {
        "device" => &[
            "name",
            "family",
            "model",
            "model_id",
            "arch",
            "battery_level",
            "orientation",
            "manufacturer",
            "brand",
            "screen_resolution",
            "screen_height_pixels",
            "screen_width_pixels",
            "screen_density",
            "screen_dpi",
            "online",
            "charging",
            "low_memory",
            "simulator",
            "memory_size",
            "free_memory",
            "usable_memory",
            "storage_size",
            "free_storage",
            "external_storage_size",
            "external_free_storage",
            "boot_time",
            "timezone",
            "language",
            "processor_count",
            "cpu_description",
            "processor_frequency",
            "device_type",
            "battery_status",
            "device_unique_identifier",
            "supports_vibration",
            "supports_accelerometer",
            "supports_gyroscope",
            "supports_audio",
            "supports_location_service",
        ],
        "os" => &["name", "version", "build", "kernel_version", "rooted", "theme", "raw_description"],
        "runtime" => &["name", "version", "raw_description"],
        "app" => &[
            "app_start_time",
            "device_app_hash",
            "build_type",
            "app_identifier",
            "app_name",
            "app_version",
            "app_build",
            "app_memory",
            "in_foreground",
        ],
        "browser" => &["name", "version"],
        "gpu" => &[
            "name",
            "version",
            "id",
            "vendor_id",
            "vendor_name",
            "memory_size",
            "api_type",
            "multi_threaded_rendering",
            "npot_support",
            "max_texture_size",
            "graphics_shader_level",
            "supports_draw_call_instancing",
            "supports_ray_tracing",
            "supports_compute_shaders",
            "supports_geometry_shaders",
        ],
        "culture" => &["calendar", "display_name", "locale", "is_24_hour_format", "timezone"],
        "state" => &["state"],
        "cloud_resource" => &["cloud", "host"],
        "trace" => &[
            "trace_id",
            "span_id",
            "parent_span_id",
            "op",
            "status",
            "exclusive_time",
            "client_sample_rate",
            "tags",
            "dynamic_sampling_context",
            "origin",
        ],
        "replay" => &["replay_id"],
        "response" => &["status_code"],
        _ => return None,
    })
}
