//! Commands that are shown and really run.

use std::io::{BufRead as _, BufReader};

use anyhow::{Context as _, Result, bail};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::transcript::{Transcript, quoted};
use crate::lab::Lab;

/// `kubectl` of the cluster, in the checkout's root directory.
#[derive(Debug, Clone, Copy)]
pub struct Shell<'a> {
    lab: &'a Lab,
    transcript: Transcript,
}

/// What a command has said, and whether it has succeeded.
struct Ended {
    said: String,
    success: bool,
}

impl<'a> Shell<'a> {
    /// Tells in `transcript` what it does.
    pub fn new(lab: &'a Lab, transcript: Transcript) -> Self {
        Self { lab, transcript }
    }

    /// Runs `kubectl`, which has to succeed; returns what it has said.
    pub async fn kubectl(self, args: &[&str]) -> Result<String> {
        let ended = self.run(args).await?;
        if !ended.success {
            bail!("this command failed: {}", line(args));
        }
        Ok(ended.said)
    }

    /// Runs `kubectl`, which must not succeed; returns what it has said.
    pub async fn kubectl_refused(self, args: &[&str]) -> Result<String> {
        let ended = self.run(args).await?;
        if ended.success {
            bail!("this command should have been refused, but succeeded: {}", line(args));
        }
        Ok(ended.said)
    }

    /// Results and warnings come in one stream, in the order in which a terminal would show them.
    async fn run(self, args: &[&str]) -> Result<Ended> {
        self.transcript.command(&line(args))?;
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        let mut command = self.lab.kubectl();
        command.args(args).current_dir(self.lab.layout().checkout()).stdin(std::process::Stdio::null());
        command.stdout(writer.try_clone().context("share a pipe")?).stderr(writer).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("can't run {}", self.lab.kubectl_path().display()))?;
        // It holds the pipe's other end, without which reading would never end.
        drop(command);
        let (tell, mut told) = mpsc::unbounded_channel();
        let reading = spawn_blocking(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                // Nobody listens any more: the demo is over.
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let mut said = String::new();
        while let Some(line) = told.recv().await {
            self.transcript.answer(&line)?;
            said.push_str(&line);
            said.push('\n');
        }
        reading.await?;
        Ok(Ended { said, success: child.wait().await?.success() })
    }
}

/// As one would type it.
fn line(args: &[&str]) -> String {
    std::iter::once("kubectl".to_owned()).chain(args.iter().map(|arg| quoted(arg))).collect::<Vec<_>>().join(" ")
}
