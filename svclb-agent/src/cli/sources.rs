//! The agent's sources as svclb_meta has them, for `svclb status` and `svclb check`: when each was last heard,
//! from where, and how many of its objects are rejected.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;
use svclb_common::layout::{Meta, SourceKind, SourceRow, WayKind};

/// A source of the agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Source")]
pub(super) struct SourceView {
    /// Its kind: `services`, `endpointslices`, `nodes`, or `files`, which have all of them.
    pub(super) name: &'static str,
    /// Seconds since the last answer from it; none: not since the agent started.
    pub(super) heard_seconds_ago: Option<u64>,
    /// The way to the API server: `configuration`, `endpoint`, `api-server`; empty where there is
    /// none, or none is known.
    pub(super) way: &'static str,
    /// The address of the last answer, `address:port`; empty as above.
    pub(super) address: String,
    /// Number of its objects that are rejected.
    pub(super) rejected: u32,
}

impl SourceView {
    /// The sources of a meta row, seen now.
    pub(super) fn all(row: &Meta) -> Vec<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self::at(row, now.map_or(0, |since| since.as_secs()))
    }

    fn at(row: &Meta, now: u64) -> Vec<Self> {
        let view = |source: &SourceRow| {
            let way = WayKind::from_number(source.way);
            Some(Self {
                name: SourceKind::from_number(source.kind)?.name(),
                heard_seconds_ago: (source.heard != 0).then(|| now.saturating_sub(source.heard)),
                way: way.map_or("", WayKind::name),
                address: way.map_or_else(String::new, |_| {
                    SocketAddr::new(source.address.ip(), source.port).to_string()
                }),
                rejected: source.rejected,
            })
        };
        row.sources.iter().filter_map(view).collect()
    }

    /// Describes when it was heard, from where, and how many of its objects are rejected.
    pub(super) fn words(&self) -> String {
        let from = match self.way {
            "" => String::new(),
            way => format!(" from {} ({way})", self.address),
        };
        let heard = match self.heard_seconds_ago {
            Some(seconds) => format!("heard {seconds} s ago{from}"),
            None => "not heard since the agent started".to_owned(),
        };
        match self.rejected {
            0 => heard,
            rejected => format!("{heard}, {rejected} rejected"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use svclb_common::layout::SOURCES;

    use super::*;

    #[test]
    fn each_source_says_when_it_was_heard_and_by_which_way() {
        let address = IpAddr::from([10, 0, 0, 1]).into();
        let (kind, way) = (SourceKind::Services as u8, WayKind::Endpoint as u8);
        let mut sources = [SourceRow::default(); SOURCES];
        sources[0] = SourceRow { heard: 100, address, port: 6443, kind, way, rejected: 2 };
        sources[1] = SourceRow { kind: SourceKind::Nodes as u8, ..SourceRow::default() };
        let row = Meta { sources, ..Meta::default() };
        let views = SourceView::at(&row, 112);
        let words: Vec<String> =
            views.iter().map(|view| format!("{} {}", view.name, view.words())).collect();
        let expected = [
            "services heard 12 s ago from 10.0.0.1:6443 (endpoint), 2 rejected",
            "nodes not heard since the agent started",
        ];
        assert_eq!(words, expected);
        // Clocks may be set back.
        assert_eq!(SourceView::at(&row, 90)[0].heard_seconds_ago, Some(0));
        let json = serde_json::to_value(&views[1]).unwrap();
        let expected = serde_json::json!({
            "name": "nodes", "heard_seconds_ago": null, "way": "", "address": "", "rejected": 0,
        });
        assert_eq!(json, expected);
    }
}
