//! A thread in a network and mount namespace of its own, which runs tasks there on request.
//!
//! The network has a loopback interface only. Addresses of backends are local, those of Services are
//! prohibited, and there is no route to anything else: no packet can leave, and an untranslated connect
//! to a Service fails with EACCES. The mount namespace holds a bpffs that only this test sees; its pins
//! vanish with it, however the test ends. Processes started by the thread are killed when it ends.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::program;
use super::routes::{self, Route};

/// Routes: the first two are for backends, the next two for ClusterIPs, the others for external IPs and
/// nodes.
const ROUTES: [(Route, &str, u8); 8] = [
    (Route::Local, "10.244.0.0", 16),
    (Route::Local, "fd00:244::", 64),
    (Route::Prohibit, "10.96.0.0", 16),
    (Route::Prohibit, "fd00:96::", 64),
    (Route::Prohibit, "203.0.113.0", 24),
    (Route::Prohibit, "2001:db8:c::", 64),
    (Route::Prohibit, "198.51.100.0", 24),
    (Route::Prohibit, "2001:db8:b::", 64),
];

const SETTINGS: [(&str, &str); 4] = [
    // IPv6 sockets can bind any address of a local route; IPv4 sockets can anyway.
    ("ipv6/ip_nonlocal_bind", "1"),
    // TCP Fast Open with data in the first packet, on both sides, without a cookie.
    ("ipv4/tcp_fastopen", "519"),
    // A test opens more sockets in a minute than there are ports, all to a few addresses.
    ("ipv4/tcp_tw_reuse", "1"),
    ("ipv4/ip_local_port_range", "1024 65535"),
];

/// Proxy variables of the user's environment, which are removed: nothing inside can reach such a proxy
/// or needs one.
const PROXIES: [&str; 8] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

type Task = Box<dyn FnOnce() + Send>;

/// The thread that runs tasks in the namespaces.
pub(crate) struct Namespace {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Creates the namespaces, with a bpffs mounted at `bpffs`, an existing folder, and sets up the
    /// network.
    pub(crate) fn make(bpffs: PathBuf) -> Self {
        let namespace = Self::bare(bpffs);
        namespace.run(configure_network);
        namespace
    }

    /// As [`Self::make`] without routes and settings: not even the loopback interface is up.
    pub(crate) fn bare(bpffs: PathBuf) -> Self {
        let namespace = Self::thread();
        namespace.run(move || enter(&bpffs));
        namespace
    }

    /// Creates a network namespace only, with no interface up.
    pub(crate) fn network() -> Self {
        let namespace = Self::thread();
        namespace.run(|| unshare(CloneFlags::CLONE_NEWNET)).unwrap_or_else(|error| {
            panic!("cannot make a network namespace ({error}): run the tests as root")
        });
        namespace
    }

    fn thread() -> Self {
        let (tasks, todo) = mpsc::channel::<Task>();
        let thread = thread::Builder::new()
            .name("namespace".to_owned())
            .spawn(move || todo.into_iter().for_each(|task| task()))
            .expect("a thread can be started");
        Self { tasks: Some(tasks), thread: Some(thread) }
    }

    /// Runs a task inside and waits for its result.
    pub(crate) fn run<R: Send + 'static>(&self, task: impl FnOnce() -> R + Send + 'static) -> R {
        let (sender, receiver) = mpsc::channel();
        let task = Box::new(move || {
            // The receiver waits below.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(task)));
        });
        self.tasks.as_ref().unwrap().send(task).expect("the thread of the namespace lives");
        match receiver.recv().expect("the thread of the namespace answers") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts a process inside. It is killed when the namespace ends.
    pub(crate) fn spawn(&self, mut command: Command) -> Child {
        for variable in PROXIES {
            command.env_remove(variable);
        }
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                Ok(())
            });
        }
        self.run(move || {
            let name = command.get_program().to_owned();
            program::spawn(&mut command)
                .unwrap_or_else(|error| panic!("cannot start {name:?}: {error}"))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // A panic of a task has been resumed in the caller of `run`.
            let _ = thread.join();
        }
    }
}

fn enter(bpffs: &Path) {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| {
        panic!("cannot make namespaces ({error}): run the tests as root, with CAP_SYS_ADMIN")
    });
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .expect("a new mount namespace can be made private");
    mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), nothing).unwrap_or_else(|error| {
        panic!("cannot mount a bpffs ({error}): the kernel needs CONFIG_BPF_SYSCALL")
    });
}

fn configure_network() {
    routes::loopback_up().expect("a new loopback can be brought up");
    for (route, address, bits) in ROUTES {
        let destination = address.parse().unwrap();
        routes::add(route, destination, bits)
            .unwrap_or_else(|error| panic!("cannot add the route to {address}/{bits} ({error})"));
    }
    for (name, value) in SETTINGS {
        let path = Path::new("/proc/sys/net").join(name);
        fs::write(&path, value)
            .unwrap_or_else(|error| panic!("cannot set {} ({error})", path.display()));
    }
}
