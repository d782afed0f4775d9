//! What a client sees of its calls, and what the programs take for each, over ten Services with ten
//! backends each.

use std::collections::BTreeMap;

use super::{Effort, net, ran};
use crate::book::{Book, Unit};
use crate::lane::content::{Content, elsewhere, servers};
use crate::lane::order::{Order, Transport};
use crate::lane::proxy::Cluster;
use crate::lane::servers::{CLOSED, ECHO, PLAIN, SINK};
use crate::lane::{Lane, Peer};

/// Peers whose clients' calls do not pass a packet.
const PLAINLY: [Peer; 3] = [Peer::Direct, Peer::Empty, Peer::Svclb];
/// Peers whose clients' calls do.
const ALL: [Peer; 5] = [Peer::Direct, Peer::Empty, Peer::Svclb, Peer::Nftables, Peer::Iptables];
/// How many turns a round has; each has its part of the calls.
pub(super) const TURNS: u32 = 5;
/// The same where calls are timed one by one: the machine is not as fast from one second to the next.
const TIMED_TURNS: u32 = 15;
/// How often what programs take is: what disturbs them comes and goes within some tens of milliseconds.
pub(super) const SHORT_TURNS: u32 = 25;
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
        // What these cost is told as a share of a connect.
        if !has(Part::Connect) && (has(Part::Names) || has(Part::Release)) {
            let order = connects(&content, Transport::Udp, effort.calls);
            see(book, &mut lanes, &PLAINLY, UDP_CONNECT, order)?;
        }
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

/// What the lanes of these peers say, one lane after the other and again. The middle turn of a lane is its
/// round's: one whose turn comes while the machine does something else is not slower for it.
fn turns<T>(
    count: u32,
    lanes: &mut [Lane],
    peers: &[Peer],
    mut ask: impl FnMut(&mut Lane) -> anyhow::Result<T>,
) -> anyhow::Result<BTreeMap<Peer, Vec<T>>> {
    let mut said: BTreeMap<Peer, Vec<T>> = BTreeMap::new();
    for _ in 0..count {
        for lane in of(lanes, peers) {
            said.entry(lane.peer()).or_default().push(ask(lane)?);
        }
    }
    Ok(said)
}

/// Takes how long a call is in these peers' lanes.
fn see(
    book: &mut Book,
    lanes: &mut [Lane],
    peers: &[Peer],
    [bench, what, call]: [&str; 3],
    order: impl Fn(&Lane) -> Order,
) -> anyhow::Result<()> {
    let times = |lane: &mut Lane| Ok(lane.ask(&order(lane).part(TIMED_TURNS))?.times[call].clone());
    for (peer, said) in turns(TIMED_TURNS, lanes, peers, times)? {
        book.add_timed_turns(bench, what, peer, said);
    }
    Ok(())
}

/// Takes how often something is done in these peers' lanes.
fn rates(
    book: &mut Book,
    lanes: &mut [Lane],
    peers: &[Peer],
    [bench, what]: [&str; 2],
    unit: Unit,
    order: impl Fn(&Lane) -> Order,
) -> anyhow::Result<()> {
    for (peer, said) in
        turns(TURNS, lanes, peers, |lane| Ok(lane.ask(&order(lane).part(TURNS))?.rate()))?
    {
        book.add_turns(bench, what, peer, unit, said);
    }
    Ok(())
}

/// Has the same done in the lane of svclb and in that with empty programs, while the kernel counts. The
/// middle of the differences is the round's: some tens of nanoseconds are less than what the machine does
/// meanwhile.
fn count(
    book: &mut Book,
    lanes: &mut [Lane],
    [bench, what]: [&str; 2],
    hooks: &[&str],
    order: impl Fn(&Lane) -> Order,
) -> anyhow::Result<()> {
    let said = turns(SHORT_TURNS, lanes, &[Peer::Svclb, Peer::Empty], |lane| {
        let (answer, programs) = lane.ask_programs(&order(lane).part(TURNS))?;
        ran(&programs, hooks, answer.calls)?;
        Ok(programs)
    })?;
    let pairs = said[&Peer::Svclb].iter().zip(&said[&Peer::Empty]);
    let differences = pairs.map(|(ours, empty)| net(hooks, ours, empty)).collect();
    book.add_turns(bench, what, Peer::Svclb, Unit::Nanoseconds, differences);
    Ok(())
}

/// The row of UDP connects to a Service, and the call that it is of.
const UDP_CONNECT: [&str; 3] = ["connect", "UDP, to a Service", "connect"];

/// Connects to the Services, or straight to their servers in the lanes that have none.
fn connects(
    content: &Content,
    transport: Transport,
    calls: u32,
) -> impl Fn(&Lane) -> Order + Copy + '_ {
    move |lane| {
        let to = lane.places(&content.places(PLAIN), PLAIN);
        Order::connect(transport, to, calls)
    }
}

fn connect(
    book: &mut Book,
    lanes: &mut [Lane],
    content: &Content,
    count_of_calls: u32,
) -> anyhow::Result<()> {
    const BENCH: &str = "connect";
    const CALL: &str = "connect";
    let udp = connects(content, Transport::Udp, count_of_calls);
    let tcp = connects(content, Transport::Tcp, count_of_calls / TRACKED);
    see(book, lanes, &PLAINLY, UDP_CONNECT, udp)?;
    see(book, lanes, &ALL, [BENCH, "TCP, to a Service", CALL], tcp)?;
    let none = |_: &Lane| Order::connect(Transport::Udp, elsewhere(), count_of_calls);
    let backend = |_: &Lane| Order::connect(Transport::Udp, servers(PLAIN), count_of_calls);
    see(book, lanes, &PLAINLY, [BENCH, "UDP, to what is no Service", CALL], none)?;
    let tcp_straight =
        |_: &Lane| Order::connect(Transport::Tcp, servers(PLAIN), count_of_calls / TRACKED);
    let what = "TCP, to what is no Service (a backend itself)";
    see(book, lanes, &ALL, [BENCH, what, CALL], tcp_straight)?;
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
                // A closed port of the loopback answers at once: that is no refusal of a Service.
                let what = if peer.serves() { what } else { "TCP, to a closed port" };
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
        see(book, lanes, &ALL, [BENCH, pair, "pair"], order)?;
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
    see(book, lanes, &PLAINLY, [BENCH, "getpeername", "getpeername"], order)?;
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
    see(book, lanes, &PLAINLY, [BENCH, "close, after a Service", "close"], service)?;
    let ours = [BENCH, "net of a release, after a Service"];
    count(book, lanes, ours, &["sock_release"], service)?;
    let others = [BENCH, "net of a release, after what is no Service"];
    count(book, lanes, others, &["sock_release"], other)
}

fn threads(book: &mut Book, lanes: &mut [Lane], content: &Content) -> anyhow::Result<()> {
    for (threads, what) in [(1, "1 thread"), (2, "2 threads"), (4, "4 threads")] {
        let order = |lane: &Lane| {
            let to = lane.places(&content.places(PLAIN), PLAIN);
            Order::Threads { to, threads, milliseconds: MILLISECONDS }
        };
        rates(book, lanes, &PLAINLY, ["threads", what], Unit::PerSecond, order)?;
    }
    Ok(())
}

fn throughput(book: &mut Book, lanes: &mut [Lane], content: &Content) -> anyhow::Result<()> {
    const BENCH: &str = "throughput";
    let place = |lane: &Lane, port| lane.places(&content.places(port), port)[0];
    let milliseconds = MILLISECONDS;
    let stream = |lane: &Lane| Order::Bulk { to: place(lane, SINK), milliseconds };
    rates(book, lanes, &ALL, [BENCH, "one TCP stream"], Unit::BytesPerSecond, stream)?;
    let packets = |lane: &Lane| Order::Packets { to: place(lane, PLAIN), milliseconds };
    let what = [BENCH, "datagrams of a connected UDP socket"];
    rates(book, lanes, &ALL, what, Unit::PerSecond, packets)?;
    let echo = |lane: &Lane| Order::PingPong { to: place(lane, ECHO), milliseconds };
    see(book, lanes, &ALL, [BENCH, "one byte and its echo", "turn"], echo)
}
