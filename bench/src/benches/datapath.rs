//! Durations of a client's calls, and of the programs in each, with ten Services with ten backends each.

use std::collections::BTreeMap;

use super::{Effort, check_runs, net};
use crate::book::{Book, Unit};
use crate::lane::content::{Content, elsewhere, servers};
use crate::lane::order::{Order, Transport};
use crate::lane::proxy::Cluster;
use crate::lane::servers::{CLOSED, ECHO, PLAIN, SINK};
use crate::lane::{Lane, Peer};

/// Peers for calls that send no packets.
const WITHOUT_PROXY: [Peer; 3] = [Peer::Direct, Peer::Empty, Peer::Svclb];
/// Peers for calls that send packets.
const ALL: [Peer; 5] = [Peer::Direct, Peer::Empty, Peer::Svclb, Peer::Nftables, Peer::Iptables];
/// Number of turns of a round, among which its calls are divided.
pub(super) const TURNS: u32 = 5;
/// Number of turns where calls are timed singly, as the speed of the machine varies from second to second.
const TIMED_TURNS: u32 = 15;
/// Number of turns where the time of programs is measured, as disturbances last some tens of milliseconds.
pub(super) const SHORT_TURNS: u32 = 25;
/// Duration of a round of a throughput.
const MILLISECONDS: u64 = 500;
/// Divisor for the number of TCP connections, as connection tracking has a limited number of entries.
const TRACKED: u32 = 4;
/// Number of calls that take a second each: the kernel ignores an ICMP message that refuses a SYN while its
/// socket is still in connect(2) (net/ipv4/tcp_ipv4.c, `tcp_v4_err`), and reacts to that for the next SYN.
const FEW: u32 = 2;

/// A part of the bench.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// Connects to a Service, to another destination, and refused ones; closes.
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
/// A lane cannot be made, or a call of its client fails.
pub(crate) fn run(book: &mut Book, parts: &[Part], effort: Effort) -> anyhow::Result<()> {
    let content = Content::SMALL;
    let has = |part| parts.contains(&part);
    let passes_packets = has(Part::Connect) || has(Part::Udp) || has(Part::Throughput);
    let cluster = passes_packets.then(|| Cluster::start(&content)).transpose()?;
    let peers: &[Peer] = if cluster.is_some() { &ALL } else { &WITHOUT_PROXY };
    let mut lanes = Vec::new();
    for peer in peers {
        lanes.push(Lane::start(*peer, &content, cluster.as_ref())?);
    }
    for _ in 0..effort.rounds {
        // Targets compare these with a connect.
        if !has(Part::Connect) && (has(Part::Names) || has(Part::Release)) {
            let order = connects(&content, Transport::Udp, effort.calls);
            time(book, &mut lanes, &WITHOUT_PROXY, UDP_CONNECT, order)?;
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

/// Selects the lanes of these peers.
fn select<'a>(lanes: &'a mut [Lane], peers: &'a [Peer]) -> impl Iterator<Item = &'a mut Lane> {
    lanes.iter_mut().filter(|lane| peers.contains(&lane.peer()))
}

/// Measures the lanes of these peers in turn, `count` times. The value of a round is that of the lane's middle
/// turn, on which short disturbances have no influence.
fn turns<T>(
    count: u32,
    lanes: &mut [Lane],
    peers: &[Peer],
    mut measure: impl FnMut(&mut Lane) -> anyhow::Result<T>,
) -> anyhow::Result<BTreeMap<Peer, Vec<T>>> {
    let mut results: BTreeMap<Peer, Vec<T>> = BTreeMap::new();
    for _ in 0..count {
        for lane in select(lanes, peers) {
            results.entry(lane.peer()).or_default().push(measure(lane)?);
        }
    }
    Ok(results)
}

/// Adds the durations of a call in the lanes of these peers.
fn time(
    book: &mut Book,
    lanes: &mut [Lane],
    peers: &[Peer],
    [bench, what, call]: [&str; 3],
    order: impl Fn(&Lane) -> Order,
) -> anyhow::Result<()> {
    let times =
        |lane: &mut Lane| Ok(lane.execute(&order(lane).part(TIMED_TURNS))?.times[call].clone());
    for (peer, times) in turns(TIMED_TURNS, lanes, peers, times)? {
        book.add_timed_turns(bench, what, peer, times);
    }
    Ok(())
}

/// Adds the rates of something in the lanes of these peers.
fn rates(
    book: &mut Book,
    lanes: &mut [Lane],
    peers: &[Peer],
    [bench, what]: [&str; 2],
    unit: Unit,
    order: impl Fn(&Lane) -> Order,
) -> anyhow::Result<()> {
    for (peer, rates) in
        turns(TURNS, lanes, peers, |lane| Ok(lane.execute(&order(lane).part(TURNS))?.rate()))?
    {
        book.add_turns(bench, what, peer, unit, rates);
    }
    Ok(())
}

/// Adds the difference of the time of programs in svclb's lane and in that with empty programs, as the kernel
/// counts it. The value of a round is the median of many turns, because some tens of nanoseconds are less than
/// the disturbances by the machine.
fn count(
    book: &mut Book,
    lanes: &mut [Lane],
    [bench, what]: [&str; 2],
    hooks: &[&str],
    order: impl Fn(&Lane) -> Order,
) -> anyhow::Result<()> {
    let results = turns(SHORT_TURNS, lanes, &[Peer::Svclb, Peer::Empty], |lane| {
        let (answer, programs) = lane.execute_counted(&order(lane).part(TURNS))?;
        check_runs(&programs, hooks, answer.calls)?;
        Ok(programs)
    })?;
    let pairs = results[&Peer::Svclb].iter().zip(&results[&Peer::Empty]);
    let differences = pairs.map(|(svclb, empty)| net(hooks, svclb, empty)).collect();
    book.add_turns(bench, what, Peer::Svclb, Unit::Nanoseconds, differences);
    Ok(())
}

/// Bench, quantity and call of UDP connects to a Service.
const UDP_CONNECT: [&str; 3] = ["connect", "UDP, to a Service", "connect"];

/// Returns the order for connects to the Services, or directly to their servers in lanes without Services.
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
    time(book, lanes, &WITHOUT_PROXY, UDP_CONNECT, udp)?;
    time(book, lanes, &ALL, [BENCH, "TCP, to a Service", CALL], tcp)?;
    let none = |_: &Lane| Order::connect(Transport::Udp, elsewhere(), count_of_calls);
    let backend = |_: &Lane| Order::connect(Transport::Udp, servers(PLAIN), count_of_calls);
    time(book, lanes, &WITHOUT_PROXY, [BENCH, "UDP, to a non-Service destination", CALL], none)?;
    let tcp_straight =
        |_: &Lane| Order::connect(Transport::Tcp, servers(PLAIN), count_of_calls / TRACKED);
    let what = "TCP, to a non-Service destination (a backend itself)";
    time(book, lanes, &ALL, [BENCH, what, CALL], tcp_straight)?;
    refused(book, lanes, count_of_calls / TRACKED)?;
    count(book, lanes, [BENCH, "net of a UDP connect to a Service"], &["connect4"], udp)?;
    let other = [BENCH, "net of a UDP connect to a non-Service destination"];
    count(book, lanes, other, &["connect4"], none)?;
    let straight = [BENCH, "net of a UDP connect straight to a backend"];
    count(book, lanes, straight, &["connect4"], backend)
}

/// Measures refused connects: to a Service without backends, or directly to a closed port. Direct UDP connects
/// and those through kube-proxy's rules are not refused.
fn refused(book: &mut Book, lanes: &mut [Lane], calls: u32) -> anyhow::Result<()> {
    for (transport, what) in [(Transport::Tcp, "TCP, refused"), (Transport::Udp, "UDP, refused")] {
        for lane in lanes.iter_mut() {
            let (peer, is_tcp) = (lane.peer(), transport == Transport::Tcp);
            let to =
                if peer.serves() { vec![Content::without_backends()] } else { servers(CLOSED) };
            let count = if matches!(peer, Peer::Nftables | Peer::Iptables) { FEW } else { calls };
            if is_tcp || peer == Peer::Svclb {
                let answer =
                    lane.execute(&Order::Connect { transport, to, count, refused: true })?;
                // A closed port of the loopback is not comparable with the refusal of a Service.
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
        time(book, lanes, &ALL, [BENCH, pair, "pair"], order)?;
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
    time(book, lanes, &WITHOUT_PROXY, [BENCH, "getpeername", "getpeername"], order)?;
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
    time(book, lanes, &WITHOUT_PROXY, [BENCH, "close, after a Service", "close"], service)?;
    let after_service = [BENCH, "net of a release, after a Service"];
    count(book, lanes, after_service, &["sock_release"], service)?;
    let after_other = [BENCH, "net of a release, after a non-Service destination"];
    count(book, lanes, after_other, &["sock_release"], other)
}

fn threads(book: &mut Book, lanes: &mut [Lane], content: &Content) -> anyhow::Result<()> {
    for (threads, what) in [(1, "1 thread"), (2, "2 threads"), (4, "4 threads")] {
        let order = |lane: &Lane| {
            let to = lane.places(&content.places(PLAIN), PLAIN);
            Order::Threads { to, threads, milliseconds: MILLISECONDS }
        };
        rates(book, lanes, &WITHOUT_PROXY, ["threads", what], Unit::PerSecond, order)?;
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
    time(book, lanes, &ALL, [BENCH, "one byte and its echo", "turn"], echo)
}
