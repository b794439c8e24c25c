//! Machines with their own address and network behind one router. The router can drop everything between two of them; neither side is told.
//!
//! Rules: each machine and the router is a network namespace. The test's thread runs in the router's, so nothing touches the interfaces of
//! the host. That needs root. The namespaces end with the processes that hold them.

use std::cell::Cell;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use super::eventually::eventually;
use super::process::Process;

/// The timeout for creating a namespace.
const THERE: Duration = Duration::from_secs(10);

/// A router with machines behind it.
pub(crate) struct Network {
    router: Arc<Namespace>,
    count: Cell<u8>,
}

/// A machine behind the router.
pub(crate) struct Machine {
    pub(crate) address: Ipv4Addr,
    space: Namespace,
    router: Arc<Namespace>,
}

struct Namespace {
    /// A process that lives in the namespace and keeps it alive.
    holder: Process,
    handle: File,
}

impl Namespace {
    async fn begin() -> Self {
        let tried = Command::new("unshare")
            .args(["--net", "true"])
            .output()
            .expect("unshare, of the Debian package util-linux");
        let why = String::from_utf8_lossy(&tried.stderr).into_owned();
        assert!(
            tried.status.success(),
            "partitions are made in network namespaces: run this suite as root, in a container with --privileged: {why}"
        );
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]);
        let holder = Process::start("a namespace", &mut command, Path::new("/dev/null"), None);
        let path = format!("/proc/{}/ns/net", holder.id());
        eventually("the namespace is there", THERE, async || {
            // The holder begins in this thread's namespace and leaves it when `unshare` has run.
            let (own, theirs) = (fs::read_link("/proc/thread-self/ns/net"), fs::read_link(&path));
            let is_new = own.is_ok_and(|own| theirs.is_ok_and(|theirs| own != theirs));
            if is_new { Ok(()) } else { Err("it is not".to_owned()) }
        })
        .await;
        let handle = File::open(&path).expect("a namespace");
        Self { holder, handle }
    }

    /// Moves this thread into the namespace; sockets and processes that it opens afterwards belong there.
    fn enter(&self) {
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(self.handle.as_fd(), network).expect("a move into a namespace");
    }
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).output().expect("ip, of the Debian package iproute2");
    assert!(done.status.success(), "ip {args}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Network {
    /// Creates the router and moves this thread into its namespace.
    pub(crate) async fn begin() -> Self {
        let router = Arc::new(Namespace::begin().await);
        router.enter();
        ip("link set lo up");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router that passes on");
        Self { router, count: Cell::new(0) }
    }

    /// Adds a machine behind the router.
    pub(crate) async fn machine(&self) -> Machine {
        let number = self.count.get() + 1;
        self.count.set(number);
        let (space, address) = (Namespace::begin().await, Ipv4Addr::new(10, 99, number, 2));
        let machine = Machine { address, space, router: Arc::clone(&self.router) };
        // `ip` names a namespace by the id of a process in it.
        let holder = machine.space.holder.id();
        ip(&format!("link add m{number} type veth peer name eth0 netns {holder}"));
        ip(&format!("addr add 10.99.{number}.1/24 dev m{number}"));
        ip(&format!("link set m{number} up"));
        machine.within(|| {
            ip("link set lo up");
            ip(&format!("addr add {address}/24 dev eth0"));
            ip("link set eth0 up");
            ip(&format!("route add default via 10.99.{number}.1"));
        });
        machine
    }

    /// Drops everything between one machine and the others in both directions, or lets it pass again.
    pub(crate) fn cut<'a>(&self, one: &Machine, others: impl IntoIterator<Item = &'a Machine>, is_cut: bool) {
        let what = if is_cut { "add" } else { "del" };
        for other in others {
            for (from, to) in [(one, other), (other, one)] {
                ip(&format!("rule {what} from {} to {} blackhole", from.address, to.address));
            }
        }
    }
}

impl Machine {
    /// Runs `act` on the machine; sockets and processes that it opens belong there.
    pub(crate) fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        self.space.enter();
        let done = act();
        self.router.enter();
        done
    }

    /// Forwards a port of the router's loopback address to the same port of the machine's.
    pub(crate) async fn open_door(&self, port: u16) -> JoinSet<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the door's port");
        let there = self.space.handle.try_clone().expect("a second handle of a namespace");
        let router = Arc::clone(&self.router);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).expect("a move");
                let socket = TcpSocket::new_v4();
                router.enter();
                connections.spawn(async move {
                    let mut far = socket?.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
                    copy_bidirectional(&mut near, &mut far).await.map(drop)
                });
                while connections.try_join_next().is_some() {}
            }
        });
        tasks
    }
}
