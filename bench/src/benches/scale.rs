//! Connects among more and more frontends with ten backends each, dialled at random.

use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;

use super::datapath::{SHORT_TURNS, TURNS};
use super::{Effort, net, ran};
use crate::book::{Book, Unit};
use crate::lane::content::Content;
use crate::lane::order::{Order, Transport};
use crate::lane::servers::PLAIN;
use crate::lane::{Lane, Peer};

const BENCH: &str = "scale";
/// Numbers of frontends: Services, and UDP ports of each.
const SIZES: [(u32, u16); 4] = [(10, 1), (1_000, 1), (5_000, 1), (50_000, 2)];
/// Backends of each Service.
const BACKENDS: u32 = 10;
/// Of the order in which they are dialled.
const SEED: u64 = 1;

/// How a size is called.
fn size(services: u32, ports: u16) -> String {
    let frontends = services * u32::from(ports);
    format!("{frontends} frontends, {} backends", frontends * BACKENDS)
}

/// Measures each size.
///
/// # Errors
/// A lane cannot be made, or its client cannot do what it is asked.
pub(crate) fn run(book: &mut Book, effort: Effort) -> anyhow::Result<()> {
    let sizes = SIZES.map(|(services, ports)| Content {
        services,
        ports,
        has_tcp: false,
        backends: BACKENDS,
    });
    let mut direct = Lane::start(Peer::Direct, &Content::SMALL, None)?;
    let mut empty = Lane::start(Peer::Empty, &Content::SMALL, None)?;
    let mut lanes = Vec::new();
    for content in sizes {
        crate::say(&format!("{} are written", size(content.services, content.ports)));
        let mut places = content.places(PLAIN);
        places.shuffle(&mut ChaCha8Rng::seed_from_u64(SEED));
        lanes.push((content, places, Lane::start(Peer::Svclb, &content, None)?));
    }
    for _ in 0..effort.rounds {
        let order = |lane: &Lane, places: &[_], count| {
            Order::connect(Transport::Udp, lane.places(places, PLAIN), count)
        };
        let (part, mut straight) = (effort.calls / TURNS, Vec::new());
        for (content, places, lane) in &mut lanes {
            let size = size(content.services, content.ports);
            // Each once at least: what was dialled just before is in the cache.
            let all = u32::try_from(places.len())?;
            let answer = lane.ask(&order(lane, places, effort.calls.max(all)))?;
            book.add_times(BENCH, &size, Peer::Svclb, &answer.times["connect"]);
            let mut differences = Vec::new();
            for _ in 0..SHORT_TURNS {
                let mut answer = direct.ask(&order(&direct, &[], part))?;
                straight.extend(answer.times.remove("connect"));
                let (_, nothing) = empty.ask_programs(&order(&empty, &[], part))?;
                let (answer, ours) = lane.ask_programs(&order(lane, places, part.max(all)))?;
                ran(&ours, &["connect4"], answer.calls)?;
                differences.push(net(&["connect4"], &ours, &nothing));
            }
            let what = format!("net, {size}");
            book.add_turns(BENCH, &what, Peer::Svclb, Unit::Nanoseconds, differences);
        }
        // Beside each of the sizes.
        book.add_timed_turns(BENCH, "direct", Peer::Direct, straight);
    }
    Ok(())
}
