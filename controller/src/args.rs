//! The command line of the controller.

use clap::Parser;
use config::{
    args::{AdminArgs, ShutdownArgs},
    telemetry::LogArgs,
};

/// Executes the clones that DataVolumes ask for.
#[derive(Debug, Parser)]
#[command(name = "controller", version)]
pub struct Args {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) shutdown: ShutdownArgs,
    /// Name of this pod, which holds the controller's Lease.
    #[arg(long, env = "POD_NAME")]
    pub(crate) pod_name: Option<String>,
    /// Image of the pod that copies the bytes where the storage can't.
    #[arg(long, env = "CLONER_IMAGE")]
    pub(crate) cloner_image: String,
    /// The number of DataVolumes that are reconciled at the same time.
    #[arg(long, env = "CONCURRENCY", default_value_t = 64)]
    pub(crate) concurrency: u16,
}

impl Args {
    /// The name of this pod: the flag, else the name of the host, which is the same in a pod with its own network.
    pub(crate) fn holder(&self) -> String {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = self.pod_name.clone().or_else(host).unwrap_or_default();
        Some(name.trim()).filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use rstest::rstest;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }

    #[rstest]
    #[case::named(&["--pod-name=smartclone-controller-5d-x"], Some("smartclone-controller-5d-x"))]
    #[case::by_its_host(&[], None)]
    fn the_holder_has_a_name(#[case] flags: &[&str], #[case] expected: Option<&str>) {
        let all = ["controller", "--cloner-image=i"].iter().chain(flags);
        let holder = super::Args::parse_from(all).holder();
        assert!(!holder.is_empty() && holder.trim() == holder, "{holder:?}");
        assert!(expected.is_none_or(|expected| holder == expected), "{holder:?}");
    }
}
