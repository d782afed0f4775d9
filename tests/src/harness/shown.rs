//! What the commands of `svclb` show of a world, waited for until it is as it should be.

use std::sync::atomic::Ordering;

use super::view::{self, Origin, Row};
use super::wait::{LIMIT, within};
use super::world::World;
use crate::Protocol;

impl World {
    /// Waits until the agent has written all that this world's Services say, to the last step.
    ///
    /// What shows that a pass came to its end is a Service that is written after the others were seen:
    /// only the next pass writes it.
    ///
    /// # Panics
    /// When it does not in good time: with what was expected and found.
    pub fn settle(&self) {
        self.wait_for_rows();
        let port = self.fence.fetch_add(1, Ordering::Relaxed);
        self.service("svclb-test/fence")
            .cluster_ip("10.96.255.255")
            .port(port, Protocol::Udp)
            .write();
        self.wait_for_rows();
    }

    /// Looks whether the maps hold all that this world's Services say, with nobody to write it.
    ///
    /// # Panics
    /// When they do not.
    pub fn settle_without_agent(&self) {
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
                format!("{} {row}", if expected.contains(row) { "missing:" } else { "too much:" })
            };
            match &missing[..] {
                [] => Ok(()),
                rows => Err(rows.iter().map(describe).collect::<Vec<_>>().join("\n")),
            }
        });
        if let Err(last) = settled {
            panic!("the maps are not as the YAML says after {LIMIT:?}:\n{last}");
        }
    }

    /// The origins of live sockets, as `svclb sockets` shows them.
    ///
    /// # Panics
    /// When it fails.
    pub fn origins(&self) -> Vec<Origin> {
        let shown = self.json(&["sockets"]).and_then(|shown| view::origins(&shown));
        shown.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until no origin is left, in the array and in the overflow. A child that another test is
    /// starting may hold a descriptor of this one for a moment.
    ///
    /// # Panics
    /// When some are left.
    pub fn wait_until_forgotten(&self) {
        let left = within(LIMIT, || match (&self.origins()[..], self.overflow_entries()) {
            ([], 0) => Ok(()),
            ([], entries) => Err(format!("{entries} empty entries of the overflow are left")),
            ([first, ..], _) => Err(format!("{} are left: {first:?} ...", self.origins().len())),
        });
        if let Err(left) = left {
            panic!("origins of closed sockets are left after {LIMIT:?}: {left}");
        }
    }

    /// How many entries the overflow of the origins has.
    pub fn overflow_entries(&self) -> u64 {
        view::overflow_entries(&self.status()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What `svclb status -o json` shows.
    ///
    /// # Panics
    /// When it fails.
    pub fn status(&self) -> serde_json::Value {
        self.json(&["status"]).unwrap_or_else(|error| panic!("{error}"))
    }

    fn json(&self, command: &[&str]) -> Result<serde_json::Value, String> {
        let output = self.svclb(&[command, &["-o", "json"]].concat());
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("svclb {} failed: {}", command.join(" "), said.trim()));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("svclb {} -o json shows no JSON: {error}", command.join(" ")))
    }
}
