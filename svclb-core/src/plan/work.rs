//! The state of one part of a pass, which both of its phases work on. However many objects fail, each has its
//! turn: those that fail are tried first the next time too, and would starve the others.

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::layout::FrontendKey;

use super::outcome::{FailedStep, Pass};
use super::planner::Planner;
use super::runner::Runner;
use super::turns::Turn;
use super::unplaced::{Unplaced, UnplacedService};
use super::visit::{Placement, Visit};
use crate::catalog::{Catalog, Ports};
use crate::compile::Desired;
use crate::model::{ObjectName, ServiceKey};
use crate::table::{Row, Step, TableError};

/// The least number of steps of one service that are taken when its turn comes: it was compiled for them.
pub(super) const STEPS: usize = if cfg!(test) { 1 } else { 1_024 };

/// A part of a pass.
pub(super) struct Work<'a> {
    pub(super) planner: &'a mut Planner,
    runner: Runner<'a>,
    pub(super) catalog: &'a Catalog,
    pub(super) pass: Pass,
    /// The effort that a phase of this part may take.
    pub(super) most: usize,
    /// The effort that is left to the phase. Without any, objects that are not visited yet wait for the next
    /// part.
    pub(super) effort: usize,
    /// Objects that are still to be visited, by age; those that were put off come first.
    pub(super) queue: BTreeSet<(bool, i64, ObjectName)>,
    /// The turns of those whose turn it was.
    pub(super) turns: BTreeMap<ObjectName, Turn>,
    pub(super) visits: BTreeMap<ObjectName, Visit>,
    /// Objects that the next pass has to visit.
    pub(super) again: BTreeSet<ObjectName>,
    /// By object, the visits that were repeated because of a younger one.
    pub(super) repeats: BTreeMap<ObjectName, u8>,
}

/// The end of a part.
pub(super) struct Done {
    pub(super) pass: Pass,
    /// Objects that were visited to their end.
    pub(super) ended: Vec<ObjectName>,
    /// Objects that are to be visited again.
    pub(super) again: BTreeSet<ObjectName>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        planner: &'a mut Planner,
        runner: Runner<'a>,
        catalog: &'a Catalog,
        most: usize,
    ) -> Self {
        Self {
            planner,
            runner,
            catalog,
            pass: Pass::default(),
            most,
            effort: most,
            queue: BTreeSet::new(),
            turns: BTreeMap::new(),
            visits: BTreeMap::new(),
            again: BTreeSet::new(),
            repeats: BTreeMap::new(),
        }
    }

    /// Takes steps, which are some effort.
    pub(super) fn run(&mut self, steps: &[Step]) -> Result<(), TableError> {
        let before = self.runner.steps();
        let done = self.runner.run(&mut self.planner.mirror, steps);
        self.effort = self.effort.saturating_sub(self.runner.steps() - before);
        done
    }

    /// Notes a step that failed, of an object or of the maps as a whole.
    pub(super) fn fail(&mut self, object: Option<&ObjectName>, error: TableError) {
        self.again.extend(object.cloned());
        self.pass.failed.push(FailedStep { object: object.cloned(), error });
        self.planner.status.uncounted += 1;
    }

    /// Returns the desired rows of a port of an object, as long as others do not fit.
    pub(super) fn desired(
        &self,
        object: &ObjectName,
        ports: &Ports<'_>,
        port: usize,
    ) -> Option<Desired> {
        let Planner { unplaced, mirror, .. } = &*self.planner;
        let is_passed_over = |service: &ServiceKey, key: &FrontendKey| {
            service.object != *object
                && unplaced.has(service)
                && mirror.services.owner(key) != Some(service)
        };
        ports.compile(port, is_passed_over)
    }

    /// Corrects the reach of homes where a step failed between a line and the reach of its home.
    pub(super) fn settle_homes(&mut self) {
        for home in self.planner.mirror.lines.unsettled().clone() {
            if let Err(error) = self.runner.settle(&mut self.planner.mirror, home) {
                self.fail(None, error);
            }
        }
    }

    /// Writes the meta row, and sums up.
    pub(super) fn finish(mut self) -> Done {
        self.pass.steps = self.runner.steps();
        self.write_status();
        let mut ended = Vec::new();
        for (object, visit) in self.visits {
            for visited in visit.services {
                if let Placement::Unplaced(why) = visited.placement {
                    if why == Unplaced::Quarantined {
                        self.again.insert(object.clone());
                    }
                    self.pass.unplaced.push(UnplacedService { service: visited.service, why });
                }
            }
            if visit.is_at_end && !self.again.contains(&object) {
                ended.push(object);
            }
        }
        Done { pass: self.pass, ended, again: self.again }
    }

    fn write_status(&mut self) {
        let Planner { mirror, unplaced, status, .. } = &*self.planner;
        if status.is_staged {
            return;
        }
        let refused = self.catalog.refused();
        let row = status.row(&mirror.meta, unplaced.count(), refused, self.pass.steps);
        let Some(row) = row else { return };
        match self.runner.run(&mut self.planner.mirror, &[Step::Put(Row::Meta(row))]) {
            Ok(()) => self.planner.status.uncounted = 0,
            Err(error) => self.fail(None, error),
        }
    }
}
