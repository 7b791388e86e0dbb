//! Pods of the image `tools`: they fill volumes, print their digests, or just use them.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, LogParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    Named, Space,
    wait::{self, Look},
};
use crate::lab::images::Image;

/// The path of a volume in a pod, in both volume modes.
const PLACE: &str = "/volume";

/// A running pod.
#[derive(Debug)]
pub struct PodHandle {
    api: Api<Pod>,
    name: String,
    uid: Option<String>,
}

impl Named for PodHandle {
    fn name(&self) -> &str {
        &self.name
    }
}

impl PodHandle {
    /// Deletes the pod and waits until it is gone.
    pub async fn delete(self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        wait::gone(&self.api, &self.name, self.uid.as_deref()).await
    }
}

/// The access of a pod to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read and write.
    Write,
    /// Read-only, which is not possible for a device.
    Read,
}

impl Space {
    /// Starts a pod that uses a claim, may write to it, and does nothing.
    pub async fn pod_using(&self, claim: &(impl Named + ?Sized)) -> Result<PodHandle> {
        self.start(claim, "user-of", Access::Write, &["sleep"]).await
    }

    /// Starts a pod that mounts a claim read-only.
    pub async fn pod_reading(&self, claim: &(impl Named + ?Sized)) -> Result<PodHandle> {
        self.start(claim, "reader-of", Access::Read, &["sleep"]).await
    }

    /// Creates a pod that would write to a claim, and that can't be scheduled.
    pub async fn pod_without_node(&self, claim: &(impl Named + ?Sized)) -> Result<PodHandle> {
        let api: Api<Pod> = self.api();
        let mut pod = self.pod(claim, "future-user-of", Access::Write, &["sleep"]).await?;
        let nowhere = [("smartclone.dev/test".to_owned(), "no-such-node".to_owned())];
        pod.spec.get_or_insert_default().node_selector = Some(nowhere.into());
        let created = api.create(&PostParams::default(), &pod).await?;
        Ok(PodHandle { name: created.name_any(), uid: created.uid(), api })
    }

    /// Creates a pod that uses a claim without a volume, and does not wait for it.
    pub async fn pod_without_volume(&self, claim: &(impl Named + ?Sized)) -> Result<PodHandle> {
        let api: Api<Pod> = self.api();
        let pod = self.pod(claim, "user-of", Access::Write, &["sleep"]).await?;
        let created = api.create(&PostParams::default(), &pod).await?;
        Ok(PodHandle { name: created.name_any(), uid: created.uid(), api })
    }

    async fn start(
        &self,
        claim: &(impl Named + ?Sized),
        role: &str,
        access: Access,
        args: &[&str],
    ) -> Result<PodHandle> {
        let api: Api<Pod> = self.api();
        let pod = self.pod(claim, role, access, args).await?;
        let created = api.create(&PostParams::default(), &pod).await?;
        let name = created.name_any();
        wait::object(&api, &name, &format!("pod {name} to run"), |pod| match phase(pod) {
            "Running" => Look::Break(Ok(())),
            ended @ ("Succeeded" | "Failed") => Look::Break(Err(anyhow::anyhow!("pod {name} {ended}"))),
            other => Look::Continue(format!("it is {other:?}: {}", complaint(pod))),
        })
        .await??;
        Ok(PodHandle { api, name, uid: created.uid() })
    }

    /// Runs the tools on a claim until they end. Returns their output. `{}` in the arguments stands for the volume's path.
    pub async fn tools(&self, claim: &(impl Named + ?Sized), access: Access, args: &[&str]) -> Result<String> {
        let api: Api<Pod> = self.api();
        let pod = self.pod(claim, "tools-for", access, args).await?;
        let created = api.create(&PostParams::default(), &pod).await?;
        let name = created.name_any();
        let succeeded = wait::object(&api, &name, &format!("pod {name} to end"), |pod| match phase(pod) {
            "Succeeded" => Look::Break(true),
            "Failed" => Look::Break(false),
            other => Look::Continue(format!("it is {other:?}: {}", complaint(pod))),
        })
        .await?;
        let output = api.logs(&name, &LogParams::default()).await?;
        if !succeeded {
            bail!("tools {}: {output}", args.join(" "));
        }
        // The volume is free when the pod is gone, not when it has ended.
        PodHandle { api, name, uid: created.uid() }.delete().await?;
        Ok(output.trim().to_owned())
    }

    /// The digest of a claim's content: of a device its bytes (the first `length` of them), of a file system the whole tree.
    pub async fn digest(&self, claim: &(impl Named + ?Sized), length: Option<u64>) -> Result<String> {
        let length = length.map(|bytes| bytes.to_string());
        let mut args = vec!["digest", "--path", "{}"];
        if let Some(length) = &length {
            args.extend(["--length", length]);
        }
        self.tools(claim, Access::Read, &args).await
    }

    async fn pod(&self, claim: &(impl Named + ?Sized), role: &str, access: Access, args: &[&str]) -> Result<Pod> {
        let claims: Api<PersistentVolumeClaim> = self.api();
        let name = claim.name();
        let block = claims.get(name).await?.spec.and_then(|spec| spec.volume_mode).as_deref() == Some("Block");
        let args: Vec<_> = args.iter().map(|arg| arg.replace("{}", PLACE)).collect();
        let mut container = json!({"name": "tools", "image": Image::Tools.reference(), "args": args});
        if block {
            container["volumeDevices"] = json!([{"name": "volume", "devicePath": PLACE}]);
        } else {
            container["volumeMounts"] =
                json!([{"name": "volume", "mountPath": PLACE, "readOnly": access == Access::Read}]);
        }
        Ok(serde_json::from_value(json!({
            "metadata": {"generateName": format!("{role}-{name}-")},
            "spec": {
                "containers": [container],
                "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": name}}],
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
            }
        }))?)
    }
}

fn phase(pod: Option<&Pod>) -> &str {
    pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()).unwrap_or_default()
}

fn complaint(pod: Option<&Pod>) -> String {
    let status = pod.and_then(|pod| pod.status.as_ref());
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let container =
        status.and_then(|status| status.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.clone());
    let waiting = container.map_or(Value::Null, |waiting| json!(waiting));
    let unmet: Vec<_> =
        conditions.iter().filter(|it| it.status != "True").filter_map(|it| it.message.clone()).collect();
    format!("{waiting} {unmet:?}")
}
