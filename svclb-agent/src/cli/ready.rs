//! `svclb status --ready`: answers a readiness probe by its exit code. Probes are frequent, so it reads one
//! row and the links, not the maps.

use anyhow::{Result, bail, ensure};
use svclb_common::layout::Meta;

use svclb_dataplane::pins::Pins;

use super::list::{hooks, is_running};
use super::output;

/// Prints `ready`.
///
/// # Errors
/// When [`readiness`] has one.
pub(super) fn ready(pins: &Pins) -> Result<()> {
    output::line(readiness(pins)?)
}

/// Returns `ready`.
///
/// # Errors
/// When no agent runs, a hook is not attached, the agent has not seen a connection of its own translated, or the
/// maps do not hold what its sources say. Translation goes on in any case.
pub(super) fn readiness(pins: &Pins) -> Result<&'static str> {
    let row = pins.meta()?;
    let unattached = output::unattached(&hooks(pins)?);
    judge(&row, is_running(row.agent), &unattached)
}

fn judge(row: &Meta, runs: bool, unattached: &[&str]) -> Result<&'static str> {
    ensure!(
        runs,
        "not ready: no agent runs (the last one was process {}); translation goes on with what it \
         left",
        row.agent
    );
    ensure!(
        row.synced != 0 || row.proved != 0,
        "not ready: the agent has not yet heard its sources since it started; its log says what it waits \
         for"
    );
    if !unattached.is_empty() {
        bail!("not ready: not attached: {}; restart the agent", unattached.join(", "));
    }
    ensure!(
        row.proved != 0,
        "not ready: the agent has not yet seen a connection of its own translated"
    );
    ensure!(
        row.synced != 0,
        "not ready: the agent has not yet heard its sources since it started; it serves what an earlier \
         one wrote, and its log says what it waits for"
    );
    Ok("ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_not_to_be_ready_is_said() {
        let heard = Meta { synced: 1, proved: 1, ..Meta::default() };
        let unproved = Meta { proved: 0, ..heard };
        let adopted = Meta { synced: 0, ..heard };
        let rows = [
            ("no agent", heard, false, &[][..], "no agent runs"),
            ("nothing heard", Meta::default(), true, &[], "not yet heard"),
            ("a hook is gone", heard, true, &["connect4", "connect6"], "connect4, connect6"),
            ("nothing proved", unproved, true, &[], "a connection of its own"),
            ("nothing heard, not even attached", adopted, true, &["connect4"], "connect4"),
            ("an earlier agent's maps", adopted, true, &[], "what an earlier one wrote"),
        ];
        for (row, meta, runs, unattached, expected) in rows {
            let said = judge(&meta, runs, unattached).err().map(|error| error.to_string());
            assert!(said.as_ref().unwrap().contains(expected), "{row}: {said:?}");
        }
        assert_eq!(judge(&heard, true, &[]).unwrap(), "ready");
    }
}
