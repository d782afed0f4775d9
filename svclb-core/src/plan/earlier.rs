//! What an earlier agent wrote, read back from the mirror of its maps.

use svclb_common::layout::{LineFlags, ServiceNotes, ServiceRow};

use super::mirror::{Held, State};
use crate::catalog::Retained;
use crate::compile::{FrontendKind, name_of};
use crate::model::{Service, ServiceKey, ServicePort, TrafficPolicy};

impl State {
    /// What an earlier agent wrote of those services that `is_wanted` picks; none when that was asked
    /// before. It has to be asked when the sources are known, before the first pass over what they say.
    pub fn take_earlier(&mut self, is_wanted: impl Fn(&ServiceKey) -> bool) -> Vec<Retained> {
        let rows = std::mem::take(&mut self.earlier);
        let written = rows.iter().filter_map(|(id, row)| {
            let held = self.services.get(id).filter(|held| is_wanted(&held.key))?;
            Some(self.written(*id, held, row))
        });
        written.collect()
    }

    fn written(&self, id: u32, held: &Held, row: &ServiceRow) -> Retained {
        let lines = held.frontends.iter().filter_map(|key| {
            let (_, number) = self.frontends.get(key)?;
            Some((*key, self.lines.get(number).filter(|line| line.frontend() == *key)?))
        });
        let (mut frontends, mut affinity_seconds) = (Vec::new(), 0);
        for (key, line) in lines {
            let is_external = line.flags & LineFlags::EXTERNAL != 0;
            let kind = if is_external { FrontendKind::ExternalIp } else { FrontendKind::ClusterIp };
            frontends.push((key, kind));
            affinity_seconds = affinity_seconds.max(line.affinity_seconds);
        }
        let port = ServicePort {
            name: held.key.port_name.clone(),
            protocol: held.key.protocol,
            port: 0,
            node_port: None,
        };
        let service = Service {
            internal_policy: TrafficPolicy::named(&name_of(&row.internal_policy)),
            external_policy: TrafficPolicy::named(&name_of(&row.external_policy)),
            affinity_seconds: Some(affinity_seconds).filter(|seconds| *seconds != 0),
            notes: row.notes & !(ServiceNotes::CONFLICT | ServiceNotes::RETAINED),
            ports: vec![port],
            ..Service::default()
        };
        let members = held.members.of(id).map(|(key, row)| (key.address, key.port, row)).collect();
        Retained { key: held.key.clone(), service, frontends, members }
    }
}
