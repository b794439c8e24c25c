//! What verbs say when a relay gives no answer, or has nothing to give: the exit code, and JSON where it is asked for.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use super::support::eventually::eventually;
use super::support::net;
use super::support::relay::{Plan, SOON};
use super::support::upstream::Upstream;
use super::{CONFIG, beside, code, err, folder_with, json, out, relay_with_two};

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_names_its_author_where_the_environment_names_nobody() {
    let (relay, _sentry, _glitchtip) = relay_with_two().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchyard"));
    let names = ["SUDO_USER", "USER", "LOGNAME"];
    names.iter().for_each(|name| _ = command.env_remove(name));
    command.args(["switch", "glitchtip", "--config"]).arg(relay.config());
    let output = tokio::task::block_in_place(|| command.output()).expect("the binary");
    assert_eq!(code(&output), 0, "{output:?}");
    let name = Command::new("id").arg("-un").output().expect("id");
    let name = String::from_utf8(name.stdout).expect("UTF-8").trim().to_owned();
    eventually("the switch is kept with its author", SOON, async || {
        let status = relay.status().await;
        let author = status["switches"][0]["author"].as_str().unwrap_or_default().to_owned();
        if author.split('@').next() == Some(&*name) { Ok(()) } else { Err(format!("{status:#}")) }
    })
    .await;
    relay.finish().await;
}
