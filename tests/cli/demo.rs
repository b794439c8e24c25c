//! The demo of several relays shows what it says and leaves nothing behind, however it ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::support::eventually::eventually;
use super::support::relay::SOON;
use super::{code, docs, out};

/// A temporary folder that PostgreSQL's user may enter.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    folder
}

/// The processes that name a file below this folder on their command line or work in it.
fn processes_of(folder: &Path) -> Vec<String> {
    let name = folder.to_str().expect("UTF-8");
    let processes = fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path());
    let told = processes.filter_map(|process| {
        let line = String::from_utf8_lossy(&fs::read(process.join("cmdline")).ok()?).replace('\0', " ");
        let works_there = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        (works_there || line.contains(name)).then(|| format!("{}: {line}", process.display()))
    });
    told.collect()
}

#[test]
fn the_demo_of_several_relays_loses_nothing_and_leaves_nothing_behind() {
    let folder = folder();
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["demo", "--cluster", "--exit"]).env("TMPDIR", folder.path()).timeout(Duration::from_secs(180));
    let output = command.output().expect("the binary");
    assert_eq!(code(&output), 0, "{output:?}");
    assert_eq!(
        docs::not_said(&docs::of_demo("deploy/handbook/cluster.md"), &out(&output)),
        None,
        "the page shows it, and this is said: {}",
        out(&output)
    );
    assert_eq!(processes_of(folder.path()), [""; 0]);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}

/// Tells a demo of one relay to end once it has said this; how it ended.
async fn told_to_end(args: &[&str], said: &str, signal: Signal) -> Option<i32> {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.arg("demo").args(args).env("TMPDIR", folder.path()).stdout(Stdio::piped());
    let mut demo = command.spawn().expect("the binary");
    let mut lines = BufReader::new(demo.stdout.take().expect("its output")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(said)), "{said}");
    kill_process(Pid::from_child(&demo), signal).expect("the signal");
    let ended =
        eventually("it ends", SOON, async || demo.try_wait().expect("a child").ok_or_else(|| "it runs".to_owned()))
            .await;
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
    ended.code()
}

#[tokio::test]
async fn a_demo_whose_terminal_is_closed_ends_and_one_that_was_cut_off_has_not_shown_that_all_is_well() {
    assert_eq!(told_to_end(&[], "It keeps running", Signal::HUP).await, Some(0));
    assert_eq!(told_to_end(&["--exit"], "status page", Signal::TERM).await, Some(1));
}

/// A demo of several relays that has introduced them, in this folder.
fn introduced(folder: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    command.args(["demo", "--cluster"]).env("TMPDIR", folder).stdout(Stdio::piped());
    let mut demo = command.spawn().expect("the binary");
    let mut lines = BufReader::new(demo.stdout.take().expect("its output")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("status page")), "it introduces the relays");
    let relays = processes_of(folder).iter().filter(|line| line.contains("switchyard run")).count();
    assert!(relays >= 3, "{:?}", processes_of(folder));
    demo
}

async fn all_has_ended(folder: &Path) {
    eventually("all it started ends", SOON, async || match processes_of(folder) {
        all if all.is_empty() => Ok(()),
        all => Err(all.join("\n")),
    })
    .await;
}

#[tokio::test]
async fn a_demo_of_several_relays_that_is_killed_leaves_no_process_behind() {
    let folder = folder();
    let mut demo = introduced(folder.path());
    demo.kill().expect("SIGKILL");
    demo.wait().expect("its end");
    all_has_ended(folder.path()).await;
}

#[tokio::test]
async fn a_demo_of_several_relays_whose_terminal_is_closed_leaves_nothing_behind() {
    let folder = folder();
    let mut demo = introduced(folder.path());
    kill_process(Pid::from_child(&demo), Signal::HUP).expect("SIGHUP");
    demo.wait().expect("its end");
    all_has_ended(folder.path()).await;
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
