//! The tools of the host that do what would need unsafe code here.

use std::{ffi::OsStr, process::Command};

use crate::{Error, Result};

/// Runs a tool to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    // What they say is looked at here and there.
    let output = command.env("LC_ALL", "C").output().map_err(Error::io("run", command.get_program()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    Err(Error::Command {
        command: words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" "),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
