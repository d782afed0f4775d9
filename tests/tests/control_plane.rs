//! The control planes of the cluster tests: their users, their isolation, and their removal.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure in a helper fails the test"
)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use svclb_tests::cluster::{Client, ControlPlane, Kubelet, Reference, eventually, resolve_by};
use svclb_tests::{Tcp, World};

/// Address and true conditions of each endpoint of a Service, as the controller manager wrote them.
fn endpoints(api: &Client, service: &str) -> BTreeSet<String> {
    let labels = format!("kubernetes.io/service-name={service}");
    let slices = api.list("discovery.k8s.io/v1", "EndpointSlice", "default", &labels).unwrap();
    let all = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    all.map(|endpoint| {
        let conditions = &endpoint["conditions"];
        let is = |name: &str| conditions[name] == true;
        let mut text = endpoint["addresses"][0].as_str().unwrap().to_owned();
        for name in ["ready", "serving", "terminating"] {
            if is(name) {
                text.push(' ');
                text.push_str(name);
            }
        }
        text
    })
    .collect()
}

#[test]
fn slices_follow_the_status_of_pods() {
    let plane = ControlPlane::new("slices");
    let kubelet = Kubelet::new(&plane, "node-a", "zone-a", 1);
    plane.api().apply(
        "
apiVersion: v1
kind: Service
metadata: { name: hello, namespace: default }
spec:
  ipFamilyPolicy: PreferDualStack
  selector: { app: hello }
  ports: [{ port: 80 }]
",
    );
    let pod = kubelet.pod("default/a", "hello");
    let (four, six) = (pod.at(80).ip(), pod.at6(80).ip());
    let becomes = |expected: &[&str]| {
        let both = expected.iter().flat_map(|how| [format!("{four}{how}"), format!("{six}{how}")]);
        let expected: BTreeSet<String> = both.collect();
        eventually(&format!("endpoints are {expected:?}"), || {
            match endpoints(plane.api(), "hello") {
                found if found == expected => Ok(()),
                found => Err(format!("{found:?}")),
            }
        });
    };
    becomes(&[]);
    pod.set_ready(false);
    becomes(&[""]);
    pod.set_ready(true);
    becomes(&[" ready serving"]);
    pod.terminate();
    becomes(&[" serving terminating"]);
    pod.remove();
    becomes(&[]);
}

#[test]
fn each_kind_of_kubeconfig_authenticates_its_user() {
    let plane = ControlPlane::builder("users")
        .without_controllers()
        .user("token-user", ["readers"])
        .start();
    let account = "{apiVersion: v1, kind: ServiceAccount, \
                    metadata: {name: agent, namespace: default}}";
    plane.api().apply(account);
    let rows = [
        ("admin", plane.kubeconfig(), "admin"),
        ("static token", plane.kubeconfig_of("token-user"), "token-user"),
        (
            "certificate",
            plane.kubeconfig_with_certificate("certificate-user", ["readers"]),
            "certificate-user",
        ),
        (
            "service account",
            plane.kubeconfig_of_service_account("default/agent"),
            "system:serviceaccount:default:agent",
        ),
    ];
    for (row, kubeconfig, expected) in rows {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "SelfSubjectReview",
            "metadata": {},
        });
        let found = plane.client(&kubeconfig).create(&review).unwrap();
        assert_eq!(found["status"]["userInfo"]["username"], expected, "{row}");
    }
    // A user without a role may not read.
    let client = plane.client(&plane.kubeconfig_of("token-user"));
    let refused = client.list("v1", "Service", "", "").unwrap_err();
    assert!(refused.to_string().contains("forbidden"), "{refused}");
}

#[test]
fn a_dry_run_is_checked_by_the_api_server_and_changes_nothing() {
    let plane = ControlPlane::builder("dry").without_controllers().start();
    let mut map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "a", "namespace": "default" },
        "data": { "a": "b" },
    });
    plane.api().try_apply(&map, true).unwrap();
    assert_eq!(plane.api().get(&Reference::of(&map)).unwrap(), None);
    map["data"]["a"] = 1.into();
    assert!(plane.api().try_apply(&map, true).is_err());
}

#[test]
fn control_planes_are_isolated_and_reached_through_their_relays() {
    let planes =
        ["one", "two"].map(|name| ControlPlane::builder(name).without_controllers().start());
    let world = World::builder("relay").without_agent().start();
    for (plane, name) in planes.iter().zip(["one", "two"]) {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap",
                          "metadata": { "name": name, "namespace": "default" } });
        plane.api().create(&map).unwrap();
        let found = plane.api().list("v1", "ConfigMap", "default", "").unwrap();
        let names: Vec<&str> =
            found.iter().map(|map| map["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, [name]);
    }
    // Nothing listens in the world before a relay is opened or after it was cut.
    let api_server = "127.0.0.1:6443";
    let is_refused = || world.dial(Tcp, api_server).is_err();
    assert!(is_refused());
    let relay = planes[0].relay(&world);
    let connection = world.dial(Tcp, api_server).unwrap();
    relay.cut();
    assert!(is_refused());
    assert!(connection.request().is_err(), "a cut must end established connections");
    relay.open(&world);
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--noproxy", "*", "--cacert"]).arg(planes[0].authority());
    curl.args(["--header", "Authorization: Bearer token-of-admin", "--max-time", "5"]);
    let output = world.output({
        curl.arg(format!("https://{api_server}/api/v1/namespaces/default/configmaps/one"));
        curl
    });
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_restarted_api_server_still_has_all_objects() {
    let plane = ControlPlane::builder("restart").without_controllers().start();
    plane.api().apply("{apiVersion: v1, kind: Namespace, metadata: {name: stays}}");
    plane.stop_api_server();
    assert!(plane.api().text("/readyz").is_err());
    plane.start_api_server();
    assert!(plane.api().get(&Reference::new("v1", "Namespace", "stays")).unwrap().is_some());
}

/// Traces of a running control plane in the system.
struct Traces {
    /// Process ids with start times, because process ids are reused.
    processes: Vec<(u32, String)>,
    folder: PathBuf,
    namespace: PathBuf,
    /// While it is open, no other namespace gets the same number.
    _held: File,
}

impl Traces {
    /// Records the traces of a running control plane.
    fn of(pids: &[u32], folder: &Path) -> Self {
        let net_namespace = process(pids[0]).join("ns/net");
        Self {
            processes: pids.iter().map(|&pid| (pid, started(pid).expect("it runs"))).collect(),
            folder: folder.to_owned(),
            _held: File::open(&net_namespace).unwrap(),
            namespace: fs::read_link(&net_namespace).unwrap(),
        }
    }

    /// Returns an error if a process or the network namespace still exists.
    fn check_removed(&self) -> Result<(), String> {
        let mut processes = self.processes.iter();
        if let Some((pid, _)) = processes.find(|(pid, when)| started(*pid).as_ref() == Some(when)) {
            return Err(format!("process {pid} is there"));
        }
        let threads = fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
            // Other entries, and processes that have just exited, have no such folder.
            Some(fs::read_dir(process.path().join("task")).ok()?.flatten())
        });
        let user = threads.flatten().map(|thread| thread.path());
        let is_in = |thread: &PathBuf| {
            fs::read_link(thread.join("ns/net")).is_ok_and(|found| found == self.namespace)
        };
        match user.into_iter().find(is_in) {
            Some(thread) => Err(format!("{} is in its namespace", thread.display())),
            None => Ok(()),
        }
    }
}

fn process(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Start time of a process, if it exists (proc_pid_stat(5), field 22).
fn started(pid: u32) -> Option<String> {
    let text = fs::read_to_string(process(pid).join("stat")).ok()?;
    // The process name, the second field, may contain blanks and parentheses.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

#[test]
fn nothing_of_a_control_plane_is_left_after_a_panic() {
    let mut traces = None;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let plane = ControlPlane::new("panic");
        let world = World::builder("panic").without_agent().start();
        let _relay = plane.relay(&world);
        traces = Some(Traces::of(&plane.pids(), plane.folder()));
        assert_eq!(plane.pids().len(), 3);
        assert!(traces.as_ref().unwrap().check_removed().is_err());
        panic!("what a test that fails does");
    }));
    assert!(panicked.is_err());
    let traces = traces.expect("the control plane has started");
    assert!(!traces.folder.exists());
    eventually("all processes and the namespace are gone", || traces.check_removed());
}

/// Environment variable that marks the inner process of a test.
const INNER: &str = "SVCLB_TEST_IS_INNER";

fn is_inner() -> bool {
    std::env::var_os(INNER).is_some()
}

/// Command that runs one test of this program in a process of its own, which ends with the thread that
/// starts it.
fn inner(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(INNER, "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: one system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            Ok(())
        });
    }
    command
}

#[test]
fn a_control_plane_ends_when_the_process_of_its_test_is_killed() {
    if is_inner() {
        let plane = ControlPlane::new("killed");
        let pids: Vec<String> = plane.pids().iter().map(u32::to_string).collect();
        eprintln!("\ntraces {} {}", pids.join(","), plane.folder().display());
        // It runs until it is killed, by the test or with its parent.
        loop {
            std::thread::park();
        }
    }
    let own = "a_control_plane_ends_when_the_process_of_its_test_is_killed";
    let mut child = inner(own).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.into_iter().find(|line| line.starts_with("traces "));
    let traces = line.map(|line| {
        let [_, pids, folder] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        let pids: Vec<u32> = pids.split(',').map(|pid| pid.parse().unwrap()).collect();
        Traces::of(&pids, folder.as_ref())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let traces = traces.expect("the inner process must print its traces");
    eventually("all processes and the namespace are gone", || traces.check_removed());
    // The next process of the tests would remove the folder, and may be doing so already.
    eventually("its folder is gone", || match fs::remove_dir_all(&traces.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    });
}

#[test]
fn proxy_variables_of_the_environment_are_ignored() {
    if is_inner() {
        let plane = ControlPlane::builder("proxy").without_controllers().start();
        plane.api().apply("{apiVersion: v1, kind: Node, metadata: {name: node-a}}");
        let world = World::builder("proxy").without_agent().start();
        let _relay = plane.relay(&world);
        let kubeconfig = plane.kubeconfig();
        let kubeconfig = kubeconfig.to_str().unwrap();
        world.start_agent_with(&["--kubeconfig", kubeconfig, "--node", "node-a"]);
        return;
    }
    let mut again = inner("proxy_variables_of_the_environment_are_ignored");
    // Nothing listens on this address.
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        again.env(name, "http://127.0.0.1:9");
    }
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn names_are_resolved_as_in_a_pod_whatever_resolver_the_host_has() {
    let plane = ControlPlane::builder("resolver").without_controllers().start();
    let world = World::builder("resolver").without_agent().start();
    // The configuration of a host with systemd-resolved, which does not run.
    let etc = plane.folder().join("odd-etc");
    fs::create_dir(&etc).unwrap();
    symlink("/nowhere/stub-resolv.conf", etc.join("resolv.conf")).unwrap();
    fs::write(etc.join("nsswitch.conf"), "hosts: resolve [!UNAVAIL=return] dns\n").unwrap();
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n").unwrap();
    let flags = nix::mount::MsFlags::MS_BIND;
    world.inside(move || {
        nix::mount::mount(Some(&etc), "/etc", None::<&str>, flags, None::<&str>).unwrap();
    });

    resolve_by(&plane, &world, "10.96.0.10".parse().unwrap());
    let read = |name: &'static str| {
        world.inside(move || fs::read_to_string(Path::new("/etc").join(name)).unwrap())
    };
    assert!(read("resolv.conf").starts_with("nameserver 10.96.0.10\n"));
    assert_eq!(read("nsswitch.conf"), "hosts: files dns\n");
    assert_eq!(read("hosts"), "127.0.0.1 localhost\n");
    for resolver in ["/run/nscd", "/run/systemd/resolve"] {
        let entries = world.inside(move || fs::read_dir(resolver).map(Iterator::count));
        assert!(entries.is_err() || entries.is_ok_and(|count| count == 0), "{resolver}");
    }
}
