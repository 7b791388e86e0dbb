//! A test's own namespace, with the diagnosis and the cleanup at its end.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use common::{api::snapshot::VolumeSnapshotContent, manifest};
use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, PersistentVolume},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::watcher::Config,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    cluster::{Cluster, NeedsLab},
    wait::{self, Kind, Look},
};
use crate::lab::{Lab, command};

/// The label with the purpose of a namespace.
const TEST: &str = "smartclone.dev/test";

/// A test's own namespace on the running cluster. It may have several handles; [`Space::end`] ends it for all.
#[derive(Clone)]
pub struct Space(Arc<Inner>);

struct Inner {
    cluster: Cluster,
    client: Client,
    name: String,
    beside: Mutex<JoinSet<()>>,
    neighbours: Mutex<Vec<Space>>,
    undo: Mutex<Vec<BoxFuture<'static, Result<()>>>>,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Space({})", self.name())
    }
}

impl Space {
    /// Creates a namespace. `purpose` is written into its label, for example the name of a test.
    pub async fn new(cluster: &Cluster, client: &Client, purpose: &str) -> Result<Self> {
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"generateName": "t-", "labels": {TEST: label(purpose)}}
        }))?;
        let created = Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(Self(Arc::new(Inner {
            cluster: cluster.clone(),
            client: client.clone(),
            name: created.name_any(),
            beside: Mutex::default(),
            neighbours: Mutex::default(),
            undo: Mutex::default(),
        })))
    }

    /// Another namespace, removed after this one.
    pub async fn neighbour(&self) -> Result<Self> {
        let neighbour = Self::new(self.cluster(), self.client(), &format!("neighbour-of-{}", self.name())).await?;
        self.0.neighbours.lock().unwrap_or_else(PoisonError::into_inner).push(neighbour.clone());
        self.undo(neighbour.clone().end());
        Ok(neighbour)
    }

    /// The name of the namespace.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// The lab, for things that only its host has; on another cluster a test that needs it is ignored.
    pub fn lab(&self) -> Result<&Lab, NeedsLab> {
        self.0.cluster.lab()
    }

    /// A client with all rights.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The API of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client().clone(), self.name())
    }

    /// The API of a kind in all namespaces, or of a cluster-wide kind.
    pub fn everywhere<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client().clone())
    }

    /// Creates or changes an object (server-side apply).
    pub async fn apply<K>(&self, api: &Api<K>, name: &str, object: &Value) -> Result<K>
    where
        K: Clone + DeserializeOwned + fmt::Debug,
    {
        let params = PatchParams::apply("smartclone-tests").force();
        Ok(api.patch(name, &params, &Patch::Apply(object)).await?)
    }

    /// Runs `work` concurrently with the test until the end of the namespace.
    pub(super) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.beside.lock().unwrap_or_else(PoisonError::into_inner).spawn(work);
    }

    /// Runs `work` when the namespace is gone, in reverse order of registration.
    pub fn undo(&self, work: impl Future<Output = Result<()>> + Send + 'static) {
        self.0.undo.lock().unwrap_or_else(PoisonError::into_inner).push(work.boxed());
    }

    /// Runs `kubectl` with these arguments in the namespace. Returns its standard output.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut kubectl = self.0.cluster.kubectl();
        kubectl.args(["--namespace", self.name()]).args(args);
        command::run(kubectl).await
    }

    /// The information that is useful after a failure.
    pub async fn diagnosis(&self) -> String {
        let logs = ["controller", "webhook"].map(|part| format!("--selector=app.kubernetes.io/component={part}"));
        let questions: [&[&str]; 6] = [
            &["get", "datavolumes,persistentvolumeclaims,volumesnapshots,pods", "--output=wide"],
            &["describe", "datavolumes"],
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
            &["get", "pods", "--namespace", manifest::NAMESPACE, "--output=wide"],
            &["logs", "--namespace", manifest::NAMESPACE, &logs[0], "--tail=60", "--prefix"],
            &["logs", "--namespace", manifest::NAMESPACE, &logs[1], "--tail=20", "--prefix"],
        ];
        let mut answers = Vec::new();
        for question in questions {
            answers.push(self.answer(question).await);
        }
        let neighbours = self.0.neighbours.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for neighbour in neighbours {
            answers.push(format!("In the namespace {} beside it:", neighbour.name()));
            // Information about smartclone itself is needed only once.
            for question in &questions[..3] {
                answers.push(neighbour.answer(question).await);
            }
        }
        answers.join("\n")
    }

    async fn answer(&self, question: &[&str]) -> String {
        let answer = self.kubectl(question).await.unwrap_or_else(|error| format!("{error:#}"));
        format!("$ kubectl {}\n{}\n", question.join(" "), answer.trim_end())
    }

    /// Removes the namespace and waits until nothing of it is left, inside or outside.
    pub async fn end(self) -> Result<()> {
        let namespaces: Api<Namespace> = self.everywhere();
        let removed = async {
            namespaces.delete(self.name(), &DeleteParams::default()).await?;
            wait::gone(&namespaces, self.name(), None).await?;
            self.none_of(&|volume: &PersistentVolume| volume.spec.as_ref()?.claim_ref.as_ref()?.namespace.clone())
                .await?;
            self.none_of(&|content: &VolumeSnapshotContent| content.spec.volume_snapshot_ref.namespace.clone()).await
        };
        let removed = removed.await.with_context(|| format!("remove the namespace {}", self.name()));
        // Each is run, whatever the results of the others.
        let undo = std::mem::take(&mut *self.0.undo.lock().unwrap_or_else(PoisonError::into_inner));
        let mut result = removed;
        for work in undo.into_iter().rev() {
            result = result.and(work.await.context("undo what was done to the cluster"));
        }
        self.0.beside.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        result
    }

    /// Waits until no cluster-wide object belongs to this namespace.
    async fn none_of<K: Kind>(&self, namespace: &(impl Fn(&K) -> Option<String> + Sync)) -> Result<()> {
        let what = format!("every {} of the namespace to be gone", K::kind(&()));
        wait::all(&self.everywhere::<K>(), Config::default(), &what, |objects| {
            let of_ours = |object: &&&K| namespace(object).as_deref() == Some(self.name());
            let left: Vec<_> = objects.iter().filter(of_ours).map(|object| object.name_any()).collect();
            if left.is_empty() { Look::Break(()) } else { Look::Continue(format!("{left:?} are left")) }
        })
        .await
    }
}

/// A text as a valid value of a label.
fn label(text: &str) -> String {
    let from = text.len().saturating_sub(63);
    text[from..].replace("::", ".").trim_matches(['.', '_', ':', '-']).to_owned()
}
