//! The double of CDI: two processes of the cluster, of which a test may kill one.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    Lab, build,
    command::{command, run},
    network::Link,
    process::{Processes, Program, Record},
};

/// The operator with the admission server, as CDI's pods are called.
pub const CDI_ADMISSION: &str = "cdi-apiserver";
/// The controller.
pub const CDI_CONTROLLER: &str = "cdi-deployment";
/// The port of the admission server, inside the cluster's network.
const PORT: u16 = 9443;

impl Lab {
    /// Starts one of the two processes, or starts it anew where its arguments differ. `extra` are arguments such as `--rates`.
    pub async fn start_cdi(&self, process: &str, version: &str, extra: &[String]) -> Result<()> {
        let link = Link::load(self.layout())?.context("the cluster is not running")?;
        let part = if process == CDI_ADMISSION { "admission" } else { "controller" };
        // The process runs in the cluster's network: the API server reaches it at the node's address.
        let mut args = self.arguments_of_cdi();
        args.extend([
            format!("--part={part}"),
            format!("--version={version}"),
            format!("--listen={}:{PORT}", link.node),
            format!("--host={}", link.node),
        ]);
        args.extend_from_slice(extra);
        let program = Program::new(process, build::binary("cdi-double")?, args);
        Processes::of(self.layout()).start(&program).await.map(drop)
    }

    /// Kills one of the two processes, as a crash would.
    pub async fn kill_cdi(&self, process: &str) -> Result<()> {
        Processes::of(self.layout()).stop(process, Duration::ZERO).await
    }

    /// The process identifier of one of the two, while it runs.
    pub fn pid_of_cdi(&self, process: &str) -> Result<Option<i32>> {
        let record = Processes::of(self.layout()).record(process)?;
        Ok(record.filter(Record::is_alive).map(|record| record.pid))
    }

    /// Ends both processes, and removes what they have installed with all DataVolumes.
    pub async fn uninstall_cdi(&self) -> Result<()> {
        for process in [CDI_CONTROLLER, CDI_ADMISSION] {
            self.kill_cdi(process).await?;
        }
        let mut args = self.arguments_of_cdi();
        args.push("--uninstall".to_owned());
        run(command(build::binary("cdi-double")?, args)).await.map(drop)
    }

    fn arguments_of_cdi(&self) -> Vec<String> {
        vec![format!("--kubeconfig={}", self.layout().kubeconfig("lab").display())]
    }
}
