//! One key must not silence the others: an attack with one project's key, and its effect on a second project.
//!
//! Rule: each test runs once without the attacker and once with it, prints the second project's figures (p99 of answers, deliveries) to
//! standard error, and asserts that everything it sent arrives.

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
