//! A double of CDI on the lab: installed, killed, started, upgraded and removed by tests, which have to be alone on the cluster.
//!
//! Its CRDs replace smartclone's, and its removal deletes them with all DataVolumes: smartclone has to be installed again afterwards.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result};
use common::api::Cdi as CdiObject;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, coordination::v1::Lease};
use kube::{Api, Client};

use super::{
    cluster::Cluster,
    install::{install, install_by},
    wait::{self, Look},
};
use crate::{
    bench::audit::Mark,
    lab::{
        Lab,
        cdi::{CDI_ADMISSION, CDI_CONTROLLER},
        command,
    },
    manifests,
};

/// The version of CDI beside which the tests run.
const VERSION: &str = "1.66.0";
/// The name of the CDI object.
const CDI: &str = "cdi";
/// The configuration of its mutating webhook.
const WEBHOOK: &str = "cdi-api-datavolume-mutate";
/// The namespace of CDI.
const NAMESPACE: &str = "cdi";
/// The controller's Lease.
const LEASE: &str = "cdi-controller-leader-election-helper";
/// The account of CDI's controller.
pub const CONTROLLER_ACCOUNT: &str = "system:serviceaccount:cdi:cdi-sa";

/// An installed double.
pub struct Cdi {
    lab: Lab,
    client: Client,
    version: String,
    extra: Vec<String>,
}

impl Cdi {
    /// The double that [`enter`] has installed.
    pub fn of(lab: &Lab) -> Result<Self> {
        Ok(Self { lab: lab.clone(), client: lab.client()?, version: VERSION.to_owned(), extra: Vec::new() })
    }

    /// Installs the double, and waits until it works. Without more arguments, such as `--rates`, it has no limits on requests.
    async fn install(lab: &Lab, extra: &[&str]) -> Result<()> {
        let cdi = Self { extra: extra.iter().map(ToString::to_string).collect(), ..Self::of(lab)? };
        cdi.start_process(CDI_ADMISSION).await?;
        cdi.deployed().await?;
        cdi.start().await
    }

    async fn start_process(&self, process: &str) -> Result<()> {
        self.lab.start_cdi(process, &self.version, &self.extra).await
    }

    /// Waits until the operator reports this version.
    async fn deployed(&self) -> Result<()> {
        let api: Api<CdiObject> = Api::all(self.client.clone());
        // There is no such kind at first.
        wait_for_kind(&api).await?;
        wait::object(&api, CDI, &format!("CDI {}", self.version), |found| {
            let status = found.and_then(|cdi| cdi.status.as_ref());
            let version = status.and_then(|status| status.operator_version.as_deref());
            if version == Some(&self.version) && status.is_some_and(|it| it.phase.as_deref() == Some("Deployed")) {
                Look::Break(())
            } else {
                Look::Continue(format!("its status is {status:?}"))
            }
        })
        .await
    }

    /// Kills the controller. Webhooks and operator go on.
    pub async fn kill(&self) -> Result<()> {
        self.lab.kill_cdi(CDI_CONTROLLER).await
    }

    /// Kills the admission server and the operator.
    pub async fn kill_admission(&self) -> Result<()> {
        self.lab.kill_cdi(CDI_ADMISSION).await
    }

    /// Starts what does not run, and waits until the controller leads: up to 19 s after a kill.
    pub async fn start(&self) -> Result<()> {
        self.begin().await?;
        let pid = self.lab.pid_of_cdi(CDI_CONTROLLER)?.unwrap_or_default();
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let identity = format!("cdi-deployment_{pid}_");
        wait::object(&api, LEASE, "the Lease of CDI's controller", |found| {
            let holder = found.and_then(|lease| lease.spec.as_ref()).and_then(|spec| spec.holder_identity.clone());
            match holder {
                Some(holder) if holder.starts_with(&identity) => Look::Break(()),
                holder => Look::Continue(format!("{holder:?} leads")),
            }
        })
        .await
    }

    /// Starts what does not run, without waiting.
    pub async fn begin(&self) -> Result<()> {
        self.start_process(CDI_ADMISSION).await?;
        self.start_process(CDI_CONTROLLER).await
    }

    /// Replaces both processes by those of another version, and waits until it is deployed and its controller leads.
    pub async fn upgrade(&mut self, version: &str) -> Result<()> {
        self.kill().await?;
        self.kill_admission().await?;
        version.clone_into(&mut self.version);
        self.start_process(CDI_ADMISSION).await?;
        self.deployed().await?;
        self.start().await
    }

    /// Removes the double with its kinds and all DataVolumes, and waits until they are gone.
    pub async fn uninstall(self) -> Result<()> {
        self.lab.uninstall_cdi().await
    }

    /// The place in the audit log from which [`Cdi::writes_by_account`] counts.
    pub fn mark(&self) -> Result<Mark> {
        Mark::now(self.lab.audit_log())
    }

    /// The writes in these namespaces since the mark: by account, then by verb and resource such as `patch datavolumes/status`.
    pub fn writes_by_account(
        &self,
        mark: &Mark,
        namespaces: &[&str],
    ) -> Result<BTreeMap<String, BTreeMap<String, usize>>> {
        let mut counts: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for request in mark.requests_in(namespaces)?.iter().filter(|request| request.wrote()) {
            let Some((verb, resource)) = request.right() else { continue };
            let mut what = verb;
            write!(what, " {}", resource.split_once('/').map_or(resource.as_str(), |(_, rest)| rest))?;
            *counts.entry(request.account().to_owned()).or_default().entry(what).or_default() += 1;
        }
        Ok(counts)
    }
}

/// Waits until the API server serves a kind.
async fn wait_for_kind(api: &Api<CdiObject>) -> Result<()> {
    crate::lab::command::until("CDI's kinds", wait::PATIENCE, async || {
        Ok(match api.get_opt(CDI).await {
            Ok(Some(_)) => Look::Break(()),
            Ok(None) => Look::Continue("there is no CDI object".to_owned()),
            Err(error) => Look::Continue(error.to_string()),
        })
    })
    .await
}

/// Installs CDI, and smartclone beside it, on the lab.
pub async fn enter_on(cluster: &Cluster) -> Result<()> {
    Box::pin(enter(cluster.lab()?)).await
}

/// Installs CDI, and smartclone beside it.
pub async fn enter(lab: &Lab) -> Result<()> {
    Cdi::install(lab, &[]).await?;
    Box::pin(install_beside(lab)).await
}

/// Installs CDI with its own limits on requests, smartclone beside it, and the lever by which CDI's webhooks skip its clones.
pub async fn enter_for_bursts(lab: &Lab) -> Result<()> {
    Cdi::install(lab, &["--rates"]).await?;
    Box::pin(install_beside(lab)).await?;
    let file = |name: &str| manifests::directory().join("beside-cdi").join(name).display().to_string();
    kubectl(lab, &["apply", "--kustomize", &file("lever")]).await?;
    kubectl(lab, &["patch", "cdi", CDI, "--type=merge", "--patch-file", &file("lever/patch.yaml")]).await?;
    let api: Api<MutatingWebhookConfiguration> = Api::all(lab.client()?);
    wait::object(&api, WEBHOOK, "CDI's webhook to skip clones of smartclone", |found| {
        let hooks = found.and_then(|found| found.webhooks.as_deref()).unwrap_or_default();
        match hooks.first().and_then(|hook| hook.match_conditions.as_deref()) {
            Some([_, ..]) => Look::Break(()),
            conditions => Look::Continue(format!("{conditions:?}")),
        }
    })
    .await
}

/// Installs smartclone beside CDI, as an admin does.
pub async fn install_beside(lab: &Lab) -> Result<()> {
    let manifests = manifests::directory().join("beside-cdi").display().to_string();
    Box::pin(install_by(lab, async || kubectl(lab, &["apply", "--kustomize", &manifests]).await)).await
}

/// Removes CDI with its kinds, and installs smartclone without it.
///
/// The rights come first, and the policies about CDI's objects go first: from the moment at which CDI is gone, these are smartclone's.
pub async fn leave(lab: &Lab) -> Result<()> {
    let file = |name: &str| manifests::directory().join(name).display().to_string();
    // The namespace may be gone with an interrupted test.
    for first in ["namespace.yaml", "rbac/controller.yaml", "rbac/webhook.yaml"] {
        kubectl(lab, &["apply", "--filename", &file(first)]).await?;
    }
    for gone in ["beside-cdi/lever/configuration.yaml", "beside-cdi/webhook/policies.yaml"] {
        kubectl(lab, &["delete", "--ignore-not-found", "--filename", &file(gone)]).await?;
    }
    Box::pin(install(lab)).await
}

/// Removes smartclone from a cluster with CDI, as `docs/beside-cdi.md` says: the programs first, which need their rights as long as they run.
pub async fn remove_smartclone(lab: &Lab) -> Result<()> {
    kubectl(
        lab,
        &["delete", "deployments", "--all", "--namespace", common::manifest::NAMESPACE, "--cascade=foreground"],
    )
    .await?;
    let manifests = manifests::directory().join("beside-cdi").display().to_string();
    kubectl(lab, &["delete", "--ignore-not-found", "--kustomize", &manifests]).await
}

/// Removes CDI, if it is there.
pub async fn clear(lab: &Lab) -> Result<()> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(lab.client()?);
    if api.get_opt(WEBHOOK).await?.is_some() {
        Cdi::of(lab)?.uninstall().await.context("remove the double of CDI")?;
    }
    Ok(())
}

async fn kubectl(lab: &Lab, args: &[&str]) -> Result<()> {
    let mut kubectl = lab.kubectl();
    kubectl.args(args);
    command::run(kubectl).await.map(drop)
}
