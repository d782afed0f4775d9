//! The environment of one test: namespaces, cgroup, pins and an agent over a folder of YAML, all removed
//! at the end, also when the test fails.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};
use std::thread;

use super::agent::{Agent, tail};
use super::cgroup::{Cgroup, PREFIX, remove_leftovers};
use super::client::{Kind, Socket, ToAddress};
use super::factory::Factory;
use super::failing::Faults;
use super::namespace::Namespace;
use super::program;
use super::routes::{self, Route};
use super::yaml::{self, Service, ServiceBuilder};
use crate::{Backend, Protocol};

/// Options of a world.
#[derive(Debug)]
#[must_use = "nothing happens before `start`"]
pub struct Builder {
    name: String,
    arguments: Vec<String>,
    has_agent: bool,
}

impl Builder {
    /// Adds arguments to the agent's command line.
    pub fn agent_args<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// Does not start the agent: the test calls [`World::start_agent`] once there is YAML.
    pub fn without_agent(mut self) -> Self {
        self.has_agent = false;
        self
    }

    /// Creates the world.
    ///
    /// # Panics
    /// If the machine lacks something, with what to do about it.
    pub fn start(self) -> World {
        World::make(self)
    }
}

/// The environment of one test.
pub struct World {
    agent: Mutex<Option<Agent>>,
    arguments: Vec<String>,
    pub(super) services: Mutex<BTreeMap<String, Service>>,
    /// Addresses of the node, once the test has set some.
    pub(super) node: Mutex<Vec<IpAddr>>,
    /// Port of the marker Service that `settle` writes, different each time.
    pub(super) marker_port: AtomicU16,
    /// Third byte of the addresses that [`Self::backends`] assigns.
    groups: AtomicU8,
    // Fields are dropped in this order.
    factory: Factory,
    cgroup: Cgroup,
    namespace: Namespace,
    folder: Folder,
}

impl World {
    /// Creates a world with an agent over an empty folder.
    ///
    /// # Panics
    /// If the machine lacks something, with what to do about it.
    pub fn new(name: &str) -> Self {
        Self::builder(name).start()
    }

    /// Begins a world with options.
    pub fn builder(name: &str) -> Builder {
        Builder { name: name.to_owned(), arguments: Vec::new(), has_agent: true }
    }

    fn make(builder: Builder) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // The program comes first, because building it may take long and may fail.
        program::svclb();
        remove_leftovers();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{}", std::process::id(), builder.name);
        let folder = Folder::make(&name);
        let namespace = Namespace::make(folder.bpffs());
        let cgroup = Cgroup::make(&name);
        let factory = Factory::start(&namespace, &cgroup);
        let world = Self {
            agent: Mutex::new(None),
            arguments: builder.arguments,
            services: Mutex::default(),
            node: Mutex::default(),
            marker_port: AtomicU16::new(1),
            groups: AtomicU8::new(100),
            factory,
            cgroup,
            namespace,
            folder,
        };
        if builder.has_agent {
            world.start_agent();
        }
        world
    }

    /// Starts the agent, and waits until it is ready.
    ///
    /// # Panics
    /// If it is not ready within the limit.
    pub fn start_agent(&self) {
        self.start_agent_with(&[OsStr::new("--from"), self.yaml().as_os_str()]);
    }

    /// Starts the agent with these arguments for its source instead of the folder, and waits until it is
    /// ready.
    ///
    /// # Panics
    /// If it is not ready within the limit.
    pub fn start_agent_with(&self, source: &[impl AsRef<OsStr>]) {
        self.start_agent_of(program::svclb(), source);
    }

    /// Starts another build of the agent, and waits until it is ready.
    ///
    /// # Panics
    /// If it is not ready within the limit.
    pub fn start_agent_of(&self, program: &Path, source: &[impl AsRef<OsStr>]) {
        let command = self.command_of(program, source);
        let agent = Agent::start(&self.namespace, command, &self.folder.log());
        self.put_agent(agent);
    }

    /// Starts the agent on the folder without waiting, optionally with faults. It becomes the world's
    /// agent by [`Self::put_agent`].
    pub fn launch_agent(&self, faults: Option<&Faults>) -> Agent {
        let yaml = self.yaml();
        let command = self.command_of(program::svclb(), &[OsStr::new("--from"), yaml.as_os_str()]);
        Agent::launch(&self.namespace, command, &self.folder.log(), faults)
    }

    /// Makes this the world's agent.
    pub fn put_agent(&self, agent: Agent) {
        *self.agent.lock().unwrap() = Some(agent);
    }

    fn command_of(&self, program: &Path, source: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(program);
        command.arg("agent").args(source).arg("--pins").arg(self.pins());
        command.arg("--cgroup").arg(self.cgroup.path()).args(&self.arguments);
        command
    }

    /// Takes the agent out of the world, for a test that ends it.
    ///
    /// # Panics
    /// If no agent runs.
    pub fn take_agent(&self) -> Agent {
        self.agent.lock().unwrap().take().expect("an agent runs")
    }

    /// The log that the world's agents have written so far.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.folder.log()).unwrap_or_default()
    }

    /// The folder of YAML that the agent watches.
    pub fn yaml(&self) -> PathBuf {
        self.folder.yaml()
    }

    /// The folder of the pins, which only processes in the mount namespace see.
    pub fn pins(&self) -> PathBuf {
        self.folder.bpffs().join("svclb")
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    pub(crate) fn cgroup_handle(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Starts a responder on an address of 10.244.0.0/16 or fd00:244::/64.
    pub fn backend(&self, name: &str, protocol: Protocol, address: &str) -> Backend {
        Backend::start(&self.namespace, name, protocol, address.to_address())
    }

    /// Starts `count` responders, at most 200, named `NAME-0` and so on, each on an IPv4 address of its
    /// own.
    pub fn backends(&self, name: &str, protocol: Protocol, count: usize) -> Vec<Backend> {
        let group = self.groups.fetch_add(1, Ordering::Relaxed);
        let start = |number: usize| {
            let host = u8::try_from(number + 1).expect("few backends");
            let address = SocketAddr::from(([10, 244, group, host], 8080));
            Backend::start(&self.namespace, &format!("{name}-{number}"), protocol, address)
        };
        (0..count).map(start).collect()
    }

    /// Starts a responder named `kube-proxy` on a virtual address, which becomes local to the world: it
    /// stands in for kube-proxy, which answers clients that are not translated.
    ///
    /// # Panics
    /// If the address cannot be added.
    pub fn proxy_at(&self, protocol: Protocol, address: &str) -> Backend {
        let ip = address.to_address().ip();
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let made = self.inside(move || routes::add(Route::Local, ip, bits));
        made.unwrap_or_else(|error| panic!("cannot add the local address {ip}: {error}"));
        self.backend("kube-proxy", protocol, address)
    }

    /// Begins the description of a Service, to be applied; it replaces a Service of the same name.
    pub fn service(&self, name: &str) -> ServiceBuilder<'_> {
        ServiceBuilder::new(self, name)
    }

    /// Removes a Service without waiting.
    ///
    /// # Panics
    /// If the world has no Service of this name.
    pub fn remove(&self, name: &str) {
        let service = self.services.lock().unwrap().remove(name).expect("the Service was written");
        fs::remove_file(self.yaml().join(file_name(&service))).expect("its file is there");
    }

    /// Gives the node `here` (the agent's `--node`) these addresses, which become local to the world,
    /// without waiting.
    ///
    /// # Panics
    /// If they cannot be added.
    pub fn node<const N: usize>(&self, addresses: [&str; N]) {
        let addresses = addresses.map(|ip| ip.parse().unwrap_or_else(|e| panic!("{ip:?}: {e}")));
        self.write_file("node.yaml", &yaml::node("here", &addresses));
        let old = std::mem::replace(&mut *self.node.lock().unwrap(), addresses.to_vec());
        for ip in addresses.into_iter().filter(|ip| !old.contains(ip)) {
            self.add_local_address(ip);
        }
    }

    /// Makes an address local to the world, so that packets to it are delivered, as a proxy's rules
    /// would do.
    ///
    /// # Panics
    /// If it cannot be added.
    pub fn add_local_address(&self, ip: IpAddr) {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let made = self.inside(move || routes::add(Route::Local, ip, bits));
        made.unwrap_or_else(|error| panic!("cannot add the local address {ip}: {error}"));
    }

    pub(crate) fn put(&self, service: Service) {
        self.write_file(&file_name(&service), &service.documents());
        self.services.lock().unwrap().insert(service.key(), service);
    }

    /// Writes a file of the folder as an editor does: under a hidden name, then renamed.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write_file(&self, name: &str, text: &str) {
        let hidden = self.yaml().join(format!(".{name}.new"));
        fs::write(&hidden, text).expect("a file can be written to the temporary folder");
        fs::rename(hidden, self.yaml().join(name)).expect("a file can be renamed");
    }

    /// The program under test.
    pub fn program(&self) -> &'static Path {
        program::svclb()
    }

    /// Runs a command of `svclb` on this world's pins.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn svclb(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program::svclb());
        command.args(arguments).arg("--pins").arg(self.pins());
        self.output(command)
    }

    /// Runs a command to its end, inside the namespaces and outside the cgroup.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn output(&self, mut command: Command) -> Output {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.namespace.spawn(command);
        child.wait_with_output().expect("a child can be waited for")
    }

    /// Starts a command inside the namespaces and outside the cgroup without waiting. It is killed at
    /// the end of the world.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(&self, command: Command) -> Child {
        self.namespace.spawn(command)
    }

    /// Runs a command to its end as a pod's process would run, inside the namespaces and the cgroup.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run_as_client(&self, mut command: Command) -> Output {
        let procs_file = self.cgroup.procs_file();
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::write(&procs_file, b"0")?;
                Ok(())
            });
        }
        self.output(command)
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs a task on a thread in the namespaces and waits for its result.
    pub fn inside<R: Send + 'static>(&self, task: impl FnOnce() -> R + Send + 'static) -> R {
        self.namespace.run(task)
    }

    /// Creates a socket of a client.
    ///
    /// # Panics
    /// If it cannot be created.
    pub fn socket(&self, kind: Kind) -> Socket {
        self.sockets(kind, 1).pop().unwrap()
    }

    /// Creates sockets of a client.
    ///
    /// # Panics
    /// If they cannot be created.
    pub fn sockets(&self, kind: Kind, count: usize) -> Vec<Socket> {
        self.factory.sockets(kind, count)
    }

    /// Creates a socket of a client and connects it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dial(&self, protocol: Protocol, to: impl ToAddress) -> io::Result<Socket> {
        let to = to.to_address();
        let socket = self.socket(Kind::of(protocol, to));
        socket.dial(to)?;
        Ok(socket)
    }

    /// Connects a new socket, sends a request and returns the name of the backend that answers.
    ///
    /// # Errors
    /// The kernel's, or those of [`Socket::request`].
    pub fn request(&self, protocol: Protocol, to: impl ToAddress) -> io::Result<String> {
        self.dial(protocol, to)?.request()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the agent's log ended with:\n{}", tail(&self.folder.log()));
        }
        if let Ok(agent) = self.agent.get_mut() {
            agent.take();
        }
        let mut uninstall = Command::new(program::svclb());
        uninstall.args(["uninstall", "--pins"]).arg(self.pins());
        // A failure is only printed: pins and links vanish with the mount namespace, and a drop must not
        // panic again.
        let uninstalled =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.output(uninstall)));
        match uninstalled {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                eprintln!("svclb uninstall failed: {}", String::from_utf8_lossy(&output.stderr));
            }
            Err(_) => eprintln!("svclb uninstall could not be started"),
        }
    }
}

fn file_name(service: &Service) -> String {
    format!("{}.{}.yaml", service.namespace, service.name)
}

/// A temporary folder that is removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn make(name: &str) -> Self {
        let folder = Self(std::env::temp_dir().join(name));
        for path in [folder.0.clone(), folder.yaml(), folder.bpffs()] {
            fs::create_dir(&path)
                .unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        }
        folder
    }

    fn yaml(&self) -> PathBuf {
        self.0.join("yaml")
    }

    fn bpffs(&self) -> PathBuf {
        self.0.join("bpffs")
    }

    fn log(&self) -> PathBuf {
        self.0.join("agent.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}
