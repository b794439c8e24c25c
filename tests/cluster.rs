//! Several relays on a PostgreSQL with quorum commit, while machines die, freeze and come back: what each upstream got is compared with
//! what was answered, id by id. What takes longer is in `cluster_long`.

mod cluster {
    mod failover;
    mod relays;
    mod scene;
}
mod support;
