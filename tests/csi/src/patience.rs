//! Waiting for somebody else to let go, which seldom takes long.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::Result;

/// How long a call waits before it says `ABORTED`, which callers answer with a much longer pause.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

const STEP: Duration = Duration::from_millis(5);

/// Looks until something is so, and says whether it came to be so in time.
pub(crate) fn soon(mut so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    while !so()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(STEP);
    }
    Ok(true)
}
