//! A real cluster: objects of a real API server and its controllers reach the maps, and real name
//! resolution works through Services.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::json;
use svclb_tests::cluster::{
    ControlPlane, CoreDns, HttpServer, Kubelet, Pod, Reference, eventually, resolve_by,
};
use svclb_tests::{Backend, Tcp, World};

/// The agent's node.
const NODE: &str = "node-a";

/// Starts the world's agent on a control plane.
fn follow(plane: &ControlPlane, world: &World) {
    let kubeconfig = plane.kubeconfig();
    world.start_agent_with(&["--kubeconfig".as_ref(), kubeconfig.as_os_str()]);
}

fn world(name: &str) -> World {
    World::builder(name).without_agent().agent_args(["--node", NODE]).start()
}

/// The names of all backends that answer at an address, or the first error.
fn answering(world: &World, at: &str) -> Result<BTreeSet<String>, String> {
    (0..40).map(|_| world.request(Tcp, at).map_err(|error| error.to_string())).collect()
}

fn wait_for_answers(world: &World, at: &str, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
    eventually(&format!("{expected:?} answer at {at}"), || match answering(world, at)? {
        found if found == expected => Ok(()),
        found => Err(format!("{found:?} answer")),
    });
}

#[test]
fn readiness_termination_and_deletion_of_pods_reach_the_clients() {
    let plane = ControlPlane::new("pods");
    let world = world("pods");
    let _relay = plane.relay(&world);
    let kubelet = Kubelet::new(&plane, NODE, "zone-a", 1);
    plane.api().apply(
        "
apiVersion: v1
kind: Service
metadata: { name: hello, namespace: default }
spec:
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIP: 10.96.0.20
  clusterIPs: ['10.96.0.20', 'fd00:96::20']
  selector: { app: hello }
  ports: [{ port: 80, targetPort: 8080 }]
",
    );
    let pods = ["a", "b"].map(|name| kubelet.pod(&format!("default/{name}"), "hello"));
    let _backends: Vec<[Backend; 2]> =
        pods.iter().map(|pod| pod.listen(&world, Tcp, 8080)).collect();
    let [a, b] = &pods;
    follow(&plane, &world);
    let frontends = ["10.96.0.20:80", "[fd00:96::20]:80"];
    let answer = |expected: &[&str]| {
        frontends.iter().for_each(|at| wait_for_answers(&world, at, expected));
    };
    let refused = || {
        for at in frontends {
            eventually(&format!("{at} refuses"), || match world.dial(Tcp, at) {
                Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    };

    // The pods do not run yet.
    refused();
    a.set_ready(false);
    refused();
    a.set_ready(true);
    answer(&["a"]);
    b.set_ready(true);
    answer(&["a", "b"]);
    b.set_ready(false);
    answer(&["a"]);
    b.set_ready(true);
    answer(&["a", "b"]);
    a.terminate();
    answer(&["b"]);
    // Terminating endpoints that still serve are used when there are no others.
    b.terminate();
    answer(&["a", "b"]);
    a.remove();
    answer(&["b"]);
    b.remove();
    refused();
}

#[test]
fn a_named_target_port_is_resolved_for_each_pod() {
    let plane = ControlPlane::new("named");
    let world = world("named");
    let _relay = plane.relay(&world);
    let kubelet = Kubelet::new(&plane, NODE, "", 1);
    plane.api().apply(
        "
apiVersion: v1
kind: Service
metadata: { name: hello, namespace: default }
spec:
  clusterIP: 10.96.0.20
  selector: { app: hello }
  ports: [{ port: 80, targetPort: web }]
",
    );
    let labels = json!({ "app": "hello" });
    let _backends = [("old", 8080), ("new", 9090)].map(|(name, port)| {
        let ports = json!([{ "name": "web", "containerPort": port }]);
        let main = json!({ "name": "main", "image": "none.invalid/none", "ports": ports });
        let more = json!({ "containers": [main] });
        let pod = kubelet.pod_with(&format!("default/{name}"), &labels, &more);
        let backends = pod.listen(&world, Tcp, port);
        pod.set_ready(true);
        backends
    });
    follow(&plane, &world);
    wait_for_answers(&world, "10.96.0.20:80", &["new", "old"]);
}

/// A Deployment with two replicas, and its Service.
fn application(name: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name}, namespace: default }}
spec:
  replicas: 2
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      containers:
        - name: main
          image: none.invalid/hello
          ports: [{{ name: http, containerPort: 8080 }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: default }}
spec:
  selector: {{ app: {name} }}
  ports: [{{ port: 8080, targetPort: http }}]
"
    )
}

/// Runs the Pods of an application: each has a web server and is ready.
fn run<'plane>(
    kubelet: &Kubelet<'plane>,
    world: &World,
    name: &str,
    version: &str,
) -> Vec<(Pod<'plane>, HttpServer)> {
    let pods = kubelet.adopt("default", &format!("app={name}"), 2);
    let serve = |pod: Pod<'plane>| {
        let server = pod.serve(world, 8080, version);
        pod.set_ready(true);
        (pod, server)
    };
    pods.into_iter().map(serve).collect()
}

/// The standard output of a client's command, if it succeeds.
fn stdout_of(output: Output) -> Result<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    match output.status.code() {
        Some(0) => Ok(text(output.stdout)),
        code => Err(format!("{code:?}: {}{}", text(output.stdout), text(output.stderr))),
    }
}

/// A program that the set-up installs.
fn tool(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_installed = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    assert!(is_installed, "{name} is missing: run `cargo xtask setup --cluster`");
    Command::new(name)
}

fn curl(world: &World, url: &str) -> Result<String, String> {
    let mut curl = tool("curl");
    curl.args(["--silent", "--show-error", "--max-time", "5", "--noproxy", "*", url]);
    stdout_of(world.run_as_client(curl))
}

fn dig(world: &World, arguments: &[&str]) -> Result<String, String> {
    let mut dig = tool("dig");
    dig.args(["+timeout=5", "+tries=3"]).args(arguments);
    stdout_of(world.run_as_client(dig))
}

#[test]
fn coredns_and_the_services_that_it_resolves_are_reached_by_cluster_ips() {
    let plane = ControlPlane::new("names");
    let world = world("names");
    let _relay = plane.relay(&world);
    let kubelet = Kubelet::new(&plane, NODE, "", 1);
    plane.api().apply(
        "
apiVersion: v1
kind: Service
metadata: { name: kube-dns, namespace: kube-system }
spec:
  clusterIP: 10.96.0.10
  selector: { app: kube-dns }
  ports:
    - { name: dns, port: 53, protocol: UDP }
    - { name: dns-tcp, port: 53, protocol: TCP }
",
    );
    let server = kubelet.pod("kube-system/coredns", "kube-dns");
    let coredns = CoreDns::start(&plane, &world, &server);
    server.set_ready(true);
    plane.api().apply(&application("hello"));
    plane.api().apply(&application("hello2"));
    let hello = run(&kubelet, &world, "hello", "version 1.0.0");
    let _hello2 = run(&kubelet, &world, "hello2", "version 2.0.0");
    resolve_by(&plane, &world, "10.96.0.10".parse().unwrap());
    let error = curl(&world, "http://hello:8080").unwrap_err();
    assert!(error.contains("resolve"), "without an agent the name must not be resolved: {error}");
    follow(&plane, &world);

    let expect_text = |name: &str, expected: &str| {
        let url = format!("http://{name}:8080");
        eventually(&format!("{url} returns {expected}"), || match curl(&world, &url) {
            Ok(text) if text.ends_with(expected) => Ok(()),
            other => Err(format!("{other:?}; the name server: {}", coredns.log_tail())),
        });
    };
    expect_text("hello.default.svc.cluster.local", "version 1.0.0");
    expect_text("hello2.default.svc.cluster.local", "version 2.0.0");
    // By the search list of resolv.conf.
    expect_text("hello", "version 1.0.0");

    let address = |name: &str| {
        let service = plane.api().get(&Reference::service(&format!("default/{name}"))).unwrap();
        service.unwrap()["spec"]["clusterIP"].as_str().unwrap().to_owned()
    };
    let full = |name: &str| format!("{name}.default.svc.cluster.local");
    for how in ["+notcp", "+tcp"] {
        assert_eq!(dig(&world, &[how, "+short", &full("hello")]), Ok(address("hello")), "{how}");
        let whole = dig(&world, &[how, &full("hello2")]).unwrap();
        assert!(whole.contains("SERVER: 10.96.0.10#53"), "{how}: {whole}");
    }

    // Each Pod of a Service answers.
    let expected: BTreeSet<String> =
        hello.iter().map(|(pod, _)| format!("{} version 1.0.0", pod.name())).collect();
    let url = format!("http://{}:8080", full("hello"));
    eventually("both Pods answer", || {
        let found: Result<BTreeSet<String>, String> = (0..20).map(|_| curl(&world, &url)).collect();
        if found.as_ref() == Ok(&expected) { Ok(()) } else { Err(format!("{found:?}")) }
    });

    // A Service that is created, and deleted again.
    let is_unknown = || {
        let answer = dig(&world, &[&full("hello3")]).unwrap();
        if answer.contains("status: NXDOMAIN") { Ok(()) } else { Err(answer) }
    };
    is_unknown().unwrap();
    plane.api().apply(&application("hello3"));
    let _hello3 = run(&kubelet, &world, "hello3", "version 3.0.0");
    expect_text(&full("hello3"), "version 3.0.0");
    let was = format!("{}:8080", address("hello3"));
    plane.api().delete(&Reference::service("default/hello3"), None).unwrap();
    eventually("its name is no longer known", is_unknown);
    eventually("its address is left alone", || match world.dial(Tcp, &was) {
        // The address is not translated, and no route leads there.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    expect_text("hello2", "version 2.0.0");
}
