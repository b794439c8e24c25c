//! The changes that GlitchTip makes: seen at 5.2, and read in its source.

use super::{
    Drift, OVERWRITTEN, added, address_of_the_sender, boolean_in_pythons_letters, default_of_breadcrumb, left_out,
    path_of_url, same_as_text, scrubbed,
};

pub(in crate::content) const GLITCHTIP: &[Drift] = &[
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
        at: &["release"],
        what: "a release is cut at 255 characters, by `mend`",
        source: "delivery/mend.rs; 5.2, run: it cannot store a longer one",
        may: |leaf| leaf.are(|sent, there| there.chars().count() == 255 && sent.starts_with(there)),
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
        may: |leaf| {
            left_out(leaf)
                && kept_by_glitchtip(leaf.key(1)).is_some_and(|kept| !kept.split(' ').any(|field| field == leaf.key(0)))
        },
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

/// The fields that GlitchTip keeps of the contexts that it has a schema for.
const KEPT: &[(&str, &str)] = &[
    (
        "device",
        "name family model model_id arch battery_level orientation manufacturer brand screen_resolution \
        screen_height_pixels screen_width_pixels screen_density screen_dpi online charging low_memory \
        simulator memory_size free_memory usable_memory storage_size free_storage external_storage_size \
        external_free_storage boot_time timezone language processor_count cpu_description \
        processor_frequency device_type battery_status device_unique_identifier supports_vibration \
        supports_accelerometer supports_gyroscope supports_audio supports_location_service",
    ),
    ("os", "name version build kernel_version rooted theme raw_description"),
    ("runtime", "name version raw_description"),
    (
        "app",
        "app_start_time device_app_hash build_type app_identifier app_name app_version app_build app_memory \
        in_foreground",
    ),
    ("browser", "name version"),
    (
        "gpu",
        "name version id vendor_id vendor_name memory_size api_type multi_threaded_rendering npot_support \
        max_texture_size graphics_shader_level supports_draw_call_instancing supports_ray_tracing \
        supports_compute_shaders supports_geometry_shaders",
    ),
    ("culture", "calendar display_name locale is_24_hour_format timezone"),
    ("state", "state"),
    ("cloud_resource", "cloud host"),
    (
        "trace",
        "trace_id span_id parent_span_id op status exclusive_time client_sample_rate tags \
        dynamic_sampling_context origin",
    ),
    ("replay", "replay_id"),
    ("response", "status_code"),
];

fn kept_by_glitchtip(context: &str) -> Option<&'static str> {
    KEPT.iter().find(|(name, _)| *name == context).map(|(_, fields)| *fields)
}
