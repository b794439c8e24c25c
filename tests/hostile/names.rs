//! Item headers with type names as long as a line may be, and many of them.

use std::fmt::Write as _;

use super::beside::beside;
use crate::support::memory::Memory;
use crate::support::relay::SOON;
use crate::support::wire::{exchange, post};
use crate::{front, keyed};

/// The memory that such an envelope may take, in KiB: as much as any large one.
const MOST_MEMORY: u64 = 32 * 1024;

#[tokio::test]
async fn a_thousand_item_types_of_64_kib_arrive_unchanged_and_cost_no_memory() {
    let (relay, upstream) = front().await;
    let mut sent = "{}\n".to_owned();
    for item in 0..1000 {
        writeln!(sent, "{{\"type\":\"{item:x<65500}\",\"length\":1}}\nx").expect("memory");
    }
    let request = post(&keyed("/api/1/envelope/"), &[], sent.as_bytes());
    let memory = Memory::of(relay.pid());
    memory.forget_peak();
    let before = memory.resident();
    let attack = async {
        let answer = exchange(&relay.address(), &request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let ((), others) = beside(&relay, attack).await;
    relay.balanced(SOON).await;
    let grown = memory.peak() - before;
    eprintln!("a thousand names of 64 KiB: {grown} KiB more than {before} KiB at the most");
    assert!(grown < MOST_MEMORY, "{grown} KiB");
    let taken = upstream.taken();
    assert_eq!(taken.len(), others + 1);
    assert!(taken.iter().any(|seen| seen.body == sent.as_bytes()), "it arrives byte for byte");
    relay.finish().await;
}
