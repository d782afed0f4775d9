//! A relay of TCP connections from one network namespace to a control plane in another. Cutting it
//! imitates a network failure, and freezing it a middlebox that keeps connections open and forwards
//! nothing. It also records when data arrives from the control plane, for measurements.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::io::InspectReader;

use crate::World;
use crate::harness::namespace::Namespace;
use crate::harness::wait::{LIMIT, within};

/// A listener in a world whose connections are forwarded to the API server. It is closed on drop.
#[derive(Debug)]
pub struct Relay {
    runtime: Arc<Runtime>,
    listen: SocketAddr,
    to: SocketAddr,
    running: Mutex<Option<JoinHandle<()>>>,
    frozen: watch::Sender<bool>,
    first_data: FirstData,
}

/// Time of the first data from the API server since the last reset.
type FirstData = Arc<Mutex<Option<Instant>>>;

impl Relay {
    /// Listens in the world. `runtime` is in the namespace of the other end.
    pub(crate) fn start(
        runtime: &Arc<Runtime>,
        world: &World,
        listen: SocketAddr,
        to: SocketAddr,
    ) -> Self {
        Self::start_in(runtime, world.namespace(), listen, to)
    }

    /// Listens in a namespace that belongs to no world.
    pub(crate) fn start_in(
        runtime: &Arc<Runtime>,
        namespace: &Namespace,
        listen: SocketAddr,
        to: SocketAddr,
    ) -> Self {
        let running = Mutex::new(None);
        let frozen = watch::Sender::new(false);
        let (runtime, first_data) = (Arc::clone(runtime), FirstData::default());
        let relay = Self { runtime, listen, to, running, frozen, first_data };
        relay.open_in(namespace);
        relay
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Closes every connection at once. Connects are refused from now on.
    pub fn cut(&self) {
        if let Some(running) = self.running.lock().unwrap().take() {
            running.abort();
            // The listener and the connections are closed once the task has ended.
            let _ = self.runtime.block_on(running);
        }
    }

    /// Stops forwarding without closing connections; new connects still succeed.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Forwards new connections again. Frozen ones stay frozen.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// Starts to wait for data from the API server: see [`Self::first_data`].
    ///
    /// # Panics
    /// If a connection's task panicked.
    pub fn watch_data(&self) {
        *self.first_data.lock().unwrap() = None;
    }

    /// The time at which data from the API server first arrived after [`Self::watch_data`], on any
    /// connection, before it was forwarded.
    ///
    /// # Panics
    /// As [`Self::watch_data`].
    pub fn first_data(&self) -> Option<Instant> {
        *self.first_data.lock().unwrap()
    }

    /// Listens again in the same world, after a cut.
    ///
    /// # Panics
    /// If the address is in use.
    pub fn open(&self, world: &World) {
        self.open_in(world.namespace());
    }

    fn open_in(&self, namespace: &Namespace) {
        self.cut();
        let listen = self.listen;
        // A child forked by another thread holds the previous listener until its exec.
        let bind = move || within(LIMIT, || TcpListener::bind(listen).map_err(|it| it.to_string()));
        let listener = namespace
            .run(bind)
            .unwrap_or_else(|error| panic!("cannot listen on {listen}: {error}"));
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let task = self.runtime.spawn(forward(
            listener,
            self.to,
            self.frozen.subscribe(),
            Arc::clone(&self.first_data),
        ));
        *self.running.lock().unwrap() = Some(task);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn forward(
    listener: TcpListener,
    to: SocketAddr,
    frozen: watch::Receiver<bool>,
    first_data: FirstData,
) {
    let listener =
        tokio::net::TcpListener::from_std(listener).expect("the listener is non-blocking");
    // Dropping the set aborts its tasks.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((mut here, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (mut frozen, first_data) = (frozen.clone(), Arc::clone(&first_data));
        connections.spawn(async move {
            let there = TcpStream::connect(to).await?;
            here.set_nodelay(true)?;
            there.set_nodelay(true)?;
            let mut there = InspectReader::new(there, |_| {
                first_data.lock().unwrap().get_or_insert_with(Instant::now);
            });
            tokio::select! {
                biased;
                // The relay outlives its connections.
                () = async { drop(frozen.wait_for(|frozen| *frozen).await) } => std::future::pending().await,
                copied = copy_bidirectional(&mut here, &mut there) => drop(copied?),
            }
            Ok::<(), io::Error>(())
        });
    }
}
