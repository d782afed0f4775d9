//! A large cluster on one agent, as it is shipped: SPEED.md's 5,000 Services with 250,000 endpoints, from
//! a real API server.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: what fails in them fails the test, with its reason"
)]

#[path = "pod/image.rs"]
mod image;

use std::fs;

use serde_json::{Value, json};
use svclb_tests::World;
use svclb_tests::cluster::{ControlPlane, eventually};
use tokio::task::JoinSet;

const SERVICES: usize = 5_000;
const ENDPOINTS: usize = 50;
const WORKERS: usize = 32;
/// What the agent may keep in memory, MB: SPEED.md's target.
const RESIDENT: u64 = 40;
/// What it may take for a moment, MB: the lists of all kinds are read page by page, and a list that
/// replaces another must not make a second catalog beside the first.
const PEAK: u64 = 60;

fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": format!("service-{number}"), "namespace": "default" },
        "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

fn slice(number: usize) -> Value {
    let endpoint = |at: usize| {
        let pod = number * ENDPOINTS + at;
        json!({
            "addresses": [format!("10.{}.{}.{}", 128 + pod / 65_536, pod / 256 % 256, pod % 256)],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": format!("node-{}", pod % 1_000),
            "zone": format!("zone-{}", pod % 3),
            "targetRef": { "kind": "Pod", "namespace": "default", "name": format!("pod-{pod}") },
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("service-{number}-abcde"), "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": format!("service-{number}"),
                "endpointslice.kubernetes.io/managed-by": "svclb-tests",
            },
            "annotations": {
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z",
            },
        },
        "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

/// Creates all of it, as quickly as the API server takes it.
fn fill(plane: &ControlPlane) {
    let client = plane.api().client();
    plane.api().wait(async move {
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let client = client.clone();
            workers.spawn(async move {
                for number in (worker..SERVICES).step_by(WORKERS) {
                    post(&client, "/api/v1/namespaces/default/services", service(number)).await;
                    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
                    post(&client, slices, slice(number)).await;
                }
            });
        }
        workers.join_all().await;
    });
}

async fn post(client: &kube::Client, path: &str, object: Value) {
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(object.to_string().into_bytes()).unwrap();
    client.request_text(request).await.unwrap();
}

/// A field of `/proc/PID/status`, MB.
fn megabytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap().div_ceil(1_000)
}

#[test]
fn a_quarter_of_a_million_endpoints_fit_in_forty_megabytes() {
    // More than one priority level's worth of requests at once is not what this is about.
    let plane = ControlPlane::builder("scale")
        .without_controllers()
        .api_server_args(["--enable-priority-and-fairness=false"])
        .start();
    let world = World::builder("scale").without_agent().start();
    let _relay = plane.relay(&world);
    fill(&plane);

    let kubeconfig = plane.kubeconfig();
    let shipped = image::Archive::read().unpack();
    let source = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--node", "node-1"];
    world.start_agent_of(&shipped.path().join("svclb"), &source);
    let agent = world.take_agent();
    let counted = || {
        let status = world.status();
        (status["services"].as_u64(), status["backends"].as_u64())
    };
    // The default Service `kubernetes` comes on top, without endpoints.
    let all = (Some(SERVICES as u64 + 1), Some((SERVICES * ENDPOINTS) as u64));
    eventually("every service is served", || match counted() {
        found if found == all => Ok(()),
        found => Err(format!("{found:?}")),
    });
    let resident = |field| megabytes(agent.pid(), field);
    println!(
        "resident: {} MB ({} anonymous, {} of files, {} shared), at most {} MB",
        resident("VmRSS"),
        resident("RssAnon"),
        resident("RssFile"),
        resident("RssShmem"),
        resident("VmHWM"),
    );
    let fits = || {
        assert!(resident("VmRSS") <= RESIDENT, "{} MB are resident", resident("VmRSS"));
        assert!(resident("VmHWM") <= PEAK, "{} MB were resident", resident("VmHWM"));
    };
    fits();

    // Replaced whole, as after a lost connection, it holds both for a moment, and lets go again.
    plane.stop_api_server();
    plane.start_api_server();
    plane.api().create(&service(SERVICES)).unwrap();
    eventually("the new service is served", || match counted().0 {
        Some(found) if found == SERVICES as u64 + 2 => Ok(()),
        found => Err(format!("{found:?}")),
    });
    println!("after a relist: {} MB resident, at most {} MB", resident("VmRSS"), resident("VmHWM"),);
    fits();
}
