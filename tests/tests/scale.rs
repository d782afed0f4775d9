//! A large cluster on one agent of the shipped image: the 5,000 Services with 250,000 endpoints of
//! SPEED.md, from a real API server.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a helper fails the test, with its reason"
)]

#[path = "pod/image.rs"]
mod image;

use std::fs;

use svclb_tests::World;
use svclb_tests::cluster::{ControlPlane, Large, eventually};

const CLUSTER: Large = Large::SPEED;
/// Limit of the agent's resident memory in MB: SPEED.md's target.
const RESIDENT: u64 = 40;
/// Limit of its peak in MB. The lists of all kinds are read page by page, and a list that replaces
/// another must not need a second catalog.
const PEAK: u64 = 60;

/// A field of `/proc/PID/status`, in MB.
fn megabytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap().div_ceil(1_000)
}

#[test]
fn a_quarter_of_a_million_endpoints_fit_in_forty_megabytes() {
    // Priority and fairness would limit the requests that create the objects, which is not the subject
    // of this test.
    let plane = ControlPlane::builder("scale")
        .without_controllers()
        .api_server_args(["--enable-priority-and-fairness=false"])
        .start();
    let world = World::builder("scale").without_agent().start();
    let _relay = plane.relay(&world);
    plane.api().create_all(CLUSTER.objects());

    let kubeconfig = plane.kubeconfig();
    let shipped = image::Archive::read().unpack();
    let source = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--node", "node-1"];
    world.start_agent_of(&shipped.path().join("svclb"), &source);
    let agent = world.take_agent();
    let counted = || {
        let status = world.status();
        (status["services"].as_u64(), status["backends"].as_u64())
    };
    // In addition there is the default Service `kubernetes`, without endpoints.
    let all = (Some(CLUSTER.services as u64 + 1), Some(CLUSTER.all_endpoints() as u64));
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
    let assert_fits = || {
        assert!(
            resident("VmRSS") <= RESIDENT,
            "expected at most {RESIDENT} MB resident, got {} MB",
            resident("VmRSS")
        );
        assert!(
            resident("VmHWM") <= PEAK,
            "expected a peak of at most {PEAK} MB, got {} MB",
            resident("VmHWM")
        );
    };
    assert_fits();

    // When all lists are replaced after a lost connection, memory may peak for a moment and must shrink
    // again.
    plane.stop_api_server();
    plane.start_api_server();
    plane.api().create(&CLUSTER.service(CLUSTER.services)).unwrap();
    eventually("the new service is served", || match counted().0 {
        Some(found) if found == CLUSTER.services as u64 + 2 => Ok(()),
        found => Err(format!("{found:?}")),
    });
    println!("after a relist: {} MB resident, at most {} MB", resident("VmRSS"), resident("VmHWM"),);
    assert_fits();
}
