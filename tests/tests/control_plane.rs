//! The control planes of the cluster tests: whom they know, that they do not meet, what is left.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "functions of tests: what fails in them fails the test"
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

/// Addresses, readiness and conditions of a Service's endpoints, as the controller manager wrote them.
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
fn slices_follow_what_the_kubelet_says_of_pods() {
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
fn each_kind_of_kubeconfig_names_its_user() {
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
        ("certificate", plane.kubeconfig_with_certificate("someone", ["readers"]), "someone"),
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
    // Who has no role may nothing.
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
fn control_planes_side_by_side_do_not_meet_and_each_is_reached_by_its_relay() {
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
    // In the world there is nothing until a relay is opened, and nothing after it was cut.
    let api_server = "127.0.0.1:6443";
    let is_refused = || world.dial(Tcp, api_server).is_err();
    assert!(is_refused());
    let relay = planes[0].relay(&world);
    let connection = world.dial(Tcp, api_server).unwrap();
    relay.cut();
    assert!(is_refused());
    assert!(connection.request().is_err(), "a cut ends what was connected");
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
fn an_api_server_that_was_stopped_knows_all_when_it_starts_again() {
    let plane = ControlPlane::builder("restart").without_controllers().start();
    plane.api().apply("{apiVersion: v1, kind: Namespace, metadata: {name: stays}}");
    plane.stop_api_server();
    assert!(plane.api().text("/readyz").is_err());
    plane.start_api_server();
    assert!(plane.api().get(&Reference::new("v1", "Namespace", "stays")).unwrap().is_some());
}

/// What a control plane holds.
struct Traces {
    /// Its processes, each with when it started: process ids are used again.
    processes: Vec<(u32, String)>,
    folder: PathBuf,
    namespace: PathBuf,
    /// As long as it is open, no other namespace gets its number.
    _held: File,
}

impl Traces {
    /// Looks at a control plane that runs.
    fn of(pids: &[u32], folder: &Path) -> Self {
        let entrance = process(pids[0]).join("ns/net");
        Self {
            processes: pids.iter().map(|&pid| (pid, started(pid).expect("it runs"))).collect(),
            folder: folder.to_owned(),
            _held: File::open(&entrance).unwrap(),
            namespace: fs::read_link(&entrance).unwrap(),
        }
    }

    /// What is still there of its processes and its network namespace.
    fn left(&self) -> Result<(), String> {
        let mut processes = self.processes.iter();
        if let Some((pid, _)) = processes.find(|(pid, when)| started(*pid).as_ref() == Some(when)) {
            return Err(format!("process {pid} is there"));
        }
        let threads = fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
            // What is no process, or just ended, has no such folder.
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

/// When a process started, if it is there (proc_pid_stat(5), field 22).
fn started(pid: u32) -> Option<String> {
    let text = fs::read_to_string(process(pid).join("stat")).ok()?;
    // Its name, the second field, may have blanks and parentheses.
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
        assert!(traces.as_ref().unwrap().left().is_err());
        panic!("what a test that fails does");
    }));
    assert!(panicked.is_err());
    let traces = traces.expect("it started");
    assert!(!traces.folder.exists());
    eventually("all of it is gone", || traces.left());
}

/// Tells a copy of this process that it is the inner one.
const INNER: &str = "SVCLB_TEST_IS_INNER";

fn is_inner() -> bool {
    std::env::var_os(INNER).is_some()
}

/// One test of this program again, in a process of its own that ends with the thread that starts it.
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
fn nothing_of_a_control_plane_runs_on_when_the_process_of_its_test_is_killed() {
    if is_inner() {
        let plane = ControlPlane::new("killed");
        let pids: Vec<String> = plane.pids().iter().map(u32::to_string).collect();
        eprintln!("\ntraces {} {}", pids.join(","), plane.folder().display());
        // Until it is killed, here or with its parent.
        loop {
            std::thread::park();
        }
    }
    let own = "nothing_of_a_control_plane_runs_on_when_the_process_of_its_test_is_killed";
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
    let traces = traces.expect("it says what it started");
    eventually("all of it is gone", || traces.left());
    // The next process of the tests would remove it, and may be doing so.
    eventually("its folder is gone", || match fs::remove_dir_all(&traces.folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    });
}

#[test]
fn a_proxy_that_the_user_has_matters_to_nobody_inside() {
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
    let mut again = inner("a_proxy_that_the_user_has_matters_to_nobody_inside");
    // Nobody listens there.
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        again.env(name, "http://127.0.0.1:9");
    }
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn names_are_resolved_as_in_a_pod_whatever_the_host_resolves_by() {
    let plane = ControlPlane::builder("resolver").without_controllers().start();
    let world = World::builder("resolver").without_agent().start();
    // A host with systemd-resolved that does not run.
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
