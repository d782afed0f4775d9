//! The demonstration of `cargo xtask run`: Services from bundled YAML, real backends, real clients, no
//! cluster, nothing left behind. This file tells the story; `stage` sets it up.

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

/// Requests for each table of who answered.
const REQUESTS: usize = 20;
/// How long the client keeps connecting while a backend's readiness goes.
const FOLLOW: Duration = Duration::from_millis(1500);

/// Runs the demonstration with the program `svclb`, as root.
///
/// # Errors
/// A step of it failed.
pub(crate) fn run(svclb: &Path) -> Result<()> {
    let mut stage = Stage::set(svclb)?;
    opening(&stage);
    dialling(&stage)?;
    naming(&stage)?;
    looking_inside(&stage)?;
    leaving(&stage)?;
    stage.strike()?;
    print("\nDone. The namespace, the cgroup, the maps and the programs are gone again.");
    print("Next: `cargo xtask run -- --from DIR` serves your own YAML on this machine's sockets.");
    Ok(())
}

fn heading(text: &str) {
    print(&format!("\n== {text}"));
}

fn opening(stage: &Stage) {
    print(
        "svclb gives Kubernetes Services to the processes of a node at the socket: when a program",
    );
    print(
        "dials a Service's address, an eBPF program puts a pod's address in its place, once, before",
    );
    print("the connection is made. No NAT, no proxy, nothing per packet.");
    heading("The stage");
    print("A network namespace of its own (no way out of it), in it six real servers as pods:");
    for pod in backends::PODS {
        print(&format!("  {:<10} {}", pod.name, pod.listens()));
    }
    print(&format!("Services and endpoints are YAML files in {}:", stage.yaml().display()));
    print("  hello  10.96.0.10:80/TCP     hello2  10.96.0.20:80/TCP");
    print("  clock  10.96.0.30:123/UDP    hello6  [fd00:96::10]:80/TCP");
    print("No interface has any of these four addresses, and no route leads to them.");
    print(&format!("The agent: {}", stage.agent_command()));
}

fn dialling(stage: &Stage) -> Result<()> {
    heading(&format!("Who answers: {REQUESTS} requests to each Service"));
    let first = stage.curl("http://10.96.0.10/")?;
    print("$ curl http://10.96.0.10/");
    for line in first.lines() {
        print(&format!("  {line}"));
    }
    print("");
    print(&format!("{:<10} {:<22} {:<10} {:>8}", "SERVICE", "DIALLED", "ANSWERED", "TIMES"));
    for (service, url) in [
        ("hello", "http://10.96.0.10/"),
        ("hello2", "http://10.96.0.20/"),
        ("hello6", "http://[fd00:96::10]/"),
    ] {
        let mut who = BTreeMap::new();
        for _ in 0..REQUESTS {
            let answer = stage.curl(url)?;
            let name = client::hostname(&answer)
                .with_context(|| format!("{url} answered without a hostname: {answer:?}"))?;
            *who.entry(name.to_owned()).or_insert(0) += 1;
        }
        table(service, url, &who)?;
    }
    let mut who = BTreeMap::new();
    for _ in 0..REQUESTS {
        let said = stage.client(&["udp", "10.96.0.30:123"])?;
        let (name, source) = said.trim().split_once(' ').context("the UDP client said nothing")?;
        ensure!(
            source == "10.96.0.30:123",
            "a reply came from {source}, not from what was dialled"
        );
        *who.entry(name.to_owned()).or_insert(0) += 1;
    }
    table("clock", "udp 10.96.0.30:123", &who)?;
    print("Each reply of clock came from 10.96.0.30:123, the address that was dialled.");
    Ok(())
}

fn table(service: &str, dialled: &str, who: &BTreeMap<String, u32>) -> Result<()> {
    for (name, times) in who {
        print(&format!("{service:<10} {dialled:<22} {name:<10} {times:>8}"));
    }
    // One backend of two for all of 20 even draws: one chance in 500,000.
    ensure!(who.len() == 2, "{service}: both of its backends should have answered, not {who:?}");
    Ok(())
}

fn naming(stage: &Stage) -> Result<()> {
    heading("What a program is told");
    let said = stage.client(&["peer", "10.96.0.10:80"])?;
    let (peer, name) = said.trim().split_once(' ').context("the client said nothing")?;
    print(&format!("connect to 10.96.0.10:80, answered by {name}: getpeername says {peer}"));
    ensure!(peer == "10.96.0.10:80", "getpeername should say what was dialled");
    Ok(())
}

fn looking_inside(stage: &Stage) -> Result<()> {
    heading("Where does 10.96.0.10:80 go? What bpftool shows");
    print(
        "svclb_frontends: what clients dial, and whose it is (addresses: IPv4 as ::ffff:a.b.c.d)",
    );
    stage.dump("svclb_frontends")?;
    print("svclb_services: who that is");
    stage.dump("svclb_services")?;
    print("svclb_backends: where its clients go");
    stage.dump("svclb_backends")?;
    print("The same by `svclb services` and `svclb backends`:");
    print(&stage.svclb(&["services"])?);
    print(&stage.svclb(&["backends"])?);
    Ok(())
}

fn leaving(stage: &Stage) -> Result<()> {
    heading("A backend is not ready any more");
    let follow = stage.follow("10.96.0.10:80", FOLLOW)?;
    // Some answers of both first.
    std::thread::sleep(FOLLOW / 5);
    let edited = stage.edit("hello.yaml", |text| {
        // The second of the two endpoints: hello-2.
        let at = text.rfind("ready: true")?;
        let mut edited = text.to_owned();
        edited.replace_range(at.., &text[at..].replacen("ready: true", "ready: false", 1));
        Some(edited)
    })?;
    let shown = shown_after(stage, edited.instant)?;
    print("hello.yaml now says `ready: false` for hello-2, while a client connects without pause:");
    let sightings = follow.finish()?;
    report(&sightings, edited.time, shown)
}

/// How long after `edited` the maps had the change.
fn shown_after(stage: &Stage, edited: Instant) -> Result<Duration> {
    while edited.elapsed() < Duration::from_secs(5) {
        if !stage.svclb(&["backends", "-o", "json"])?.contains("10.244.0.12") {
            return Ok(edited.elapsed());
        }
    }
    anyhow::bail!("the maps still have hello-2 five seconds after its readiness went")
}

fn report(sightings: &[Sighting], edited: Duration, shown: Duration) -> Result<()> {
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let (before, after): (Vec<_>, Vec<_>) =
        sightings.iter().partition(|sighting| sighting.begun < edited);
    let gone = |name: &str, of: &[&Sighting]| of.iter().filter(|s| s.who == name).count();
    let last = after.iter().filter(|sighting| sighting.who == "hello-2").map(|s| s.begun).max();
    // The first connection after the last one that reached it: from then on it is avoided.
    let avoids = after.iter().map(|sighting| sighting.begun).find(|begun| Some(*begun) > last);
    let avoided = avoids.unwrap_or(edited).saturating_sub(edited);
    print(&format!(
        "  before: {} connections, hello-1 {} times, hello-2 {} times",
        before.len(),
        gone("hello-1", &before),
        gone("hello-2", &before),
    ));
    print(&format!(
        "  after:  {} connections, hello-1 {} times, hello-2 {} times",
        after.len(),
        gone("hello-1", &after),
        gone("hello-2", &after),
    ));
    print(&format!(
        "  New connections avoid hello-2 from {} after the file was written. Another process saw",
        milliseconds(avoided)
    ));
    print(&format!("  it gone from the maps after {}. No connection failed.", milliseconds(shown)));
    ensure!(gone("hello-2", &before) > 0, "hello-2 should have answered before its readiness went");
    ensure!(!after.is_empty(), "the client should have connected after the change");
    let late = edited + shown.max(Duration::from_millis(100));
    let wrong = after.iter().filter(|s| s.who == "hello-2" && s.begun > late).count();
    ensure!(wrong == 0, "{wrong} connections reached hello-2 after the maps had the change");
    Ok(())
}
