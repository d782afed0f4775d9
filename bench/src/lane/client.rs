//! A lane's process: it starts the servers, joins the cgroup, and executes orders as the client.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use socket2::{Domain, SockAddr, Socket, Type};

use super::order::{Answer, Order, Transport};
use super::processors;
use super::servers::{self, Servers};
use crate::times::{self, Times};

/// Number of datagrams that fit into a socket's buffer.
const AT_ONCE: u32 = 64;
/// Time limit for a datagram.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves on these addresses, joins the cgroup, and executes orders from standard input until its end.
///
/// # Errors
/// A call fails or has an unexpected result, which would invalidate the measurement.
pub(crate) fn run(cgroup: &Path, addresses: &[IpAddr]) -> anyhow::Result<()> {
    // The servers use the same processor, as the time to wake another one varies.
    processors::pin(processors::of_clients())?;
    let servers = Servers::start(addresses)?;
    let entrance = cgroup.join("cgroup.procs");
    fs::write(&entrance, "0").with_context(|| format!("cannot join {}", entrance.display()))?;
    let mut out = io::stdout();
    for line in io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let answer = execute(&order, &servers).with_context(|| name(&order))?;
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
    }
    Ok(())
}

fn name(order: &Order) -> &'static str {
    match order {
        Order::Connect { .. } => "connecting",
        Order::Exchange { .. } => "exchanging datagrams",
        Order::Names { .. } => "calling getpeername",
        Order::Threads { .. } => "connecting in threads",
        Order::Bulk { .. } => "sending",
        Order::Packets { .. } => "sending datagrams",
        Order::PingPong { .. } => "sending and receiving single bytes",
    }
}

fn execute(order: &Order, servers: &Servers) -> anyhow::Result<Answer> {
    match order {
        Order::Connect { transport, to, count, refused } => {
            connect(servers, *transport, to, *count, *refused)
        }
        Order::Exchange { to, count } => exchange(servers, to, *count),
        Order::Names { to, count } => names(*to, *count),
        Order::Threads { to, threads, milliseconds } => {
            in_threads(to, *threads, Duration::from_millis(*milliseconds))
        }
        Order::Bulk { to, milliseconds } => bulk(*to, Duration::from_millis(*milliseconds)),
        Order::Packets { to, milliseconds } => {
            packets(servers, *to, Duration::from_millis(*milliseconds))
        }
        Order::PingPong { to, milliseconds } => {
            ping_pong(*to, Duration::from_millis(*milliseconds))
        }
    }
}

fn socket(transport: Transport, to: &SocketAddr) -> io::Result<Socket> {
    let kind = match transport {
        Transport::Tcp => Type::STREAM,
        Transport::Udp => Type::DGRAM,
    };
    Socket::new(Domain::for_address(*to), kind, None)
}

fn connect(
    servers: &Servers,
    transport: Transport,
    to: &[SocketAddr],
    count: u32,
    refused: bool,
) -> anyhow::Result<Answer> {
    let room = usize::try_from(count)?;
    let (mut connects, mut closes) = (Vec::with_capacity(room), Vec::with_capacity(room));
    let addresses: Vec<SockAddr> = to.iter().map(|to| SockAddr::from(*to)).collect();
    let start = Instant::now();
    for (to, address) in to.iter().zip(&addresses).cycle().take(room) {
        let socket = socket(transport, to)?;
        if transport == Transport::Tcp {
            // A reset frees its port at once; there are too few ports otherwise.
            socket.set_linger(Some(Duration::ZERO))?;
        }
        let before = Instant::now();
        let result = socket.connect(address);
        connects.push(times::of(before.elapsed()));
        match result {
            Ok(()) => ensure!(!refused, "{to} was not refused"),
            Err(error) if refused && error.raw_os_error() == Some(libc::ECONNREFUSED) => {}
            Err(error) => bail!("{to}: {error}"),
        }
        // Accepted by this thread, and outside of the measured time.
        let _accepted = match transport {
            Transport::Tcp if !refused => Some(servers.accepted().with_context(|| to.to_string())?),
            _ => None,
        };
        let before = Instant::now();
        drop(socket);
        closes.push(times::of(before.elapsed()));
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(answer(seconds, [("connect", connects), ("close", closes)]))
}

fn exchange(servers: &Servers, to: &[SocketAddr], count: u32) -> anyhow::Result<Answer> {
    let first = to.first().context("nowhere to send to")?;
    let client: UdpSocket = socket(Transport::Udp, first)?.into();
    client.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 16];
    // The socket keeps the backend that it is given first for each destination.
    let mut each = Vec::new();
    for to in to {
        client.send_to(b"?", to).with_context(|| to.to_string())?;
        each.push((to, servers.receiver()?));
    }
    let (mut sends, mut receives) = (Vec::new(), Vec::new());
    let start = Instant::now();
    for (to, server) in each.into_iter().cycle().take(usize::try_from(count)?) {
        let before = Instant::now();
        client.send_to(b"?", to)?;
        sends.push(times::of(before.elapsed()));
        servers::answer(server).with_context(|| format!("the server of {to} received nothing"))?;
        let before = Instant::now();
        let (_size, from) = client.recv_from(&mut buffer)?;
        receives.push(times::of(before.elapsed()));
        ensure!(from == *to, "an answer from {from} to a datagram to {to}");
    }
    let seconds = start.elapsed().as_secs_f64();
    let pairs = sends.iter().zip(&receives).map(|(send, receive)| send + receive).collect();
    Ok(answer(seconds, [("pair", pairs), ("receive", receives), ("send", sends)]))
}

fn names(to: SocketAddr, count: u32) -> anyhow::Result<Answer> {
    let socket = socket(Transport::Udp, &to)?;
    socket.connect(&to.into()).with_context(|| to.to_string())?;
    let mut times = Vec::new();
    let start = Instant::now();
    for _ in 0..count {
        let before = Instant::now();
        let peer = socket.peer_addr()?;
        times.push(times::of(before.elapsed()));
        let peer = peer.as_socket();
        ensure!(peer == Some(to), "the peer of a socket that was connected to {to} is {peer:?}");
    }
    Ok(answer(start.elapsed().as_secs_f64(), [("getpeername", times)]))
}

/// Runs the threads on different processors. A single thread runs on each processor in turn, as the speeds of
/// processors differ.
fn in_threads(to: &[SocketAddr], threads: usize, time: Duration) -> anyhow::Result<Answer> {
    let turns = if threads == 1 { processors::count() } else { 1 };
    let mut sum = Answer::default();
    for turn in 0..turns {
        let time = time / u32::try_from(turns)?;
        let answer = at_once(to, threads, turn, time)?;
        sum.calls += answer.calls;
        sum.seconds += answer.seconds;
    }
    Ok(sum)
}

/// Runs this number of threads at once, the first of them on this processor.
fn at_once(
    to: &[SocketAddr],
    threads: usize,
    first: usize,
    time: Duration,
) -> anyhow::Result<Answer> {
    let done = AtomicBool::new(false);
    let addresses: Vec<SockAddr> = to.iter().map(|to| SockAddr::from(*to)).collect();
    // All threads begin at the same time, when they are pinned.
    let ready = Barrier::new(threads);
    let work = |number: usize| {
        let pinned = processors::pin((first + number) % processors::count());
        ready.wait();
        pinned?;
        let (start, mut calls) = (Instant::now(), 0_u64);
        let all = to.iter().zip(&addresses).cycle().skip(number * 7);
        for (to, address) in all.take_while(|_| !done.load(Ordering::Relaxed)) {
            socket(Transport::Udp, to)?.connect(address).with_context(|| to.to_string())?;
            calls += 1;
        }
        Ok::<_, anyhow::Error>((calls, start.elapsed().as_secs_f64()))
    };
    thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        thread::sleep(time);
        done.store(true, Ordering::Relaxed);
        let (mut calls, mut seconds) = (0, 0.0_f64);
        for thread in all {
            let done = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
            (calls, seconds) = (calls + done.0, seconds.max(done.1));
        }
        Ok(Answer { calls, seconds, times: BTreeMap::new() })
    })
}

fn stream(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| to.to_string())?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends by one TCP connection, and counts bytes.
fn bulk(to: SocketAddr, time: Duration) -> anyhow::Result<Answer> {
    let mut stream = stream(to)?;
    let part = vec![0; 1 << 16];
    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < time {
        stream.write_all(&part)?;
        calls += u64::try_from(part.len())?;
    }
    Ok(Answer { calls, seconds: start.elapsed().as_secs_f64(), times: BTreeMap::new() })
}

/// Sends by one connected UDP socket, and counts the datagrams that arrive.
fn packets(servers: &Servers, to: SocketAddr, time: Duration) -> anyhow::Result<Answer> {
    let socket: UdpSocket = socket(Transport::Udp, &to)?.into();
    socket.connect(to).with_context(|| to.to_string())?;
    socket.send(b"?")?;
    // A connected socket keeps its backend.
    let server = servers.receiver()?;
    let (start, mut calls) = (Instant::now(), 0);
    let mut buffer = [0; 16];
    while start.elapsed() < time {
        for _ in 0..AT_ONCE {
            socket.send(b"?")?;
        }
        let before = calls;
        while server.recv(&mut buffer).is_ok() {
            calls += 1;
        }
        ensure!(calls > before, "none of {AT_ONCE} datagrams to {to} arrived");
    }
    Ok(Answer { calls, seconds: start.elapsed().as_secs_f64(), times: BTreeMap::new() })
}

fn ping_pong(to: SocketAddr, time: Duration) -> anyhow::Result<Answer> {
    let mut stream = stream(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut times, start) = (Vec::new(), Instant::now());
    let mut byte = [0];
    while start.elapsed() < time {
        let before = Instant::now();
        stream.write_all(b"?")?;
        stream.read_exact(&mut byte)?;
        times.push(times::of(before.elapsed()));
    }
    Ok(answer(start.elapsed().as_secs_f64(), [("turn", times)]))
}

fn answer<const N: usize>(seconds: f64, measured: [(&str, Vec<u64>); N]) -> Answer {
    let calls = measured.first().map_or(0, |(_, times)| times.len() as u64);
    let times = measured.map(|(name, times)| (name.to_owned(), Times::of(times)));
    Answer { calls, seconds, times: times.into() }
}
