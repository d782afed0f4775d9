//! One test's surroundings: namespaces, cgroup, pins, the agent over a folder of YAML, and the end of
//! it all, also when the test fails.

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
use super::client::{Kind, Place, Socket};
use super::factory::Factory;
use super::failing::Faults;
use super::namespace::Namespace;
use super::program;
use super::routes::{self, Route};
use super::yaml::{self, Service, ServiceBuilder};
use crate::{Backend, Protocol};

/// What is different from most worlds.
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

    /// Leaves the agent to the test, which calls [`World::start_agent`] once there is YAML.
    pub fn without_agent(mut self) -> Self {
        self.has_agent = false;
        self
    }

    /// Makes the world.
    ///
    /// # Panics
    /// When the machine lacks something: with what to do.
    pub fn start(self) -> World {
        World::make(self)
    }
}

/// One test's surroundings.
pub struct World {
    agent: Mutex<Option<Agent>>,
    arguments: Vec<String>,
    pub(super) services: Mutex<BTreeMap<String, Service>>,
    /// Addresses of the node, once it has any.
    pub(super) node: Mutex<Vec<IpAddr>>,
    /// Port of the Service that `settle` writes, different each time.
    pub(super) fence: AtomicU16,
    /// Third byte of the addresses that [`Self::backends`] chooses.
    groups: AtomicU8,
    // In the order of their ends.
    factory: Factory,
    cgroup: Cgroup,
    namespace: Namespace,
    folder: Folder,
}

impl World {
    /// A world with an agent over an empty folder.
    ///
    /// # Panics
    /// When the machine lacks something: with what to do.
    pub fn new(name: &str) -> Self {
        Self::builder(name).start()
    }

    /// A world that is different.
    pub fn builder(name: &str) -> Builder {
        Builder { name: name.to_owned(), arguments: Vec::new(), has_agent: true }
    }

    fn make(builder: Builder) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Before anything is made: building it may take long, and may fail.
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
            fence: AtomicU16::new(1),
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
    /// When it is not, in good time.
    pub fn start_agent(&self) {
        self.start_agent_with(&[OsStr::new("--from"), self.yaml().as_os_str()]);
    }

    /// Starts the agent with these arguments instead of the folder, and waits until it is ready.
    ///
    /// # Panics
    /// When it is not, in good time.
    pub fn start_agent_with(&self, source: &[impl AsRef<OsStr>]) {
        self.start_agent_of(program::svclb(), source);
    }

    /// Starts another build of the agent, and waits until it is ready.
    ///
    /// # Panics
    /// When it is not, in good time.
    pub fn start_agent_of(&self, program: &Path, source: &[impl AsRef<OsStr>]) {
        let command = self.command_of(program, source);
        let agent = Agent::start(&self.namespace, command, &self.folder.log());
        self.put_agent(agent);
    }

    /// Starts the agent on the folder and does not wait; its calls fail as is said. The world does not
    /// have it before [`Self::put_agent`].
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

    /// The agent, for a test that ends it.
    ///
    /// # Panics
    /// When there is none.
    pub fn take_agent(&self) -> Agent {
        self.agent.lock().unwrap().take().expect("an agent runs")
    }

    /// What the agent said so far.
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.folder.log()).unwrap_or_default()
    }

    /// The folder that the agent follows.
    pub fn yaml(&self) -> PathBuf {
        self.folder.yaml()
    }

    /// The pins. Only processes inside see them.
    pub fn pins(&self) -> PathBuf {
        self.folder.bpffs().join("svclb")
    }

    /// The cgroup.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    pub(crate) fn cgroup_itself(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A responder on an address of 10.244.0.0/16 or fd00:244::/64.
    pub fn backend(&self, name: &str, protocol: Protocol, address: &str) -> Backend {
        Backend::start(&self.namespace, name, protocol, address.place())
    }

    /// So many responders, named `NAME-0` and so on, on IPv4 addresses of their own, at most 200.
    pub fn backends(&self, name: &str, protocol: Protocol, count: usize) -> Vec<Backend> {
        let group = self.groups.fetch_add(1, Ordering::Relaxed);
        let start = |number: usize| {
            let host = u8::try_from(number + 1).expect("few backends");
            let address = SocketAddr::from(([10, 244, group, host], 8080));
            Backend::start(&self.namespace, &format!("{name}-{number}"), protocol, address)
        };
        (0..count).map(start).collect()
    }

    /// A responder named `kube-proxy` at a virtual address itself, which becomes the world's own: it stands in
    /// for kube-proxy, which answers clients that are not translated.
    ///
    /// # Panics
    /// When the machine lacks something.
    pub fn proxy_at(&self, protocol: Protocol, address: &str) -> Backend {
        let ip = address.place().ip();
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let made = self.inside(move || routes::add(Route::Local, ip, bits));
        made.unwrap_or_else(|error| panic!("cannot have the address {ip}: {error}"));
        self.backend("kube-proxy", protocol, address)
    }

    /// A Service, to be described and applied; one of this name is replaced.
    pub fn service(&self, name: &str) -> ServiceBuilder<'_> {
        ServiceBuilder::new(self, name)
    }

    /// Removes a Service, and does not wait.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn remove(&self, name: &str) {
        let service = self.services.lock().unwrap().remove(name).expect("the Service was written");
        fs::remove_file(self.yaml().join(file_name(&service))).expect("its file is there");
    }

    /// Makes the agent's node `here` (its argument `--node`) one with these addresses, which become the
    /// world's own; does not wait.
    ///
    /// # Panics
    /// When they cannot be.
    pub fn node<const N: usize>(&self, addresses: [&str; N]) {
        let addresses = addresses.map(|ip| ip.parse().unwrap_or_else(|e| panic!("{ip:?}: {e}")));
        self.write_file("node.yaml", &yaml::node("here", &addresses));
        let old = std::mem::replace(&mut *self.node.lock().unwrap(), addresses.to_vec());
        for ip in addresses.into_iter().filter(|ip| !old.contains(ip)) {
            self.have(ip);
        }
    }

    /// Makes an address the world's own: what is sent there arrives, as by the rules of a proxy.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn have(&self, ip: IpAddr) {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let made = self.inside(move || routes::add(Route::Local, ip, bits));
        made.unwrap_or_else(|error| panic!("cannot have the address {ip}: {error}"));
    }

    pub(crate) fn put(&self, service: Service) {
        self.write_file(&file_name(&service), &service.documents());
        self.services.lock().unwrap().insert(service.key(), service);
    }

    /// Writes a file of the folder as an editor does: under a hidden name, then renamed.
    ///
    /// # Panics
    /// When it cannot be written.
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
    /// When it cannot be started.
    pub fn svclb(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program::svclb());
        command.args(arguments).arg("--pins").arg(self.pins());
        self.output(command)
    }

    /// Runs a command inside the namespaces (and outside the cgroup) to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn output(&self, mut command: Command) -> Output {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.namespace.spawn(command);
        child.wait_with_output().expect("a child can be waited for")
    }

    /// Starts a command inside the namespaces (and outside the cgroup), and does not wait. It does not
    /// outlive the world.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, command: Command) -> Child {
        self.namespace.spawn(command)
    }

    /// Runs a command as a pod's process would run, inside the namespaces and the cgroup, to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn client(&self, mut command: Command) -> Output {
        let entrance = self.cgroup.entrance();
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::write(&entrance, b"0")?;
                Ok(())
            });
        }
        self.output(command)
    }

    /// The namespaces, for what else runs in them.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Does something on a thread in the namespaces, and waits for it.
    pub fn inside<R: Send + 'static>(&self, task: impl FnOnce() -> R + Send + 'static) -> R {
        self.namespace.run(task)
    }

    /// A socket of a client.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn socket(&self, kind: Kind) -> Socket {
        self.sockets(kind, 1).pop().unwrap()
    }

    /// Sockets of a client.
    ///
    /// # Panics
    /// When they cannot be made.
    pub fn sockets(&self, kind: Kind, count: usize) -> Vec<Socket> {
        self.factory.sockets(kind, count)
    }

    /// A new socket of a client, connected.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dial(&self, protocol: Protocol, to: impl Place) -> io::Result<Socket> {
        let to = to.place();
        let socket = self.socket(Kind::of(protocol, to));
        socket.dial(to)?;
        Ok(socket)
    }

    /// Connects a new socket and asks who is there: the backend's name.
    ///
    /// # Errors
    /// The kernel's, or as [`Socket::ask`].
    pub fn ask(&self, protocol: Protocol, to: impl Place) -> io::Result<String> {
        self.dial(protocol, to)?.ask()
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
        // Pins and links go with the mount namespace, if it fails; here it must not panic again.
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

/// A temporary folder that goes when this is dropped.
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
