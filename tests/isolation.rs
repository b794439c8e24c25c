//! One key must not silence the others: what a client with the key of one project does, and what a second project notices of it.
//!
//! Rule: each test runs once without the attacker and once with it, prints what the second project sees (answers' p99, deliveries)
//! to standard error, and asserts that everything of it arrives.

mod support;

mod isolation {
    pub(crate) mod browsers;
    mod files;
    mod handles;
    mod letters;
    mod memory;
    mod poison;
    mod proxy;
    mod room;
    mod second;
    mod stream;
}
