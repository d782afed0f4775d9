//! A way from one network namespace to a control plane in another: each connection that is accepted
//! here is carried on there. Cutting it is what a failing network does, freezing it what something in
//! between does that keeps connections and passes nothing on. Whoever measures is told when something came.

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

/// A listener in a world whose connections end at the API server. It goes when this is dropped.
#[derive(Debug)]
pub struct Relay {
    runtime: Arc<Runtime>,
    listen: SocketAddr,
    to: SocketAddr,
    running: Mutex<Option<JoinHandle<()>>>,
    frozen: watch::Sender<bool>,
    heard: Heard,
}

/// When something first came from there.
type Heard = Arc<Mutex<Option<Instant>>>;

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

    /// Listens in a namespace that is no world's.
    pub(crate) fn start_in(
        runtime: &Arc<Runtime>,
        namespace: &Namespace,
        listen: SocketAddr,
        to: SocketAddr,
    ) -> Self {
        let running = Mutex::new(None);
        let frozen = watch::Sender::new(false);
        let (runtime, heard) = (Arc::clone(runtime), Heard::default());
        let relay = Self { runtime, listen, to, running, frozen, heard };
        relay.open_in(namespace);
        relay
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Ends every connection at once. From now on a connect is refused.
    pub fn cut(&self) {
        if let Some(running) = self.running.lock().unwrap().take() {
            running.abort();
            // The listener and the connections are closed when the task is gone.
            let _ = self.runtime.block_on(running);
        }
    }

    /// Passes nothing on any more, and closes nothing; connects go on to succeed.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Carries new connections again. Frozen ones stay as they are.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    /// From now on it is noted when the API server says something: see [`Self::heard`].
    ///
    /// # Panics
    /// When a connection's task panicked.
    pub fn listen(&self) {
        *self.heard.lock().unwrap() = None;
    }

    /// When it first said something after [`Self::listen`], whatever and to whomever. That is before it is
    /// passed on.
    ///
    /// # Panics
    /// As [`Self::listen`].
    pub fn heard(&self) -> Option<Instant> {
        *self.heard.lock().unwrap()
    }

    /// Listens again in the same world, after a cut.
    ///
    /// # Panics
    /// When something else listens there.
    pub fn open(&self, world: &World) {
        self.open_in(world.namespace());
    }

    fn open_in(&self, namespace: &Namespace) {
        self.cut();
        let listen = self.listen;
        // A child that another thread forked holds the listener of before until its exec.
        let bind = move || within(LIMIT, || TcpListener::bind(listen).map_err(|it| it.to_string()));
        let listener = namespace
            .run(bind)
            .unwrap_or_else(|error| panic!("cannot listen on {listen}: {error}"));
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let task = self.runtime.spawn(carry(
            listener,
            self.to,
            self.frozen.subscribe(),
            Arc::clone(&self.heard),
        ));
        *self.running.lock().unwrap() = Some(task);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn carry(listener: TcpListener, to: SocketAddr, frozen: watch::Receiver<bool>, heard: Heard) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener is a listener");
    // Aborts what it holds when it is dropped.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((mut here, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (mut frozen, heard) = (frozen.clone(), Arc::clone(&heard));
        connections.spawn(async move {
            let there = TcpStream::connect(to).await?;
            here.set_nodelay(true)?;
            there.set_nodelay(true)?;
            let mut there = InspectReader::new(there, |_| {
                heard.lock().unwrap().get_or_insert_with(Instant::now);
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
