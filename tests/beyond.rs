//! The limits of one primary: the figures of `deploy/handbook/beyond.md`, from measurements of one machine and a model of many.
//!
//! `cargo test --test beyond -- --nocapture` prints them. A `BEYOND_…` variable replaces an assumption. Rule: [`MEASURED`] holds the
//! measurements and names the command that makes them, and the model must reproduce them.

#[path = "beyond/model.rs"]
mod model;

use model::{Costs, Disk, Load, Machines, Micros, Outcome, Setting, simulate};

/// The output of `cargo bench --profile look --bench cluster` on a machine with other work too: the rates are lower bounds.
const MEASURED: Measured = Measured {
    processors: 2,
    connections: 32,
    flush: 84.0,
    delivered: Point {
        rate: 1730.0,
        relay: 308.0,
        primary: 442.0,
        standby: 57.1,
        others: 43.8,
        group: 5.3,
        wal: 5776.0,
    },
    appended: Point {
        rate: 3597.0,
        relay: 84.1,
        primary: 116.0,
        standby: 42.5,
        others: 13.5,
        group: 12.0,
        wal: 5607.0,
    },
    paced: Point { rate: 500.0, relay: 0.0, primary: 1753.0, standby: 173.0, others: 0.0, group: 0.9, wal: 6807.0 },
};

struct Measured {
    processors: usize,
    connections: usize,
    /// The time of an 8 KiB write to the disk.
    flush: Micros,
    /// At full load with both upstreams up, at full load with both down, and at a fixed pace.
    delivered: Point,
    appended: Point,
    paced: Point,
}

/// The measurements of a load per envelope: processor times, envelopes per commit, bytes of WAL.
#[derive(Clone, Copy)]
struct Point {
    rate: f64,
    relay: Micros,
    primary: Micros,
    standby: Micros,
    others: Micros,
    group: f64,
    wal: f64,
}

impl Measured {
    /// The primary's cost of a commit and of each envelope in it, derived from two loads with commits of different size.
    fn split(&self) -> (Micros, Micros) {
        let (few, many) = (self.paced, self.delivered);
        let commit = (few.primary - many.primary) / (1.0 / few.group - 1.0 / many.group);
        let commit = commit.clamp(0.0, many.primary * many.group);
        (commit, many.primary - commit / many.group)
    }

    fn costs(&self, point: Point) -> Costs {
        let (commit, _) = self.split();
        let primary = (point.primary - commit / point.group).max(0.0);
        let Point { relay, standby, others, wal, .. } = point;
        Costs { relay, commit, primary, standby, others, wal }
    }

    /// The machine of the measurements.
    fn machine(&self, point: Point, (most, questions): (usize, f64)) -> Setting {
        Setting {
            relays: 1,
            most,
            machines: Machines::Shared(self.processors),
            costs: self.costs(point),
            disk: Disk { flush: self.flush, per_mib: PER_MIB },
            relay_trip: 50.0,
            questions,
            standby_trip: 50.0,
            load: Load::Closed(self.connections),
            seconds: 5.0,
        }
    }
}

/// The most envelopes in a transaction, and the number of round trips to the primary: begin, the commit's number, keys, records and their
/// keys, three accounts, commit.
const APPENDED: (usize, f64) = (256, 9.0);
/// The same with two upstreams. One in three of the 256 entries of a transaction is an envelope, the others are outcomes. Slices and the
/// time of each upstream's last delivery add round trips.
const DELIVERED: (usize, f64) = (85, 13.0);
/// The flush time per MiB of a disk that writes 400 MiB/s.
const PER_MIB: Micros = 2_500.0;

/// The value of the variable `BEYOND_{name}`, or the assumption.
fn assumed(name: &str, otherwise: f64) -> f64 {
    std::env::var(format!("BEYOND_{name}")).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// Machines of a cloud in three zones: a primary with so many processors, and so many relays.
fn cluster(primary: usize, relays: usize, rate: f64) -> Setting {
    let trip = assumed("TRIP_US", 500.0);
    let (most, questions) = DELIVERED;
    Setting {
        relays,
        most,
        machines: Machines::Own { relay: assumed("RELAY_PROCESSORS", 2.0) as usize, primary, standby: 1 },
        costs: MEASURED.costs(MEASURED.delivered),
        disk: Disk { flush: assumed("FLUSH_US", 800.0), per_mib: 1e6 / assumed("DISK_MIB_S", 400.0) },
        relay_trip: trip,
        questions,
        standby_trip: trip,
        load: Load::Open(rate),
        seconds: 4.0,
    }
}

/// The bounds of a cluster by arithmetic: each with its name, in envelopes per second.
fn bounds(setting: &Setting) -> [(&'static str, f64); 5] {
    let Setting { costs, disk, machines, relays, most, relay_trip, questions, standby_trip, .. } = setting;
    let Machines::Own { relay, primary, standby } = *machines else { panic!("machines of their own") };
    let (most, mib) = (*most as f64, f64::from(1 << 20));
    let flush = disk.flush + disk.per_mib * most * costs.wal / mib;
    let one =
        costs.commit + most * (costs.primary + costs.standby) + relay_trip * questions + standby_trip + 2.0 * flush;
    [
        ("the primary's processors", primary as f64 * 1e6 / (costs.primary + costs.commit / most)),
        ("the disk of the log", mib / costs.wal * 1e6 / disk.per_mib),
        ("the standby, which repeats the log with one processor", standby as f64 * 1e6 / costs.standby),
        ("the relays' processors", (relay * relays) as f64 * 1e6 / costs.relay),
        ("the one transaction that each relay has under way", *relays as f64 * most * 1e6 / one),
    ]
}

fn row(rate: f64, outcome: &Outcome, wal: f64) {
    let Outcome { rate: done, p50, p99, primary_busy, disk_busy, group } = outcome;
    println!(
        "{rate:>9.0} {done:>12.0} {p50:>9.1} {p99:>9.1} {:>9.0} % {:>7.0} % {group:>10.1} {:>9.1}",
        primary_busy * 100.0,
        disk_busy * 100.0,
        done * wal / f64::from(1 << 20)
    );
}

#[test]
fn the_model_reproduces_the_measurements() {
    for (what, point, group) in
        [("delivered", MEASURED.delivered, DELIVERED), ("appended", MEASURED.appended, APPENDED)]
    {
        let outcome = simulate(MEASURED.machine(point, group));
        let ratio = outcome.rate / point.rate;
        println!(
            "{what}: measured {:.0}/s, modelled {:.0}/s ({ratio:.2}), p99 {:.1} ms",
            point.rate, outcome.rate, outcome.p99
        );
        assert!((0.75..1.5).contains(&ratio), "{what}: {outcome:?}");
    }
}

#[test]
fn figures_of_the_limits_of_one_primary() {
    let (commit, each) = MEASURED.split();
    println!("the primary works {commit:.0} µs for a commit and {each:.0} µs for an envelope in it\n");
    for (primary, relays) in [(4, 3), (16, 8), (64, 24)] {
        let primary = assumed("PROCESSORS", primary as f64) as usize;
        let relays = assumed("RELAYS", relays as f64) as usize;
        let setting = cluster(primary, relays, 0.0);
        let mut bounds = bounds(&setting);
        bounds.sort_by(|a, b| a.1.total_cmp(&b.1));
        let most = bounds[0].1;
        println!("{relays} relays, a primary with {primary} processors");
        bounds.iter().for_each(|(what, most)| println!("  {most:>9.0}/s at most, by {what}"));
        println!("  offered acknowledged    p50 ms    p99 ms     primary      disk  a commit  log MiB/s");
        let mut last = 0.0;
        for share in [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.1] {
            let outcome = simulate(cluster(primary, relays, most * share));
            row(most * share, &outcome, setting.costs.wal);
            assert!(outcome.rate <= most * 1.02, "no more than arithmetic allows: {outcome:?}");
            assert!(outcome.rate >= last * 0.98, "more load, no less done: {outcome:?}");
            if share <= 0.5 {
                assert!(outcome.rate >= most * share * 0.9, "what is half of it is done: {outcome:?}");
            }
            last = outcome.rate;
        }
        println!();
    }
}

#[test]
fn figures_of_the_cost_of_a_billion_envelopes() {
    let (processors, relays) = (assumed("PROCESSORS", 16.0), assumed("RELAYS", 8.0));
    let (relay_processors, share) = (assumed("RELAY_PROCESSORS", 2.0), assumed("SHARE", 0.5));
    let setting = cluster(processors as usize, relays as usize, 0.0);
    let most = bounds(&setting).into_iter().map(|(_, rate)| rate).fold(f64::INFINITY, f64::min);
    let hours = 1e9 / (most * share) / 3600.0;
    // Three servers, the relays with etcd beside them, and a disk of twice the kept bytes for dead rows, indexes and WAL.
    let price = assumed("PRICE_PROCESSOR_HOUR", 0.05);
    let machines = (3.0 * processors + relays * relay_processors) * price * hours;
    let kept = most * share * 3600.0 * assumed("KEEP_HOURS", 24.0) * assumed("BYTES", 4096.0) / 1e9;
    let disks = 3.0 * 2.0 * kept * assumed("PRICE_GB_MONTH", 0.10) * hours / 730.0;
    let between = 1e9 * (setting.costs.wal * 2.0 + assumed("BYTES", 4096.0)) / 1e9 * assumed("PRICE_GB_ZONE", 0.01);
    println!(
        "at {:.0}/s ({share} of what {processors} processors take) a billion envelopes take {hours:.0} h:",
        most * share
    );
    println!(
        "  machines {machines:.0}, disks for {kept:.0} GB three times and doubled {disks:.0}, between zones {between:.0}"
    );
    println!("  together {:.0} for a billion envelopes", machines + disks + between);
    assert!(machines > 0.0 && disks > 0.0 && between > 0.0 && hours.is_finite());
}

#[test]
fn equal_settings_have_equal_outcomes() {
    assert_eq!(simulate(cluster(4, 3, 500.0)), simulate(cluster(4, 3, 500.0)));
}
