//! The output of the commands of `svclb` in a world, and waits until it is as expected.

use std::sync::atomic::Ordering;

use super::view::{self, Origin, Row};
use super::wait::{LIMIT, within};
use super::world::World;
use crate::Protocol;

impl World {
    /// Waits until the agent has written all Services of this world, up to the last step of its pass.
    ///
    /// The end of the pass is visible by a marker Service that is written once the others are in the
    /// maps: only the next pass can write it.
    ///
    /// # Panics
    /// If the agent does not do so within the limit, with the difference.
    pub fn settle(&self) {
        self.wait_for_rows();
        let port = self.marker_port.fetch_add(1, Ordering::Relaxed);
        self.service("svclb-test/marker")
            .cluster_ip("10.96.255.255")
            .port(port, Protocol::Udp)
            .write();
        self.wait_for_rows();
    }

    /// Asserts that the maps hold all Services of this world while no agent runs.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_maps_match(&self) {
        self.wait_for_rows();
    }

    fn wait_for_rows(&self) {
        let services = self.services.lock().unwrap().clone();
        let expected = view::expected(services.values(), &self.node.lock().unwrap());
        let mut missing = Vec::new();
        let settled = within(LIMIT, || {
            let found = view::rows(&self.json(&["services"])?, &self.json(&["backends"])?)?;
            missing = expected.symmetric_difference(&found).cloned().collect();
            let describe = |row: &Row| {
                format!("{} {row}", if expected.contains(row) { "missing:" } else { "unexpected:" })
            };
            match &missing[..] {
                [] => Ok(()),
                rows => Err(rows.iter().map(describe).collect::<Vec<_>>().join("\n")),
            }
        });
        if let Err(last) = settled {
            panic!("the maps differ from the Services of the YAML folder after {LIMIT:?}:\n{last}");
        }
    }

    /// The origins of live sockets, as `svclb sockets` prints them.
    ///
    /// # Panics
    /// If the command fails.
    pub fn origins(&self) -> Vec<Origin> {
        let shown = self.json(&["sockets"]).and_then(|shown| view::origins(&shown));
        shown.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until no origin is left in the array or in the overflow. A child that another test is
    /// starting may keep one of this test's sockets open for a moment.
    ///
    /// # Panics
    /// If some are left after the limit.
    pub fn wait_until_origins_released(&self) {
        let left = within(LIMIT, || match (&self.origins()[..], self.overflow_entries()) {
            ([], 0) => Ok(()),
            ([], entries) => Err(format!("{entries} empty entries of the overflow are left")),
            ([first, ..], _) => Err(format!("{} are left: {first:?} ...", self.origins().len())),
        });
        if let Err(left) = left {
            panic!("origins of closed sockets are left after {LIMIT:?}: {left}");
        }
    }

    /// The number of entries of the overflow map.
    pub fn overflow_entries(&self) -> u64 {
        view::overflow_entries(&self.status()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The output of `svclb status -o json`.
    ///
    /// # Panics
    /// If the command fails.
    pub fn status(&self) -> serde_json::Value {
        self.json(&["status"]).unwrap_or_else(|error| panic!("{error}"))
    }

    fn json(&self, command: &[&str]) -> Result<serde_json::Value, String> {
        let output = self.svclb(&[command, &["-o", "json"]].concat());
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(format!("svclb {} failed: {}", command.join(" "), stderr.trim()));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| {
            format!("svclb {} -o json did not print JSON: {error}", command.join(" "))
        })
    }
}
