//! What a reconciler needs of the kernel.

use anyhow::Result;
use svclb_common::layout::{BackendKey, Meta};
use svclb_core::table::Table;

/// Waits until no program runs any more that ran before, and then reads which backends sockets remember.
pub type Remembered = Box<dyn FnOnce() -> Result<Vec<BackendKey>> + Send>;

/// Where maps come from, and who looks after what makes them matter.
pub trait Dataplane {
    /// The maps.
    type Maps: Table;

    /// How many places the origins have that new maps will share; none when they get their own.
    ///
    /// # Errors
    /// When that cannot be told.
    fn shared_origins(&self) -> Result<Option<u32>>;

    /// Begins to make maps as this row says, empty, beside those in use. `keeps_ids` says that services will
    /// have the ids there that they have here.
    ///
    /// # Errors
    /// When that cannot be done; nothing is left of it then.
    fn begin(&mut self, row: &Meta, keeps_ids: bool) -> Result<()>;

    /// Gives the maps that [`Self::begin`] began to make, once; none while they are being made, unless this
    /// `waits` for them.
    ///
    /// # Errors
    /// When they could not be made; nothing is left of them then.
    fn made(&mut self, waits: bool) -> Option<Result<Self::Maps>>;

    /// Whether [`Self::switch`] has nothing to wait for.
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

    /// Begins a review of the marks of backends in the index, if many were added (docs/decisions/0007).
    /// Gives the rest of it that may take long, to be done elsewhere while these maps are written.
    ///
    /// # Errors
    /// When the maps cannot be read.
    fn begin_marks(&self, maps: &mut Self::Maps) -> Result<Option<Remembered>>;

    /// Finishes the review with what [`Self::begin_marks`] gave.
    fn finish_marks(&self, maps: &mut Self::Maps, remembered: &[BackendKey]);

    /// Corrects what is counted of each client's entries in shared maps, and removes what is over. Part of
    /// an audit; what fails is tried again by the next one.
    fn audit_shares(&mut self);

    /// Whether our programs are on every hook, over the maps in use, as far as is known.
    fn is_whole(&self) -> bool;

    /// Connects to the probe's service, which the maps hold.
    ///
    /// # Errors
    /// When the connect was not translated, or could not be tried.
    fn prove(&mut self) -> Result<()>;

    /// Puts back what somebody took away, and tells.
    ///
    /// # Errors
    /// When the maps are no longer ours.
    fn look_after(&mut self) -> Result<()>;
}
