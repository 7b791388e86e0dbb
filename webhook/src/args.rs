//! The command line of the webhook.

use std::net::SocketAddr;

use certs::CertificateArgs;
use clap::Parser;
use common::keys;
use config::{
    args::{AdminArgs, ShutdownArgs},
    telemetry::LogArgs,
};

/// Decides at admission how a DataVolume is cloned, or why it can't be.
#[derive(Debug, Parser)]
#[command(name = "webhook", version)]
pub struct Args {
    /// Address on which API servers are answered; `[::]` covers IPv4 too.
    #[arg(long, env, default_value = "[::]:8443")]
    pub(crate) listen: SocketAddr,
    /// ServiceAccount of the controller, in the namespace of --service-namespace: it alone may
    /// change a decision.
    #[arg(long, env, default_value = keys::CONTROLLER_MANAGER)]
    pub(crate) controller_service_account: String,
    #[command(flatten)]
    pub(crate) certificate: CertificateArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    #[command(flatten)]
    pub(crate) shutdown: ShutdownArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }
}
