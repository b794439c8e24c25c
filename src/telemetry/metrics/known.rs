//! The series that exist at 0 once their upstream or project is known, except those of the accounts.

use crate::policy::circuit::State;
use crate::policy::outcome::RefusalReason;
use crate::policy::verdict::Verdict;
use crate::protocol::category::Category;

use super::{CODES, Metrics, Refused};

impl Metrics {
    /// Creates the series of an upstream.
    pub fn know_upstream(&self, upstream: &str) {
        for verdict in Verdict::ALL {
            self.delivery_attempts_total.with_label_values(&[upstream, verdict.name()]);
        }
        for state in State::ALL {
            let gauge = self.upstream_circuit.with_label_values(&[upstream, state.name()]);
            gauge.set(i64::from(state == State::Closed));
        }
        for category in Category::ALL.into_iter().filter(|c| c.can_be_limited()) {
            self.upstream_limited_until_timestamp_seconds.with_label_values(&[upstream, category.name()]);
        }
        for gauge in [&self.backlog_envelopes, &self.backlog_bytes, &self.dead_letters, &self.primary] {
            gauge.with_label_values(&[upstream]);
        }
        self.backfill_remaining_envelopes.with_label_values(&[upstream]);
        self.balance_difference_items.with_label_values(&[upstream]);
        self.batch_poison_events_total.with_label_values(&[upstream]);
        self.mended_envelopes_total.with_label_values(&[upstream]);
        self.delivery_unsettled_total.with_label_values(&[upstream]);
        self.backlog_oldest_seconds.with_label_values(&[upstream]);
        self.canary_success.with_label_values(&[upstream]);
        self.canary_age_seconds.with_label_values(&[upstream]);
        self.upstream_up.with_label_values(&[upstream]).set(1);
        self.verification_success.with_label_values(&[upstream]);
        self.delivery_duration_seconds.with_label_values(&[upstream]);
        self.delivery_lag_seconds.with_label_values(&[upstream]);
    }

    /// Creates the series of a project, at each of its upstreams.
    pub fn know_project<'a>(&self, project: &str, upstreams: impl Iterator<Item = &'a str>) {
        for outcome in ["sent", "failed", "given_up"] {
            self.notifications_total.with_label_values(&[outcome]);
        }
        CODES.iter().for_each(|code| drop(self.received_requests_total.with_label_values(&[project, code])));
        for upstream in upstreams {
            self.client_reports_total.with_label_values(&[upstream, project]);
            let known = [&self.stored_events, &self.missing_events, &self.lost_events, &self.unknown_events];
            let compared = [&self.compared_events, &self.differing_events];
            for gauge in known.into_iter().chain(compared).chain([&self.upstream_project_alone]) {
                gauge.with_label_values(&[upstream, project]);
            }
        }
        for category in Category::ALL.map(Category::name) {
            self.duplicate_items_total.with_label_values(&[project, category]);
            for reason in RefusalReason::ALL {
                self.refused_items_total.with_label_values(&[project, category, reason.name()]);
            }
        }
    }

    /// Creates the series without an upstream and a project.
    pub fn know_daemon(&self, version: &str, commit: &str) {
        self.build_info.with_label_values(&[version, commit]).set(1);
        for reason in Refused::ALL {
            self.refused_requests_total.with_label_values(&[reason.name()]);
        }
        for code in CODES {
            self.received_requests_total.with_label_values(&["", code]);
        }
    }
}
