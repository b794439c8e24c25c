//! Checks the sources against the architecture (imports, reserved names, lengths) and the documents against the sources. A failure names
//! file and line and says what to do.

#[path = "architecture/circles.rs"]
mod circles;
#[path = "architecture/documents.rs"]
mod documents;
#[path = "architecture/source.rs"]
mod source;

use source::{Named, Source, sources};

/// The parts that a part may import, besides itself and those open to all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("printable", &[]),
    ("tasks", &[]),
    ("units", &[]),
    ("vocabulary", &[]),
    ("protocol", &[]),
    ("content", &[]),
    ("policy", &["protocol"]),
    ("telemetry", &["protocol", "policy"]),
    ("journal", &["protocol", "policy", "telemetry"]),
    ("intake", &["protocol", "policy", "telemetry", "journal"]),
    ("tracker", &["protocol"]),
    ("delivery", &["protocol", "policy", "telemetry", "journal", "tracker", "content"]),
    ("http", &["protocol", "policy", "telemetry", "journal", "intake", "content", "delivery"]),
    ("notify", &["protocol", "policy", "telemetry", "delivery"]),
    ("config", &["protocol", "policy", "telemetry", "journal", "intake", "content", "delivery", "http", "notify"]),
    ("daemon", &["protocol", "policy", "telemetry", "journal", "intake", "delivery", "http", "notify", "config"]),
    ("cli", &["protocol", "telemetry", "delivery", "http", "notify", "config", "daemon"]),
    ("main", &["cli"]),
];

/// The parts that every other part may import.
const OPEN_TO_ALL: &[&str] = &["clock", "printable", "tasks", "units", "vocabulary"];

/// Foreign paths, the modules that may name them, and what to do instead.
const RESERVED: &[(&[&str], &[&str], &str)] = &[
    (&["axum"], &["http"], "axum belongs to http: pass plain values in and out"),
    (&["reqwest"], HTTP_CLIENTS, ONE_CLIENT),
    (&["hyper_util", "client"], HTTP_CLIENTS, ONE_CLIENT),
    (&["hyper", "client"], HTTP_CLIENTS, ONE_CLIENT),
    (&["hyper_rustls"], HTTP_CLIENTS, ONE_CLIENT),
    (&["rusqlite"], &["journal"], "storage belongs to journal: add what you need to one of its ports"),
    (&["flate2"], COMPRESSORS, ONE_COMPRESSOR),
    (&["zstd"], COMPRESSORS, ONE_COMPRESSOR),
    (&["brotli"], DECODERS, ONE_DECODER),
    (&["bzip2"], DECODERS, ONE_DECODER),
    (&["liblzma"], DECODERS, ONE_DECODER),
    (&["brotli_decompressor"], DECODERS, ONE_DECODER),
    (&["std", "time", "SystemTime", "now"], &["clock"], ONE_CLOCK),
    (&["SystemTime", "now"], &["clock"], ONE_CLOCK),
    (&["tokio", "spawn"], &["tasks"], ONE_SPAWNER),
    (&["tokio", "task", "spawn"], &["tasks"], ONE_SPAWNER),
    (&["task", "spawn"], &["tasks"], ONE_SPAWNER),
];

const HTTP_CLIENTS: &[&str] = &["delivery/transport", "notify/receiver", "cli"];
const ONE_CLIENT: &str = "only delivery/transport, notify/receiver and cli send requests: call the transport";
const DECODERS: &[&str] = &["intake/decode"];
const COMPRESSORS: &[&str] = &["intake/decode", "delivery/compress"];
const ONE_COMPRESSOR: &str = "intake/decode decodes and delivery/compress compresses: call them";
const ONE_DECODER: &str = "intake/decode holds the only decoders, where both limits are kept: call it";
const ONE_CLOCK: &str = "clock.rs is the only reader of time: take a Timestamp or a Clock";
const ONE_SPAWNER: &str = "tasks.rs is the only caller of spawn: take a Tasks";

const MAX_FILE: usize = 400;
const MAX_FUNCTION: usize = 70;

#[test]
fn every_part_imports_only_what_the_table_allows() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| source.part() != "lib" && !source.is_test()) {
        let part = source.part();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == part) else {
            broken.push(format!(
                "{}:1: {part} is not in MAY_IMPORT: say in tests/architecture.rs what it may import",
                source.path
            ));
            continue;
        };
        for named in source.named() {
            let Some(import) = import(&named, source) else { continue };
            let open = OPEN_TO_ALL.contains(&import) && !OPEN_TO_ALL.contains(&part);
            if import != part && !open && !allowed.contains(&import) {
                let (path, line) = (&source.path, named.line);
                broken.push(format!(
                    "{path}:{line}: {part} may not import {import}: move what is shared down, or pass it in"
                ));
            }
        }
    }
    report(&broken);
}

/// The part that a path leads to; `None` for a foreign path and for items of lib.rs itself.
fn import<'a>(named: &'a Named, source: &Source) -> Option<&'a str> {
    let ours = if source.part() == "main" { "switchyard" } else { "crate" };
    let [first, part, ..] = named.segments.as_slice() else { return None };
    (first == ours && part.starts_with(char::is_lowercase)).then_some(part)
}

#[test]
fn a_name_reserved_for_one_part_appears_nowhere_else() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for named in source.named() {
            let hit = RESERVED.iter().find(|(path, ..)| {
                named.segments.len() >= path.len().max(2) && path.iter().zip(&named.segments).all(|(a, b)| a == b)
            });
            let Some((_, owners, instead)) = hit else { continue };
            let within =
                |owner: &&str| source.module().strip_prefix(*owner).is_some_and(|r| r.is_empty() || r.starts_with('/'));
            if !owners.iter().any(within) {
                broken.push(format!("{}:{}: {}: {instead}", source.path, named.line, named.segments.join("::")));
            }
        }
    }
    report(&broken);
}

#[test]
fn every_file_begins_with_a_module_comment() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//!"));
    let says = |source: Source| {
        format!("{}:1: begin with `//!`: what lives here, the rule it keeps, what it refuses to know", source.path)
    };
    report(&silent.map(says).collect::<Vec<_>>());
}

#[test]
fn no_file_is_longer_than_400_lines() {
    let long = sources().into_iter().filter(|source| source.lines() > MAX_FILE);
    let says = |source: Source| {
        let (path, lines) = (&source.path, source.lines());
        format!("{path}:1: {lines} lines without tests, {MAX_FILE} are allowed: split it")
    };
    report(&long.map(says).collect::<Vec<_>>());
}

#[test]
fn no_function_is_longer_than_a_screen_and_a_half() {
    let mut broken = Vec::new();
    for source in sources() {
        for function in source.functions().iter().filter(|function| function.lines > MAX_FUNCTION) {
            let (path, line, name, lines) = (&source.path, function.line, &function.name, function.lines);
            broken.push(format!(
                "{path}:{line}: {name} has {lines} lines, {MAX_FUNCTION} are allowed: give its steps names"
            ));
        }
    }
    report(&broken);
}

pub(crate) fn report(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}
