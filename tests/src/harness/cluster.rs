//! The cluster under test: this checkout's lab, or an existing cluster in a context of the kubeconfig.

use std::{error::Error, fmt};

use anyhow::{Context as _, Result};
use kube::{Client, config::Kubeconfig};
use tokio::process::Command;

use crate::lab::Lab;

/// The environment variable with the context of an existing cluster; without it, tests run on the lab.
pub const CONTEXT: &str = "SMARTCLONE_CONTEXT";

/// A cluster with smartclone on it.
#[derive(Debug, Clone)]
pub enum Cluster {
    /// This checkout's own cluster. Tests have access to its processes, drivers, disks and audit log.
    Lab(Lab),
    /// A cluster of which tests use only the API.
    Existing {
        /// The name of its context in the kubeconfig.
        context: String,
    },
}

/// The error of a test that needs something of the lab's host; on another cluster the test is ignored.
#[derive(Debug, Clone, Copy)]
pub struct NeedsLab;

impl fmt::Display for NeedsLab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("needs the lab: its reference drivers, keys or audit log")
    }
}

impl Error for NeedsLab {}

impl NeedsLab {
    /// True if this is the cause of an error.
    pub fn caused(error: &anyhow::Error) -> bool {
        error.chain().any(<dyn Error>::is::<Self>)
    }
}

impl From<Lab> for Cluster {
    fn from(lab: Lab) -> Self {
        Self::Lab(lab)
    }
}

impl Cluster {
    /// The cluster of this context, or this checkout's lab.
    pub fn of(context: Option<String>) -> Result<Self> {
        Ok(match context {
            Some(context) => Self::Existing { context },
            None => Self::Lab(Lab::for_this_checkout()?),
        })
    }

    /// The lab, or [`NeedsLab`].
    pub fn lab(&self) -> Result<&Lab, NeedsLab> {
        match self {
            Self::Lab(lab) => Ok(lab),
            Self::Existing { .. } => Err(NeedsLab),
        }
    }

    /// A client with all rights.
    pub fn client(&self) -> Result<Client> {
        match self {
            Self::Lab(lab) => lab.client(),
            Self::Existing { context } => Ok(Client::try_from(kubeconfig(context)?)?),
        }
    }

    /// A client that impersonates this user.
    pub fn client_as(&self, user: &str) -> Result<Client> {
        match self {
            Self::Lab(lab) => lab.client_as(user),
            Self::Existing { context } => {
                let mut kubeconfig = kubeconfig(context)?;
                for named in &mut kubeconfig.auth_infos {
                    named.auth_info.get_or_insert_default().impersonate = Some(user.to_owned());
                }
                Ok(Client::try_from(kubeconfig)?)
            }
        }
    }

    /// `kubectl` with all rights.
    pub fn kubectl(&self) -> Command {
        match self {
            Self::Lab(lab) => lab.kubectl(),
            Self::Existing { context } => {
                let mut kubectl = Command::new("kubectl");
                kubectl.arg(format!("--context={context}"));
                kubectl
            }
        }
    }
}

/// The user's kubeconfig with another current context.
fn kubeconfig(context: &str) -> Result<Kubeconfig> {
    let mut kubeconfig = Kubeconfig::read().context("read the kubeconfig ($KUBECONFIG, or ~/.kube/config)")?;
    let known: Vec<_> = kubeconfig.contexts.iter().map(|it| it.name.as_str()).collect();
    anyhow::ensure!(known.contains(&context), "the kubeconfig has no context {context:?}, only {known:?}");
    kubeconfig.current_context = Some(context.to_owned());
    Ok(kubeconfig)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_needs_the_lab_is_known_by_the_cause_of_its_error() {
        let elsewhere = Cluster::of(Some("kind-kind".to_owned())).unwrap();
        let error = anyhow::Error::from(elsewhere.lab().unwrap_err()).context("read the audit log");
        assert!(NeedsLab::caused(&error.context("in the namespace t-1")));
        assert!(!NeedsLab::caused(&anyhow::anyhow!("{NeedsLab}")));
    }
}
