//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};

use crate::version::Version;

/// The part of CDI that a process is. Killing one leaves the others, as with CDI's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Installation, operator and admission server.
    Admission,
    /// The controller: DataVolumes and the clone populator.
    Controller,
    /// Everything.
    All,
}

/// A test double of CDI: its clone controllers, webhooks and operator.
#[derive(Debug, Clone, Parser)]
#[command(about, disable_version_flag = true)]
pub struct Args {
    /// The kubeconfig of an administrator, who may impersonate CDI's accounts.
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// The version of CDI to imitate.
    #[arg(long = "version", default_value = "1.66.0")]
    pub cdi_version: Version,
    /// The address of the admission server.
    #[arg(long, default_value = "127.0.0.1:9443")]
    pub listen: SocketAddr,
    /// The name or address by which the API server reaches the admission server.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// The part of CDI that this process is.
    #[arg(long, value_enum, default_value = "all")]
    pub part: Part,
    /// CDI's limits on requests: 20 a second for DataVolumes, 5 a second for the reads of each admission replica.
    #[arg(long)]
    pub rates: bool,
    /// Name of a driver that CDI does not know: StorageProfiles of its classes list no access modes. May be repeated.
    #[arg(long)]
    pub unknown_driver: Vec<String>,
    /// Removes what was installed, with all DataVolumes, and ends.
    #[arg(long)]
    pub uninstall: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_as_documented() {
        Args::command().debug_assert();
        let args = ["cdi-double", "--kubeconfig=f", "--version=1.59.2", "--listen=127.0.0.1:1", "--host=h", "--rates"];
        let args = Args::parse_from(args);
        assert_eq!((args.cdi_version, args.part, args.rates), (Version::new(1, 59, 2), Part::All, true));
    }
}
