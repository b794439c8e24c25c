//! Several relays on a PostgreSQL with quorum commit, while machines die, freeze and return. The deliveries to each upstream are compared
//! with the answers, id by id. Longer tests are in `cluster_long`.

mod cluster {
    mod failover;
    mod relays;
    mod scene;
}
mod support;
