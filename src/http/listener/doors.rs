//! Limits the connections of a listener, in total and per address.
//!
//! Rule: connections never take the files that the journal, the deliveries and the admin listener need, and one client never takes
//! all connections. The machine itself and trusted proxies, behind which many clients are, have no limit of their own. An operator
//! who does nothing keeps no other waiting.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::files::{Files, MOST};

/// With fewer possible connections than this, a warning is logged.
const FEW: usize = 1024;
/// How long an operator's connection may do nothing while all places are taken.
const CROWDED: Duration = Duration::from_secs(1);

/// The limits of one listener, or of several that share them. Cheap to clone; clones are the same doors.
#[derive(Clone, Debug)]
pub(in crate::http) struct Doors {
    places: Arc<Semaphore>,
    /// The number of all places.
    count: Arc<Mutex<usize>>,
    inside: Arc<Mutex<HashMap<IpAddr, u32>>>,
    open: Option<Gauge>,
    /// Whether who does nothing gives way when all places are taken.
    gives_way: bool,
}

impl Doors {
    /// The doors of listeners that SDKs reach. `open` follows the number of connections.
    pub(in crate::http) fn of_clients(open: Gauge) -> Self {
        Self::new(Files::allowed().clients(0).0, Some(open))
    }

    /// The doors of the admin listener.
    pub(in crate::http) fn of_operators() -> Self {
        Self { gives_way: true, ..Self::new(Files::allowed().operators(), None) }
    }

    /// The doors of a stand-in upstream.
    pub(in crate::http) fn of_relays() -> Self {
        Self::new(MOST, None)
    }

    fn new(places: usize, open: Option<Gauge>) -> Self {
        let count = Arc::new(Mutex::new(places));
        Self { places: Arc::new(Semaphore::new(places)), count, inside: Arc::default(), open, gives_way: false }
    }

    /// Leaves this many files to deliveries. Open connections stay.
    pub(in crate::http) fn leave(&self, deliveries: usize) {
        let (wanted, is_enough) = Files::allowed().clients(deliveries);
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted >= *count {
            self.places.add_permits(wanted - *count);
            *count = wanted;
        } else {
            *count -= self.places.forget_permits(*count - wanted);
        }
        drop(count);
        if wanted < FEW {
            let message =
                "few connections can be open at once: raise the hard limit of open files (LimitNOFILE, ulimit -Hn)";
            tracing::warn!(connections = wanted, "{message}");
        }
        if !is_enough {
            let message = "the files that may be open do not suffice for all deliveries at once: raise the hard limit of open files \
                           (LimitNOFILE, ulimit -Hn), or lower max_in_flight";
            tracing::warn!(deliveries, "{message}");
        }
    }

    /// Whether no connection of a client is open, as far as they are counted.
    pub(super) fn is_empty(&self) -> bool {
        self.open.as_ref().is_none_or(|open| open.get() < 1.0)
    }

    /// Whether nobody keeps a place here who does nothing: others may wait for it.
    pub(super) fn is_crowded(&self) -> bool {
        self.gives_way && self.places.available_permits() == 0
    }

    /// How long a connection may do nothing: `most`, or less where it is crowded.
    pub(super) fn patience(&self, most: Duration) -> Duration {
        if self.is_crowded() { CROWDED.min(most) } else { most }
    }

    /// Returns when a connection that says nothing must leave.
    pub(super) async fn outstayed(&self, most: Duration) {
        let step = if self.gives_way { CROWDED } else { most };
        let mut stayed = Duration::ZERO;
        while stayed < self.patience(most) {
            sleep(step).await;
            stayed += step;
        }
    }

    /// A place for one more connection, once there is one.
    pub(super) async fn place(&self) -> Place {
        let permit = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        Place::new(permit, self.open.clone())
    }

    /// A place for one more connection; `None` if none is free now.
    pub(super) fn place_now(&self) -> Option<Place> {
        Some(Place::new(Arc::clone(&self.places).try_acquire_owned().ok()?, self.open.clone()))
    }

    /// Lets one more connection of `address` in; `None` if `most` are inside.
    pub(super) fn enter(&self, address: IpAddr, most: u32) -> Option<Inside> {
        let client = client(address);
        let mut inside = self.inside();
        let count = inside.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(inside);
        Some(Inside { doors: self.clone(), client })
    }

    /// Nobody panics while holding the lock.
    fn inside(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place for a connection, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    open: Option<Gauge>,
    is_taken: bool,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, open: Option<Gauge>) -> Self {
        Self { _permit: permit, open, is_taken: false }
    }

    /// Counts the connection that takes the place.
    pub(super) fn taken(mut self) -> Self {
        self.is_taken = true;
        self.open.iter().for_each(Gauge::inc);
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_taken {
            self.open.iter().for_each(Gauge::dec);
        }
    }
}

/// A connection that was let in; dropping this lets it out.
#[derive(Debug)]
pub(super) struct Inside {
    doors: Doors,
    client: IpAddr,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut inside = self.doors.inside();
        if let Some(count) = inside.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                inside.remove(&self.client);
            }
        }
    }
}

/// The client that an address counts for: the address in IPv4; in IPv6 its /64 network, as one household has it.
pub(in crate::http) fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_own_limit_and_closing_frees_a_place() {
        let doors = Doors::new(9, None);
        let enter = |address: &str| doors.enter(ip(address), 2);
        let (first, second) = (enter("203.0.113.7"), enter("::ffff:203.0.113.7"));
        assert!(first.is_some() && second.is_some() && enter("203.0.113.7").is_none());
        let other = enter("203.0.113.8");
        assert!(other.is_some());
        drop(first);
        assert!(enter("203.0.113.7").is_some());
        drop((second, other));
        assert!(doors.inside().is_empty(), "nobody is remembered who is not there");
    }

    #[test]
    fn places_follow_the_files_that_deliveries_need() {
        let doors = Doors::new(4, None);
        let all: Vec<Place> = std::iter::from_fn(|| doors.place_now()).collect();
        assert_eq!(all.len(), 4);
        doors.leave(0);
        assert!(doors.place_now().is_some(), "the process may have more files open than that");
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        assert_eq!(client(ip("2001:db8:1:2:3:4:5:6")), client(ip("2001:db8:1:2::9")));
        assert_ne!(client(ip("2001:db8:1:2::9")), client(ip("2001:db8:1:3::9")));
        assert_eq!(client(ip("::ffff:10.0.0.9")), ip("10.0.0.9"));
    }
}
