//! Several relays on a PostgreSQL with quorum commit, while machines die, freeze and come back: what each upstream got is compared with
//! what was answered, id by id.

mod cluster {
    mod endurance;
    mod failover;
    mod large;
    mod partitions;
    mod relays;
    mod restarts;
    mod scene;
}
mod support;
