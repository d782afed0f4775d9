//! Memory of the maps in the kernel and of the agent, by the number of frontends and backends.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use svclb_tests::World;

use super::Effort;
use crate::book::{Book, Unit};
use crate::lane::Peer;
use crate::lane::content::Content;

const BENCH: &str = "memory";
/// Time after which the agent has released the memory that only its start needed.
const REST: Duration = Duration::from_secs(1);

const fn content(services: u32, backends: u32) -> Content {
    Content { services, ports: 1, has_tcp: false, backends }
}

/// A base, a content with more frontends and one with more backends. The sizes of tables are powers of two,
/// which these contents fill to the same extent, at least to a quarter.
const BASE: Content = content(8_000, 4);
const MORE_FRONTENDS: Content = content(16_000, 2);
const MORE_BACKENDS: Content = content(8_000, 8);
/// The number of additional frontends and of additional backends.
const MORE: [f64; 2] = [8_000.0, 32_000.0];

/// Measures all of it.
///
/// # Errors
/// The kernel does not report the memory of a map or process.
pub(crate) fn run(book: &mut Book, effort: Effort) -> anyhow::Result<()> {
    for _ in 0..effort.rounds {
        let mut add = |what: &str, value| book.add(BENCH, what, Peer::Svclb, Unit::Bytes, value);
        let small = Taken::by(&Content::SMALL)?;
        add("maps, 10 Services", small.kernel);
        add("agent with files, 10 Services", small.agent);
        let base = Taken::by(&BASE)?;
        add("maps, 8,000 Services with 4 backends each", base.kernel);
        add("agent with files, 8,000 Services with 4 backends each", base.agent);
        let by_frontends = Taken::by(&MORE_FRONTENDS)?;
        add("maps, for a frontend more", (by_frontends.kernel - base.kernel) / MORE[0]);
        add("agent with files, for a frontend more", (by_frontends.agent - base.agent) / MORE[0]);
        let by_backends = Taken::by(&MORE_BACKENDS)?;
        add("maps, for a backend more", (by_backends.kernel - base.kernel) / MORE[1]);
        add("agent with files, for a backend more", (by_backends.agent - base.agent) / MORE[1]);
    }
    Ok(())
}

/// Memory for serving some content, bytes.
#[derive(Clone, Copy, Debug)]
struct Taken {
    kernel: f64,
    agent: f64,
}

impl Taken {
    fn by(content: &Content) -> anyhow::Result<Self> {
        let world = World::builder("bench-memory").without_agent().start();
        world.write_file("content.yaml", &content.yaml());
        world.start_agent();
        let agent = world.take_agent();
        thread::sleep(REST);
        let taken = Self { kernel: maps(&world)?, agent: resident(agent.pid())? };
        world.put_agent(agent);
        Ok(taken)
    }
}

/// Returns the resident memory of a process, bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.map(|line| line.trim().trim_end_matches(" kB"));
    Ok(1_024.0
        * kilobytes.context("/proc has no resident memory of the process")?.parse::<f64>()?)
}

/// Returns the memory that the kernel accounts for the maps of a world, bytes.
pub(crate) fn maps(world: &World) -> anyhow::Result<f64> {
    let maps = world.version().join("maps");
    let bytes = world.inside(move || {
        let mut bytes = 0_u64;
        for pin in fs::read_dir(maps)? {
            bytes += locked(&aya::maps::MapInfo::from_pin(pin?.path())?)?;
        }
        Ok::<_, anyhow::Error>(bytes)
    })?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let bytes = bytes as f64;
    Ok(bytes)
}

/// Returns `memlock` of a map's descriptor (proc(5), fdinfo).
fn locked(map: &aya::maps::MapInfo) -> anyhow::Result<u64> {
    let map = map.fd()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    Ok(line.context("the kernel reports no memory of a map")?.trim().parse()?)
}
