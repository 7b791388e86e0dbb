//! Groups of command-line arguments that binaries flatten into their own; each can also be set in
//! the environment.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

/// Arguments for the endpoint of probes and metrics.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Admin endpoint")]
pub struct AdminArgs {
    /// Address of the plain HTTP endpoint for /live, /ready, /metrics; `[::]` covers IPv4 too.
    #[arg(long, env, default_value = "[::]:8080")]
    pub admin_address: SocketAddr,
}

/// Arguments for the shutdown of the process.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Shutdown")]
pub struct ShutdownArgs {
    /// Time between turning unready and refusing work, for the endpoint's removal to reach every
    /// client; `0s` for none.
    #[arg(long, env, default_value = "3s", value_parser = duration)]
    pub shutdown_pause: Duration,
    /// Time that work in flight has to end after the pause, before it is dropped.
    #[arg(long, env, default_value = "15s", value_parser = duration)]
    pub shutdown_limit: Duration,
}

/// Parses durations such as `1m30s` or `500ms`; for `value_parser` of clap.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    duration.try_into().map_err(|_| "a duration cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use rstest::rstest;

    use super::*;
    use crate::telemetry::{LogArgs, LogFormat};

    #[derive(Parser)]
    struct Everything {
        #[command(flatten)]
        log: LogArgs,
        #[command(flatten)]
        admin: AdminArgs,
        #[command(flatten)]
        shutdown: ShutdownArgs,
    }

    #[test]
    fn the_groups_fit_together() {
        Everything::command().debug_assert();
    }

    #[test]
    fn defaults_need_no_argument() {
        let args = Everything::parse_from(["test"]);
        assert_eq!(args.admin.admin_address.port(), 8080);
        assert_eq!(args.shutdown.shutdown_pause, Duration::from_secs(3));
        assert_eq!(args.log.log_format, LogFormat::Text);
    }

    #[rstest]
    #[case::none("0s", Some(Duration::ZERO))]
    #[case::compound("1m30s", Some(Duration::from_secs(90)))]
    #[case::milliseconds("500ms", Some(Duration::from_millis(500)))]
    #[case::negative("-1s", None)]
    #[case::without_unit("3", None)]
    fn durations(#[case] text: &str, #[case] expected: Option<Duration>) {
        assert_eq!(duration(text).ok(), expected);
    }

    #[rstest]
    #[case::bad_filter(&["test", "--log-level", "shout=very"])]
    #[case::bad_format(&["test", "--log-format", "xml"])]
    #[case::bad_address(&["test", "--admin-address", "somewhere"])]
    fn nonsense_is_refused(#[case] args: &[&str]) {
        assert!(Everything::try_parse_from(args).is_err());
    }
}
