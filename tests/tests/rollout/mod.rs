//! Upgrade and rollback as an operator does them: `kubectl apply`, `set image`, `rollout`, with the real kubectl, API
//! server and DaemonSet controller. Scheduler and kubelet are played by [`Node`], with the DaemonSet's own pods.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::{Value, json};
use svclb_tests::cluster::{self, ControlPlane, Kubelet, Reference, component, eventually};
use svclb_tests::{Tcp, World};

use crate::pod::{Pod, Running};
use crate::{DIALLED, NODE};

/// The labels of the agents' pods.
const LABELS: &str = "app.kubernetes.io/name=svclb,app.kubernetes.io/component=agent";
/// The image of the manifests, and another one.
const IMAGES: [&str; 2] = ["localhost/svclb:0.1.0", "localhost/svclb:next"];

/// A node of the cluster, which runs the agents' pods in a world.
struct Node<'a> {
    world: &'a World,
    plane: &'a ControlPlane,
    kubelet: Kubelet<'a>,
    /// By the names of their objects.
    pods: BTreeMap<String, Agent<'a>>,
}

/// The pod of an agent.
struct Agent<'a> {
    object: cluster::Pod<'a>,
    pod: Pod<'a>,
    container: Running,
    is_ready: bool,
}

impl<'a> Node<'a> {
    fn new(world: &'a World, plane: &'a ControlPlane) -> Self {
        let kubelet = Kubelet::new(plane, NODE, "", 0);
        let labels = json!({"metadata": {"labels": {"kubernetes.io/os": "linux"}}});
        plane.api().patch(&Reference::node(NODE), &labels).unwrap();
        Self { world, plane, kubelet, pods: BTreeMap::new() }
    }

    /// Does what scheduler and kubelet have to do now.
    fn turn(&mut self) {
        for object in self.plane.api().list("v1", "Pod", "kube-system", LABELS).unwrap() {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let is_leaving = !object["metadata"]["deletionTimestamp"].is_null();
            match self.pods.get_mut(&name) {
                Some(_) if is_leaving => {
                    let Agent { object, container, .. } = self.pods.remove(&name).unwrap();
                    assert!(container.stop().success(), "SIGTERM ends an agent cleanly");
                    object.remove();
                }
                Some(agent) => agent.probe(),
                None if is_leaving => {}
                None => drop(self.pods.insert(name, self.start(&object))),
            }
        }
    }

    /// Binds a pod and starts its container.
    fn start(&self, object: &Value) -> Agent<'a> {
        let bound = self.kubelet.adopt("kube-system", LABELS, 1).pop().unwrap();
        assert_eq!(bound.name(), object["metadata"]["name"], "one pod at a time");
        let mut spec = object["spec"].clone();
        // The kubelet's own volume with the token, which `Pod` mounts by itself.
        let is_own = |volume: &Value| volume["projected"].is_null();
        spec["volumes"].as_array_mut().unwrap().retain(is_own);
        let mounts = spec["containers"][0]["volumeMounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["name"].as_str().unwrap().starts_with("kube-api-access-"));
        let image = spec["containers"][0]["image"].as_str().unwrap().to_owned();
        let account = spec["serviceAccountName"].as_str().unwrap();
        let token = self
            .plane
            .service_account_token(&format!("kube-system/{account}"), Duration::from_secs(3600));
        let address = self.plane.address();
        let server = (&*address.ip().to_string(), address.port());
        let template = json!({"spec": {"template": {"spec": spec}}});
        let pod = Pod::new(self.world, &template, NODE);
        let pod = pod.with_api_server(server, &token, &self.plane.authority());
        mark(&pod.program(), &image);
        let container = pod.start("agent");
        bound.set_ready(false);
        Agent { object: bound, pod, container, is_ready: false }
    }

    /// Runs a command of kubectl to its end, and the node meanwhile.
    fn kubectl(&mut self, arguments: &[&str]) {
        let mut command = Command::new(component("kubectl"));
        command.args(arguments).arg("--kubeconfig").arg(self.plane.kubeconfig());
        let mut kubectl: Child = self.world.spawn(command);
        let ended = eventually(&format!("kubectl {} ends", arguments.join(" ")), || {
            self.turn();
            kubectl.try_wait().unwrap().ok_or_else(|| self.log())
        });
        assert!(ended.success(), "kubectl {}: {ended}", arguments.join(" "));
    }

    /// The image whose program the only agent runs.
    fn running(&self) -> String {
        let agents: Vec<&Agent<'_>> = self.pods.values().collect();
        let [agent] = agents[..] else { panic!("{} agents", agents.len()) };
        marked(&agent.container.program())
    }

    fn log(&self) -> String {
        self.pods.values().map(|agent| agent.pod.log()).collect()
    }
}

impl Agent<'_> {
    /// Reports the outcome of the readiness probe.
    fn probe(&mut self) {
        let is_ready = self.pod.probe("agent").is_ok();
        if is_ready != self.is_ready {
            self.object.set_ready(is_ready);
            self.is_ready = is_ready;
        }
    }
}

/// Writes a mark behind a program, which the kernel does not look at, so that programs of two images differ.
fn mark(program: &Path, mark: &str) {
    let mut file = File::options().append(true).open(program).unwrap();
    file.write_all(format!("{mark:>64}").as_bytes()).unwrap();
}

/// Reads the mark behind a program.
fn marked(program: &Path) -> String {
    let mut file = File::open(program).unwrap();
    file.seek(SeekFrom::End(-64)).unwrap();
    let mut mark = String::new();
    file.read_to_string(&mut mark).unwrap();
    mark.trim_start().to_owned()
}

#[test]
fn kubectl_rollout_and_its_undo_replace_the_program_and_each_connect_is_translated() {
    let plane = ControlPlane::new("rollout");
    let world = World::builder("rollout").without_agent().start();
    let _relay = plane.relay(&world);
    let _backend = world.backend("hello", Tcp, "10.244.0.1:8080");
    plane.api().apply(
        r#"
{apiVersion: v1, kind: Service, metadata: {name: hello, namespace: default},
spec: {clusterIP: 10.96.0.10, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: hello-1, namespace: default,
labels: {kubernetes.io/service-name: hello}}, addressType: IPv4,
ports: [{name: "", protocol: TCP, port: 8080}], endpoints: [{addresses: [10.244.0.1]}]}
"#,
    );
    let mut node = Node::new(&world, &plane);
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base");
    node.kubectl(&["apply", "-k", manifests.to_str().unwrap()]);
    let status = ["rollout", "status", "daemonset/svclb", "--namespace=kube-system"];
    node.kubectl(&status);
    assert_eq!(node.running(), IMAGES[0]);
    let (rounds, ()) = world.assert_uninterrupted(Tcp, DIALLED, &["hello"], || {
        let image = format!("agent={}", IMAGES[1]);
        node.kubectl(&["set", "image", "daemonset/svclb", &image, "--namespace=kube-system"]);
        node.kubectl(&status);
        assert_eq!(node.running(), IMAGES[1]);
        node.kubectl(&["rollout", "undo", "daemonset/svclb", "--namespace=kube-system"]);
        node.kubectl(&status);
        assert_eq!(node.running(), IMAGES[0]);
    });
    assert!(rounds >= 10, "expected at least 10 connects, got {rounds}");
}
