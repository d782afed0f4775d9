//! A thread in a network and mount namespace of its own, which does things there on request.
//!
//! The network has a loopback only. Addresses of backends are local, those of Services are
//! prohibited, and there is no way to anything else: no packet can leave, and a connect that was not
//! translated fails with EACCES. The mount namespace holds a bpffs that only this test sees; pins in
//! it go with it, however the test ends. Processes started by the thread are killed when it ends.

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

/// Backends have the first two, Services the next two; then external IPs and nodes.
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
    // An address of a local route can be bound (IPv4 needs no leave).
    ("ipv6/ip_nonlocal_bind", "1"),
    // Fast Open with data in the first packet, on both sides, without a cookie.
    ("ipv4/tcp_fastopen", "519"),
    // A test opens more sockets in a minute than there are ports, all to few addresses.
    ("ipv4/tcp_tw_reuse", "1"),
    ("ipv4/ip_local_port_range", "1024 65535"),
];

/// A user's, who may reach the world by a proxy. Nothing inside would reach that, and nothing inside is
/// behind it.
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

/// The thread.
pub(crate) struct Namespace {
    tasks: Option<mpsc::Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes the namespaces, with a bpffs at `bpffs`, an existing folder.
    pub(crate) fn make(bpffs: PathBuf) -> Self {
        let namespace = Self::bare(bpffs);
        namespace.run(furnish);
        namespace
    }

    /// The same without routes and settings: not even the loopback is up.
    pub(crate) fn bare(bpffs: PathBuf) -> Self {
        let namespace = Self::thread();
        namespace.run(move || enter(&bpffs));
        namespace
    }

    /// A network namespace only, with nothing in it that is up.
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

    /// Does something inside, and waits for it.
    pub(crate) fn run<R: Send + 'static>(&self, task: impl FnOnce() -> R + Send + 'static) -> R {
        let (say, hear) = mpsc::channel();
        let task = Box::new(move || {
            // The receiver waits below.
            let _ = say.send(catch_unwind(AssertUnwindSafe(task)));
        });
        self.tasks.as_ref().unwrap().send(task).expect("the thread of the namespace lives");
        match hear.recv().expect("the thread of the namespace answers") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts a process inside. It does not outlive the namespace.
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
            // A task that panicked has said so where it was asked for.
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

fn furnish() {
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
