//! Several relays on a PostgreSQL with quorum commit: partitions, rolling restarts, large bodies, long outages. `cargo test` alone does
//! not run this; `cargo test --test cluster --test cluster_long` runs the whole.

#[path = "cluster"]
mod cluster {
    mod endurance;
    mod large;
    mod partitions;
    mod restarts;
    mod scene;
}
mod support;
