//! Programs that steps run, with their output in a log.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::report::end_of;
use crate::lab::{command::command, layout::Layout};

/// The version of cargo-deny that the rules in `deny.toml` are written for.
const DENY: &str = "0.20.2";

/// Runs a program to its end; what it wrote to stdout and stderr is added to `log` and returned.
pub async fn run(mut program: Command, log: &Path) -> Result<String> {
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    let before = usize::try_from(file.metadata()?.len())?;
    let shown = shown(&program);
    let status = program.stdout(file.try_clone()?).stderr(file).kill_on_drop(true).status().await;
    let status = status.with_context(|| format!("run {shown}"))?;
    ensure!(status.success(), end_of(log).context(format!("{shown}: {status}")));
    let all = fs::read(log)?;
    Ok(String::from_utf8_lossy(all.get(before..).unwrap_or_default()).into_owned())
}

/// As one would type it.
fn shown(program: &Command) -> String {
    let program = program.as_std();
    let name = Path::new(program.get_program()).file_name().unwrap_or(program.get_program());
    let words = std::iter::once(name).chain(program.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// This checkout's cargo.
pub fn cargo<I>(args: I) -> Result<Command>
where
    I: IntoIterator<Item: AsRef<OsStr>>,
{
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args);
    cargo.current_dir(Layout::of_this_checkout()?.checkout()).env("CARGO_TERM_COLOR", "never");
    // Cargo tells build scripts and programs about *this* package; a nested cargo would take it for its own input.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
    }
    Ok(cargo)
}

/// cargo-deny, built once per user.
pub async fn cargo_deny(log: &Path) -> Result<PathBuf> {
    let root = crate::lab::user_cache()?.join("smartclone/tools").join(format!("cargo-deny-{DENY}"));
    let program = root.join("bin/cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&root)?;
    let lock = File::create(root.join("lock"))?;
    let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    if !program.is_file() {
        let mut install = cargo(["install", "--locked", "--version", DENY, "--root"])?;
        // Elsewhere, so that this checkout's settings and target directory aren't used.
        install.arg(&root).arg("cargo-deny").current_dir(&root);
        // It runs for a second: what takes time is to compile it.
        install.envs([("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"), ("CARGO_PROFILE_RELEASE_LTO", "off")]);
        install.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "64");
        run(install, log).await.context("install cargo-deny")?;
    }
    Ok(program)
}
