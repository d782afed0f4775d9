//! What a reconciler stands on.

use anyhow::Result;
use svclb_common::layout::Meta;
use svclb_core::table::Table;

/// Where maps come from, and who looks after what makes them matter.
pub trait Ground {
    /// The maps.
    type Maps: Table;

    /// How many places the origins have that new maps will share; none when they get their own.
    ///
    /// # Errors
    /// When that cannot be told.
    fn shared_origins(&self) -> Result<Option<u32>>;

    /// Makes maps as this row says, empty, beside those in use. `keeps_ids` says that services will have
    /// the ids there that they have here.
    ///
    /// # Errors
    /// When that cannot be done; nothing is left of it then.
    fn beside(&mut self, row: &Meta, keeps_ids: bool) -> Result<Self::Maps>;

    /// Puts the maps that [`Self::beside`] made into use.
    ///
    /// # Errors
    /// When nothing was put into use. Where others are in use already a switch that has begun is no
    /// error: what is not done yet is done when it is looked after. At the start it is one, and the next
    /// start goes on from there.
    fn switch(&mut self) -> Result<()>;

    /// Removes what [`Self::beside`] made.
    fn abandon(&mut self);

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
