//! Load: changes of single endpoints in all slices of a large cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use svclb_tests::cluster::Large;
use tokio::task::JoinSet;
use tokio::time::{self, MissedTickBehavior, interval_at};

use crate::lane::proxy::Cluster;

/// Number of concurrent requests.
const WORKERS: u32 = 16;
const SLICES: u64 = Large::SPEED.services as u64;

/// A rate of changes per second, and its duration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) rate: u32,
    pub(super) time: Duration,
}

impl Load {
    /// More than the number of changes in one load, so that loads can use disjoint ranges of numbers.
    pub(super) const MOST: u64 = 13 * SLICES;

    /// Makes the changes at a constant rate, numbered from `first`. Returns how many were made.
    pub(super) fn run(self, cluster: &Cluster, first: u64) -> anyhow::Result<u64> {
        let Self { rate, time } = self;
        let client = cluster.plane().api().client();
        let done = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&done);
        cluster.plane().api().wait(async move {
            let (begin, each) = (Instant::now(), Duration::from_secs(1) / rate);
            let mut workers = JoinSet::new();
            for worker in 0..WORKERS {
                let (client, done) = (client.clone(), Arc::clone(&done));
                workers.spawn(async move {
                    // The workers are shifted against each other.
                    let start = time::Instant::from_std(begin + each * worker);
                    let mut ticks = interval_at(start, each * WORKERS);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                    for number in (first + u64::from(worker)..).step_by(WORKERS as usize) {
                        ticks.tick().await;
                        if begin.elapsed() >= time {
                            break;
                        }
                        client.request_text(numbered(number)?).await?;
                        done.fetch_add(1, Ordering::Relaxed);
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
}

/// Returns the request for the change with this number. Successive changes of a slice have different addresses.
fn numbered(number: u64) -> anyhow::Result<http::Request<Vec<u8>>> {
    let (slice, version) = (number * 7 % SLICES, number / SLICES % 200 + 1);
    let address = format!("10.127.{version}.{}", slice % 250 + 1);
    request(&format!("service-{slice}-abcde"), &address)
}

/// Replaces the address of the first endpoint of a slice, and waits for the response of the API server.
pub(super) fn replace(cluster: &Cluster, slice: &str, address: &str) -> anyhow::Result<()> {
    let request = request(slice, address)?;
    let client = cluster.plane().api().client();
    let done = cluster.plane().api().wait(async move { client.request_text(request).await });
    done.map(drop).with_context(|| format!("cannot change {slice}"))
}

/// Returns a request with a patch of RFC 6902.
fn request(slice: &str, address: &str) -> anyhow::Result<http::Request<Vec<u8>>> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{slice}");
    let change = json!([{ "op": "replace", "path": "/endpoints/0/addresses/0", "value": address }]);
    let request = http::Request::patch(path).header("content-type", "application/json-patch+json");
    Ok(request.body(change.to_string().into_bytes())?)
}
