//! Installs the peers' programs once into `target/peers/`, with the ordinary package clients.
//!
//! Rule: versions are named only here; earlier installations are reused; a failed installation fails the test with the client's own
//! message. It starts no peer.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

const BUGSINK: &str = "bugsink==2.6.2";
const KENT: &str = "kent==2.2.0";
const PYTHON_SDK: &str = "sentry-sdk==2.75.0";
/// Installs the SDK as well.
const OPENTELEMETRY: &str = "opentelemetry-exporter-otlp-proto-http==1.45.2";
const OLD_PYTHON_SDK: &str = "sentry-sdk==1.5.12";
const RAVEN: &str = "raven==6.10.0";
const NODE_SDK: [&str; 2] = ["@sentry/node@10.24.0", "@sentry/profiling-node@10.24.0"];
const NEWEST_NODE_SDK: [&str; 1] = ["@sentry/node@11.12.0"];
const CLI: [&str; 1] = ["@sentry/cli@3.8.0"];
const BROWSER_SDK: [&str; 3] = ["@sentry/browser@11.12.0", "esbuild@0.28.2", "playwright-core@1.65.1"];
const AXE: [&str; 1] = ["axe-core@4.14.1"];

/// The folder of Bugsink's programs.
pub(crate) fn bugsink() -> PathBuf {
    python_programs("bugsink", BUGSINK)
}

/// The folder of Kent's programs.
pub(crate) fn kent() -> PathBuf {
    python_programs("kent", KENT)
}

/// A Python interpreter that can import `sentry_sdk`.
pub(crate) fn python_with_sdk() -> PathBuf {
    python_programs("python-sdk", PYTHON_SDK).join("python")
}

/// A Python interpreter that can import the OpenTelemetry SDK and its exporters over HTTP.
pub(crate) fn python_with_opentelemetry() -> PathBuf {
    python_programs("opentelemetry", OPENTELEMETRY).join("python")
}

/// A Python interpreter that can import the last `sentry_sdk` that posted errors to the store endpoint.
pub(crate) fn python_with_old_sdk() -> PathBuf {
    python_programs("python-old-sdk", OLD_PYTHON_SDK).join("python")
}

/// A Python interpreter that can import `raven`.
pub(crate) fn python_with_raven() -> PathBuf {
    python_programs("python-raven", RAVEN).join("python")
}

/// A `node_modules` folder with `@sentry/node` and `@sentry/profiling-node`, for NODE_PATH.
pub(crate) fn node_modules() -> PathBuf {
    node_packages("node-sdk", &NODE_SDK)
}

/// A `node_modules` folder with the newest `@sentry/node`.
pub(crate) fn newest_node_modules() -> PathBuf {
    node_packages("node-newest-sdk", &NEWEST_NODE_SDK)
}

/// The program `sentry-cli`.
pub(crate) fn sentry_cli() -> PathBuf {
    node_packages("sentry-cli", &CLI).join(".bin/sentry-cli")
}

/// A `node_modules` folder with `@sentry/browser` and the packages that drive a browser.
pub(crate) fn browser_modules() -> PathBuf {
    node_packages("browser-sdk", &BROWSER_SDK)
}

/// The folders of the packages that drive a browser and that check pages in it, for NODE_PATH.
pub(crate) fn looking_modules() -> OsString {
    let folders = [browser_modules(), node_packages("axe", &AXE)];
    std::env::join_paths(folders).expect("folders without a colon")
}

/// The folder with `page.js`, the bundled program of a page.
pub(crate) fn bundled(page: &Path) -> PathBuf {
    let modules = browser_modules();
    let source = fs::read_to_string(page).expect("a page's program");
    ready("browser-page", &format!("{}\n{source}", BROWSER_SDK.join(" ")), |place| {
        let mut esbuild = Command::new(modules.join(".bin/esbuild"));
        esbuild.env("NODE_PATH", &modules).args(["--bundle", "--format=iife", "--log-level=warning"]);
        run("esbuild", esbuild.arg(format!("--outfile={}", place.join("page.js").display())).arg(page));
    })
}

/// The path of a program that comes only as a Debian package with libraries.
///
/// # Panics
/// When it is missing; the message names the package.
pub(crate) fn debian(program: &str, package: &str) -> PathBuf {
    let paths = ["/usr/bin", "/usr/sbin"].map(|folder| Path::new(folder).join(program));
    let path = paths.into_iter().find(|path| path.is_file());
    path.unwrap_or_else(|| panic!("this test needs {program}: apt-get install {package}"))
}

/// The path of `prometheus` or `promtool`: the machine's own, or one unpacked from Debian's package without installing, so that no service
/// starts.
pub(crate) fn prometheus(program: &str) -> PathBuf {
    if let Some(own) = on_path(program) {
        return own;
    }
    let place = ready("prometheus", "the Debian package prometheus", |place| {
        let download = || {
            let mut apt = Command::new("apt-get");
            apt.args(["download", "prometheus"]).current_dir(place);
            apt
        };
        // A fresh machine has no package lists yet.
        if try_run(&mut download()).is_err() {
            run("prometheus (apt-get)", Command::new("apt-get").arg("update"));
            run("prometheus (apt-get)", &mut download());
        }
        run("prometheus (dpkg-deb)", Command::new("dpkg-deb").arg("-x").arg(only_file(place, "deb")).arg(place));
    });
    place.join("usr/bin").join(program)
}

/// The folder `target/peers/<name>`, built by `build` unless it was built from the same `recipe` before.
///
/// One build runs at a time across all threads and processes, guarded by a lock file beside the folders.
pub(crate) fn ready(name: &str, recipe: &str, build: impl FnOnce(&Path)) -> PathBuf {
    let peers = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers");
    fs::create_dir_all(&peers).expect("target/peers");
    let lock = File::create(peers.join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("the lock of target/peers");
    let place = peers.join(name);
    let marker = place.join(".ready");
    // Virtual environments contain their own path, so a moved folder is built again.
    let recipe = format!("{recipe}\n{}\n", place.display());
    if fs::read_to_string(&marker).is_ok_and(|built| built == recipe) {
        return place;
    }
    if place.exists() {
        fs::remove_dir_all(&place).expect("the remains of an earlier build");
    }
    fs::create_dir_all(&place).expect("a peer's folder");
    build(&place);
    fs::write(&marker, recipe).expect("a marker");
    place
}

/// Runs `command` to its end and returns its output.
///
/// # Panics
/// When it cannot be started or fails; the message says that `peer` is needed and why.
pub(crate) fn run(peer: &str, command: &mut Command) -> String {
    try_run(command).unwrap_or_else(|reason| panic!("this test needs {peer}: {reason}"))
}

fn try_run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(words(&output.stdout));
    }
    Err(format!("{command:?}: {}\n{}{}", output.status, words(&output.stdout), words(&output.stderr)))
}

fn python_programs(name: &str, package: &str) -> PathBuf {
    let place = ready(name, package, |place| {
        run("Python 3 with venv", Command::new("python3").args(["-m", "venv"]).arg(place));
        run(package, Command::new(place.join("bin/pip")).args(["install", "--quiet", package]));
    });
    place.join("bin")
}

fn node_packages(name: &str, packages: &[&str]) -> PathBuf {
    let place = ready(name, &packages.join(" "), |place| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(place).args(packages);
        run("npm (Node.js)", &mut npm);
    });
    place.join("node_modules")
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

fn only_file(folder: &Path, extension: &str) -> PathBuf {
    let files = fs::read_dir(folder).expect("a peer's folder").map(|entry| entry.expect("an entry").path());
    let mut matching = files.filter(|path| path.extension() == Some(OsStr::new(extension)));
    matching.next().unwrap_or_else(|| panic!("no .{extension} in {}", folder.display()))
}
