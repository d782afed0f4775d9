//! What the datapath and a change cost, in numbers that do not depend on how fast a machine is:
//! instructions of the programs, and system calls of the agent. The lines and hash maps that each path
//! touches are counted in svclb-common, allocations and steps in svclb-core.

use std::collections::BTreeMap;
use std::time::Duration;

use aya::programs::loaded_programs;
use svclb_tests::{
    Faults, HOOKS,
    Operation::{Delete, Lookup, Map, Update},
    Tcp, World, eventually, holds_for,
};

/// The most instructions of 8 bytes that the verifier may leave of each program: a tenth more than it
/// leaves on 6.18. It inlines some helpers, so kernels differ a little.
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
fn no_program_has_grown() {
    let world = World::new("instructions");
    let loaded: BTreeMap<u64, u32> = loaded_programs()
        .map(|program| program.unwrap())
        .filter_map(|program| Some((program.id().into(), program.size_translated()? / 8)))
        .collect();
    let programs: BTreeMap<&str, u64> = HOOKS.into_iter().zip(world.programs()).collect();
    let found: Vec<_> = INSTRUCTIONS
        .iter()
        .map(|(hook, most)| (*hook, loaded[&programs[hook]], *most))
        .inspect(|(hook, found, most)| println!("{hook}: {found} of {most} instructions"))
        .collect();
    let grown: Vec<_> = found.iter().filter(|(_, found, most)| found > most).collect();
    assert!(grown.is_empty(), "hook, instructions, and the most that it may have: {grown:?}");
}

/// Lets one endpoint take another's place, among so many Services, and looks which calls that takes.
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
            // Besides, hooks and pins are looked after every two seconds. To map slots for a change is
            // dearer than to write them.
            if matches!(call.operation, Lookup | Update | Delete | Map) {
                *calls.entry(format!("{:?} {}", call.operation, call.name)).or_default() += 1;
            }
        }
        calls
    };
    let expected: BTreeMap<String, usize> = [
        "Update svclb_backends",
        // All slots of the set.
        "Update svclb_slots",
        "Delete svclb_backends",
        // Says what the maps hold now.
        "Update svclb_meta",
        // Waits for running programs, so that what was given up can be used again.
        "Update ",
    ]
    .map(|call| (call.to_owned(), 1))
    .into();
    let check = || match calls() {
        calls if calls == expected => Ok(()),
        calls => Err(format!("{calls:?}, and not {expected:?}")),
    };
    eventually("the change is written", check);
    holds_for(Duration::from_secs(1), "nothing else is written", check);
}

#[test]
fn one_endpoint_changes_by_as_many_calls_among_few_services_as_among_many() {
    calls_of_a_change(2);
    calls_of_a_change(300);
}
