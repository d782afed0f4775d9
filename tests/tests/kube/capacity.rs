//! One namespace exceeds its share of the memory that every agent spends on objects.

use std::fs;

use serde_json::{Value, json};
use svclb_tests::cluster::Reference;
use svclb_tests::{World, eventually};

use super::stage::{Stage, backends, service, slice};

/// Slices of the tenant, of 1,000 endpoints each: about 18 MB in an agent that keeps them.
const SLICES: usize = 100;
/// Allowed growth of the agent's memory in kB. The share of the namespace is 1.4 MB; in addition there
/// are the allocator and the pools of names, which are emptied once they have doubled.
const GROWTH: u64 = 12_000;

/// A slice of the tenant with as many endpoints as a slice may have.
fn large(number: usize) -> Value {
    let endpoints: Vec<Value> = (0..1_000_u16)
        .map(|at| {
            let [high, low] = at.to_be_bytes();
            json!({ "addresses": [format!("10.200.{high}.{low}")], "nodeName": format!("node-{number}-{at}") })
        })
        .collect();
    let mut slice = slice(&format!("orphan-{number}"), &[]);
    slice["metadata"]["namespace"] = json!("tenant");
    slice["endpoints"] = json!(endpoints);
    slice
}

fn of_tenant(mut object: Value) -> Value {
    object["metadata"]["namespace"] = json!("tenant");
    object
}

/// The agent's resident anonymous memory in kB.
fn resident(world: &World) -> u64 {
    let agent = world.take_agent();
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    world.put_agent(agent);
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Slices without a Service are in no budget of Services, and are kept all the same.
#[test]
fn slices_without_a_service_use_no_more_memory_than_their_namespaces_share() {
    let stage = Stage::new("kube-capacity");
    let (world, api) = (&stage.world, stage.api());
    api.apply_all(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "tenant" } }),
        service("hello", "10.96.0.10"),
        slice("hello", &["10.244.0.1"]),
        of_tenant(service("web", "10.96.0.20")),
        of_tenant(slice("web", &["10.244.0.3"])),
    ]);
    let flags = ["--all-memory", "2", "--silence", "2"];
    stage.start_agent_as(&stage.plane.kubeconfig(), &flags);
    stage.wait_for(&["10.244.0.1"]);
    let before = resident(world);
    api.create_all((0..SLICES).map(large).collect());
    // The slices are read in order, so this one comes after them. Its namespace has a share of its own.
    api.apply_all(&[slice("hello", &["10.244.0.1", "10.244.0.2"])]);
    stage.wait_for(&["10.244.0.1", "10.244.0.2"]);
    let after = resident(world);
    println!("{before} kB before, {after} kB with {SLICES} slices of 1,000 endpoints");
    assert!(after <= before + GROWTH, "memory grew from {before} kB to {after} kB");
    // Known objects stay and are updated; new ones exceed the share.
    api.apply_all(&[of_tenant(slice("web", &["10.244.0.4"]))]);
    eventually("a Service of the namespace is updated", || match backends(world, "web") {
        found if found == ["10.244.0.4".to_owned()].into() => Ok(()),
        found => Err(format!("{found:?}")),
    });
    let mut wide = of_tenant(slice("web", &[]));
    wide["endpoints"] = large(0)["endpoints"].take();
    api.apply_all(&[wide]);
    stage.wait_for_log(&["ERROR", "tenant/web", "one of its objects needs", "--all-memory"]);
    eventually("the Service is refused", || match &world.status()["refused"] {
        found if *found == json!(1) => Ok(()),
        found => Err(found.to_string()),
    });
    assert!(backends(world, "web").is_empty());
    // A later agent decides the same, and its list needs no more memory than the watch.
    drop(world.take_agent());
    stage.start_agent_as(&stage.plane.kubeconfig(), &flags);
    stage.wait_for(&["10.244.0.1", "10.244.0.2"]);
    let listed = resident(world);
    println!("{listed} kB after a list of them");
    assert!(listed <= before + GROWTH, "memory grew from {before} kB to {listed} kB");
    // The tenant frees its share.
    for number in 0..SLICES {
        api.delete(&Reference::slice(&format!("tenant/orphan-{number}-1")), None).unwrap();
    }
    eventually("the Service is served again", || match backends(world, "web").len() {
        1_000 => Ok(()),
        found => Err(format!("{found} backends\n{}", world.agent_log())),
    });
    eventually("no Service is refused", || match &world.status()["refused"] {
        found if *found == json!(0) => Ok(()),
        found => Err(found.to_string()),
    });
}
