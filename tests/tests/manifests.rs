//! manifests/ as a user applies them: with the real kustomize and a real API server, and the DaemonSet's
//! own pod with its image, capabilities and ClusterRole.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a helper fails the test, with its reason"
)]

mod pod;
mod rendered;
mod rollout;

use std::net::SocketAddr;
use std::time::Duration;

use pod::{Pod, Running};
use rendered::{assert_accepted, build, build_own, define_pod_monitors, of_kind, workspace};
use serde_json::{Value, json};
use svclb_tests::cluster::{ControlPlane, Reference, eventually};
use svclb_tests::{Tcp, World, at};

const NODE: &str = "node-a";
/// The agent's service account.
const ACCOUNT: &str = "kube-system/svclb";
const DIALLED: &str = "10.96.0.10:80";

/// The images of all containers of the only DaemonSet.
fn images(objects: &[Value]) -> Vec<&str> {
    let spec = &of_kind(objects, "DaemonSet")["spec"]["template"]["spec"];
    let kinds = ["initContainers", "containers"];
    let containers = kinds.iter().filter_map(|kind| spec[kind].as_array()).flatten();
    containers.map(|container| container["image"].as_str().unwrap()).collect()
}

/// Applies all objects but the DaemonSet, because there is no kubelet to run it.
fn apply_rights(plane: &ControlPlane, objects: &[Value]) {
    let rights: Vec<Value> =
        objects.iter().filter(|object| object["kind"] != "DaemonSet").cloned().collect();
    assert_eq!(rights.len(), 3, "expected a service account, a role and a binding");
    plane.api().apply_all(&rights);
}

/// A Service with one endpoint, and the node.
fn apply_hello(plane: &ControlPlane) {
    plane.api().apply(&format!(
        "
apiVersion: v1
kind: Node
metadata: {{ name: {NODE} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: hello, namespace: default }}
spec:
  clusterIP: 10.96.0.10
  ports: [{{ port: 80, targetPort: 8080 }}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: hello-1
  namespace: default
  labels: {{ kubernetes.io/service-name: hello }}
addressType: IPv4
ports: [{{ name: \"\", protocol: TCP, port: 8080 }}]
endpoints: [{{ addresses: [10.244.0.1] }}]
"
    ));
}

fn pod<'w>(world: &'w World, plane: &ControlPlane, daemon_set: &Value) -> Pod<'w> {
    pod_at(world, plane, daemon_set, plane.address())
}

/// A pod that reaches the API server at this address.
fn pod_at<'w>(
    world: &'w World,
    plane: &ControlPlane,
    daemon_set: &Value,
    address: SocketAddr,
) -> Pod<'w> {
    let token = plane.service_account_token(ACCOUNT, Duration::from_secs(3600));
    let server = (address.ip().to_string(), address.port());
    Pod::new(world, daemon_set, NODE).with_api_server(
        (&server.0, server.1),
        &token,
        &plane.authority(),
    )
}

/// The folders of manifests/ that are applied.
const FOLDERS: [&str; 5] =
    ["base", "overlays/api-server", "overlays/mount-bpffs", "overlays/pod-monitor", "uninstall"];

#[test]
fn the_api_server_accepts_every_object_of_every_folder() {
    let plane = ControlPlane::builder("manifests").without_controllers().start();
    define_pod_monitors(&plane);
    for folder in FOLDERS {
        assert_accepted(&plane, &build(folder), folder);
    }
}

#[test]
fn every_folder_has_the_image_version_of_this_checkout() {
    let expected = format!("localhost/svclb:{}", env!("CARGO_PKG_VERSION"));
    for folder in FOLDERS {
        let objects = build(folder);
        let images = images(&objects);
        assert!(!images.is_empty() && images.iter().all(|image| *image == expected), "{images:?}");
        for object in &objects {
            let version = &object["metadata"]["labels"]["app.kubernetes.io/version"];
            assert_eq!(version, env!("CARGO_PKG_VERSION"), "{folder}: {}", Reference::of(object));
        }
    }
}

#[test]
fn every_documented_kubectl_command_names_what_exists() {
    let mut commands = 0;
    for document in ["README.md", "docs/install.md", "docs/operating.md"] {
        let text = std::fs::read_to_string(workspace().join(document)).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("$ kubectl ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let Some(at) = words.iter().position(|word| *word == "-k") {
                let folder = words[at + 1].strip_prefix("manifests/").unwrap();
                assert!(FOLDERS.contains(&folder), "{document}: {line}");
            }
            if let Some(name) = words.iter().find_map(|word| word.strip_prefix("daemonset/")) {
                let folder = if name.ends_with("-uninstall") { "uninstall" } else { "base" };
                let objects = build(folder);
                let metadata = &of_kind(&objects, "DaemonSet")["metadata"];
                assert_eq!(metadata["name"], name, "{document}: {line}");
                assert!(words.contains(&metadata["namespace"].as_str().unwrap()), "{line}");
            }
            commands += 1;
        }
    }
    assert!(commands > 10, "{commands}");
}

#[test]
fn the_documented_kustomization_builds_for_installation_and_uninstallation() {
    let manual = std::fs::read_to_string(workspace().join("docs/install.md")).unwrap();
    let (_, rest) = manual.split_once("```yaml\n").unwrap();
    let (shown, _) = rest.split_once("```").unwrap();
    let components = "[manifests/components/mount-bpffs]";
    let (resources, back) = ("resources: [manifests/base]", "resources: [manifests/uninstall]");
    assert!(shown.contains(components) && shown.contains(resources), "{shown}");
    let all = "[manifests/components/mount-bpffs, manifests/components/api-server, \
               manifests/components/pod-monitor]";
    let without: String = shown
        .lines()
        .filter(|line| !line.starts_with("components"))
        .fold(String::new(), |text, line| text + line + "\n");
    let rows = [
        ("as it stands", shown.to_owned(), 2),
        ("all components", shown.replace(components, all), 2),
        ("the way back", without.replace(resources, back), 2),
    ];
    let plane = ControlPlane::builder("manual").without_controllers().start();
    define_pod_monitors(&plane);
    let image = format!("REGISTRY/svclb:{}", env!("CARGO_PKG_VERSION"));
    for (row, kustomization, containers) in rows {
        let objects = build_own(&kustomization);
        assert_eq!(images(&objects), vec![&image[..]; containers], "{row}");
        assert_accepted(&plane, &objects, row);
        let spec = &of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"];
        let arguments = spec["containers"][0]["args"].to_string();
        for argument in ["--api-server", "--metrics-address"] {
            assert_eq!(arguments.contains(argument), row == "all components", "{row}");
        }
    }
}

#[test]
fn applied_objects_can_be_deleted_as_documented() {
    let plane = ControlPlane::builder("delete").without_controllers().start();
    for folder in ["base", "uninstall"] {
        let objects = build(folder);
        plane.api().apply_all(&objects);
        for object in &objects {
            let what = Reference::of(object);
            plane.api().try_delete(&what).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(
                plane.api().get(&what).unwrap().is_some(),
                "{what}: a dry run must not delete it"
            );
        }
    }
}

#[test]
fn the_daemon_sets_pod_serves_with_its_own_rights_and_translation_outlives_it() {
    let plane = ControlPlane::builder("pod").without_controllers().start();
    let world = World::builder("pod").without_agent().start();
    let _relay = plane.relay(&world);
    let _backend = world.backend("hello", Tcp, "10.244.0.1:8080");
    apply_hello(&plane);
    let objects = build("base");
    apply_rights(&plane, &objects);

    let pod = pod(&world, &plane, of_kind(&objects, "DaemonSet"));
    assert!(
        pod.probe("agent").unwrap_err().contains("no svclb runs"),
        "the agent must not run before the pod starts"
    );
    let agent = pod.start("agent");
    eventually("the pod is ready", || pod.probe("agent"));
    pod.probe_liveness("agent").unwrap();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "hello");
    assert_sees_its_pins_only(&world, &agent);
    assert!(
        !pod.log().contains("open to others"),
        "the kubelet's mode of the folder must be accepted: {}",
        pod.log()
    );
    // NET_ADMIN, PERFMON and BPF.
    assert_eq!(agent.capabilities(), [1 << 12 | 1 << 38 | 1 << 39; 2]);
    // As documented: without any flag.
    for command in ["services", "backends", "sockets", "affinity", "top", "status"] {
        let output = pod.exec("agent", &[command]);
        assert!(output.status.success(), "{command}: {output:?}");
    }
    let services = pod.exec("agent", &["services", "-o", "json"]).stdout;
    assert!(String::from_utf8(services).unwrap().contains(DIALLED));

    // A new agent that cannot read its sources yet is not ready, and translation goes on meanwhile.
    assert!(agent.stop().success(), "{}", pod.log());
    assert!(pod.probe("agent").unwrap_err().contains("no agent runs"));
    plane.stop_api_server();
    let mut agent = pod.start("agent");
    eventually("the probe reports the new agent as not ready", || match pod.probe("agent") {
        Err(error) if error.contains("not yet heard") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(agent.is_running(), "{}", pod.log());
    eventually("the new agent is live", || pod.probe_liveness("agent"));
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "hello");
    plane.start_api_server();
    eventually("the pod is ready again", || pod.probe("agent"));
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "hello");

    // Uninstallation. While an agent runs, as for a moment with Helm, it fails and changes nothing.
    let objects = build("uninstall");
    let uninstall = Pod::new(&world, of_kind(&objects, "DaemonSet"), NODE);
    let refused = uninstall.run("uninstall");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("runs"), "{error}");
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "hello");
    pod.probe("agent").unwrap();
    drop(agent);
    let pod = uninstall;
    let done = pod.run("uninstall");
    assert!(done.status.success(), "{done:?}");
    assert_eq!(world.dial(Tcp, DIALLED).unwrap_err().raw_os_error(), Some(libc::EACCES));
    let mut stays = pod.start("done");
    eventually("the pod logs that nothing is left", || {
        let log = pod.log();
        if log.contains("nothing is left") { Ok(()) } else { Err(log) }
    });
    assert!(stays.is_running());
    assert_sees_its_pins_only(&world, &stays);
    assert!(stays.stop().success());
    // The kubelet has mounted the folder itself: it stays, empty.
    assert!(world.names_in(&world.pins()).is_empty());
}

/// Asserts that a container of svclb sees nothing of the node's bpffs but its own folder.
fn assert_sees_its_pins_only(world: &World, container: &Running) {
    let others = world.pins().with_file_name("others");
    if !world.names_in(world.pins().parent().unwrap()).contains(&"others".to_owned()) {
        world.inside(move || std::fs::create_dir(others).unwrap());
    }
    let expected = ("/host/bpf/svclb".to_owned(), "/svclb".to_owned(), true);
    assert_eq!(container.bpffs(), [expected]);
    assert_eq!(container.names_in("/host/bpf"), ["svclb"]);
}

#[test]
fn pod_reconnects_to_an_api_server_that_removed_its_endpoint() {
    let plane = ControlPlane::builder("pod-way").without_controllers();
    // The API server removes its endpoint before it ends, and watches go on for a moment.
    let has_endpoint = ["--endpoint-reconciler-type=lease", "--shutdown-delay-duration=2s"];
    let plane = plane.api_server_args(has_endpoint).start();
    let world = World::builder("pod-way").without_agent().start();
    let cluster_ip = at("10.96.0.1:443");
    // One relay stands in for kube-proxy's rules, the other is the endpoint.
    world.add_local_address(cluster_ip.ip());
    let _proxy = plane.relay_at(&world, cluster_ip);
    let _endpoint = plane.relay_at(&world, plane.advertised());
    let _backend = world.backend("hello", Tcp, "10.244.0.1:8080");
    apply_hello(&plane);
    let objects = build("base");
    apply_rights(&plane, &objects);
    let pod = pod_at(&world, &plane, of_kind(&objects, "DaemonSet"), cluster_ip);
    let agent = pod.start("agent");
    eventually("the pod is ready", || pod.probe("agent"));

    plane.terminate_api_server();
    eventually("clients of the API server are refused", || match world.dial(Tcp, cluster_ip) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert!(agent.stop().success(), "{}", pod.log());
    let _agent = pod.start("agent");
    eventually("the new agent is not ready", || match pod.probe("agent") {
        Err(error) if error.contains("not yet heard its sources since it started") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "hello");
    plane.start_api_server();
    eventually("the pod is ready again", || pod.probe("agent"));
    eventually("clients reach the API server", || {
        world.dial(Tcp, cluster_ip).map_err(|error| error.to_string())
    });
    let status = pod.exec("agent", &["status", "-o", "json"]).stdout;
    let status: Value = serde_json::from_slice(&status).unwrap();
    let source = &status["sources"][0];
    assert!(source["heard_seconds_ago"].is_u64() && source["name"] == "services", "{source}");
}

#[test]
fn on_a_hybrid_node_the_agent_uses_the_cgroup2_below_cgroup_v1() {
    let plane = ControlPlane::builder("hybrid").without_controllers().start();
    let world = World::builder("hybrid").without_agent().start();
    let _relay = plane.relay(&world);
    let _backend = world.backend("hello", Tcp, "10.244.0.1:8080");
    apply_hello(&plane);
    let objects = build("base");
    apply_rights(&plane, &objects);
    let pod = pod(&world, &plane, of_kind(&objects, "DaemonSet")).on_hybrid_node();
    let _agent = pod.start("agent");
    eventually("the pod is ready", || pod.probe("agent"));
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "hello");
    assert!(pod.log().contains("/host/cgroup/unified"), "{}", pod.log());
}

#[test]
fn the_mount_bpffs_component_mounts_one_bpffs_once() {
    let world = World::builder("bpffs").without_agent().start();
    let objects = build("overlays/mount-bpffs");
    let pod = Pod::new(&world, of_kind(&objects, "DaemonSet"), NODE);
    let (pod, folder) = pod.on_node_without_bpffs();
    // The number of bpffs mounts at the node's folder, as the node sees them.
    let mounted = || {
        let folder = folder.clone();
        world.inside(move || {
            let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let at = format!(" {} ", folder.display());
            let is_one = |line: &&str| line.contains(&at) && line.contains(" - bpf ");
            mounts.lines().filter(is_one).count()
        })
    };
    let stdout_of = |output: std::process::Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(mounted(), 0);
    // No folder can be created in sysfs: without the component the pod does not start, and the error
    // names the folder.
    let base = Pod::new(&world, of_kind(&build("base"), "DaemonSet"), NODE).at_bpffs(&folder);
    let refused = base.set_up_volumes().unwrap_err();
    assert!(refused.contains("fs/bpf/svclb"), "{refused}");
    assert_eq!(stdout_of(pod.run("mount-bpffs")), "mounted a bpffs at /host/bpf\n");
    assert_eq!(mounted(), 1, "the mount must outlive the container on the node");
    // The next pod there, and a container that sees only what the node has mounted.
    assert_eq!(stdout_of(pod.run("mount-bpffs")), "/host/bpf is on a bpffs already\n");
    assert_eq!(mounted(), 1);
    let agents = pod.exec("agent", &["mount-bpffs", "/host/bpf/svclb"]);
    assert_eq!(stdout_of(agents), "/host/bpf/svclb is on a bpffs already\n");
    // Above svclb's folder is the container's own root there, not the node's bpffs.
    let agents = pod.exec("agent", &["uninstall", "--pins", "/host/bpf"]);
    let error = String::from_utf8_lossy(&agents.stderr).into_owned();
    assert!(!agents.status.success() && error.contains("Read-only file system"), "{error}");
    base.set_up_volumes().unwrap();
}

#[test]
fn a_missing_rule_of_the_role_is_logged() {
    let objects = build("base");
    let rules = of_kind(&objects, "ClusterRole")["rules"].as_array().unwrap().clone();
    let plane = ControlPlane::builder("rights").without_controllers().start();
    apply_hello(&plane);
    apply_rights(&plane, &objects);
    for missing in ["services", "endpointslices", "nodes"] {
        let world = World::builder("rights").without_agent().start();
        let _relay = plane.relay(&world);
        let mut role = of_kind(&objects, "ClusterRole").clone();
        let mut fewer = rules.clone();
        for rule in &mut fewer {
            rule["resources"].as_array_mut().unwrap().retain(|it| it != missing);
        }
        fewer.retain(|rule| rule["resources"] != json!([]));
        role["rules"] = json!(fewer);
        plane.api().apply_all(&[role]);
        let pod = pod(&world, &plane, of_kind(&objects, "DaemonSet"));
        let _agent = pod.start("agent");
        eventually(&format!("the log names {missing}"), || {
            let log = pod.log();
            let is_logged =
                log.lines().any(|line| line.contains("forbidden") && line.contains(missing));
            if is_logged { Ok(()) } else { Err(log) }
        });
        assert!(pod.probe("agent").is_err(), "without {missing}");
    }
}
