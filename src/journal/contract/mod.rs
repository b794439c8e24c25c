//! The suite that every journal passes, whatever its backend: one function for each promise of the ports.
//!
//! A backend implements [`Backend`] and names a function that makes one of a given size: `contract::suite!(make)` is all its tests. A
//! backend outside of this crate includes this file by its path, beside imports that make `crate::journal` and the other modules ours.
//! Leases end by tokio's clock, which the suite moves.

pub(crate) mod backfill;
pub(crate) mod bodies;
mod evidence;
mod letters;
mod log;
mod losses;
mod model;
#[allow(dead_code, reason = "the only relay of a machine shares with nobody")]
pub(crate) mod nodes;
#[allow(dead_code, reason = "the only relay of a machine shares with nobody")]
pub(crate) mod pace;
#[allow(dead_code, reason = "the only relay of a machine shares with nobody")]
pub(crate) mod plane;
mod queue;
mod shares;
pub(crate) mod subject;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{Clock, Timestamp};
use crate::journal::backfill::{Backfill, BackfillStep};
use crate::journal::bodies::BodyWriter;
use crate::journal::body::{Body, IN_MEMORY};
use crate::journal::losses::Loss;
use crate::journal::*;
use crate::policy::outcome::DropReason;
use crate::protocol::category::{Category, Quantities};
use crate::protocol::endpoint::{Endpoint, RawRequest};
use crate::protocol::event_id::EventId;
use crate::units::ByteSize;

pub(crate) use backfill::*;
pub(crate) use bodies::*;
pub(crate) use evidence::*;
pub(crate) use letters::*;
pub(crate) use log::*;
pub(crate) use losses::*;
pub(crate) use model::*;
#[allow(unused_imports, reason = "the only relay of a machine shares with nobody")]
pub(crate) use nodes::cluster_suite;
pub(crate) use queue::*;
pub(crate) use shares::*;
pub(crate) use subject::*;

/// Makes a test of each promise for the backends that `$make` makes, a function from [`ByteSize`] to `Box<dyn Backend>`. The caller has
/// `contract` in scope.
macro_rules! suite {
    ($make:path) => {
        contract::suite! {
            $make:
                a_claimed_record_is_what_was_appended,
                a_record_stays_until_every_target_settled_it,
                a_dead_letter_keeps_its_record,
                dead_letters_are_listed_newest_first_and_selected_by_their_fields,
                a_retried_dead_letter_waits_again_and_the_accounts_balance,
                parts_of_one_record_are_retried_together,
                a_dead_letter_of_a_waiting_record_is_left_alone,
                a_discarded_dead_letter_lets_its_record_go,
                numbers_of_dead_letters_are_never_used_twice,
                a_backfill_delivers_withheld_records_once_and_the_accounts_balance,
                records_from_before_the_target_were_never_withheld,
                backfilled_records_go_after_all_others,
                a_cancelled_backfill_takes_no_more_records,
                after_a_restart_everything_unsettled_can_be_claimed_again,
                due_records_come_first_by_due_time_then_untried_ones_in_order,
                an_earlier_retry_goes_before_one_that_was_already_read,
                settling_twice_or_without_a_claim_changes_nothing,
                a_claim_is_given_once,
                an_ended_lease_goes_to_another_and_its_late_settlement_changes_nothing,
                an_extended_lease_holds,
                an_ended_lease_holds_until_the_next_claim,
                a_lease_from_before_a_restart_is_lost,
                a_withheld_record_is_accepted_and_dropped_at_once,
                part_of_a_record_can_be_put_off,
                hastened_records_can_be_tried_at_once,
                old_records_are_discarded_in_order_and_leased_ones_stay,
                a_discard_covers_records_put_off_and_untried_ones,
                a_target_keeps_its_number_and_a_new_one_has_no_backlog,
                a_target_that_fell_behind_gets_everything_once_and_in_order,
                numbers_are_never_used_twice,
                keys_come_newest_first_and_no_older_than_asked,
                switches_are_kept_newest_first,
                a_closed_journal_says_so,
                an_arrival_and_a_settlement_wake_the_target,
                the_number_of_targets_is_bounded,
                a_body_written_in_pieces_is_one_body_and_can_be_written_over,
                a_large_body_is_claimed_as_it_was_written_and_gives_its_room_back,
                a_body_that_was_not_finished_or_not_appended_leaves_nothing_behind,
                evidence_adds_up_and_outlives_a_restart,
                steps_add_up_and_outlive_a_restart,
                an_outage_lasts_until_the_next_answer_also_through_a_restart,
                a_comparison_lists_each_record_that_only_one_upstream_got,
                a_drop_is_to_be_told_with_its_reason_through_restarts,
                a_report_takes_off_its_losses_and_counts_as_nothing,
                the_spans_of_a_dropped_transaction_are_lost,
                a_loss_without_a_record_is_to_be_told_too
        }

        #[tokio::test]
        async fn a_project_beyond_its_part_is_refused_alone() {
            let subject = contract::Subject::new($make(contract::LITTLE));
            contract::a_project_beyond_its_part_is_refused_alone(subject).await;
        }

        #[tokio::test]
        async fn nothing_gives_way_for_a_body_of_no_known_project() {
            let subject = contract::Subject::new($make(contract::LITTLE));
            contract::nothing_gives_way_for_a_body_of_no_known_project(subject).await;
        }

        #[test]
        fn any_calls_leave_the_journal_as_the_model_says() {
            contract::any_calls_leave_the_journal_as_the_model_says(|| $make(contract::ENOUGH));
        }
    };
    ($make:path: $($name:ident),* $(,)?) => {
        $(#[tokio::test] async fn $name() { contract::$name(contract::Subject::new($make(contract::ENOUGH))).await; })*
    };
}
pub(crate) use suite;
