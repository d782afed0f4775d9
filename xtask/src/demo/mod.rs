//! The demonstration of `cargo xtask run`: Services from bundled YAML, real backends and real clients,
//! without a cluster. It leaves nothing behind. This file has its steps; `stage` makes its surroundings.

mod backends;
pub(crate) mod client;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::shell::print;
use client::Sighting;
use stage::Stage;

/// Number of requests to each Service.
const REQUESTS: usize = 20;
/// Time for which a client keeps connecting while a backend becomes unready.
const FOLLOW: Duration = Duration::from_millis(1500);

/// Runs the demonstration with the program `svclb`, as root.
///
/// # Errors
/// A step failed.
pub(crate) fn run(svclb: &Path) -> Result<()> {
    let mut stage = Stage::set_up(svclb)?;
    show_surroundings(&stage);
    send_requests(&stage)?;
    show_peer_name(&stage)?;
    show_maps(&stage)?;
    remove_backend(&stage)?;
    stage.tear_down()?;
    print("\nDone. The namespace, the cgroup, the maps and the programs are removed.");
    print(
        "Next: `cargo xtask run -- --from DIR` serves your own YAML to this machine's processes.",
    );
    Ok(())
}

fn print_heading(text: &str) {
    print(&format!("\n== {text}"));
}

fn show_surroundings(stage: &Stage) {
    print(
        "svclb balances the load of Kubernetes Services at the socket: when a process connects to a",
    );
    print("Service's address, an eBPF program replaces it with a pod's address, once, before the");
    print("connection is made. There is no NAT, no proxy, and no work per packet.");
    print_heading("The surroundings");
    print("An isolated network namespace with six servers as pods:");
    for pod in backends::PODS {
        print(&format!("  {:<10} {}", pod.name, pod.listens()));
    }
    print(&format!("Services and endpoints are YAML files in {}:", stage.yaml().display()));
    print("  hello  10.96.0.10:80/TCP     hello2  10.96.0.20:80/TCP");
    print("  clock  10.96.0.30:123/UDP    hello6  [fd00:96::10]:80/TCP");
    print("No interface has any of these four addresses, and there is no route to them.");
    print(&format!("The agent: {}", stage.agent_command()));
}

fn send_requests(stage: &Stage) -> Result<()> {
    print_heading(&format!("Which backends answer {REQUESTS} requests to each Service"));
    let first = stage.curl("http://10.96.0.10/")?;
    print("$ curl http://10.96.0.10/");
    for line in first.lines() {
        print(&format!("  {line}"));
    }
    print("");
    print(&format!("{:<10} {:<22} {:<10} {:>8}", "SERVICE", "DIALLED", "BACKEND", "ANSWERS"));
    for (service, url) in [
        ("hello", "http://10.96.0.10/"),
        ("hello2", "http://10.96.0.20/"),
        ("hello6", "http://[fd00:96::10]/"),
    ] {
        let mut answers = BTreeMap::new();
        for _ in 0..REQUESTS {
            let answer = stage.curl(url)?;
            let name = client::hostname(&answer)
                .with_context(|| format!("{url} answered without a hostname: {answer:?}"))?;
            *answers.entry(name.to_owned()).or_insert(0) += 1;
        }
        print_answers(service, url, &answers)?;
    }
    let mut answers = BTreeMap::new();
    for _ in 0..REQUESTS {
        let output = stage.client(&["udp", "10.96.0.30:123"])?;
        let (name, source) =
            output.trim().split_once(' ').context("the UDP client printed nothing")?;
        ensure!(
            source == "10.96.0.30:123",
            "a reply came from {source} instead of the Service's address"
        );
        *answers.entry(name.to_owned()).or_insert(0) += 1;
    }
    print_answers("clock", "udp 10.96.0.30:123", &answers)?;
    print("Clients of clock received each reply from 10.96.0.30:123, the Service's address.");
    Ok(())
}

fn print_answers(service: &str, dialled: &str, answers: &BTreeMap<String, u32>) -> Result<()> {
    for (name, times) in answers {
        print(&format!("{service:<10} {dialled:<22} {name:<10} {times:>8}"));
    }
    // The probability that one of two backends answers all of 20 requests is 1 in 500,000.
    ensure!(answers.len() == 2, "{service}: both backends should have answered, not {answers:?}");
    Ok(())
}

fn show_peer_name(stage: &Stage) -> Result<()> {
    print_heading("The peer's address in the client");
    let output = stage.client(&["peer", "10.96.0.10:80"])?;
    let (peer, name) = output.trim().split_once(' ').context("the client printed nothing")?;
    print(&format!("connect to 10.96.0.10:80, answered by {name}: getpeername returns {peer}"));
    ensure!(peer == "10.96.0.10:80", "getpeername should return the Service's address");
    Ok(())
}

fn show_maps(stage: &Stage) -> Result<()> {
    print_heading("The maps in the kernel, as bpftool shows them");
    print("svclb_frontends: a Service's addresses and ports (IPv4 as ::ffff:a.b.c.d)");
    stage.dump("svclb_frontends")?;
    print("svclb_services: the Services");
    stage.dump("svclb_services")?;
    print("svclb_backends: the addresses that clients connect to");
    stage.dump("svclb_backends")?;
    print("The same, from `svclb services` and `svclb backends`:");
    print(&stage.svclb(&["services"])?);
    print(&stage.svclb(&["backends"])?);
    Ok(())
}

fn remove_backend(stage: &Stage) -> Result<()> {
    print_heading("A backend becomes unready");
    let follow = stage.follow("10.96.0.10:80", FOLLOW)?;
    // Both backends answer for a while first.
    std::thread::sleep(FOLLOW / 5);
    let edited = stage.edit("hello.yaml", |text| {
        // The second of the two endpoints: hello-2.
        let at = text.rfind("ready: true")?;
        let mut edited = text.to_owned();
        edited.replace_range(at.., &text[at..].replacen("ready: true", "ready: false", 1));
        Some(edited)
    })?;
    let shown = shown_after(stage, edited.instant)?;
    print("hello.yaml now has `ready: false` for hello-2, while a client connects without pause:");
    let sightings = follow.finish()?;
    report(&sightings, edited.time, shown)
}

/// Waits until the maps have the change, and returns the time since `edited`.
fn shown_after(stage: &Stage, edited: Instant) -> Result<Duration> {
    while edited.elapsed() < Duration::from_secs(5) {
        if !stage.svclb(&["backends", "-o", "json"])?.contains("10.244.0.12") {
            return Ok(edited.elapsed());
        }
    }
    anyhow::bail!("the maps still have hello-2 five seconds after it became unready")
}

fn report(sightings: &[Sighting], edited: Duration, shown: Duration) -> Result<()> {
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let (before, after): (Vec<_>, Vec<_>) =
        sightings.iter().partition(|sighting| sighting.begun < edited);
    let count = |name: &str, of: &[&Sighting]| of.iter().filter(|s| s.backend == name).count();
    let last = after.iter().filter(|sighting| sighting.backend == "hello-2").map(|s| s.begun).max();
    // The first connection after the last one to hello-2.
    let avoids = after.iter().map(|sighting| sighting.begun).find(|begun| Some(*begun) > last);
    let avoided = avoids.unwrap_or(edited).saturating_sub(edited);
    print(&format!(
        "  before: {} connections, hello-1 {} times, hello-2 {} times",
        before.len(),
        count("hello-1", &before),
        count("hello-2", &before),
    ));
    print(&format!(
        "  after:  {} connections, hello-1 {} times, hello-2 {} times",
        after.len(),
        count("hello-1", &after),
        count("hello-2", &after),
    ));
    print(&format!(
        "  New connections avoid hello-2 from {} after the file was written. Another process saw",
        milliseconds(avoided)
    ));
    print(&format!("  it gone from the maps after {}. No connection failed.", milliseconds(shown)));
    ensure!(count("hello-2", &before) > 0, "hello-2 should have answered while it was ready");
    ensure!(!after.is_empty(), "the client should have connected after the change");
    let late = edited + shown.max(Duration::from_millis(100));
    let wrong = after.iter().filter(|s| s.backend == "hello-2" && s.begun > late).count();
    ensure!(wrong == 0, "{wrong} connections reached hello-2 after the maps had the change");
    Ok(())
}
