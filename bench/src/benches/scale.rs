//! Connects among increasing numbers of frontends with ten backends each, in random order.

use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;

use super::datapath::{SHORT_TURNS, TURNS};
use super::{Effort, check_runs, net};
use crate::book::{Book, Unit};
use crate::lane::content::Content;
use crate::lane::order::{Order, Transport};
use crate::lane::servers::PLAIN;
use crate::lane::{Lane, Peer};

const BENCH: &str = "scale";
/// Sizes: the number of Services, and of UDP ports of each.
const SIZES: [(u32, u16); 4] = [(10, 1), (1_000, 1), (5_000, 1), (50_000, 2)];
/// Backends of each Service.
const BACKENDS: u32 = 10;
/// Seed of the order of the connects.
const SEED: u64 = 1;

/// Returns the name of a size.
fn size(services: u32, ports: u16) -> String {
    let frontends = services * u32::from(ports);
    format!("{frontends} frontends, {} backends", frontends * BACKENDS)
}

/// Measures each size.
///
/// # Errors
/// A lane cannot be made, or a call of its client fails.
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
        crate::log(&format!("writing {}", size(content.services, content.ports)));
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
            // At least once each, as a frontend that was dialled just before is in the cache.
            let all = u32::try_from(places.len())?;
            let answer = lane.execute(&order(lane, places, effort.calls.max(all)))?;
            book.add_times(BENCH, &size, Peer::Svclb, &answer.times["connect"]);
            let mut differences = Vec::new();
            for _ in 0..SHORT_TURNS {
                let mut answer = direct.execute(&order(&direct, &[], part))?;
                straight.extend(answer.times.remove("connect"));
                let (_, without) = empty.execute_counted(&order(&empty, &[], part))?;
                let (answer, svclb) = lane.execute_counted(&order(lane, places, part.max(all)))?;
                check_runs(&svclb, &["connect4"], answer.calls)?;
                differences.push(net(&["connect4"], &svclb, &without));
            }
            let what = format!("net, {size}");
            book.add_turns(BENCH, &what, Peer::Svclb, Unit::Nanoseconds, differences);
        }
        // Its turns were interleaved with those of all sizes.
        book.add_timed_turns(BENCH, "direct", Peer::Direct, straight);
    }
    Ok(())
}
