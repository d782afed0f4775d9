//! The state of a file after a look at it.

use std::time::{Duration, Instant};

use super::super::layout::{FoundFile, Stamp};
use super::super::tracked::{Failing, FileState, Tracked};

#[test]
fn look_reads_whole_files_at_once_and_lets_others_settle() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let stamp = || Stamp::of(&file.as_file().metadata().unwrap());
    let before = stamp();
    file.as_file().set_len(1).unwrap();
    let now = Instant::now();
    let until = now + Duration::from_secs(1);
    let settling = FileState::Settling { until };
    let later = FileState::Settling { until: until + Duration::from_secs(1) };
    let (gone, failed) = (FileState::Gone { until }, FileState::Failed(Failing::again(now, now)));
    let (linked, settled) = ((true, false), (false, true));
    // The state, whether the stamp is another, whether it is linked and settled, whether an event ended or
    // began a write, and the state after it.
    let rows = [
        ("as it was read", FileState::Ready, false, (false, false), Some(true), FileState::Ready),
        ("failing as before", failed, false, settled, None, failed),
        ("changed lately", FileState::Ready, true, (false, false), None, settling),
        ("changed a while ago", FileState::Ready, true, settled, None, FileState::Changed),
        ("linked elsewhere", FileState::Ready, true, linked, None, FileState::Changed),
        ("created below a link", gone, true, linked, Some(false), settling),
        ("linked hard into place", gone, true, settled, Some(false), FileState::Changed),
        ("moved into place", gone, true, (false, false), Some(true), FileState::Changed),
        ("failing, and another now", failed, true, (false, false), None, settling),
        ("still being written", later, true, settled, None, later),
        ("closed meanwhile", later, true, (false, false), Some(true), FileState::Changed),
        ("to be read anyway", FileState::Changed, true, (false, false), None, FileState::Changed),
    ];
    for (row, state, is_other, (is_linked, is_settled), is_whole, expected) in rows {
        let real = ("/d".into(), "f.yaml".into());
        let found = FoundFile { real, stamp: stamp(), is_linked, is_settled };
        let read = if is_other { before } else { found.stamp };
        let mut tracked = Tracked { state, stamp: Some(read), ..Tracked::missing(now) };
        tracked.compare(&found, is_whole, now, until);
        assert_eq!(tracked.state, expected, "{row}");
    }
}
