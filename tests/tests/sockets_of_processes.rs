//! `svclb sockets`: the process and the pod of each socket, in whichever network namespace it is, and filters.
#![expect(clippy::unwrap_used, reason = "a failure in a helper fails the test, with its reason")]

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;
use svclb_tests::{Backend, ManySockets, SocketUse, Tcp, Udp, World};

/// A pod's UID, and the cgroup of a container of it, as the kubelet names it with systemd's driver.
const UID: &str = "0c1d2e3f-1111-2222-3333-444455556666";
const CONTAINER: &str = "kubepods.slice/kubepods-burstable.slice/\
    kubepods-burstable-pod0c1d2e3f_1111_2222_3333_444455556666.slice/cri-containerd-a.scope";

fn world(name: &str) -> (World, [Backend; 2]) {
    let world = World::new(name);
    let web = world.backend("web", Tcp, "10.244.0.1:8080");
    let dns = world.backend("dns", Udp, "10.244.0.2:5353");
    world.service("shop/web").cluster_ip("10.96.0.10").port(80, Tcp).backends([&web]).apply();
    world.service("shop/dns").cluster_ip("10.96.0.20").port(53, Udp).backends([&dns]).apply();
    (world, [web, dns])
}

/// A process of a pod, in a network namespace of its own, with as many sockets.
fn pod(world: &World, sockets: usize) -> (ManySockets, u64) {
    let sockets =
        world.open_many_sockets(CONTAINER, sockets, SocketUse::Connect, &["10.96.0.20:53"]);
    let processes = fs::read_to_string(world.cgroup().join(CONTAINER).join("cgroup.procs"));
    (sockets, processes.unwrap().lines().next().unwrap().parse().unwrap())
}

fn rows(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sockets(world: &World, flags: &[&str]) -> Vec<Value> {
    rows(&world.svclb(&[&["sockets", "-o", "json"], flags].concat()))
}

#[test]
fn each_socket_shows_its_process_and_pod_whatever_its_network_namespace() {
    let (world, _backends) = world("holders");
    let _own = world.dial(Tcp, "10.96.0.10:80").unwrap();
    let (_sockets, process) = pod(&world, 3);
    let logs = tempfile::tempdir().unwrap();
    let flags = ["--pod-logs", logs.path().to_str().unwrap()];

    let output = world.svclb(&[&["sockets", "-o", "json"][..], &flags].concat());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "everything is known");
    let all = rows(&output);
    assert_eq!(all.len(), 4, "{all:#?}");
    for row in &all {
        let is_own = row["service"] == "shop/web:";
        let pid = if is_own { u64::from(std::process::id()) } else { process };
        assert_eq!(row["pid"], pid, "{row:#}");
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(row["command"], command.trim_end(), "{row:#}");
        // Nothing names the pod yet.
        assert_eq!(row["pod"], if is_own { "" } else { UID }, "{row:#}");
    }
    assert_eq!(sockets(&world, &[&flags[..], &["--pod", UID]].concat()).len(), 3);

    fs::create_dir(logs.path().join(format!("shop_cart-7d4b_{UID}"))).unwrap();
    let of_pod = sockets(&world, &[&flags[..], &["--pod", "shop/cart-7d4b"]].concat());
    assert_eq!(of_pod.len(), 3, "{of_pod:#?}");
    assert!(of_pod.iter().all(|row| row["pod"] == "shop/cart-7d4b"), "{of_pod:#?}");
    assert_eq!(sockets(&world, &[&flags[..], &["--pod", "shop/other"]].concat()), [""; 0]);
}

#[test]
fn filters_select_sockets_by_service_and_by_a_backend_that_has_left() {
    let (world, _backends) = world("filters");
    let _sockets =
        [world.dial(Tcp, "10.96.0.10:80").unwrap(), world.dial(Udp, "10.96.0.20:53").unwrap()];
    let services = |flags: &[&str]| -> Vec<String> {
        let rows = sockets(&world, flags);
        let mut found: Vec<String> =
            rows.iter().map(|row| row["service"].as_str().unwrap().to_owned()).collect();
        found.sort();
        found
    };
    assert_eq!(services(&[]), ["shop/dns:", "shop/web:"]);
    assert_eq!(services(&["--service", "shop/web"]), ["shop/web:"]);
    assert_eq!(services(&["--service", "shop/web:80"]), ["shop/web:"]);
    assert_eq!(services(&["--service", "shop/web:81"]), [""; 0]);
    assert_eq!(services(&["--stale"]), [""; 0]);
    world.service("shop/web").cluster_ip("10.96.0.10").port(80, Tcp).apply();
    assert_eq!(services(&["--stale"]), ["shop/web:"]);
    assert_eq!(services(&["--stale", "--service", "shop/dns"]), [""; 0]);
    let unusable = world.svclb(&["sockets", "--service", "web"]);
    assert_eq!(unusable.status.code(), Some(2), "{unusable:?}");
}

#[test]
fn without_rights_the_sockets_are_listed_and_the_reason_is_reported() {
    let (world, _backends) = world("rights");
    let (_sockets, _) = pod(&world, 2);
    for (set, reason) in [
        ("--bounding-set=-all,+bpf", "processes are hidden without CAP_SYS_PTRACE"),
        ("--bounding-set=-all,+bpf,+sys_ptrace", "cannot be entered without CAP_SYS_ADMIN"),
    ] {
        let mut command = Command::new("setpriv");
        command.args([set, "--inh-caps=-all"]).arg(world.program());
        command.args(["sockets", "-o", "json", "--pins"]).arg(world.pins());
        let output = world.output(command);
        let all = rows(&output);
        assert_eq!(all.len(), 2, "{all:#?}");
        assert!(all.iter().all(|row| row["pid"].is_null() && row["pod"] == ""), "{all:#?}");
        let report = String::from_utf8_lossy(&output.stderr);
        assert_eq!(report.lines().count(), 1, "{report}");
        assert!(report.contains(reason), "{report}");
    }
}

#[test]
fn a_hundred_thousand_sockets_all_have_their_process() {
    const SOCKETS: usize = 100_000;
    // Without its default of 65,536 origins, which one client cannot exceed by as much.
    let world = World::builder("holders-many").agent_args(["--origins", "262144"]).start();
    let dns = world.backend("dns", Udp, "10.244.0.2:5353");
    world.service("shop/dns").cluster_ip("10.96.0.20").port(53, Udp).backends([&dns]).apply();
    let (_sockets, _) = pod(&world, SOCKETS);
    let all = sockets(&world, &[]);
    assert_eq!(all.len(), SOCKETS);
    let unknown = all.iter().filter(|row| row["pid"].is_null()).count();
    assert_eq!(unknown, 0);
}
