//! A control plane for one test: etcd, kube-apiserver and optionally kube-controller-manager, in a
//! private network namespace, with its own keys, users and folder.

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

/// Address of the API server, in its own namespace and in worlds with a relay, so that one kubeconfig is
/// right everywhere.
const ADDRESS: &str = "127.0.0.1:6443";
/// Address that the API server advertises. A relay in a world can listen on it; a loopback address would
/// not do, as an EndpointSlice cannot contain one.
pub(crate) const ADVERTISED: &str = "10.244.255.254";
/// The ranges of ClusterIPs.
const SERVICES: &str = "10.96.0.0/16,fd00:96::/112";
/// Address of etcd in the namespace.
const STORE: &str = "http://127.0.0.1:2379";
const STORE_PEERS: &str = "http://127.0.0.1:2380";
/// Controllers that act on what a test creates: Deployments become Pods, Pods become EndpointSlices.
/// There is no scheduler and no kubelet: see [`super::Kubelet`].
const CONTROLLERS: &str = "endpointslice-controller,endpoints-controller,\
    endpointslice-mirroring-controller,deployment-controller,replicaset-controller,daemonset-controller,\
    namespace-controller,serviceaccount-controller,garbage-collector-controller";
/// Limit for a component to become ready, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Options of a control plane.
#[derive(Debug)]
#[must_use = "nothing happens before `start`"]
pub struct Builder {
    name: String,
    has_controllers: bool,
    users: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Builder {
    /// Leaves the controller manager out, so that only the test writes objects.
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

    /// Starts all components and waits until they are ready.
    ///
    /// # Panics
    /// If a component is not built, or does not become ready, with its log.
    pub fn start(self) -> ControlPlane {
        ControlPlane::make(self)
    }
}

/// A running control plane. All components end on drop, or with the test's process.
pub struct ControlPlane {
    api: Option<Client>,
    processes: Mutex<Processes>,
    /// The address that the API server advertises.
    advertised: Mutex<IpAddr>,
    arguments: Vec<String>,
    // Fields are dropped in this order.
    runtime: Arc<Runtime>,
    certificates: Certificates,
    namespace: Namespace,
    folder: Folder,
}

/// Fields are dropped in this order.
#[derive(Debug, Default)]
struct Processes {
    controllers: Option<Process>,
    api_server: Option<Process>,
    store: Option<Process>,
}

impl ControlPlane {
    /// Creates a control plane with the controllers that write EndpointSlices.
    ///
    /// # Panics
    /// As [`Builder::start`].
    pub fn new(name: &str) -> Self {
        Self::builder(name).start()
    }

    /// Begins a control plane with options.
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            has_controllers: true,
            users: Vec::new(),
            arguments: Vec::new(),
        }
    }

    fn make(builder: Builder) -> Self {
        // The programs come first, because they may be missing.
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

    /// The administrator's client.
    pub fn api(&self) -> &Client {
        self.api.as_ref().expect("there is a client from the start on")
    }

    /// Creates a client with the credentials of a kubeconfig.
    pub fn client(&self, kubeconfig: &Path) -> Client {
        Client::new(&self.runtime, kubeconfig)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of(kubeconfig::ADMIN)
    }

    /// Writes the administrator's kubeconfig for another address of the API server.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn kubeconfig_at(&self, server: SocketAddr) -> PathBuf {
        let path = self.folder().join(format!("at-{}.kubeconfig", server.ip()));
        let user = format!("token: {}", kubeconfig::token(kubeconfig::ADMIN));
        let text = kubeconfig::text(server, &self.authority(), &user);
        fs::write(&path, text).expect("a file can be written");
        path
    }

    /// Writes the kubeconfig of the administrator or of a user of the builder.
    pub fn kubeconfig_of(&self, user: &str) -> PathBuf {
        self.write_kubeconfig(user, &format!("token: {}", kubeconfig::token(user)))
    }

    /// Writes a kubeconfig with a client certificate for this user in these groups. The user need not be
    /// one of the builder's.
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

    /// Writes a kubeconfig with a token of an existing service account, `NAMESPACE/NAME`.
    ///
    /// # Panics
    /// If there is no such service account.
    pub fn kubeconfig_of_service_account(&self, name: &str) -> PathBuf {
        let token = self.service_account_token(name, Duration::from_secs(3600));
        self.write_kubeconfig(&format!("account-{name}"), &format!("token: {token}"))
    }

    /// Requests a token of a service account, `NAMESPACE/NAME`, as a pod would get it. The API server
    /// issues none for less than ten minutes.
    ///
    /// # Panics
    /// If there is no such service account.
    pub fn service_account_token(&self, name: &str, lifetime: Duration) -> String {
        let account = Reference::new("v1", "ServiceAccount", name);
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": { "expirationSeconds": lifetime.as_secs() },
        });
        let given = self.api().create_subresource(&account, "token", &request);
        let given = given.unwrap_or_else(|error| panic!("no token for {account}: {error}"));
        given["status"]["token"].as_str().expect("a token is text").to_owned()
    }

    /// The path of the certificate of the authority that signed the API server's certificate.
    pub fn authority(&self) -> PathBuf {
        self.certificates.authority()
    }

    /// The address of the API server, in its namespace and in worlds with a [`Relay`].
    pub fn address(&self) -> SocketAddr {
        crate::at(ADDRESS)
    }

    /// The address at which a relay can offer the API server to pods: the backend of the Service
    /// `default/kubernetes`.
    pub fn advertised(&self) -> SocketAddr {
        SocketAddr::new(*self.advertised.lock().unwrap(), self.address().port())
    }

    /// Makes the API server reachable at [`Self::address`] in a world, so that each kubeconfig is right
    /// there.
    pub fn relay(&self, world: &World) -> Relay {
        self.relay_at(world, self.address())
    }

    /// Makes the API server reachable at a local address of a world.
    ///
    /// # Panics
    /// If the address is in use.
    pub fn relay_at(&self, world: &World, listen: SocketAddr) -> Relay {
        Relay::start(&self.runtime, world, listen, self.address())
    }

    /// As [`Self::relay`], for a namespace that belongs to no world.
    pub(crate) fn relay_into(&self, namespace: &Namespace) -> Relay {
        Relay::start_in(&self.runtime, namespace, self.address(), self.address())
    }

    /// As [`Self::spawn`], in another namespace.
    pub(crate) fn spawn_into(
        &self,
        namespace: &Namespace,
        name: &str,
        command: Command,
    ) -> Process {
        Process::start(namespace, self.folder(), name, command)
    }

    /// The folder of its files, such as `kube-apiserver.log`, which is removed on drop.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process ids of the running components.
    pub fn pids(&self) -> Vec<u32> {
        let processes = self.processes.lock().unwrap();
        let all = [&processes.store, &processes.api_server, &processes.controllers];
        all.into_iter().flatten().map(Process::pid).collect()
    }

    /// Starts another component in the control plane's namespace.
    pub fn spawn(&self, name: &str, command: Command) -> Process {
        Process::start(&self.namespace, self.folder(), name, command)
    }

    /// Kills the API server. etcd and the controller manager go on.
    pub fn stop_api_server(&self) {
        self.processes.lock().unwrap().api_server = None;
    }

    /// Terminates the API server as a node's shutdown or an upgrade does: it first removes its endpoint,
    /// unless its arguments keep it from having one.
    ///
    /// # Panics
    /// If it does not run, or does not exit.
    pub fn terminate_api_server(&self) {
        let running = self.processes.lock().unwrap().api_server.take();
        running.expect("an API server runs").terminate();
    }

    /// Makes the API server advertise this address from its next start on.
    pub fn advertise(&self, address: IpAddr) {
        *self.advertised.lock().unwrap() = address;
    }

    /// Starts the API server, after [`Self::stop_api_server`], and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready, with its log.
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
        // Pods here have no containers that could use a service account. With the plugin, each Pod's
        // account would have to exist first.
        command.args(["--disable-admission-plugins", "ServiceAccount", "--allow-privileged"]);
        command.arg("--profiling=false").args(&self.arguments);
        self.processes.lock().unwrap().api_server = Some(self.spawn("kube-apiserver", command));
        let ready = || self.api().text("/readyz").map_err(|error| error.to_string());
        self.wait_until("the API server is ready", ready);
        // The API server creates its namespaces and reads its ranges only after it is ready.
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "svclb-test", "namespace": "default" },
            "spec": { "ipFamilyPolicy": "RequireDualStack", "ports": [{ "port": 1 }] },
        });
        let takes = || self.api().try_apply(&service, true).map_err(|error| error.to_string());
        self.wait_until("the API server takes Services", takes);
    }

    /// Saves etcd's current data for [`Self::restore_store`].
    ///
    /// # Panics
    /// If the data cannot be copied.
    pub fn save_store(&self) {
        self.move_store("etcd", "etcd-saved");
    }

    /// Replaces etcd's data by the saved data, as an operator restores a backup, while the API server
    /// goes on.
    ///
    /// # Panics
    /// If the data cannot be copied.
    pub fn restore_store(&self) {
        self.move_store("etcd-saved", "etcd");
    }

    /// Copies a data folder while etcd is stopped.
    fn move_store(&self, from: &str, to: &str) {
        self.processes.lock().unwrap().store = None;
        let [from, to] = [from, to].map(|name| self.folder().join(name));
        let _ = fs::remove_dir_all(&to);
        let copied = Command::new("cp").arg("-a").args([&from, &to]).status();
        assert!(copied.is_ok_and(|status| status.success()), "cannot copy {}", from.display());
        self.start_store();
    }

    /// Kills the controller manager, so that EndpointSlices stay as they are.
    pub fn stop_controllers(&self) {
        self.processes.lock().unwrap().controllers = None;
    }

    /// Starts the controller manager, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready, with its log.
    pub fn start_controllers(&self) {
        let mut command = Command::new(component("kube-controller-manager"));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command.arg(format!("--controllers={CONTROLLERS}"));
        command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        command.arg("--cert-dir").arg(self.folder().join("keys"));
        // The default rate limits would delay a test, which waits for each step.
        command.args(["--kube-api-qps=1000", "--kube-api-burst=2000"]);
        command.arg("--endpointslice-updates-batch-period=0s");
        command.arg("--endpoint-updates-batch-period=0s");
        command.args(["--concurrent-service-endpoint-syncs=10", "--profiling=false"]);
        let process = self.spawn("kube-controller-manager", command);
        self.processes.lock().unwrap().controllers = Some(process);
        // The controllers work once the namespace has its default service account.
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

    /// Waits for `check` to succeed, and fails at once if a component exits.
    fn wait_until<T>(&self, what: &str, mut check: impl FnMut() -> Result<T, String>) {
        let mut ended = None;
        let done = within(PATIENCE, || {
            ended = self.processes.lock().unwrap().check().err();
            if ended.is_some() { Ok(None) } else { check().map(Some) }
        });
        match (done, ended) {
            (Ok(Some(_)), _) => {}
            (_, Some(ended)) => panic!("{what}: expected, but a component exited: {ended}"),
            (Err(last), None) => panic!("{what}: expected within {PATIENCE:?}, but: {last}"),
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
        // The file is replaced by a rename, because a program that was just started may be reading the
        // old one.
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

/// As [`crate::eventually`], with the limit of components on a busy machine.
///
/// # Panics
/// If `check` does not succeed within the limit, with its last error.
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<T, String>) -> T {
    within(PATIENCE, check)
        .unwrap_or_else(|last| panic!("{what}: expected within {PATIENCE:?}, but: {last}"))
}

/// Creates a runtime whose threads are in the namespace of the calling thread.
fn runtime() -> Runtime {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be started")
}
