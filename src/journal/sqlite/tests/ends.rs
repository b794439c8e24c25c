//! Failures that end the process. Each runs in a process of its own, which runs the same test again.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command as Program, ExitStatus, Stdio};

use super::*;
use crate::journal::sqlite::space::Room;
use crate::journal::sqlite::spool::Spool;

/// The environment variables that name the case to run in a process of its own, and its folder.
const CASE: &str = "SWITCHYARD_TEST_CASE";
const FOLDER: &str = "SWITCHYARD_TEST_FOLDER";
const ABORTED: Option<i32> = Some(6);

/// The case to run here; `None` in the process of the test itself.
fn case() -> Option<String> {
    std::env::var(CASE).ok()
}

/// Runs one case of a test of this file in a process of its own; returns how that process ended.
fn run(test: &str, case: &str, folder: &Path) -> ExitStatus {
    let name = format!("{}::{test}", module_path!().split_once("::").unwrap().1);
    let mut program = Program::new(std::env::current_exe().unwrap());
    program.args([&name, "--exact"]).env(CASE, case).env(FOLDER, folder);
    program.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
}

#[test]
fn pages_of_a_partial_or_truncating_move_are_synced_first() {
    let name = "pages_of_a_partial_or_truncating_move_are_synced_first";
    if let Some(case) = case() {
        return move_log(&case);
    }
    for (case, ended_by) in [("whole", None), ("part", ABORTED), ("cut", ABORTED)] {
        let folder = tempfile::tempdir().unwrap();
        let status = run(name, case, folder.path());
        assert_eq!((status.signal(), status.success()), (ended_by, ended_by.is_none()), "{case}: {status}");
        let log = std::fs::metadata(folder.path().join("journal.db-wal"));
        assert!(ended_by.is_none() || log.unwrap().len() > 200_000, "{case}: the next start has all of it");
    }
}

/// Moves a WAL with a handle on the database that cannot be synced.
fn move_log(case: &str) {
    let settings = in_folder(Path::new(&std::env::var(FOLDER).unwrap()));
    let conn = schema::open(&settings).unwrap();
    let spool = Arc::new(Spool::open(&settings.path, settings.sync).unwrap());
    let (_read, write) = std::io::pipe().unwrap();
    let database = Arc::new(File::from(OwnedFd::from(write)));
    let ahead = Ahead::new(schema::open_mover(&settings.path).unwrap(), database);
    let mut room = Room::new(&conn, ahead, spool, &settings).unwrap();
    let fill = || conn.execute("INSERT INTO body VALUES (NULL, '', zeroblob(200000))", []).unwrap();
    fill();
    let reader = schema::open_reader(&settings.path).unwrap();
    if case == "part" {
        reader.execute_batch("BEGIN; SELECT * FROM meta").unwrap();
        fill();
    }
    let moved = if case == "cut" { room.truncate_log(&conn) } else { room.log(&conn, 8 << 20) };
    moved.unwrap();
}

#[test]
fn a_thread_of_the_journal_that_panics_ends_the_process() {
    let name = "a_thread_of_the_journal_that_panics_ends_the_process";
    if let Some(case) = case() {
        return end_threads(&case);
    }
    for (case, ended_by) in [("as they should", None), ("any", ABORTED), ("the writer", ABORTED)] {
        let folder = tempfile::tempdir().unwrap();
        let status = run(name, case, folder.path());
        assert_eq!((status.signal(), status.success()), (ended_by, ended_by.is_none()), "{case}: {status}");
    }
}

/// Ends threads and waits for them.
fn end_threads(case: &str) {
    let journal = open(&in_folder(Path::new(&std::env::var(FOLDER).unwrap()))).unwrap();
    match case {
        "any" => {
            let run: fn() = || panic!("as it was told");
            drop(threads::start("any", run).unwrap().join());
        }
        "the writer" => {
            let (reply, _) = tokio::sync::oneshot::channel::<Result<(), JournalError>>();
            let command = Command::of(|_, _| panic!("as it was told"), reply);
            journal.commands.as_ref().unwrap().try_send((command, None)).unwrap();
        }
        _ => {}
    }
}
