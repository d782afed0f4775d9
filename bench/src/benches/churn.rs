//! Changes in a large cluster: how soon a client meets one, alone and among others, and what a thousand a
//! second take.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use futures_util::TryStreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, WatchEvent, WatchParams};
use serde_json::json;
use svclb_tests::cluster::Large;
use svclb_tests::{Kind, World};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Effort;
use super::memory::resident;
use super::sync::{self, one_backend};
use crate::book::{Book, Unit, rate};
use crate::lane::Peer;
use crate::lane::order::Times;
use crate::lane::proxy::Cluster;

const BENCH: &str = "churn";
/// The Service whose one backend changes, and its two backends.
const WATCHED: &str = "10.96.0.202:80";
const BACKENDS: [&str; 2] = ["10.244.0.1:8080", "10.244.0.2:8080"];
/// How many changes a round measures one by one.
const CHANGES: usize = 100;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a client looks whether it met it.
const LOOK: Duration = Duration::from_micros(50);
/// The client's own change comes so long after the one before, among others.
const APART: Duration = Duration::from_millis(100);
/// Changes of one endpoint each, all over the cluster.
const FEW: Load = Load { rate: 100, time: Duration::from_secs(15) };
/// More than an API server takes that shares two processors: it takes what it can.
const MANY: Load = Load { rate: 1_000, time: Duration::from_secs(60) };
/// More than there are in one load.
const MOST: u64 = 13 * Large::SPEED.services as u64;
/// How often all of it is measured, at most: it takes more than a minute.
const MINUTES: u32 = 5;
/// Requests under way at a time.
const WORKERS: u64 = 16;

/// Measures all of it.
///
/// # Errors
/// A change does not reach a client.
pub(crate) fn run(book: &mut Book, cluster: &Cluster, effort: Effort) -> anyhow::Result<()> {
    cluster.plane().api().create_all(one_backend("watched", WATCHED, "UDP", BACKENDS[0]).into());
    let world = World::builder("bench-churn").without_agent().start();
    let _relay = cluster.plane().relay(&world);
    sync::start(&world, cluster.plane())?;
    let agent = world.take_agent();
    let mut watched = Watched::start(&world, cluster)?;
    let alone = "watch event to the first connect that knows";
    for _ in 0..effort.rounds {
        let times = (0..CHANGES).map(|_| watched.change(cluster)).collect::<anyhow::Result<_>>()?;
        book.add_times(BENCH, alone, Peer::Svclb, &Times::of(times));
    }
    // What it keeps for the next changes it has after the first minute, with an audit.
    many(cluster, MANY, 0)?;
    let mut numbers = (1..).map(|number| number * MOST);
    let mut first = || numbers.next().unwrap_or_default();
    for _ in 0..effort.rounds.min(MINUTES) {
        let (_, times) = watched.among(cluster, FEW, first())?;
        book.add_times(
            BENCH,
            &format!("{alone}, among {} a second", FEW.rate),
            Peer::Svclb,
            &times,
        );
        let before = (resident(agent.pid())?, processor(agent.pid())?);
        let begin = Instant::now();
        let (count, times) = watched.among(cluster, MANY, first())?;
        let seconds = begin.elapsed().as_secs_f64();
        let after = (resident(agent.pid())?, processor(agent.pid())?);
        book.add_times(BENCH, &format!("{alone}, among as many as can be"), Peer::Svclb, &times);
        let mut add = |what, unit, value| book.add(BENCH, what, Peer::Svclb, unit, value);
        let rate = rate(count, seconds);
        add("changes", Unit::PerSecond, rate);
        let taken = 100.0 * (after.1 - before.1) / seconds;
        add("processor", Unit::Percent, taken);
        // By proportion, should the API server not have taken so many.
        add(
            "processor, for 1,000 changes a second",
            Unit::Percent,
            taken * (1_000.0 / rate).max(1.0),
        );
        add("growth of resident memory", Unit::Bytes, after.0 - before.0);
    }
    Ok(())
}

/// Changes a second, for so long.
#[derive(Clone, Copy, Debug)]
struct Load {
    rate: u64,
    time: Duration,
}

/// A Service whose backend changes, a client of it, and somebody who watches its slice.
struct Watched {
    client: svclb_tests::Socket,
    servers: [UdpSocket; 2],
    events: mpsc::Receiver<(String, Instant)>,
    now: usize,
}

impl Watched {
    fn start(world: &World, cluster: &Cluster) -> anyhow::Result<Self> {
        let bind = |address: &'static str| {
            let socket = world.inside(move || UdpSocket::bind(address))?;
            socket.set_nonblocking(true)?;
            Ok::<_, anyhow::Error>(socket)
        };
        let servers = [bind(BACKENDS[0])?, bind(BACKENDS[1])?];
        let (say, events) = mpsc::channel();
        let client = cluster.plane().api().client();
        cluster.plane().api().spawn(async move {
            // It ends when nobody hears it any more, or the API server is gone.
            let _ = watch(client, &say).await;
        });
        let watched = Self { client: world.socket(Kind::Udp4), servers, events, now: 0 };
        // The first says what is there already.
        watched.events.recv_timeout(PATIENCE).context("the API server tells nothing of a slice")?;
        Ok(watched)
    }

    /// Moves the Service to its other backend. Gives how long after the watch event a client met it,
    /// nanoseconds; 0 when it was earlier.
    fn change(&mut self, cluster: &Cluster) -> anyhow::Result<u32> {
        self.now = 1 - self.now;
        let (ip, _port) = BACKENDS[self.now].split_once(':').context("no address")?;
        replace(cluster, "watched-1", 0, ip)?;
        let service: SocketAddr = WATCHED.parse()?;
        let begin = Instant::now();
        let met = loop {
            self.client.dial(service)?;
            self.client.raw().send(b"?")?;
            let mut buffer = [0; 8];
            let got = self.servers.iter().position(|server| server.recv_from(&mut buffer).is_ok());
            if got == Some(self.now) {
                break Instant::now();
            }
            ensure!(begin.elapsed() < PATIENCE, "no client met the change after {PATIENCE:?}");
            thread::sleep(LOOK);
        };
        loop {
            let (address, heard) = self.events.recv_timeout(PATIENCE)?;
            if address == ip {
                let late = met.saturating_duration_since(heard);
                return Ok(u32::try_from(late.as_nanos()).unwrap_or(u32::MAX));
            }
        }
    }

    /// Moves the Service now and then while others change, of which the first has this number. Gives how
    /// many changes there were in all, and what [`Self::change`] gave of its own.
    fn among(&mut self, cluster: &Cluster, load: Load, first: u64) -> anyhow::Result<(u64, Times)> {
        thread::scope(|scope| {
            let others = scope.spawn(|| many(cluster, load, first));
            let mut own = Vec::new();
            while !others.is_finished() {
                own.push(self.change(cluster)?);
                thread::sleep(APART);
            }
            let others = others.join().map_err(|_| anyhow!("a thread panicked"))??;
            Ok((others + own.len() as u64, Times::of(own)))
        })
    }
}

/// Tells the first address of the watched slice, and when it was heard.
async fn watch(client: kube::Client, say: &mpsc::Sender<(String, Instant)>) -> anyhow::Result<()> {
    let slices: Api<EndpointSlice> = Api::namespaced(client, "default");
    let which = WatchParams::default().fields("metadata.name=watched-1");
    // A watch has an end; the next one says once more what is there.
    loop {
        let mut events = std::pin::pin!(slices.watch(&which, "0").await?);
        while let Some(event) = events.try_next().await? {
            let heard = Instant::now();
            if let WatchEvent::Added(slice) | WatchEvent::Modified(slice) = event {
                let endpoint = slice.endpoints.unwrap_or_default().into_iter().next();
                let address = endpoint.and_then(|endpoint| endpoint.addresses.into_iter().next());
                say.send((address.unwrap_or_default(), heard))?;
            }
        }
    }
}

/// Gives an endpoint of a slice another address.
fn replace(cluster: &Cluster, slice: &str, endpoint: usize, address: &str) -> anyhow::Result<()> {
    let request = request(slice, endpoint, address)?;
    let client = cluster.plane().api().client();
    let done = cluster.plane().api().wait(async move { client.request_text(request).await });
    done.map(drop).with_context(|| format!("cannot change {slice}"))
}

/// A patch by RFC 6902.
fn request(slice: &str, endpoint: usize, address: &str) -> anyhow::Result<http::Request<Vec<u8>>> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{slice}");
    let change = json!([{
        "op": "replace", "path": format!("/endpoints/{endpoint}/addresses/0"), "value": address,
    }]);
    let request = http::Request::patch(path).header("content-type", "application/json-patch+json");
    Ok(request.body(change.to_string().into_bytes())?)
}

/// Changes one endpoint after the other, of slices all over the cluster; the first is the change of this
/// number. Gives how many.
fn many(cluster: &Cluster, Load { rate, time }: Load, first: u64) -> anyhow::Result<u64> {
    let client = cluster.plane().api().client();
    let done = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&done);
    cluster.plane().api().wait(async move {
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let (client, done) = (client.clone(), Arc::clone(&done));
            workers.spawn(async move {
                let mut ticks = interval(Duration::from_micros(1_000_000 * WORKERS / rate));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let (begin, mut turn) = (Instant::now(), first + worker);
                while begin.elapsed() < time {
                    ticks.tick().await;
                    let slices = Large::SPEED.services as u64;
                    let (slice, version) = (turn * 7 % slices, turn / slices % 200 + 1);
                    let name = format!("service-{slice}-abcde");
                    let address = format!("10.127.{version}.{}", slice % 250 + 1);
                    client.request_text(request(&name, 0, &address)?).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                    turn += WORKERS;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker.context("a task panicked")??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(counted.load(Ordering::Relaxed))
}

/// What a process took of processors so far, seconds (proc(5), stat).
fn processor(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Its name, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat is not as it was")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok());
    let (user, system) = (ticks(11), ticks(12));
    // SAFETY: a question without arguments in memory.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let all = user.zip(system).map(|(user, system)| user + system);
    #[expect(clippy::cast_precision_loss, reason = "a hundred")]
    let seconds = all.context("/proc/PID/stat is not as it was")? / a_second as f64;
    Ok(seconds)
}
