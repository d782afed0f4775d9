//! The state that a previous agent wrote, read back from the mirror for the catalog.

use svclb_common::layout::{LineFlags, ServiceNotes, ServiceRow};

use super::mirror::InstalledService;
use super::planner::Planner;
use crate::compile::name_of;
use crate::frontends::FrontendKind;
use crate::model::{Service, ServiceKey, ServicePort, TrafficPolicy};
use crate::number::ServiceId;
use crate::retained::Retained;

impl Planner {
    /// Returns what a previous agent wrote of the services that `is_wanted` picks, on the first call. It has
    /// to be made when the sources are known, before the first pass over their objects.
    pub fn take_previous(&mut self, is_wanted: impl Fn(&ServiceKey) -> bool) -> Vec<Retained> {
        let rows = std::mem::take(&mut self.previous);
        let retained = rows.iter().filter_map(|(id, row)| {
            let id = ServiceId(*id);
            let service = self.mirror.services.get(id).filter(|it| is_wanted(it.key()))?;
            Some(self.retained(id, service, row))
        });
        retained.collect()
    }

    fn retained(&self, id: ServiceId, installed: &InstalledService, row: &ServiceRow) -> Retained {
        let (mut frontends, mut affinity_seconds) = (Vec::new(), 0);
        for key in installed.frontends() {
            let number = self.mirror.services.frontend(key).map(|(_, number)| number);
            let line = number.and_then(|number| self.mirror.lines.holding(number, key));
            let Some(line) = line else { continue };
            let is_external = line.flags & LineFlags::EXTERNAL != 0;
            let kind = if is_external { FrontendKind::ExternalIp } else { FrontendKind::ClusterIp };
            frontends.push((*key, kind));
            affinity_seconds = affinity_seconds.max(line.affinity_seconds);
        }
        let key = installed.key().clone();
        let port = ServicePort {
            name: key.port_name.clone(),
            protocol: key.protocol,
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
        let members = installed.members().of(id);
        let members = members.map(|(key, row)| (key.address, key.port, row)).collect();
        Retained { key, service, frontends, members }
    }
}
