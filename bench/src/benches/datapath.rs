//! What a client sees of its calls, and what the programs take for each, over ten Services with ten
//! backends each.

use std::collections::BTreeMap;

use super::{Effort, net, ran};
use crate::book::{Book, Unit, median};
use crate::lane::content::{Content, elsewhere, servers};
use crate::lane::order::{Order, Times, Transport};
use crate::lane::proxy::Cluster;
use crate::lane::servers::{CLOSED, ECHO, PLAIN, SINK};
use crate::lane::{Lane, Peer};

/// Peers whose clients' calls do not pass a packet.
const PLAINLY: [Peer; 3] = [Peer::Direct, Peer::Empty, Peer::Svclb];
/// Peers whose clients' calls do.
const ALL: [Peer; 5] = [Peer::Direct, Peer::Empty, Peer::Svclb, Peer::Nftables, Peer::Iptables];
/// How often a time that others are compared with is taken in a round.
const TURNS: usize = 5;
/// How long a round of something that is counted by time is.
const MILLISECONDS: u64 = 500;
/// Connections leave traces in connection tracking, of which there are only so many.
const TRACKED: u32 = 4;
/// Calls that take a second each: an ICMP message that refuses a SYN while its socket is still in
/// connect(2) is not heard (net/ipv4/tcp_ipv4.c, `tcp_v4_err`), only that for the next SYN.
const FEW: u32 = 2;

/// What is measured of the same lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// Connects to a Service, to what is none, and refused; closes.
    Connect,
    /// Datagrams of unconnected sockets.
    Udp,
    /// getpeername(2).
    Names,
    /// Closing.
    Release,
    /// More than one thread.
    Threads,
    /// After the connection.
    Throughput,
}

/// Measures these parts.
///
/// # Errors
/// A lane cannot be made, or its client cannot do what it is asked.
pub(crate) fn run(book: &mut Book, parts: &[Part], effort: Effort) -> anyhow::Result<()> {
    let content = Content::SMALL;
    let has = |part| parts.contains(&part);
    let passes_packets = has(Part::Connect) || has(Part::Udp) || has(Part::Throughput);
    let cluster = passes_packets.then(|| Cluster::start(&content)).transpose()?;
    let peers: &[Peer] = if cluster.is_some() { &ALL } else { &PLAINLY };
    let mut lanes = Vec::new();
    for peer in peers {
        lanes.push(Lane::start(*peer, &content, cluster.as_ref())?);
    }
    for _ in 0..effort.rounds {
        for part in parts {
            match part {
                Part::Connect => connect(book, &mut lanes, &content, effort.calls)?,
                Part::Udp => udp(book, &mut lanes, &content, effort.calls)?,
                Part::Names => names(book, &mut lanes, &content, effort.calls)?,
                Part::Release => release(book, &mut lanes, &content, effort.calls)?,
                Part::Threads => threads(book, &mut lanes, &content)?,
                Part::Throughput => throughput(book, &mut lanes, &content)?,
            }
        }
    }
    Ok(())
}

/// The lanes whose peers are among these.
fn of<'a>(lanes: &'a mut [Lane], peers: &'a [Peer]) -> impl Iterator<Item = &'a mut Lane> {
    lanes.iter_mut().filter(|lane| peers.contains(&lane.peer()))
}

/// Takes how long a connect is in these peers' lanes, one lane after the other and again. Of each the turn
/// with the middle median is the round's: a lane whose turn comes while the machine does something else is
/// not slower for it.
fn see(
    book: &mut Book,
    lanes: &mut [Lane],
    peers: &[Peer],
    name: &str,
    order: impl Fn(&Lane) -> Order,
) -> anyhow::Result<()> {
    let mut seen: BTreeMap<Peer, Vec<Times>> = BTreeMap::new();
    for _ in 0..TURNS {
        for lane in of(lanes, peers) {
            let answer = lane.ask(&order(lane))?;
            seen.entry(lane.peer()).or_default().push(answer.times["connect"].clone());
        }
    }
    for (peer, mut turns) in seen {
        turns.sort_by(|a, b| a.median().total_cmp(&b.median()));
        book.add_times("connect", name, peer, &turns[turns.len() / 2]);
    }
    Ok(())
}

/// Has the same done in the lane of svclb and in that with empty programs, one after the other and
/// again, while the kernel counts. The middle of the differences is the round's: some tens of nanoseconds
/// are less than what the machine does meanwhile.
fn count(
    book: &mut Book,
    lanes: &mut [Lane],
    name: [&str; 2],
    hooks: &[&str],
    order: impl Fn(&Lane) -> Order,
) -> anyhow::Result<()> {
    let mut differences = Vec::new();
    for _ in 0..TURNS {
        let mut taken = Vec::new();
        for peer in [Peer::Svclb, Peer::Empty] {
            for lane in of(lanes, &[peer]) {
                let (answer, programs) = lane.ask_programs(&order(lane))?;
                ran(&programs, hooks, answer.calls)?;
                taken.push(programs);
            }
        }
        if let [ours, empty] = &taken[..] {
            differences.push(net(hooks, ours, empty));
        }
    }
    book.add(name[0], name[1], Peer::Svclb, Unit::Nanoseconds, median(&differences));
    Ok(())
}

fn connect(
    book: &mut Book,
    lanes: &mut [Lane],
    content: &Content,
    count_of_calls: u32,
) -> anyhow::Result<()> {
    const BENCH: &str = "connect";
    let order = |lane: &Lane, transport, calls| {
        Order::connect(transport, lane.places(&content.places(PLAIN), PLAIN), calls)
    };
    let udp = |lane: &Lane| order(lane, Transport::Udp, count_of_calls);
    let tcp = |lane: &Lane| order(lane, Transport::Tcp, count_of_calls / TRACKED);
    see(book, lanes, &PLAINLY, "UDP, to a Service", udp)?;
    see(book, lanes, &ALL, "TCP, to a Service", tcp)?;
    let none = |_: &Lane| Order::connect(Transport::Udp, elsewhere(), count_of_calls);
    let backend = |_: &Lane| Order::connect(Transport::Udp, servers(PLAIN), count_of_calls);
    see(book, lanes, &PLAINLY, "UDP, to what is no Service", none)?;
    let straight =
        |_: &Lane| Order::connect(Transport::Tcp, servers(PLAIN), count_of_calls / TRACKED);
    see(book, lanes, &PLAINLY, "TCP, to what is no Service (a backend itself)", straight)?;
    refused(book, lanes, count_of_calls / TRACKED)?;
    count(book, lanes, [BENCH, "net of a UDP connect to a Service"], &["connect4"], udp)?;
    let other = [BENCH, "net of a UDP connect to what is no Service"];
    count(book, lanes, other, &["connect4"], none)?;
    let straight = [BENCH, "net of a UDP connect straight to a backend"];
    count(book, lanes, straight, &["connect4"], backend)
}

/// Connects to a Service without backends, and directly to a port that nobody listens on. A direct UDP
/// connect, and one through kube-proxy's rules, is refused by nobody.
fn refused(book: &mut Book, lanes: &mut [Lane], calls: u32) -> anyhow::Result<()> {
    for (transport, what) in [(Transport::Tcp, "TCP, refused"), (Transport::Udp, "UDP, refused")] {
        for lane in lanes.iter_mut() {
            let (peer, is_tcp) = (lane.peer(), transport == Transport::Tcp);
            let to = if peer.serves() { vec![Content::nobody()] } else { servers(CLOSED) };
            let count = if matches!(peer, Peer::Nftables | Peer::Iptables) { FEW } else { calls };
            if is_tcp || peer == Peer::Svclb {
                let answer = lane.ask(&Order::Connect { transport, to, count, refused: true })?;
                book.add_times("connect", what, peer, &answer.times["connect"]);
            }
        }
    }
    Ok(())
}

fn udp(book: &mut Book, lanes: &mut [Lane], content: &Content, calls: u32) -> anyhow::Result<()> {
    const BENCH: &str = "udp";
    const HOOKS: [&str; 2] = ["sendmsg4", "recvmsg4"];
    for (services, pair, net) in [
        (1, "send and receive, one Service", "net of a send and a receive, one Service"),
        (8, "send and receive, 8 Services", "net of a send and a receive, 8 Services"),
    ] {
        let order = |lane: &Lane| {
            let places = lane.places(&content.places(PLAIN), PLAIN);
            Order::Exchange { to: places.into_iter().take(services).collect(), count: calls }
        };
        for lane in lanes.iter_mut() {
            let answer = lane.ask(&order(lane))?;
            book.add_times(BENCH, pair, lane.peer(), &answer.times["pair"]);
        }
        count(book, lanes, [BENCH, net], &HOOKS, order)?;
    }
    Ok(())
}

fn names(book: &mut Book, lanes: &mut [Lane], content: &Content, calls: u32) -> anyhow::Result<()> {
    const BENCH: &str = "names";
    let order = |lane: &Lane| {
        let to = lane.places(&content.places(PLAIN), PLAIN)[0];
        Order::Names { to, count: calls }
    };
    for lane in of(lanes, &PLAINLY) {
        let answer = lane.ask(&order(lane))?;
        book.add_times(BENCH, "getpeername", lane.peer(), &answer.times["getpeername"]);
    }
    count(book, lanes, [BENCH, "net of a getpeername"], &["getpeername4"], order)
}

fn release(
    book: &mut Book,
    lanes: &mut [Lane],
    content: &Content,
    calls: u32,
) -> anyhow::Result<()> {
    const BENCH: &str = "release";
    let connect = |to| Order::connect(Transport::Udp, to, calls);
    let service = |lane: &Lane| connect(lane.places(&content.places(PLAIN), PLAIN));
    let other = |_: &Lane| connect(elsewhere());
    for lane in of(lanes, &PLAINLY) {
        let answer = lane.ask(&service(lane))?;
        book.add_times(BENCH, "close, after a Service", lane.peer(), &answer.times["close"]);
    }
    let ours = [BENCH, "net of a release, after a Service"];
    count(book, lanes, ours, &["sock_release"], service)?;
    let others = [BENCH, "net of a release, after what is no Service"];
    count(book, lanes, others, &["sock_release"], other)
}

fn threads(book: &mut Book, lanes: &mut [Lane], content: &Content) -> anyhow::Result<()> {
    for (threads, what) in [(1, "1 thread"), (2, "2 threads"), (4, "4 threads")] {
        for lane in of(lanes, &PLAINLY) {
            let to = lane.places(&content.places(PLAIN), PLAIN);
            let answer = lane.ask(&Order::Threads { to, threads, milliseconds: MILLISECONDS })?;
            book.add("threads", what, lane.peer(), Unit::PerSecond, answer.rate());
        }
    }
    Ok(())
}

fn throughput(book: &mut Book, lanes: &mut [Lane], content: &Content) -> anyhow::Result<()> {
    const BENCH: &str = "throughput";
    for lane in lanes.iter_mut() {
        let to = lane.places(&content.places(SINK), SINK)[0];
        let answer = lane.ask(&Order::Bulk { to, milliseconds: MILLISECONDS })?;
        book.add(BENCH, "one TCP stream", lane.peer(), Unit::BytesPerSecond, answer.rate());
    }
    for lane in lanes.iter_mut() {
        let to = lane.places(&content.places(PLAIN), PLAIN)[0];
        let answer = lane.ask(&Order::Packets { to, milliseconds: MILLISECONDS })?;
        let what = "datagrams of a connected UDP socket";
        book.add(BENCH, what, lane.peer(), Unit::PerSecond, answer.rate());
    }
    for lane in lanes.iter_mut() {
        let to = lane.places(&content.places(ECHO), ECHO)[0];
        let answer = lane.ask(&Order::PingPong { to, milliseconds: MILLISECONDS })?;
        book.add_times(BENCH, "one byte and its echo", lane.peer(), &answer.times["turn"]);
    }
    Ok(())
}
