//! A discrete-event model, in simulated time, of relays that share one primary, and of the queues between them.
//!
//! Rules: the model does what `src/journal/postgres/group.rs` does and no more. A relay has one transaction under way; envelopes that come
//! meanwhile are committed together in the next, up to a bound. The primary works on a transaction with one processor. Transactions that
//! wait for the disk at the same time are flushed together, at the primary and then at the standby. Whatever [`Setting`] does not name
//! costs nothing. Equal settings give equal figures.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

/// Times in µs.
pub(crate) type Micros = f64;

/// The machines that provide processor time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Machines {
    /// Each relay, the primary and the standby have a machine with so many processors.
    Own { relay: usize, primary: usize, standby: usize },
    /// All of them, the load and the upstreams share one machine with so many processors.
    Shared(usize),
}

/// The speed of a disk: a flush takes `flush`, and `per_mib` more for each MiB of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) flush: Micros,
    pub(crate) per_mib: Micros,
}

/// The cost of an envelope, including its deliveries if there are any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// Processor time of the relay per envelope.
    pub(crate) relay: Micros,
    /// Processor time of the primary per transaction, and per envelope in it.
    pub(crate) commit: Micros,
    pub(crate) primary: Micros,
    /// Processor time of the standby per envelope.
    pub(crate) standby: Micros,
    /// Processor time of load and upstreams per envelope, where they share the machine.
    pub(crate) others: Micros,
    /// Bytes of WAL per envelope.
    pub(crate) wal: f64,
}

/// The source of envelopes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// So many envelopes per second at random times.
    Open(f64),
    /// So many connections, each of which sends again when it is answered.
    Closed(usize),
}

/// The input of a simulation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) relays: usize,
    pub(crate) machines: Machines,
    pub(crate) costs: Costs,
    pub(crate) disk: Disk,
    /// The most envelopes in a transaction of a relay.
    pub(crate) most: usize,
    /// The round trip between relay and primary, and the number of round trips in a transaction.
    pub(crate) relay_trip: Micros,
    pub(crate) questions: f64,
    /// The round trip between primary and standby.
    pub(crate) standby_trip: Micros,
    pub(crate) load: Load,
    /// Simulated seconds; the first fifth does not count.
    pub(crate) seconds: f64,
}

/// The result of a simulation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Envelopes acknowledged per second.
    pub(crate) rate: f64,
    /// The 50th and 99th percentile of the time to an answer, in ms.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// The share of the processors' time that the primary used, or that everything used on a shared machine.
    pub(crate) primary_busy: f64,
    /// The share of the time in which the primary's disk was flushing.
    pub(crate) disk_busy: f64,
    /// Envelopes per commit.
    pub(crate) group: f64,
}

/// An envelope: its time of arrival, and its relay.
#[derive(Clone, Copy, Debug)]
struct Envelope {
    came: Micros,
    relay: usize,
}

type Group = Vec<Envelope>;

/// An event of the simulation.
#[derive(Debug)]
enum Event {
    Comes(usize),
    /// The relay has received the envelope.
    Taken(Envelope),
    /// The primary has run the statements of a transaction.
    Done(Group),
    /// A disk has flushed its batch: 0 is the primary's, 1 the standby's.
    Flushed(usize),
    /// The WAL has reached the standby.
    Sent(Group),
    Written(Group),
    Confirmed(Group),
}

/// An event and its time. The earliest event is the greatest; of two at one time the older one is.
#[derive(Debug)]
struct Due(Reverse<(u64, u64)>, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// Processors that serve work in the order of arrival.
#[derive(Debug)]
struct Pool {
    free: Vec<Micros>,
    worked: Micros,
}

impl Pool {
    fn new(count: usize) -> Self {
        Self { free: vec![0.0; count.max(1)], worked: 0.0 }
    }

    /// The time at which work that arrives now is done.
    fn done(&mut self, now: Micros, work: Micros) -> Micros {
        let first = self.free.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("a processor");
        *first = first.max(now) + work;
        self.worked += work;
        *first
    }
}

/// A disk that flushes everything that waits together.
#[derive(Debug, Default)]
struct Flushing {
    waiting: Vec<Group>,
    under_way: Vec<Group>,
    is_busy: bool,
    worked: Micros,
}

struct Model {
    setting: Setting,
    now: Micros,
    made: u64,
    events: BinaryHeap<Due>,
    pools: Vec<Pool>,
    disks: [Flushing; 2],
    queues: Vec<VecDeque<Envelope>>,
    is_committing: Vec<bool>,
    answered: Vec<(Micros, Micros)>,
    groups: usize,
    dice: u64,
}

/// Runs a simulation.
pub(crate) fn simulate(setting: Setting) -> Outcome {
    let mut model = Model::new(setting);
    model.begin();
    let end = setting.seconds * 1e6;
    while let Some(Due(Reverse((at, _)), event)) = model.events.pop() {
        model.now = at as f64 / 1e3;
        if model.now >= end {
            break;
        }
        model.happens(event);
    }
    model.outcome(end)
}

impl Model {
    fn new(setting: Setting) -> Self {
        let pools = match setting.machines {
            Machines::Shared(count) => vec![Pool::new(count)],
            Machines::Own { relay, primary, standby } => {
                let relays = (0..setting.relays).map(|_| Pool::new(relay));
                [Pool::new(primary), Pool::new(standby)].into_iter().chain(relays).collect()
            }
        };
        Self {
            setting,
            now: 0.0,
            made: 0,
            events: BinaryHeap::new(),
            pools,
            disks: Default::default(),
            queues: vec![VecDeque::new(); setting.relays],
            is_committing: vec![false; setting.relays],
            answered: vec![],
            groups: 0,
            dice: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn begin(&mut self) {
        match self.setting.load {
            Load::Open(_) => self.comes_later(0),
            Load::Closed(connections) => (0..connections).for_each(|number| self.at(0.0, Event::Comes(number))),
        }
    }

    fn at(&mut self, time: Micros, event: Event) {
        self.made += 1;
        self.events.push(Due(Reverse(((time * 1e3) as u64, self.made)), event));
    }

    /// Schedules the next envelope of an open load, after an exponentially distributed time.
    fn comes_later(&mut self, number: usize) {
        let Load::Open(rate) = self.setting.load else { return };
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        let even = ((self.dice >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        self.at(self.now - even.ln() * 1e6 / rate, Event::Comes(number + 1));
    }

    /// Gives work to a pool and returns when it is done: 0 is the primary, 1 the standby, then come the relays; a shared machine has one
    /// pool.
    fn work(&mut self, pool: usize, work: Micros) -> Micros {
        let pool = pool.min(self.pools.len() - 1);
        self.pools[pool].done(self.now, work)
    }

    fn happens(&mut self, event: Event) {
        let costs = self.setting.costs;
        match event {
            Event::Comes(number) => {
                let relay = number % self.setting.relays;
                let shared = matches!(self.setting.machines, Machines::Shared(_));
                let done = self.work(2 + relay, costs.relay + if shared { costs.others } else { 0.0 });
                self.at(done, Event::Taken(Envelope { came: self.now, relay }));
                self.comes_later(number);
            }
            Event::Taken(envelope) => {
                self.queues[envelope.relay].push_back(envelope);
                self.commit(envelope.relay);
            }
            Event::Done(group) => self.flush(0, group),
            Event::Flushed(disk) => self.flushed(disk),
            Event::Sent(group) => {
                let done = self.work(1, costs.standby * group.len() as f64);
                self.at(done, Event::Written(group));
            }
            Event::Written(group) => self.flush(1, group),
            Event::Confirmed(group) => {
                let relay = group[0].relay;
                self.is_committing[relay] = false;
                for envelope in group {
                    self.answered.push((self.now, self.now - envelope.came));
                    if let Load::Closed(_) = self.setting.load {
                        self.at(self.now, Event::Comes(relay));
                    }
                }
                self.commit(relay);
            }
        }
    }

    /// Starts a transaction with a relay's queue, unless one is under way or the queue is empty.
    fn commit(&mut self, relay: usize) {
        if self.is_committing[relay] || self.queues[relay].is_empty() {
            return;
        }
        let Setting { costs, most, relay_trip, questions, .. } = self.setting;
        let count = self.queues[relay].len().min(most);
        let group: Group = self.queues[relay].drain(..count).collect();
        self.is_committing[relay] = true;
        self.groups += 1;
        let done = self.work(0, costs.commit + costs.primary * count as f64);
        self.at(done + relay_trip * questions, Event::Done(group));
    }

    fn flush(&mut self, disk: usize, group: Group) {
        self.disks[disk].waiting.push(group);
        if !self.disks[disk].is_busy {
            self.flush_all(disk);
        }
    }

    fn flush_all(&mut self, disk: usize) {
        let under_way = std::mem::take(&mut self.disks[disk].waiting);
        let count: usize = under_way.iter().map(Vec::len).sum();
        let mib = self.setting.costs.wal * count as f64 / f64::from(1 << 20);
        let takes = self.setting.disk.flush + self.setting.disk.per_mib * mib;
        let disk_of = &mut self.disks[disk];
        (disk_of.under_way, disk_of.is_busy) = (under_way, true);
        disk_of.worked += takes;
        self.at(self.now + takes, Event::Flushed(disk));
    }

    fn flushed(&mut self, disk: usize) {
        let trip = self.setting.standby_trip / 2.0;
        for group in std::mem::take(&mut self.disks[disk].under_way) {
            let next = if disk == 0 { Event::Sent(group) } else { Event::Confirmed(group) };
            self.at(self.now + trip, next);
        }
        self.disks[disk].is_busy = false;
        if !self.disks[disk].waiting.is_empty() {
            self.flush_all(disk);
        }
    }

    fn outcome(&self, end: Micros) -> Outcome {
        let from = end / 5.0;
        let mut took: Vec<Micros> = self.answered.iter().filter(|(at, _)| *at >= from).map(|(_, took)| *took).collect();
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took.get((took.len() as f64 * share) as usize).map_or(f64::NAN, |micros| micros / 1e3);
        let primary = &self.pools[0];
        Outcome {
            rate: took.len() as f64 / ((end - from) / 1e6),
            p50: at(0.5),
            p99: at(0.99),
            primary_busy: (primary.worked / (end * primary.free.len() as f64)).min(1.0),
            disk_busy: (self.disks[0].worked / end).min(1.0),
            group: self.answered.len() as f64 / self.groups.max(1) as f64,
        }
    }
}
