//! Clones: created, watched, refused.

use std::{fmt, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use common::{
    api::{DataVolume, DataVolumeStatus, Phase, WaitingFor},
    quantity::Bytes,
};
use futures::StreamExt as _;
use http::{HeaderMap, header::WARNING};
use k8s_openapi::{api::core::v1::Event, apimachinery::pkg::apis::meta::v1::Status as ApiStatus};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{DeleteParams, PostParams, WatchEvent, WatchParams},
    client::Body,
    core::Request,
    runtime::watcher::Config,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use webhook::manifests::VALIDATING;

use super::{
    Named, Space,
    wait::{self, Look, PATIENCE},
};
use crate::lab::command::until;

/// Begins a DataVolume: a clone of `source`, by default with an empty `spec.storage`.
pub fn clone_of(source: &(impl Named + ?Sized)) -> CloneRequest {
    CloneRequest {
        object: json!({
            "apiVersion": "cdi.kubevirt.io/v1beta1",
            "kind": "DataVolume",
            "metadata": {"name": "clone"},
            "spec": {"source": {"pvc": {"name": source.name()}}, "storage": {}},
        }),
        form: "storage",
        user: None,
    }
}

/// Begins a clone of a VolumeSnapshot.
pub fn clone_of_snapshot(snapshot: &(impl Named + ?Sized)) -> CloneRequest {
    clone_of(snapshot).source(json!({"snapshot": {"name": snapshot.name()}}))
}

/// Begins a clone of a DataSource's source.
pub fn clone_by(data_source: &str) -> CloneRequest {
    let mut request = clone_of(data_source);
    request.object["spec"] = json!({"sourceRef": {"kind": "DataSource", "name": data_source}, "storage": {}});
    request
}

/// A DataVolume to be created.
#[derive(Debug, Clone)]
#[must_use = "it is made by `Space::create`"]
pub struct CloneRequest {
    object: Value,
    form: &'static str,
    user: Option<String>,
}

impl CloneRequest {
    /// Sets the name, which is `clone` by default.
    pub fn named(mut self, name: &str) -> Self {
        self.object["metadata"]["name"] = json!(name);
        self
    }

    /// Uses `spec.pvc`, which takes nothing from the source. Has to be called first.
    pub fn as_claim(mut self, size: Bytes) -> Self {
        self.form = "pvc";
        self.object["spec"]["pvc"] = json!({"accessModes": ["ReadWriteOnce"]});
        if let Some(spec) = self.object["spec"].as_object_mut() {
            spec.remove("storage");
        }
        self.size(size)
    }

    /// Sets the size.
    pub fn size(self, size: Bytes) -> Self {
        self.size_text(&size.to_string())
    }

    /// Sets the size as text.
    pub fn size_text(self, size: &str) -> Self {
        self.field("resources", json!({"requests": {"storage": size}}))
    }

    /// Sets the StorageClass.
    pub fn class(self, class: &str) -> Self {
        self.field("storageClassName", json!(class))
    }

    /// Sets the volume mode.
    pub fn mode(self, mode: &str) -> Self {
        self.field("volumeMode", json!(mode))
    }

    /// Sets a field of `spec.storage` (or `spec.pvc`).
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.object["spec"][self.form][name] = value;
        self
    }

    /// Sets a field of `spec`.
    pub fn with_spec(mut self, name: &str, value: Value) -> Self {
        self.object["spec"][name] = value;
        self
    }

    /// Adds an annotation.
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.object["metadata"]["annotations"][key] = json!(value);
        self
    }

    /// Sets `contentType: archive`.
    pub fn archive(mut self) -> Self {
        self.object["spec"]["contentType"] = json!("archive");
        self
    }

    /// Has a data mover keep the owners of files; those in the trees of the tests belong to root.
    pub fn with_owners(self) -> Self {
        self.annotate(common::keys::FILE_OWNERS, "Keep")
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.object["metadata"]["labels"][key] = json!(value);
        self
    }

    /// Sets an owner reference.
    pub fn owned_by(mut self, owner: &Value) -> Self {
        self.object["metadata"]["ownerReferences"] = json!([owner]);
        self
    }

    /// Sets the user who creates it; by default a user with all rights.
    pub fn by(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Sets the namespace of the source, or of the DataSource.
    pub fn from(mut self, space: &Space) -> Self {
        for place in ["/spec/source/pvc", "/spec/source/snapshot", "/spec/sourceRef"] {
            if let Some(source) = self.object.pointer_mut(place) {
                source["namespace"] = json!(space.name());
            }
        }
        self
    }

    /// Sets the source, instead of a claim of the same namespace.
    pub fn source(mut self, source: Value) -> Self {
        self.object["spec"]["source"] = source;
        self
    }

    /// The object to be sent; the source's namespace is `namespace` unless another one was set.
    pub fn object(&self, namespace: &str) -> Value {
        let mut object = self.object.clone();
        object["metadata"]["namespace"] = json!(namespace);
        for place in ["/spec/source/pvc", "/spec/source/snapshot"] {
            if let Some(source) = object.pointer_mut(place).filter(|source| source.get("namespace").is_none()) {
                source["namespace"] = json!(namespace);
            }
        }
        object
    }
}

/// The API server's answer to a request.
pub(super) enum Answer<K> {
    Created(Box<K>, Vec<String>),
    Denied(Box<Denial>),
}

/// A denied request.
#[derive(Debug, Clone)]
pub struct Denial(ApiStatus);

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.code.unwrap_or_default(), self.text())?;
        for cause in self.0.details.iter().flat_map(|details| details.causes.iter().flatten()) {
            write!(f, "\n    {cause:?}")?;
        }
        Ok(())
    }
}

impl Denial {
    /// The denial in an error of the API server.
    pub fn of(error: kube::Error) -> Result<Self> {
        match error {
            kube::Error::Api(status) => Ok(Self(serde_json::from_value(serde_json::to_value(&*status)?)?)),
            error => Err(error.into()),
        }
    }

    /// The message, as `kubectl` prints it.
    pub fn text(&self) -> &str {
        self.0.message.as_deref().unwrap_or_default()
    }

    /// Checks that this admission webhook denied the request.
    pub fn by(self, webhook: &str) -> Result<Self> {
        ensure!(
            self.text().contains(&format!("admission webhook \"{webhook}\" denied the request")),
            "denied by another: {self}"
        );
        Ok(self)
    }

    /// Checks that the API server itself denied the request, by the schema of the CRD.
    pub fn by_definition(self) -> Result<Self> {
        ensure!(!self.text().contains("admission webhook"), "denied by a webhook: {self}");
        Ok(self)
    }

    /// Checks that one cause is about this field, has this reason (`FieldValueInvalid` …) and these words in its message.
    pub fn about(self, field: &str, reason: &str, words: &str) -> Result<Self> {
        let causes = self.0.details.iter().flat_map(|details| details.causes.iter().flatten());
        let found = causes.into_iter().any(|cause| {
            cause.field.as_deref() == Some(field)
                && cause.reason.as_deref() == Some(reason)
                && cause.message.as_deref().is_some_and(|message| message.contains(words))
        });
        ensure!(found, "no cause is about {field} with reason {reason} and says {words:?}: {self}");
        Ok(self)
    }

    /// The full message about this field.
    pub fn words(&self, field: &str) -> Result<&str> {
        let mut causes = self.0.details.iter().flat_map(|details| details.causes.iter().flatten());
        let found = causes.find(|cause| cause.field.as_deref() == Some(field));
        found
            .and_then(|cause| cause.message.as_deref())
            .with_context(|| format!("nothing is said about {field}: {self}"))
    }

    /// Checks the number of causes.
    pub fn causes(self, count: usize) -> Result<Self> {
        let found = self.0.details.as_ref().and_then(|details| details.causes.as_ref()).map_or(0, Vec::len);
        ensure!(found == count, "{found} causes instead of {count}: {self}");
        Ok(self)
    }
}

impl Space {
    /// Checks that the claim in this namespace has the same content as `source`, in whatever namespace that is.
    pub async fn holds_the_same(&self, claim: &(impl Named + ?Sized), source: &super::Disk) -> Result<()> {
        let length = Some(source.size.0);
        let (ours, theirs) = tokio::try_join!(self.digest(claim, length), source.space.digest(source, length))
            .context("compare digests")?;
        ensure!(ours == theirs, "{} holds {ours}, its source {} holds {theirs}", claim.name(), source.name());
        Ok(())
    }

    /// Waits for an event about the object of this UID with this reason and these words. Returns its type.
    pub async fn event(&self, uid: &str, reason: &str, words: &str) -> Result<String> {
        let selection = Config::default().fields(&format!("involvedObject.uid={uid}"));
        wait::all(&self.api::<Event>(), selection, &format!("event {reason}, saying {words:?}"), |events| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let found = events.iter().find(|it| text(&it.reason) == reason && text(&it.message).contains(words));
            match found {
                Some(event) => Look::Break(text(&event.type_)),
                None => Look::Continue(
                    events
                        .iter()
                        .map(|it| format!("{} {}", text(&it.reason), text(&it.message)))
                        .collect::<Vec<_>>()
                        .join("\n    "),
                ),
            }
        })
        .await
    }

    /// Creates a clone, which has to be admitted.
    pub async fn create(&self, request: CloneRequest) -> Result<CloneHandle> {
        match self.ask(&request, false).await? {
            Answer::Created(volume, warnings) => Ok(CloneHandle::follow(self, *volume, warnings)),
            Answer::Denied(denial) => bail!("not admitted: {denial}"),
        }
    }

    /// Creates a clone in a dry run (`--dry-run=server`). Returns the resulting object, and the warnings.
    pub async fn dry_run(&self, request: CloneRequest) -> Result<(DataVolume, Vec<String>)> {
        match self.ask(&request, true).await? {
            Answer::Created(volume, warnings) => Ok((*volume, warnings)),
            Answer::Denied(denial) => bail!("not admitted: {denial}"),
        }
    }

    /// Creates a clone that has to be denied.
    pub async fn refuses(&self, request: CloneRequest) -> Result<Denial> {
        match self.ask(&request, false).await? {
            Answer::Denied(denial) => Ok(*denial),
            Answer::Created(volume, warnings) => bail!("admitted with {warnings:?}: {volume:?}"),
        }
    }

    /// Creates a clone once in a dry run. Returns the answer, whatever it is.
    pub async fn asked(&self, request: &CloneRequest) -> Result<Result<(), Denial>> {
        Ok(match self.post::<DataVolume>(&request.object(self.name()), request.user.as_deref(), true).await? {
            Answer::Created(..) => Ok(()),
            Answer::Denied(denial) => Err(*denial),
        })
    }

    /// Sends the request, and repeats it if the webhooks ask for it, or if one of them ran into its time limit: a busy machine causes that,
    /// and it is not under test. An admission without a dry run is not repeated.
    async fn ask(&self, request: &CloneRequest, dry_run: bool) -> Result<Answer<DataVolume>> {
        let object = request.object(self.name());
        until("webhooks that agree", PATIENCE, async || {
            let answer = self.post(&object, request.user.as_deref(), dry_run).await?;
            let preliminary = match &answer {
                Answer::Denied(denial) => {
                    let says = |words: &str| denial.text().contains(words);
                    match denial.0.code {
                        Some(409) => says("try again"),
                        Some(500) => says("smartclone can't decide now"),
                        // The other webhook would have denied it with the same information.
                        _ => says(&format!("{VALIDATING:?} denied the request")),
                    }
                    .then(|| denial.to_string())
                }
                Answer::Created(_, warnings) if dry_run => {
                    warnings.iter().find(|line| line.contains("could not be decided yet")).cloned()
                }
                Answer::Created(..) => None,
            };
            Ok(match preliminary {
                Some(why) => Look::Continue(why),
                None => Look::Break(answer),
            })
        })
        .await
    }

    /// Creates an object as a user. It does not use kube's client, which drops the header with the warnings.
    pub(super) async fn post<K>(&self, object: &Value, user: Option<&str>, dry_run: bool) -> Result<Answer<K>>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let params = PostParams { dry_run, ..PostParams::default() };
        let url = K::url_path(&(), Some(self.name()));
        let mut request = Request::new(url).create(&params, serde_json::to_vec(object)?)?;
        if let Some(user) = user {
            request.headers_mut().insert("Impersonate-User", user.parse()?);
        }
        let answer = self.client().send(request.map(Body::from)).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect_bytes().await?;
        if head.status.is_success() {
            let created = serde_json::from_slice(&body).context("read the created object")?;
            return Ok(Answer::Created(Box::new(created), warnings(&head.headers)));
        }
        let denial = Denial(serde_json::from_slice(&body).context("read the API server's refusal")?);
        Ok(Answer::Denied(Box::new(denial)))
    }
}

/// The texts of all headers of the form `299 - "text"`.
pub(super) fn warnings(headers: &HeaderMap) -> Vec<String> {
    let texts = headers.get_all(WARNING).into_iter().filter_map(|value| {
        let text = value.to_str().ok()?.split_once('"')?.1;
        Some(text.strip_suffix('"')?.replace("\\\"", "\"").replace("\\\\", "\\"))
    });
    texts.collect()
}

/// A DataVolume and all its versions since its creation.
#[derive(Debug)]
pub struct CloneHandle {
    space: Space,
    name: String,
    uid: String,
    /// The warnings at its creation.
    pub warnings: Vec<String>,
    story: watch::Receiver<Story>,
}

/// All versions of one object, and true if it is gone.
#[derive(Debug, Default)]
struct Story {
    versions: Vec<Arc<DataVolume>>,
    gone: bool,
}

impl Named for CloneHandle {
    fn name(&self) -> &str {
        &self.name
    }
}

impl CloneHandle {
    fn follow(space: &Space, created: DataVolume, warnings: Vec<String>) -> Self {
        let (name, uid) = (created.name_any(), created.uid().unwrap_or_default());
        let (teller, story) = watch::channel(Story { versions: vec![Arc::new(created)], gone: false });
        space.beside(record(space.api(), name.clone(), teller));
        Self { space: space.clone(), name, uid, warnings, story }
    }

    /// The UID.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The last version that the watch has reported.
    pub fn now(&self) -> Arc<DataVolume> {
        let story = self.story.borrow();
        story.versions.last().map(Arc::clone).unwrap_or_default()
    }

    /// The status in the last version.
    pub fn status(&self) -> DataVolumeStatus {
        self.now().status.clone().unwrap_or_default()
    }

    /// The phases so far in order, without repetitions.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases: Vec<_> = self.versions().iter().map(|volume| status(volume).phase).collect();
        phases.dedup();
        phases
    }

    /// All observed versions.
    pub fn versions(&self) -> Vec<Arc<DataVolume>> {
        self.story.borrow().versions.clone()
    }

    /// An annotation in the last version.
    pub fn annotation(&self, key: &str) -> Option<String> {
        self.now().annotations().get(key).cloned()
    }

    /// Waits until one of its versions, past ones included, matches.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&DataVolume) -> Option<T>) -> Result<T> {
        let (mut story, mut read) = (self.story.clone(), 0);
        let waiting = async {
            loop {
                {
                    let now = story.borrow_and_update();
                    let found = now.versions[read..].iter().find_map(|volume| look(volume));
                    read = now.versions.len();
                    match found {
                        Some(found) => return Ok(found),
                        None if now.gone => bail!("DataVolume {} is gone while waiting for {what}", self.name),
                        None => {}
                    }
                }
                story.changed().await.context("nobody follows the DataVolume any more")?;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| bail!("waited {} s for {what}; it is {}", PATIENCE.as_secs(), self.shown()))
    }

    /// The status in a few lines, for messages.
    fn shown(&self) -> String {
        let status = self.status();
        let conditions: Vec<_> = status
            .conditions
            .iter()
            .map(|it| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                format!("\n    {}={} {}: {}", it.type_, it.status, text(&it.reason), text(&it.message))
            })
            .collect();
        format!("{:?} {}{}", status.phase.as_str(), status.progress.unwrap_or_default(), conditions.concat())
    }

    /// Waits until it is, or was, in this phase.
    pub async fn phase(&self, phase: Phase) -> Result<&Self> {
        self.until(&format!("phase {phase} of {}", self.name), |volume| (status(volume).phase == phase).then_some(()))
            .await?;
        Ok(self)
    }

    /// Waits for success; fails at once if the clone fails.
    pub async fn succeeds(&self) -> Result<&Self> {
        let succeeded = self
            .until(&format!("success of {}", self.name), |volume| match status(volume).phase {
                Phase::Succeeded => Some(true),
                Phase::Failed => Some(false),
                _ => None,
            })
            .await?;
        ensure!(succeeded, "{} has failed: {}", self.name, self.shown());
        Ok(self)
    }

    /// Waits for failure with these words in the condition Ready.
    pub async fn fails_with(&self, words: &str) -> Result<&Self> {
        self.phase(Phase::Failed).await?;
        self.condition("Ready", "False", "Failed", words).await
    }

    /// Waits until it waits, or did, for this reason. Returns the message.
    pub async fn waits_for(&self, reason: &str) -> Result<String> {
        let waiting = |volume: &DataVolume| -> Option<WaitingFor> { status(volume).clone?.waiting_for };
        self.until(&format!("{} to wait for {reason}", self.name), |volume| {
            waiting(volume).filter(|it| it.reason.as_deref() == Some(reason)).map(|it| it.message.unwrap_or_default())
        })
        .await
    }

    /// Waits until it has, or had, this condition.
    pub async fn condition(&self, kind: &str, value: &str, reason: &str, words: &str) -> Result<&Self> {
        let what = format!("condition {kind}={value} of {}, reason {reason}, saying {words:?}", self.name);
        self.until(&what, |volume| {
            let conditions = status(volume).conditions;
            let found = conditions.iter().any(|it| {
                it.type_ == kind
                    && it.status == value
                    && it.reason.as_deref() == Some(reason)
                    && it.message.as_deref().unwrap_or_default().contains(words)
            });
            found.then_some(())
        })
        .await?;
        Ok(self)
    }

    /// Waits for an event about it with this reason and these words. Returns its type.
    pub async fn event(&self, reason: &str, words: &str) -> Result<String> {
        self.space.event(&self.uid, reason, words).await
    }

    /// Checks that it has the same content as `source`: a device the same first bytes, up to the source's length; a file system the same
    /// tree.
    pub async fn has_bytes_of(&self, source: &super::Disk) -> Result<&Self> {
        Box::pin(self.space.holds_the_same(self, source)).await?;
        Ok(self)
    }

    /// Deletes it and waits until it is gone.
    pub async fn delete(&self) -> Result<()> {
        let api: Api<DataVolume> = self.space.api();
        api.delete(&self.name, &DeleteParams::default()).await?;
        wait::gone(&api, &self.name, Some(&self.uid)).await
    }
}

fn status(volume: &DataVolume) -> DataVolumeStatus {
    volume.status.clone().unwrap_or_default()
}

/// Records every version of an object from the first one on.
async fn record(api: Api<DataVolume>, name: String, story: watch::Sender<Story>) {
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut version = story.borrow().versions.first().and_then(|it| it.resource_version()).unwrap_or_default();
    // The server ends a watch from time to time; the next one continues at the same version.
    while !story.borrow().gone {
        let Ok(events) = api.watch(&params, &version).await else { return };
        let mut events = events.boxed();
        while let Some(Ok(event)) = events.next().await {
            match event {
                WatchEvent::Added(volume) | WatchEvent::Modified(volume) => {
                    version = volume.resource_version().unwrap_or(version);
                    story.send_modify(|story| story.versions.push(Arc::new(volume)));
                }
                WatchEvent::Deleted(_) => story.send_modify(|story| story.gone = true),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => return,
            }
        }
    }
}
