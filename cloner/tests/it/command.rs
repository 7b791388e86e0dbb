//! The binary, as the controller starts it.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output, Stdio},
};

use common::mover::{Outcome, Progress};

use crate::support::{Loop, is_root, noise};

fn cloner(source: &Path, target: &Path, log: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloner"));
    command.arg("--source").arg(source).arg("--target").arg(target).arg("--termination-log").arg(log);
    command
}

#[track_caller]
fn ended(output: &Output, log: &Path) -> Outcome {
    let outcome: Outcome = serde_json::from_slice(&fs::read(log).unwrap()).unwrap();
    assert_eq!(output.status.code(), Some(outcome.exit_code().into()), "{}", String::from_utf8_lossy(&output.stderr));
    outcome
}

#[test]
fn progress_on_standard_output_and_the_outcome_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target, log) = (dir.path().join("source"), dir.path().join("target"), dir.path().join("log"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(source.join("file"), noise(1, 8 << 20)).unwrap();
    let output = cloner(&source, &target, &log).output().unwrap();
    let outcome = ended(&output, &log);
    assert!(matches!(outcome, Outcome::Copied { total, .. } if total == 8 << 20), "{outcome:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Progress> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.first(), Some(&Progress { done: 0, total: 8 << 20 }));
    assert_eq!(lines.last(), Some(&Progress { done: 8 << 20, total: 8 << 20 }));
}

#[test]
fn a_killed_one_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let (volume, device, back) = (dir.path().join("volume"), dir.path().join("device"), dir.path().join("back"));
    let disk = noise(1, 64 << 20);
    fs::create_dir(&volume).unwrap();
    fs::write(&device, &disk).unwrap();
    fs::write(&back, noise(2, 65 << 20)).unwrap();
    for (source, target) in [(&device, &volume), (&volume, &back)] {
        let mut killed = cloner(source, target, &log).stdout(Stdio::piped()).spawn().unwrap();
        // It has begun.
        let mut line = String::new();
        BufReader::new(killed.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        killed.kill().unwrap();
        killed.wait().unwrap();
        let output = cloner(source, target, &log).output().unwrap();
        let outcome = ended(&output, &log);
        assert!(matches!(outcome, Outcome::Copied { .. }), "{outcome:?}");
    }
    assert!(fs::read(volume.join("disk.img")).unwrap() == disk);
    let back = fs::read(&back).unwrap();
    assert!(back[..disk.len()] == disk && back[disk.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_cannot_succeed_ends_with_two() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let output = cloner(dir.path(), &dir.path().join("absent"), &log).output().unwrap();
    assert!(matches!(ended(&output, &log), Outcome::Never { .. }));
    assert_eq!(output.stdout, b"");
    let wrong = Command::new(env!("CARGO_BIN_EXE_cloner")).arg("--sauce").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn a_device_without_rights_says_what_to_configure() {
    if !is_root("a_device_without_rights_says_what_to_configure") {
        return;
    }
    // Where another user can execute it from, and write the log to.
    let dir = tempfile::tempdir().unwrap();
    let (binary, log) = (dir.path().join("cloner"), dir.path().join("log"));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_cloner"), &binary).unwrap();
    let (source, target) = (Loop::new(1 << 20), Loop::new(1 << 20));
    let mut command = Command::new(&binary);
    command.arg("--source").arg(&source.device).arg("--target").arg(&target.device).arg("--termination-log").arg(&log);
    let output = command.uid(65534).gid(65534).output().unwrap();
    let Outcome::Never { message } = ended(&output, &log) else { panic!("{output:?}") };
    assert!(message.contains("device_ownership_from_security_context"), "{message}");
}
