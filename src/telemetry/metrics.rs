//! The metrics. The doc comment of each is its help text. Labels come from closed sets, and every series exists at 0 once its upstream or
//! project is known.
//!
//! The counts of the [`Ledger`](super::ledger::Ledger) are not repeated here: [`items`] reads them at each scrape.

use prometheus::proto::{self, MetricFamily};
use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Registry};

use crate::vocabulary::vocabulary;

/// Buckets from a tenth of a millisecond to a minute, for answers and deliveries.
const SECONDS: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Buckets from a millisecond to three days, for the age of delivered envelopes.
const LAG_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0, 259200.0,
];

mod intake;
pub mod items;
mod known;

pub use intake::IntakeCounts;

trait Make: Sized {
    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self>;
}

macro_rules! make {
    ($($t:ty: |$o:ident, $l:ident| $e:expr;)*) => {$(
        impl Make for $t {
            fn make(name: &str, help: &str, $l: &[&str]) -> prometheus::Result<Self> {
                let $o = prometheus::Opts::new(name, help.trim());
                $e
            }
        }
    )*};
}
make! {
    IntCounter: |o, _l| Self::with_opts(o);
    Gauge: |o, _l| Self::with_opts(o);
    IntCounterVec: |o, l| Self::new(o, l);
    IntGaugeVec: |o, l| Self::new(o, l);
    GaugeVec: |o, l| Self::new(o, l);
    Histogram: |o, _l| Self::with_opts(o.into_histogram(SECONDS));
    HistogramVec: |o, l| { let b = if o.name.contains("lag") { LAG_SECONDS } else { SECONDS }; Self::new(o.into_histogram(b), l) };
}

trait IntoHistogram {
    fn into_histogram(self, buckets: &[f64]) -> prometheus::HistogramOpts;
}

impl IntoHistogram for prometheus::Opts {
    fn into_histogram(self, buckets: &[f64]) -> prometheus::HistogramOpts {
        prometheus::HistogramOpts { common_opts: self, buckets: buckets.to_vec() }
    }
}

macro_rules! metrics {
    ($($(#[doc = $help:expr])+ $name:ident: $t:ty [$($label:literal),*];)*) => {
        /// Every metric of the daemon.
        #[derive(Clone, Debug)]
        pub struct Metrics {
            registry: Registry,
            memory: intake::Memory,
            $($(#[doc = $help])+ pub $name: $t,)*
        }

        impl Metrics {
            /// All metrics at zero, registered under the prefix `switchyard_`.
            pub fn new() -> Self {
                let registry = Registry::new_custom(Some("switchyard".into()), None)
                    .expect("the prefix is a valid metric name");
                $(
                    let $name = <$t as Make>::make(stringify!($name), concat!($($help),+), &[$($label),*])
                        .expect("names and labels are valid: the golden test reads them all");
                    registry.register(Box::new($name.clone())).expect("every name is there once");
                )*
                Self { registry, memory: intake::Memory::default(), $($name),* }
            }
        }
    };
}

metrics! {
    /// Requests on the public listener, by project (empty when none was recognised) and status code.
    received_requests_total: IntCounterVec ["project", "code"];
    /// Messages of `[[notify]]`, by outcome: sent, failed (to be tried again), given_up.
    notifications_total: IntCounterVec ["outcome"];
    /// Requests refused as a whole, by reason.
    refused_requests_total: IntCounterVec ["reason"];
    /// Connections open on the public listener.
    open_connections: Gauge [];
    /// Items recognised as repeats of accepted ones and answered like them.
    duplicate_items_total: IntCounterVec ["project", "category"];
    /// Items that were not accepted, by reason: over a limit of their project, limited by every upstream in use, or one
    /// more of a storm of identical errors.
    refused_items_total: IntCounterVec ["project", "category", "reason"];
    /// Error events that an upstream took and stores, as its API says: stored + missing + lost + unknown = delivered.
    stored_events: IntGaugeVec ["upstream", "project"];
    /// Error events that an upstream took and does not store.
    missing_events: IntGaugeVec ["upstream", "project"];
    /// Error events that an upstream took and did not store, until they were sent again or given up.
    lost_events: IntGaugeVec ["upstream", "project"];
    /// Error events that an upstream took, and nobody knows whether it stores them.
    unknown_events: IntGaugeVec ["upstream", "project"];
    /// Stored events of an upstream that were compared with what was sent in the last 24 hours.
    compared_events: IntGaugeVec ["upstream", "project"];
    /// Compared events of the last 24 hours in which a field differs from what was sent.
    differing_events: IntGaugeVec ["upstream", "project"];
    /// Whether an upstream's API can be asked what it stores: 1 when it answered the last look, 0 when not, or where there is none.
    verification_success: IntGaugeVec ["upstream"];
    /// Accepted and returned minus delivered minus dropped minus pending, over all categories: anything but 0 is a defect.
    balance_difference_items: IntGaugeVec ["upstream"];
    /// Client reports made to tell an upstream what was dropped for it.
    client_reports_total: IntCounterVec ["upstream", "project"];
    /// Requests made to an upstream, by what the answer meant.
    delivery_attempts_total: IntCounterVec ["upstream", "result"];
    /// How long one request to an upstream took.
    delivery_duration_seconds: HistogramVec ["upstream"];
    /// From the acceptance of an envelope to the 2xx of an upstream.
    delivery_lag_seconds: HistogramVec ["upstream"];
    /// From the first byte of a request's body to its answer.
    accept_duration_seconds: Histogram [];
    /// Envelopes that wait for an upstream.
    backlog_envelopes: IntGaugeVec ["upstream"];
    /// Bytes of the envelopes that wait for an upstream.
    backlog_bytes: IntGaugeVec ["upstream"];
    /// Age of the oldest envelope that waits for an upstream.
    backlog_oldest_seconds: GaugeVec ["upstream"];
    /// Envelopes that the running backfill of an upstream still has to hand over.
    backfill_remaining_envelopes: IntGaugeVec ["upstream"];
    /// Envelopes an upstream refused for good, kept for a look.
    dead_letters: IntGaugeVec ["upstream"];
    /// Events delivered that make a GlitchTip 5 lose the whole batch they are stored with.
    batch_poison_events_total: IntCounterVec ["upstream"];
    /// Envelopes sent with a release that was cut for the upstream, as its `mend` says.
    mended_envelopes_total: IntCounterVec ["upstream"];
    /// Deliveries whose outcome the journal did not keep; each envelope is delivered again.
    delivery_unsettled_total: IntCounterVec ["upstream"];
    /// Whether an upstream answers (1) or fails (0).
    upstream_up: IntGaugeVec ["upstream"];
    /// The state of an upstream's circuit: 1 for the one it is in.
    upstream_circuit: IntGaugeVec ["upstream", "state"];
    /// Whether a project fails at an upstream while others are taken, and so waits alone (1) or not (0).
    upstream_project_alone: IntGaugeVec ["upstream", "project"];
    /// Until when an upstream limits a category; 0 when it does not.
    upstream_limited_until_timestamp_seconds: GaugeVec ["upstream", "category"];
    /// Whether the last canary to an upstream got through in time (1) or not (0); 0 where there is none.
    canary_success: IntGaugeVec ["upstream"];
    /// The time since the last canary that got through to an upstream, since the first when none did; 0 where there is none.
    canary_age_seconds: GaugeVec ["upstream"];
    /// Which upstream is the primary: 1, the others 0.
    primary: IntGaugeVec ["upstream"];
    /// Switches of the primary.
    switches_total: IntCounter [];
    /// When the primary was last switched; 0 when never.
    last_switch_timestamp_seconds: Gauge [];
    /// Bytes of the journal's files on disk; nothing while the journal does not say.
    journal_size_bytes: GaugeVec [];
    /// Bytes that a project takes of the journal.
    journal_project_bytes: GaugeVec ["project"];
    /// Bytes of the journal that are kept for a project whatever others send; 0 for the only one, which has all of the room.
    journal_project_part_bytes: GaugeVec ["project"];
    /// Whether a relay that shares the journal lives (1) or is gone (0).
    relay_up: IntGaugeVec ["relay"];
    /// Envelopes that a relay has in hand, counted once for each upstream.
    relay_leases: IntGaugeVec ["relay"];
    /// Whether a relay does the chores of all (1) or not (0).
    relay_leads: IntGaugeVec ["relay"];
    /// Whether a relay's file differs (1) from what all relays have in common or not (0).
    relay_config_differs: IntGaugeVec ["relay"];
    /// Envelopes that are kept on a relay's machine alone, until the journal takes them.
    spilled_envelopes: IntGaugeVec ["relay"];
    /// How far a standby of the journal's server is behind.
    standby_lag_seconds: GaugeVec ["standby"];
    /// Failures of the journal's storage.
    journal_errors_total: IntCounter [];
    /// Records of the journal that could not be read and were set aside.
    journal_set_aside_records_total: IntCounter [];
    /// Bytes free on the journal's disk; nothing where that is not known, as where it is a server's.
    disk_free_bytes: GaugeVec [];
    /// Whether the last reload of the configuration succeeded.
    config_reload_success: Gauge [];
    /// When the configuration was last loaded.
    config_last_reload_success_timestamp_seconds: Gauge [];
    /// The running version: always 1.
    build_info: IntGaugeVec ["version", "commit"];
}

vocabulary! {
    /// Why a request was refused as a whole: the label of `refused_requests_total`, and the subject of repeated log lines.
    #[allow(missing_docs, reason = "each says itself")]
    pub enum Refused {
        Malformed = "malformed",
        Unauthenticated = "unauthenticated",
        UnknownProject = "unknown_project",
        Mismatch = "mismatch",
        RateLimited = "rate_limited",
        TooLarge = "too_large",
        Encoding = "encoding",
        ContentType = "content_type",
        Timeout = "timeout",
        Overloaded = "overloaded",
        JournalFull = "journal_full",
        ProjectShare = "project_share",
        JournalFailed = "journal_failed",
        Disconnected = "disconnected",
        NoSuchRoute = "no_such_route",
        Method = "method",
        ProxyProtocol = "proxy_protocol",
        TooManyConnections = "too_many_connections",
        UpstreamTimeout = "upstream_timeout",
        UpstreamFailed = "upstream_failed",
        ProxyOverloaded = "proxy_overloaded",
        Loop = "loop",
    }
}

impl Refused {
    /// Whether the relay had no room for the request or could not keep it. Its data is lost, as in the alert `SwitchyardRefusing`.
    pub const fn is_for_want_of_room(self) -> bool {
        matches!(self, Self::JournalFull | Self::ProjectShare | Self::JournalFailed | Self::Overloaded)
    }

    /// Whether the request names no configured project and key: a service may have a wrong DSN.
    pub const fn is_for_its_dsn(self) -> bool {
        matches!(self, Self::Unauthenticated | Self::UnknownProject | Self::Mismatch)
    }
}

/// The status codes of the public listener, the primary's that matter, and one label for all others of the primary.
const CODES: [&str; 25] = [
    "200", "201", "202", "204", "301", "302", "304", "400", "401", "403", "404", "405", "408", "409", "413", "414",
    "415", "429", "431", "500", "502", "503", "504", "508", "other",
];

/// The label of a status code.
pub fn code_label(code: u16) -> &'static str {
    CODES.iter().find(|label| label.parse() == Ok(code)).unwrap_or(&"other")
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// How long commits of the journal took, which the journal counts itself. `buckets` are pairs of an upper bound in seconds and the
    /// number of commits up to it; `count` and `sum` are those of all commits.
    pub fn commit_durations(buckets: &[(f64, u64)], count: u64, sum: f64) -> MetricFamily {
        let mut histogram = proto::Histogram::default();
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let bucket = |(bound, count): &(f64, u64)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        };
        histogram.set_bucket(buckets.iter().map(bucket).collect());
        let mut metric = proto::Metric::default();
        metric.set_histogram(histogram);
        let mut family = MetricFamily::default();
        family.set_name("switchyard_journal_commit_duration_seconds".to_owned());
        family.set_help("How long one commit of the journal took, its fsync included.".to_owned());
        family.set_field_type(proto::MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        family
    }

    /// The registry of these metrics, and one of the process metrics, `process_*`, with the names that every exporter uses.
    pub fn registries(&self) -> (Registry, Registry) {
        let process = Registry::new();
        #[cfg(target_os = "linux")]
        process
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("a new registry has no such collector");
        (self.registry.clone(), process)
    }
}
