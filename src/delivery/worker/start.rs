//! Starts a claimed record: sends it, or settles it at once.
//!
//! Rule: a record under way belongs to its request until that ends, while the worker goes on.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::delivery::header_cache::HeaderCache;
use crate::delivery::large::weight;
use crate::delivery::rewrite::Address;
use crate::delivery::{load, mend, parcel};
use crate::journal::body::Pieces;
use crate::journal::{Claim, Lease, Settlement};
use crate::policy::outcome::DropReason;
use crate::protocol::category::Quantities;

use super::{Ended, HOMELESS, Sent, Worker};

impl Worker {
    /// Sends a claimed record, or settles it at once when there is no point in sending.
    pub(super) fn start(&mut self, mut claim: Claim, pieces: Option<Arc<dyn Pieces>>, now: Timestamp) {
        self.follow_routing(now);
        let settings = Arc::clone(self.settings());
        let record = &claim.record;
        if let Some(settlement) = load::left_out(&claim, self.target, now) {
            return self.journal_settle(&claim.lease, settlement);
        }
        if now.since(record.accepted_at) >= settings.max_age.get() && !self.around.clock.is_doubtful() {
            let pending = load::pending(&claim);
            return self.give_up(&claim.lease, DropReason::Expired, pending);
        }
        if let Some(until) = self.waits(&record.project, now) {
            return self.put_off(&claim, until);
        }
        let routing = Arc::clone(&self.routing);
        let upstream = Arc::clone(&self.upstream);
        let Some(address) = Address::of(&routing, &record.project, &upstream) else {
            self.around.watch.no_dsn(&record.project);
            self.homeless = true;
            return self.put_off(&claim, now + HOMELESS);
        };
        if mend::apply(&settings.mend, &mut claim.record) {
            self.around.watch.mended(&claim.record);
        }
        let load = load::select(&claim, &self.cooldown, self.quirks(), now);
        if let Some(settlement) = load.without_unsupported(&claim, now) {
            return self.journal_settle(&claim.lease, settlement);
        }
        if load.is_empty() {
            let settlement = load.remainder(settings.on_rate_limit, claim.progress.clone(), now);
            return self.journal_settle(&claim.lease, settlement);
        }
        if load.batch_poison.is_some() && settings.spare_batches && !self.apart.is_going() && self.may_lose_a_batch() {
            return self.set_apart(claim, pieces, &load, now);
        }
        let mut parcel = match parcel::pack(&claim, &load, pieces.clone(), &address, &mut self.header_cache, now) {
            Ok(parcel) => parcel,
            Err(error) => return self.unreadable(&claim, &error, now),
        };
        settings.headers.apply(parcel.headers_mut());
        let outgoing = self.outgoing(&claim, &settings, address.dsn);
        let clock = self.around.clock.clone();
        self.circuit.started(1);
        self.suspects.started(&claim.record.project, now);
        self.bytes_in_flight += weight(&claim.record.body);
        self.in_flight.push(Box::pin(async move {
            let began = clock.now();
            let started = tokio::time::Instant::now();
            let mut again = || {
                let address = Address::of(&routing, &claim.record.project, &upstream)?;
                let mut parcel =
                    parcel::pack(&claim, &load, pieces.clone(), &address, &mut HeaderCache::default(), now).ok()?;
                settings.headers.apply(parcel.headers_mut());
                Some(parcel)
            };
            let (result, declined) = outgoing.send(parcel, &mut again).await;
            let took = started.elapsed();
            Ended::Sent(Box::new(Sent { claim, load, routing, settings, declined, began, took, result }))
        }));
    }

    fn give_up(&mut self, lease: &Lease, reason: DropReason, quantities: Quantities) {
        self.journal_settle(lease, Settlement { dropped: Some((reason, quantities)), ..Settlement::default() });
    }
}
