//! One namespace writes more than its share of what every agent keeps in memory.

use std::fs;

use serde_json::{Value, json};
use svclb_tests::cluster::Reference;
use svclb_tests::{World, eventually};

use super::stage::{Stage, backends, service, slice};

/// Slices of the tenant's, of 1,000 endpoints each: some 18 MB in an agent that keeps them.
const SLICES: usize = 100;
/// What the agent may take more with them, kB. The share of the namespace is 1.4 MB; the allocator and the
/// pools of names, which are emptied when they have doubled, come on top.
const GROWTH: u64 = 12_000;

/// A slice of a namespace with as many endpoints as it may have.
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

/// kB of its memory that are no file's.
fn resident(world: &World) -> u64 {
    let agent = world.take_agent();
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    world.put_agent(agent);
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Slices of no Service are in no budget of Services, and are kept all the same.
#[test]
fn slices_without_a_service_take_no_more_memory_than_the_share_of_their_namespace() {
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
    // They are read in their order, so this comes after them. The other namespace has its own share.
    api.apply_all(&[slice("hello", &["10.244.0.1", "10.244.0.2"])]);
    stage.wait_for(&["10.244.0.1", "10.244.0.2"]);
    let after = resident(world);
    println!("{before} kB before, {after} kB with {SLICES} slices of 1,000 endpoints");
    assert!(after <= before + GROWTH, "{before} kB became {after} kB");
    // What is there stays, and follows its changes. What comes new is beyond the share.
    api.apply_all(&[of_tenant(slice("web", &["10.244.0.4"]))]);
    eventually("a Service of the namespace is followed", || match backends(world, "web") {
        found if found == ["10.244.0.4".to_owned()].into() => Ok(()),
        found => Err(format!("{found:?}")),
    });
    let mut wide = of_tenant(slice("web", &[]));
    wide["endpoints"] = large(0)["endpoints"].take();
    api.apply_all(&[wide]);
    stage.wait_for_log(&["ERROR", "tenant/web", "one of its objects needs", "--all-memory"]);
    eventually("it is refused", || match &world.status()["refused"] {
        found if *found == json!(1) => Ok(()),
        found => Err(found.to_string()),
    });
    assert!(backends(world, "web").is_empty());
    // A later agent comes to no other end, and its list fills its memory no more than the watch did.
    drop(world.take_agent());
    stage.start_agent_as(&stage.plane.kubeconfig(), &flags);
    stage.wait_for(&["10.244.0.1", "10.244.0.2"]);
    let listed = resident(world);
    println!("{listed} kB after a list of them");
    assert!(listed <= before + GROWTH, "{before} kB became {listed} kB");
    // Room comes.
    for number in 0..SLICES {
        api.delete(&Reference::slice(&format!("tenant/orphan-{number}-1")), None).unwrap();
    }
    eventually("the Service is served again", || match backends(world, "web").len() {
        1_000 => Ok(()),
        found => Err(format!("{found} backends\n{}", world.agent_log())),
    });
    eventually("none is refused", || match &world.status()["refused"] {
        found if *found == json!(0) => Ok(()),
        found => Err(found.to_string()),
    });
}
