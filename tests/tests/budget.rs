//! Costs of the datapath and of a change in numbers that do not depend on the machine's speed:
//! instructions of the programs and system calls of the agent. svclb-common counts the lines and map
//! lookups of each path, svclb-core the allocations and steps.

use std::collections::BTreeMap;
use std::time::Duration;

use aya::programs::loaded_programs;
use svclb_tests::{
    Faults, HOOKS,
    Operation::{Delete, Lookup, Map, Update},
    Tcp, World, eventually, holds_for,
};

/// Maximum number of 8-byte instructions of each program after verification: ten percent more than on
/// Linux 6.18. The verifier inlines some helpers, so kernels differ a little.
const INSTRUCTIONS: [(&str, u32); 9] = [
    ("connect4", 2_491),
    ("connect6", 2_634),
    ("sendmsg4", 5_087),
    ("sendmsg6", 5_150),
    ("recvmsg4", 570),
    ("recvmsg6", 630),
    ("getpeername4", 217),
    ("getpeername6", 275),
    ("sock_release", 100),
];

#[test]
fn programs_stay_within_their_instruction_budgets() {
    let world = World::new("instructions");
    let loaded: BTreeMap<u64, u32> = loaded_programs()
        .map(|program| program.unwrap())
        .filter_map(|program| Some((program.id().into(), program.size_translated()? / 8)))
        .collect();
    let programs: BTreeMap<&str, u64> = HOOKS.into_iter().zip(world.programs()).collect();
    let found: Vec<_> = INSTRUCTIONS
        .iter()
        .map(|(hook, budget)| (*hook, loaded[&programs[hook]], *budget))
        .inspect(|(hook, found, budget)| println!("{hook}: {found} of {budget} instructions"))
        .collect();
    let grown: Vec<_> = found.iter().filter(|(_, found, budget)| found > budget).collect();
    assert!(
        grown.is_empty(),
        "these programs exceed their budget (hook, instructions, budget): {grown:?}"
    );
}

/// Replaces one endpoint among `services` Services and counts the agent's calls.
fn calls_of_a_change(services: u16) {
    let world = World::builder(&format!("calls-{services}")).without_agent().start();
    let backends = world.backends("b", Tcp, 4);
    let faults = Faults::new();
    let write = |number: u16, backends: &[_]| {
        let [high, low] = number.to_be_bytes();
        let service = world.service(&format!("default/s{number}"));
        let service = service.cluster_ip(&format!("10.96.{high}.{low}")).port(80, Tcp);
        service.backends(backends).write();
    };
    (1..=services).for_each(|number| write(number, &backends[..3]));
    world.start_agent_with_faults(Some(&faults));
    world.settle();
    faults.clear();
    write(1, &backends[1..]);
    let calls = || {
        let mut calls = BTreeMap::new();
        for call in faults.calls() {
            // Other calls come from the supervision of hooks and pins every two seconds. Mapping slots
            // for a change would cost more than writing them.
            if matches!(call.operation, Lookup | Update | Delete | Map) {
                *calls.entry(format!("{:?} {}", call.operation, call.name)).or_default() += 1;
            }
        }
        calls
    };
    let expected: BTreeMap<String, usize> = [
        "Update svclb_backends",
        // One batch for all slots of the set.
        "Update svclb_slots",
        "Delete svclb_backends",
        // The counts of what the maps hold.
        "Update svclb_meta",
        // The wait for a grace period, after which freed lines and slots can be reused.
        "Update ",
    ]
    .map(|call| (call.to_owned(), 1))
    .into();
    let check = || match calls() {
        calls if calls == expected => Ok(()),
        calls => Err(format!("{calls:?}, expected {expected:?}")),
    };
    eventually("the change is written", check);
    holds_for(Duration::from_secs(1), "no further call is made", check);
}

#[test]
fn the_calls_of_an_endpoint_change_do_not_depend_on_the_number_of_services() {
    calls_of_a_change(2);
    calls_of_a_change(300);
}
