//! A control plane of a test's own: etcd, kube-apiserver and, if wanted, kube-controller-manager, in a
//! private network namespace, with keys, users and a folder that nobody else has.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Runtime;

use super::api::{Client, Reference};
use super::certificates::Certificates;
use super::components::component;
use super::folder::Folder;
use super::kubeconfig;
use super::process::Process;
use super::relay::Relay;
use crate::World;
use crate::harness::namespace::Namespace;
use crate::harness::wait::within;

/// Where the API server listens, in its own namespace and in worlds with a relay: so one kubeconfig
/// is right everywhere.
const ADDRESS: &str = "127.0.0.1:6443";
/// What the API server says is its address. A relay can listen on it in a world: an EndpointSlice
/// cannot name a loopback address.
pub(crate) const ADVERTISED: &str = "10.244.255.254";
/// The ranges of ClusterIPs.
const SERVICES: &str = "10.96.0.0/16,fd00:96::/112";
/// etcd, in the namespace.
const STORE: &str = "http://127.0.0.1:2379";
const STORE_PEERS: &str = "http://127.0.0.1:2380";
/// Controllers that act on what a test creates: Deployments become Pods, Pods become EndpointSlices.
/// There is no scheduler and no kubelet: see [`super::Kubelet`].
const CONTROLLERS: &str = "endpointslice-controller,endpoints-controller,\
    endpointslice-mirroring-controller,deployment-controller,replicaset-controller,\
    namespace-controller,serviceaccount-controller,garbage-collector-controller";
/// How long a component may take to be ready, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// What is different from most control planes.
#[derive(Debug)]
#[must_use = "nothing happens before `start`"]
pub struct Builder {
    name: String,
    has_controllers: bool,
    users: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Builder {
    /// Leaves the controller manager out: what the test writes is all there is.
    pub fn without_controllers(mut self) -> Self {
        self.has_controllers = false;
        self
    }

    /// Adds a user with a static token, in these groups. Its kubeconfig is
    /// [`ControlPlane::kubeconfig_of`].
    pub fn user<const N: usize>(mut self, name: &str, groups: [&str; N]) -> Self {
        self.users.push((name.to_owned(), groups.join(",")));
        self
    }

    /// Adds arguments to the API server's command line.
    pub fn api_server_args<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// Starts all of it, and waits until it is ready.
    ///
    /// # Panics
    /// When a component is not built, or does not get ready: with its log.
    pub fn start(self) -> ControlPlane {
        ControlPlane::make(self)
    }
}

/// A running control plane. All of it ends when this is dropped, or with the test's process.
pub struct ControlPlane {
    api: Option<Client>,
    processes: Mutex<Processes>,
    /// What the API server says is its address.
    advertised: Mutex<IpAddr>,
    arguments: Vec<String>,
    // In the order of their ends.
    runtime: Arc<Runtime>,
    certificates: Certificates,
    namespace: Namespace,
    folder: Folder,
}

/// In the order of their ends.
#[derive(Debug, Default)]
struct Processes {
    controllers: Option<Process>,
    api_server: Option<Process>,
    store: Option<Process>,
}

impl ControlPlane {
    /// A control plane with the controllers that make EndpointSlices.
    ///
    /// # Panics
    /// As [`Builder::start`].
    pub fn new(name: &str) -> Self {
        Self::builder(name).start()
    }

    /// A control plane that is different.
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            has_controllers: true,
            users: Vec::new(),
            arguments: Vec::new(),
        }
    }

    fn make(builder: Builder) -> Self {
        // Before anything is made: they may lack.
        for name in ["etcd", "kube-apiserver", "kube-controller-manager"] {
            component(name);
        }
        let folder = Folder::make(&builder.name);
        let namespace = Namespace::make(folder.folder("bpffs"));
        let certificates = Certificates::make(&folder.folder("keys"));
        let runtime = Arc::new(namespace.run(runtime));
        let mut plane = Self {
            api: None,
            processes: Mutex::default(),
            advertised: Mutex::new(ADVERTISED.parse().expect("it is an address")),
            arguments: builder.arguments,
            runtime,
            certificates,
            namespace,
            folder,
        };
        plane.write_users(&builder.users);
        plane.start_store();
        plane.api = Some(plane.client(&plane.kubeconfig()));
        plane.start_api_server();
        if builder.has_controllers {
            plane.start_controllers();
        }
        plane
    }

    /// A client of the administrator.
    pub fn api(&self) -> &Client {
        self.api.as_ref().expect("there is a client from the start on")
    }

    /// A client of whomever a kubeconfig names.
    pub fn client(&self, kubeconfig: &Path) -> Client {
        Client::new(&self.runtime, kubeconfig)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of(kubeconfig::ADMIN)
    }

    /// The administrator's kubeconfig, by which the API server is reached at another address.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn kubeconfig_at(&self, server: SocketAddr) -> PathBuf {
        let path = self.folder().join(format!("at-{}.kubeconfig", server.ip()));
        let user = format!("token: {}", kubeconfig::token(kubeconfig::ADMIN));
        let text = kubeconfig::text(server, &self.authority(), &user);
        fs::write(&path, text).expect("a file can be written");
        path
    }

    /// The kubeconfig of the administrator or of a user of the builder.
    pub fn kubeconfig_of(&self, user: &str) -> PathBuf {
        self.write_kubeconfig(user, &format!("token: {}", kubeconfig::token(user)))
    }

    /// A kubeconfig with a client certificate for this user in these groups, who need not have been
    /// known before.
    pub fn kubeconfig_with_certificate<const N: usize>(
        &self,
        user: &str,
        groups: [&str; N],
    ) -> PathBuf {
        let (certificate, key) = self.certificates.client(user, &groups);
        let (certificate, key) = (certificate.display(), key.display());
        let how = format!("client-certificate: {certificate}, client-key: {key}");
        self.write_kubeconfig(&format!("{user}-certificate"), &how)
    }

    /// A kubeconfig with a token of a service account, `NAMESPACE/NAME`, which is there.
    ///
    /// # Panics
    /// When it is not.
    pub fn kubeconfig_of_service_account(&self, name: &str) -> PathBuf {
        let token = self.service_account_token(name, Duration::from_secs(3600));
        self.write_kubeconfig(&format!("account-{name}"), &format!("token: {token}"))
    }

    /// A token of a service account, `NAMESPACE/NAME`, as a pod would get it. The API server gives none
    /// for less than ten minutes.
    ///
    /// # Panics
    /// When there is no such service account.
    pub fn service_account_token(&self, name: &str, lives: Duration) -> String {
        let account = Reference::new("v1", "ServiceAccount", name);
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": { "expirationSeconds": lives.as_secs() },
        });
        let given = self.api().create_subresource(&account, "token", &request);
        let given = given.unwrap_or_else(|error| panic!("no token for {account}: {error}"));
        given["status"]["token"].as_str().expect("a token is text").to_owned()
    }

    /// The certificate of the authority that signed the API server's.
    pub fn authority(&self) -> PathBuf {
        self.certificates.authority()
    }

    /// Where the API server listens, in its namespace and in worlds that have a [`Relay`].
    pub fn address(&self) -> SocketAddr {
        crate::at(ADDRESS)
    }

    /// An address at which a relay can offer the API server to pods: the backend of the Service
    /// `default/kubernetes`.
    pub fn advertised(&self) -> SocketAddr {
        SocketAddr::new(*self.advertised.lock().unwrap(), self.address().port())
    }

    /// Makes the API server reachable at [`Self::address`] in a world, so that each kubeconfig is right
    /// there.
    pub fn relay(&self, world: &World) -> Relay {
        self.relay_at(world, self.address())
    }

    /// Makes the API server reachable at some local address of a world.
    ///
    /// # Panics
    /// When something else listens there.
    pub fn relay_at(&self, world: &World, listen: SocketAddr) -> Relay {
        Relay::start(&self.runtime, world, listen, self.address())
    }

    /// [`Self::relay`] into a namespace that is no world's.
    pub(crate) fn relay_into(&self, namespace: &Namespace) -> Relay {
        Relay::start_in(&self.runtime, namespace, self.address(), self.address())
    }

    /// [`Self::spawn`] in another namespace.
    pub(crate) fn spawn_into(
        &self,
        namespace: &Namespace,
        name: &str,
        command: Command,
    ) -> Process {
        Process::start(namespace, self.folder(), name, command)
    }

    /// The folder of its files: `kube-apiserver.log` and the like. It ends with this.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Process ids of etcd, the API server and the controller manager, of those that run.
    pub fn pids(&self) -> Vec<u32> {
        let processes = self.processes.lock().unwrap();
        let all = [&processes.store, &processes.api_server, &processes.controllers];
        all.into_iter().flatten().map(Process::pid).collect()
    }

    /// Starts another component in the control plane's namespace.
    pub fn spawn(&self, name: &str, command: Command) -> Process {
        Process::start(&self.namespace, self.folder(), name, command)
    }

    /// Ends the API server at once. etcd and the controller manager stay.
    pub fn stop_api_server(&self) {
        self.processes.lock().unwrap().api_server = None;
    }

    /// Ends the API server as a node's shutdown or an upgrade does: it gives up its endpoint first, unless its
    /// arguments keep it from having one.
    ///
    /// # Panics
    /// When it does not run, or goes on.
    pub fn terminate_api_server(&self) {
        let running = self.processes.lock().unwrap().api_server.take();
        running.expect("an API server runs").terminate();
    }

    /// Makes the API server say, from its next start on, that this is its address.
    pub fn advertise(&self, address: IpAddr) {
        *self.advertised.lock().unwrap() = address;
    }

    /// Starts the API server, after [`Self::stop_api_server`], and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready: with its log.
    pub fn start_api_server(&self) {
        let key = |name: &str| self.certificates.path(name);
        let mut command = Command::new(component("kube-apiserver"));
        let paths = [
            ("--tls-cert-file", key("server.crt")),
            ("--tls-private-key-file", key("server.key")),
            ("--client-ca-file", self.authority()),
            ("--service-account-key-file", key("tokens.pub")),
            ("--service-account-signing-key-file", key("tokens.key")),
            ("--token-auth-file", self.users()),
            ("--cert-dir", self.folder().join("keys")),
        ];
        for (name, path) in paths {
            command.arg(name).arg(path);
        }
        let address = self.address();
        command.args(["--etcd-servers", STORE]);
        command.arg(format!("--bind-address={}", address.ip()));
        command.arg(format!("--secure-port={}", address.port()));
        command.arg(format!("--advertise-address={}", self.advertised().ip()));
        command.args(["--endpoint-reconciler-type", "none"]);
        command.args(["--service-cluster-ip-range", SERVICES, "--authorization-mode", "RBAC"]);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        // Pods here have no containers that could use a service account, which would have to be there
        // before the first Pod.
        command.args(["--disable-admission-plugins", "ServiceAccount", "--allow-privileged"]);
        command.arg("--profiling=false").args(&self.arguments);
        self.processes.lock().unwrap().api_server = Some(self.spawn("kube-apiserver", command));
        let ready = || self.api().text("/readyz").map_err(|error| error.to_string());
        self.wait_until("the API server is ready", ready);
        // It makes its namespaces and reads its ranges itself, after it is ready.
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "svclb-test", "namespace": "default" },
            "spec": { "ipFamilyPolicy": "RequireDualStack", "ports": [{ "port": 1 }] },
        });
        let takes = || self.api().try_apply(&service, true).map_err(|error| error.to_string());
        self.wait_until("the API server takes Services", takes);
    }

    /// Puts etcd's data aside as they are now, for [`Self::restore_store`].
    ///
    /// # Panics
    /// When they cannot be copied.
    pub fn save_store(&self) {
        self.move_store("etcd", "etcd-saved");
    }

    /// Gives etcd the data that were put aside, as an operator restores a backup. An API server that runs goes
    /// on.
    ///
    /// # Panics
    /// When they cannot be copied.
    pub fn restore_store(&self) {
        self.move_store("etcd-saved", "etcd");
    }

    /// Copies a folder while etcd does not run.
    fn move_store(&self, from: &str, to: &str) {
        self.processes.lock().unwrap().store = None;
        let [from, to] = [from, to].map(|name| self.folder().join(name));
        let _ = fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-a").args([&from, &to]).status();
        assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", from.display());
        self.start_store();
    }

    /// Ends the controller manager: EndpointSlices stay as they are.
    pub fn stop_controllers(&self) {
        self.processes.lock().unwrap().controllers = None;
    }

    /// Starts the controller manager, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready: with its log.
    pub fn start_controllers(&self) {
        let mut command = Command::new(component("kube-controller-manager"));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command.arg(format!("--controllers={CONTROLLERS}"));
        command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        command.arg("--cert-dir").arg(self.folder().join("keys"));
        // A test waits for each of its steps.
        command.args(["--kube-api-qps=1000", "--kube-api-burst=2000"]);
        command.arg("--endpointslice-updates-batch-period=0s");
        command.arg("--endpoint-updates-batch-period=0s");
        command.args(["--concurrent-service-endpoint-syncs=10", "--profiling=false"]);
        let process = self.spawn("kube-controller-manager", command);
        self.processes.lock().unwrap().controllers = Some(process);
        // What shows that they work is their work: the account that each namespace gets.
        let account = Reference::new("v1", "ServiceAccount", "default/default");
        let ready = || match self.api().get(&account) {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{account}: {other:?}")),
        };
        self.wait_until("the controller manager works", ready);
    }

    fn start_store(&self) {
        let mut command = Command::new(component("etcd"));
        command.arg("--data-dir").arg(self.folder().join("etcd")).arg("--unsafe-no-fsync");
        command.args(["--listen-client-urls", STORE, "--advertise-client-urls", STORE]);
        command.args(["--listen-peer-urls", STORE_PEERS]);
        command.args(["--initial-advertise-peer-urls", STORE_PEERS, "--log-level", "warn"]);
        command.args(["--initial-cluster", &format!("default={STORE_PEERS}")]);
        self.processes.lock().unwrap().store = Some(self.spawn("etcd", command));
    }

    /// Waits as long as every component lives.
    fn wait_until<T>(&self, what: &str, mut check: impl FnMut() -> Result<T, String>) {
        let mut ended = None;
        let done = within(PATIENCE, || {
            ended = self.processes.lock().unwrap().check().err();
            if ended.is_some() { Ok(None) } else { check().map(Some) }
        });
        match (done, ended) {
            (Ok(Some(_)), _) => {}
            (_, Some(ended)) => panic!("{what}: not so: {ended}"),
            (Err(last), None) => panic!("{what}: not so after {PATIENCE:?}: {last}"),
            (Ok(None), None) => unreachable!("nothing ended"),
        }
    }

    fn users(&self) -> PathBuf {
        self.folder().join("users.csv")
    }

    fn write_users(&self, users: &[(String, String)]) {
        let text = kubeconfig::users(users);
        fs::write(self.users(), text).expect("a file can be written");
    }

    fn write_kubeconfig(&self, name: &str, credentials: &str) -> PathBuf {
        let path = self.folder().join(format!("{}.kubeconfig", name.replace(['/', ':'], "-")));
        let text = kubeconfig::text(self.address(), &self.authority(), credentials);
        // By rename: a program that was just started may be reading what an earlier call wrote.
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }
}

impl Processes {
    fn check(&mut self) -> Result<(), String> {
        let all = [&mut self.store, &mut self.api_server, &mut self.controllers];
        all.into_iter().flatten().try_for_each(Process::check)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        match self.processes.get_mut() {
            Ok(processes) => drop(std::mem::take(processes)),
            Err(broken) => drop(std::mem::take(broken.into_inner())),
        }
    }
}

/// As [`crate::eventually`], with the time that components take on a busy machine.
///
/// # Panics
/// When it never is: with what it said last.
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<T, String>) -> T {
    within(PATIENCE, check)
        .unwrap_or_else(|last| panic!("{what}: not so after {PATIENCE:?}: {last}"))
}

/// Threads in the namespace of the thread that calls this.
fn runtime() -> Runtime {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be started")
}
