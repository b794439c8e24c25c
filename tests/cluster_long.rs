//! Several relays on a PostgreSQL with quorum commit: a primary that freezes, partitions, rolling restarts, large bodies, long outages.
//! `cargo test` alone does not run this; `cargo test --test cluster --test cluster_long` runs both halves.

#[path = "cluster"]
mod cluster {
    mod endurance;
    mod frozen;
    mod large;
    mod outage;
    mod partitions;
    mod restarts;
    mod scene;
}
mod support;
