//! New maps that are to take the place of others: what of those goes on in them.

use std::collections::HashMap;

use svclb_common::layout::{Meta, ServiceRow};

use super::mirror::State;
use super::staging::AHEAD;
use crate::compile::service_of;
use crate::model::ServiceKey;

impl State {
    /// The state of new maps that are to take the place of maps which cannot be used, but for the rows
    /// of `svclb_services`: services keep their ids. `meta` says how large the new ones are, how their
    /// index is hashed and who makes them.
    pub fn renewed(rows: &[(u32, ServiceRow)], meta: Meta) -> Self {
        let ids = rows.iter().filter_map(|(id, row)| Some((service_of(row)?, *id)));
        let kept_ids: HashMap<ServiceKey, u32> = ids.filter(|(_, id)| *id != 0).collect();
        let highest = rows.iter().map(|(id, _)| *id).max().unwrap_or(0);
        let next_service = meta.next_service.max(highest.saturating_add(1));
        Self { kept_ids, ..Self::new(Meta { next_service, ..meta }) }
    }

    /// The state of new maps that are to take the place of these, still empty. Services keep their ids,
    /// by which affinity knows them, and generations go on where these end: what sockets remember of
    /// these maps is never mistaken for something of the new ones. `meta` says how large the new ones
    /// are and how their index is hashed.
    pub fn beside(&self, meta: Meta) -> Self {
        let meta = Meta {
            layout: 0,
            index_lines: meta.index_lines,
            spill_lines: meta.spill_lines,
            slots: meta.slots,
            seed: meta.seed,
            first_generation: self.highest_generation().wrapping_add(AHEAD),
            next_service: self.meta.next_service.saturating_add(AHEAD),
            ..self.meta
        };
        let services = self.services.iter();
        Self {
            kept_ids: services.map(|(id, held)| (held.key.clone(), *id)).collect(),
            uncounted: self.uncounted,
            is_synced: self.is_synced,
            ..Self::new(meta)
        }
    }

    /// The highest generation that a line has or begins with.
    pub(super) fn highest_generation(&self) -> u32 {
        let highest = self.generations.values().copied().max().unwrap_or(0);
        highest.max(self.meta.first_generation)
    }

    /// Whether a service had an id in the maps whose place these are to take.
    pub fn had(&self, service: &ServiceKey) -> bool {
        self.kept_ids.contains_key(service)
    }

    /// Says that these maps are filled: ids of services that did not come are not kept any longer.
    pub fn settle(&mut self) {
        self.kept_ids = HashMap::new();
    }
}
