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
    /// Image of the pod that copies the bytes where the storage can't.
    #[arg(long, env = "CLONER_IMAGE")]
    pub(crate) cloner_image: String,
    /// The number of DataVolumes that are reconciled at the same time.
    #[arg(long, env = "CONCURRENCY", default_value_t = 64)]
    pub(crate) concurrency: u16,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
