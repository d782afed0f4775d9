//! The kernel as a reconciler sees it: an interface that tests can implement without one.

use std::io;

use anyhow::Result;
use svclb_common::layout::{BackendKey, Meta};
use svclb_core::table::Table;

/// Waits until every program that runs now has ended. Takes long enough to be run on another thread.
pub type GracePeriod = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Waits for a grace period, and then reads the backends that sockets remember.
pub type Remembered = Box<dyn FnOnce() -> Result<Vec<BackendKey>> + Send>;

/// Makes maps, puts them into use, and keeps hooks and pins in place.
pub trait Dataplane {
    /// The maps.
    type Maps: Table;

    /// Number of places of the origins that new maps will share; none when they get their own.
    ///
    /// # Errors
    /// When that cannot be read.
    fn shared_origins(&self) -> Result<Option<u32>>;

    /// Begins to make empty staging maps of the sizes in this row. With `keeps_ids`, services will have the
    /// same ids in them.
    ///
    /// # Errors
    /// When that cannot be done; nothing is left of it then.
    fn begin(&mut self, row: &Meta, keeps_ids: bool) -> Result<()>;

    /// Returns the maps that [`Self::begin`] began to make, once; none while they are being made, unless this
    /// `waits` for them.
    ///
    /// # Errors
    /// When they could not be made; nothing is left of them then.
    fn made(&mut self, waits: bool) -> Option<Result<Self::Maps>>;

    /// Returns true if [`Self::switch`] has nothing to wait for.
    fn can_switch(&self) -> bool;

    /// Puts the maps that were made into use, once they are filled.
    ///
    /// # Errors
    /// When nothing was put into use. Where others are in use already a switch that has begun is no
    /// error: what is not done yet is done when it is looked after. At the start it is one, and the next
    /// start goes on from there.
    fn switch(&mut self, maps: &mut Self::Maps) -> Result<()>;

    /// Removes what [`Self::begin`] made.
    fn abandon(&mut self);

    /// Returns a wait until no program can still read what was freed before it begins.
    fn grace_period(&self) -> GracePeriod;

    /// Begins a review of the marks of backends in the index, if many were added (docs/decisions/0007).
    /// Returns the part of it that may take long, to be run on another thread while these maps are written.
    ///
    /// # Errors
    /// When the maps cannot be read.
    fn begin_marks(&self, maps: &mut Self::Maps) -> Result<Option<Remembered>>;

    /// Finishes the review with what [`Self::begin_marks`] gave.
    fn finish_marks(&self, maps: &mut Self::Maps, remembered: &[BackendKey]);

    /// Corrects the counts of each client's entries in shared maps, and removes expired entries. This is a part
    /// of an audit; the next one tries again what failed.
    fn audit_shares(&mut self);

    /// Returns true if this agent's programs are on every hook, over the maps in use, as far as is known.
    fn is_whole(&self) -> bool;

    /// Connects to the probe's service, which the maps hold.
    ///
    /// # Errors
    /// When the connect was not translated, or could not be tried.
    fn prove(&mut self) -> Result<()>;

    /// Restores hooks and pins that another process removed, and logs it.
    ///
    /// # Errors
    /// When the maps are no longer ours.
    fn look_after(&mut self) -> Result<()>;
}
