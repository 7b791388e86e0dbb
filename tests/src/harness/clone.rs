//! Clones: asked for, watched, refused.

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

/// A DataVolume to be: a clone of `source`, by default in the form `spec.storage` with nothing in it.
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

/// The same of a VolumeSnapshot.
pub fn clone_of_snapshot(snapshot: &(impl Named + ?Sized)) -> CloneRequest {
    clone_of(snapshot).source(json!({"snapshot": {"name": snapshot.name()}}))
}

/// The same of what a DataSource stands for.
pub fn clone_by(data_source: &str) -> CloneRequest {
    let mut request = clone_of(data_source);
    request.object["spec"] = json!({"sourceRef": {"kind": "DataSource", "name": data_source}, "storage": {}});
    request
}

/// A DataVolume to be.
#[derive(Debug, Clone)]
#[must_use = "it is made by `Space::create`"]
pub struct CloneRequest {
    object: Value,
    form: &'static str,
    user: Option<String>,
}

impl CloneRequest {
    /// Of this name; else it is `clone`.
    pub fn named(mut self, name: &str) -> Self {
        self.object["metadata"]["name"] = json!(name);
        self
    }

    /// In the form `spec.pvc`, in which nothing is taken from the source. To be said first.
    pub fn as_claim(mut self, size: Bytes) -> Self {
        self.form = "pvc";
        self.object["spec"]["pvc"] = json!({"accessModes": ["ReadWriteOnce"]});
        if let Some(spec) = self.object["spec"].as_object_mut() {
            spec.remove("storage");
        }
        self.size(size)
    }

    /// Of this size.
    pub fn size(self, size: Bytes) -> Self {
        self.size_text(&size.to_string())
    }

    /// Of a size that is written like this.
    pub fn size_text(self, size: &str) -> Self {
        self.field("resources", json!({"requests": {"storage": size}}))
    }

    /// In this StorageClass.
    pub fn class(self, class: &str) -> Self {
        self.field("storageClassName", json!(class))
    }

    /// With this volume mode.
    pub fn mode(self, mode: &str) -> Self {
        self.field("volumeMode", json!(mode))
    }

    /// With this value in a field of `spec.storage` (or `spec.pvc`).
    pub fn field(mut self, name: &str, value: Value) -> Self {
        self.object["spec"][self.form][name] = value;
        self
    }

    /// With this value in a field of `spec`.
    pub fn with_spec(mut self, name: &str, value: Value) -> Self {
        self.object["spec"][name] = value;
        self
    }

    /// With this annotation.
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.object["metadata"]["annotations"][key] = json!(value);
        self
    }

    /// With `contentType: archive`.
    pub fn archive(mut self) -> Self {
        self.object["spec"]["contentType"] = json!("archive");
        self
    }

    /// If a pod copies it, then with the owners of files; those in the trees of the tests belong to root.
    pub fn with_owners(self) -> Self {
        self.annotate(common::keys::FILE_OWNERS, "Keep")
    }

    /// With this label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.object["metadata"]["labels"][key] = json!(value);
        self
    }

    /// With this owner reference.
    pub fn owned_by(mut self, owner: &Value) -> Self {
        self.object["metadata"]["ownerReferences"] = json!([owner]);
        self
    }

    /// By this user; else by one who may do everything.
    pub fn by(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// What is cloned is in this namespace; so is the DataSource that says what.
    pub fn from(mut self, space: &Space) -> Self {
        for place in ["/spec/source/pvc", "/spec/source/snapshot", "/spec/sourceRef"] {
            if let Some(source) = self.object.pointer_mut(place) {
                source["namespace"] = json!(space.name());
            }
        }
        self
    }

    /// From this source instead of a claim of the same namespace.
    pub fn source(mut self, source: Value) -> Self {
        self.object["spec"]["source"] = source;
        self
    }

    /// As what is sent; the source's namespace is `namespace` unless another one was given.
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

/// What the API server says to a request.
pub(super) enum Answer<K> {
    Created(Box<K>, Vec<String>),
    Denied(Box<Denial>),
}

/// A request that was not admitted.
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
    /// The denial in an error, if it is one of the API server's.
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

    /// It is the word of this admission webhook.
    pub fn by(self, webhook: &str) -> Result<Self> {
        ensure!(
            self.text().contains(&format!("admission webhook \"{webhook}\" denied the request")),
            "denied by another: {self}"
        );
        Ok(self)
    }

    /// It is the word of the API server itself, which has the rules of the definition.
    pub fn by_definition(self) -> Result<Self> {
        ensure!(!self.text().contains("admission webhook"), "denied by a webhook: {self}");
        Ok(self)
    }

    /// One of its causes is about this field, has this reason (`FieldValueInvalid` …) and these words in its message.
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

    /// What it says about this field, in full.
    pub fn words(&self, field: &str) -> Result<&str> {
        let mut causes = self.0.details.iter().flat_map(|details| details.causes.iter().flatten());
        let found = causes.find(|cause| cause.field.as_deref() == Some(field));
        found
            .and_then(|cause| cause.message.as_deref())
            .with_context(|| format!("nothing is said about {field}: {self}"))
    }

    /// It has exactly so many causes.
    pub fn causes(self, count: usize) -> Result<Self> {
        let found = self.0.details.as_ref().and_then(|details| details.causes.as_ref()).map_or(0, Vec::len);
        ensure!(found == count, "{found} causes instead of {count}: {self}");
        Ok(self)
    }
}

impl Space {
    /// The claim here has the same content as `source`, wherever that is.
    pub async fn holds_the_same(&self, claim: &(impl Named + ?Sized), source: &super::Disk) -> Result<()> {
        let length = Some(source.size.0);
        let (ours, theirs) = tokio::try_join!(self.digest(claim, length), source.space.digest(source, length))
            .context("compare digests")?;
        ensure!(ours == theirs, "{} holds {ours}, its source {} holds {theirs}", claim.name(), source.name());
        Ok(())
    }

    /// Waits for an event about the object of this UID with this reason and these words; returns its type.
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

    /// Asks for a clone without getting it (`--dry-run=server`): the object as it would be, and the warnings.
    pub async fn dry_run(&self, request: CloneRequest) -> Result<(DataVolume, Vec<String>)> {
        match self.ask(&request, true).await? {
            Answer::Created(volume, warnings) => Ok((*volume, warnings)),
            Answer::Denied(denial) => bail!("not admitted: {denial}"),
        }
    }

    /// Asks for a clone that must not be admitted.
    pub async fn refuses(&self, request: CloneRequest) -> Result<Denial> {
        match self.ask(&request, false).await? {
            Answer::Denied(denial) => Ok(*denial),
            Answer::Created(volume, warnings) => bail!("admitted with {warnings:?}: {volume:?}"),
        }
    }

    /// Asks for a clone once without getting it, whatever the answer.
    pub async fn asked(&self, request: &CloneRequest) -> Result<Result<(), Denial>> {
        Ok(match self.post::<DataVolume>(&request.object(self.name()), request.user.as_deref(), true).await? {
            Answer::Created(..) => Ok(()),
            Answer::Denied(denial) => Err(*denial),
        })
    }

    /// Asks, and asks again where the webhooks say so, or where one of them could not see enough in its time: on a busy machine that is
    /// an answer, too, and not one to test. Only what is admitted for good isn't asked for again.
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
                        // The other one would have, had it seen as much.
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

    /// Creates an object in the name of a user. By hand, because kube's client drops the header that warnings are in.
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

/// A DataVolume and everything that it was since its creation.
#[derive(Debug)]
pub struct CloneHandle {
    space: Space,
    name: String,
    uid: String,
    /// What was told at its creation.
    pub warnings: Vec<String>,
    story: watch::Receiver<Story>,
}

/// Every version of one object, and whether it is gone.
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

    /// Its identity.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// As it is now, as far as has been heard.
    pub fn now(&self) -> Arc<DataVolume> {
        let story = self.story.borrow();
        story.versions.last().map(Arc::clone).unwrap_or_default()
    }

    /// Its status as it is now.
    pub fn status(&self) -> DataVolumeStatus {
        self.now().status.clone().unwrap_or_default()
    }

    /// The phases that it was in, in order, each once for as long as it stayed in it.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases: Vec<_> = self.versions().iter().map(|volume| status(volume).phase).collect();
        phases.dedup();
        phases
    }

    /// Every version that was seen.
    pub fn versions(&self) -> Vec<Arc<DataVolume>> {
        self.story.borrow().versions.clone()
    }

    /// An annotation as it is now.
    pub fn annotation(&self, key: &str) -> Option<String> {
        self.now().annotations().get(key).cloned()
    }

    /// Waits until one of its versions, past ones included, is as wanted.
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

    /// Waits until it is in this phase, or was.
    pub async fn phase(&self, phase: Phase) -> Result<&Self> {
        self.until(&format!("phase {phase} of {}", self.name), |volume| (status(volume).phase == phase).then_some(()))
            .await?;
        Ok(self)
    }

    /// Waits for success; fails at once when it fails.
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

    /// Waits until it waits for this reason, or did; the message is returned.
    pub async fn waits_for(&self, reason: &str) -> Result<String> {
        let waiting = |volume: &DataVolume| -> Option<WaitingFor> { status(volume).clone?.waiting_for };
        self.until(&format!("{} to wait for {reason}", self.name), |volume| {
            waiting(volume).filter(|it| it.reason.as_deref() == Some(reason)).map(|it| it.message.unwrap_or_default())
        })
        .await
    }

    /// Waits until a condition is, or was, like this.
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

    /// Waits for an event about it with this reason and these words; returns its type.
    pub async fn event(&self, reason: &str, words: &str) -> Result<String> {
        self.space.event(&self.uid, reason, words).await
    }

    /// The same content as `source`: of a device its first bytes, so many as the source has; of a file system the whole tree.
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

/// Writes down every version of an object from the first one on.
async fn record(api: Api<DataVolume>, name: String, story: watch::Sender<Story>) {
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut version = story.borrow().versions.first().and_then(|it| it.resource_version()).unwrap_or_default();
    // A watch is ended by the server now and then; the next one begins where it was.
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
