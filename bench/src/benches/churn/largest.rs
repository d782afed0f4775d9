//! The largest Service that the agent's budgets allow, with continuous changes of its endpoints.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use svclb_tests::cluster::Reference;

use super::load::replace;
use crate::lane::proxy::Cluster;

const NAME: &str = "largest";
/// Number of addresses with one port, and number of endpoints, as in svclb-core/src/budget.rs.
const ADDRESSES: usize = 1_000;
const ENDPOINTS: usize = 25_000;
/// The API's limit for the endpoints of a slice.
const SLICE: usize = 1_000;
const SLICES: usize = ENDPOINTS / SLICE;
/// Time between two changes.
const APART: Duration = Duration::from_millis(50);

/// The slices, and the Service if they have one. They are deleted when this is dropped.
pub(super) struct Largest<'a> {
    cluster: &'a Cluster,
    has_service: bool,
}

impl<'a> Largest<'a> {
    pub(super) fn create(cluster: &'a Cluster, has_service: bool) -> Self {
        // One of the addresses is the ClusterIP.
        let external: Vec<String> = (1..ADDRESSES).map(|at| address(192, 0, at)).collect();
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": NAME, "namespace": "default" },
            "spec": {
                "clusterIP": "10.96.0.203", "externalIPs": external,
                "ports": [{ "port": 80, "protocol": "UDP", "targetPort": 8080 }],
            },
        });
        let slices = (0..SLICES).map(|slice| {
            let endpoint = |at| json!({ "addresses": [address(10, 130, slice * SLICE + at)] });
            let endpoints: Vec<Value> = (0..SLICE).map(endpoint).collect();
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "name": name(slice), "namespace": "default",
                    "labels": { "kubernetes.io/service-name": NAME },
                },
                "ports": [{ "name": "", "protocol": "UDP", "port": 8080 }],
                "endpoints": endpoints,
            })
        });
        let service = has_service.then_some(service);
        cluster.plane().api().create_all(service.into_iter().chain(slices).collect());
        Self { cluster, has_service }
    }

    /// Replaces endpoints one after the other for this time.
    pub(super) fn rewrite(&self, time: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        for change in (0..).take_while(|_| begin.elapsed() < time) {
            replace(self.cluster, &name(change % SLICES), &address(10, 140, change))?;
            thread::sleep(APART);
        }
        Ok(())
    }
}

impl Drop for Largest<'_> {
    fn drop(&mut self) {
        let service = Reference::service(&format!("default/{NAME}"));
        let slices = (0..SLICES).map(|slice| Reference::slice(&format!("default/{}", name(slice))));
        let service = self.has_service.then_some(service);
        for object in service.into_iter().chain(slices) {
            if let Err(error) = self.cluster.plane().api().delete(&object, None) {
                eprintln!("cannot delete {object:?}: {error}");
            }
        }
    }
}

fn name(slice: usize) -> String {
    format!("{NAME}-{slice}")
}

/// Returns the address with this number within `first.second.0.0/14`.
fn address(first: u8, second: usize, number: usize) -> String {
    format!("{first}.{}.{}.{}", second + number / 62_500, number / 250 % 250, number % 250 + 1)
}
