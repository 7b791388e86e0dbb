//! The sync steps of a reconcile, in CDI's order.

use common::{
    api::{GROUP, Phase, VolumeCloneSource, VolumeCloneSourceSpec, snapshot},
    keys::{
        CLONE_TYPE, CONTENT_TYPE, CREATED_FOR_DATA_VOLUME, DATA_SOURCE_NAMESPACE, DATA_VOLUME_FINALIZER,
        IMMEDIATE_BINDING, MACHINE_DEFAULTS, POPULATED_FOR, PRE_POPULATED,
    },
    object::{annotation, controller},
};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, TypedLocalObjectReference, TypedObjectReference},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{Resource as _, ResourceExt as _};

use super::{Observed, Write};
use crate::{
    claim::{self, ClaimPhase, parse_bool},
    edit::Edit,
    keys::{CLONE_TOKEN, EXTENDED_CLONE_TOKEN, OWNED_BY_DATA_VOLUME, USE_POPULATOR},
    render::render,
    source::SourceKind,
    status::SyncError,
    token::{EXTENDED_TOKEN_LIFE, Tokens},
};

/// The steps, with the writes so far.
pub(super) struct Steps<'a> {
    pub(super) observed: Observed<'a>,
    pub(super) tokens: &'a Tokens,
    pub(super) writes: Vec<Write>,
}

impl Steps<'_> {
    /// Runs all steps until one ends the sync.
    pub(super) fn run(&mut self) -> Result<(), SyncError> {
        self.cleanup();
        if self.observed.data_volume.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        self.check_spec()?;
        self.mark_populator_and_labels()?;
        self.copy_populated_for();
        self.check_claim()?;
        let Observed { data_volume, claim, settings, .. } = self.observed;
        let has_work = claim.is_none_or(|claim| claim::requires_work(claim, data_volume, settings));
        if !has_work || annotation(&data_volume.metadata, PRE_POPULATED).is_some() {
            return Ok(());
        }
        self.clone_by_cdi()
    }

    /// The name of the VolumeCloneSource of this DataVolume.
    fn clone_source_name(&self) -> String {
        format!("volume-clone-source-{}", self.observed.data_volume.uid().unwrap_or_default())
    }

    fn crosses_namespaces(&self) -> bool {
        self.observed.data_volume.namespace().as_deref() != Some(self.observed.source.namespace.as_str())
    }

    fn has_succeeded(&self) -> bool {
        self.observed.data_volume.status.as_ref().is_some_and(|status| status.phase == Phase::Succeeded)
    }

    /// Removes what a finished DataVolume, or one that is being deleted, needs no longer.
    fn cleanup(&mut self) {
        let data_volume = self.observed.data_volume;
        if data_volume.metadata.deletion_timestamp.is_none() && !self.has_succeeded() {
            return;
        }
        if let Some(found) = self.observed.clone_source {
            let namespace = found.namespace().unwrap_or_default();
            self.writes.push(Write::DeleteCloneSource { namespace, name: found.name_any() });
        }
        self.edit(Edit::default().without_finalizer(DATA_VOLUME_FINALIZER));
    }

    /// Writes a change of the DataVolume, unless it says so already.
    fn edit(&mut self, edit: Edit) {
        if edit.changes(&self.observed.data_volume.metadata) {
            self.writes.push(Write::DataVolume(edit));
        }
    }

    /// Renders the claim's spec where no claim is there yet.
    fn check_spec(&self) -> Result<(), SyncError> {
        let Observed { data_volume, claim, source_object, settings, .. } = self.observed;
        if claim.is_none() {
            render(data_volume, source_object.and_then(|source| source.size.as_ref()), settings)?;
        }
        Ok(())
    }

    /// Marks the DataVolume for the populator, and gives it the source's defaults of machines: one PUT for both.
    fn mark_populator_and_labels(&mut self) -> Result<(), SyncError> {
        let meta = &self.observed.data_volume.metadata;
        let mut edit = Edit::default();
        match annotation(meta, USE_POPULATOR).map(|value| (value, parse_bool(value))) {
            None => edit = edit.annotate(USE_POPULATOR, "true"),
            Some((_, Some(_))) => {}
            Some((value, None)) => return Err(SyncError::Logged(format!("{USE_POPULATOR}: invalid syntax {value:?}"))),
        }
        let labels = self.observed.source_object.map(|source| &source.labels);
        for key in MACHINE_DEFAULTS {
            if let Some(value) = labels.and_then(|labels| labels.get(key))
                && meta.labels.as_ref().is_none_or(|own| !own.contains_key(key))
            {
                edit = edit.label(key, value);
            }
        }
        self.edit(edit);
        Ok(())
    }

    /// Copies `populatedFor` from a finished DataVolume to its claim.
    fn copy_populated_for(&mut self) {
        let Observed { data_volume, claim: Some(claim), .. } = self.observed else { return };
        if let (true, Some(value)) = (self.has_succeeded(), annotation(&data_volume.metadata, POPULATED_FOR)) {
            let edit = Edit::default().annotate(POPULATED_FOR, value);
            if edit.changes(&claim.metadata) {
                self.writes.push(Write::Claim(edit));
            }
        }
    }

    /// Takes over a claim that may be adopted; refuses one that belongs to somebody else or is being deleted.
    fn check_claim(&mut self) -> Result<(), SyncError> {
        let Observed { data_volume, claim: Some(claim), settings, .. } = self.observed else { return Ok(()) };
        let name = claim.name_any();
        if claim.metadata.deletion_timestamp.is_some() {
            let message = format!("Resource {name:?} is marked for deletion");
            return Err(SyncError::Shown { reason: "ErrResourceMarkedForDeletion", message });
        }
        if !claim::is_controlled_by(claim, data_volume) {
            if claim::requires_work(claim, data_volume, settings) {
                let message = format!("Resource {name:?} already exists and is not managed by DataVolume");
                return Err(SyncError::Shown { reason: "ErrResourceExists", message });
            }
            // Only one controller is possible: a foreign one stays.
            if controller(&claim.metadata).is_none() {
                let owner = data_volume.controller_owner_ref(&()).map(|owner| Edit::default().controlled_by(owner));
                self.writes.extend(owner.map(Write::Claim));
            }
        }
        if ClaimPhase::of(claim) == ClaimPhase::Bound && claim::is_populated_for(claim, &data_volume.name_any()) {
            self.edit(Edit::default().annotate(PRE_POPULATED, &name));
        }
        Ok(())
    }

    /// The way without `prePopulated`: everything by which CDI clones itself.
    fn clone_by_cdi(&mut self) -> Result<(), SyncError> {
        let Observed { data_volume, claim, source_object, .. } = self.observed;
        let token = self.token()?;
        let Some(source) = source_object.filter(|source| source.ready) else {
            // The source's own events bring the next pass.
            return Ok(());
        };
        // What cleanup removes from a finished DataVolume is not made again, unless its claim is.
        let succeeded = self.has_succeeded();
        if self.crosses_namespaces() && !succeeded {
            self.edit(Edit::default().with_finalizer(DATA_VOLUME_FINALIZER));
        }
        match claim {
            None => {
                let new = self.new_claim(source.size.as_ref(), token.as_deref())?;
                self.writes.push(Write::CreateClaim(Box::new(new)));
            }
            Some(claim) => {
                // Also on a claim that it did not create: only the kind of its data source keeps the populator off.
                let edit = token.map(|token| Edit::default().annotate(EXTENDED_CLONE_TOKEN, token));
                self.writes.extend(edit.filter(|edit| edit.changes(&claim.metadata)).map(Write::Claim));
            }
        }
        if self.observed.clone_source.is_none() && !succeeded {
            self.writes.push(Write::CreateCloneSource(Box::new(self.new_clone_source())));
        }
        let kind = claim.and_then(|claim| annotation(&claim.metadata, CLONE_TYPE));
        if let Some(kind) = kind.filter(|_| annotation(&data_volume.metadata, CLONE_TYPE).is_none()) {
            self.edit(Edit::default().annotate(CLONE_TYPE, kind));
        }
        Ok(())
    }

    /// The extended token, which only a clone from another namespace needs.
    fn token(&mut self) -> Result<Option<String>, SyncError> {
        if !self.crosses_namespaces() {
            return Ok(None);
        }
        let Observed { data_volume, source, now, .. } = self.observed;
        let namespace = data_volume.namespace().unwrap_or_default();
        if let Some(token) = annotation(&data_volume.metadata, EXTENDED_CLONE_TOKEN) {
            return Ok(Some(token.to_owned()));
        }
        let short = annotation(&data_volume.metadata, CLONE_TOKEN)
            .ok_or_else(|| SyncError::Logged("clone token missing".to_owned()))?;
        self.tokens.check(short, source, &namespace, now).map_err(|error| SyncError::Logged(error.to_string()))?;
        let token = self.tokens.issue(source, &namespace, now + EXTENDED_TOKEN_LIFE);
        self.edit(Edit::default().annotate(EXTENDED_CLONE_TOKEN, &token));
        Ok(Some(token))
    }

    fn new_claim(
        &self,
        source_size: Option<&Quantity>,
        token: Option<&str>,
    ) -> Result<PersistentVolumeClaim, SyncError> {
        let Observed { data_volume, source, settings, .. } = self.observed;
        let mut spec = render(data_volume, source_size, settings)?;
        spec.data_source_ref = Some(TypedObjectReference {
            api_group: Some(GROUP.to_owned()),
            kind: "VolumeCloneSource".to_owned(),
            name: self.clone_source_name(),
            namespace: None,
        });
        // All annotations of the DataVolume, as CDI does.
        let mut annotations = data_volume.annotations().clone();
        let mut set = |key: &str, value: &str| drop(annotations.insert(key.to_owned(), value.to_owned()));
        set(USE_POPULATOR, "true");
        set(CREATED_FOR_DATA_VOLUME, &data_volume.uid().unwrap_or_default());
        set(CONTENT_TYPE, data_volume.spec.content_type.as_deref().unwrap_or("kubevirt"));
        if !settings.honors_first_consumer() {
            set(IMMEDIATE_BINDING, "");
        }
        if let Some(token) = token {
            set(EXTENDED_CLONE_TOKEN, token);
            set(DATA_SOURCE_NAMESPACE, &source.namespace);
        }
        annotations.remove(CLONE_TOKEN);
        let mut labels = data_volume.labels().clone();
        labels.insert("app".to_owned(), "containerized-data-importer".to_owned());
        Ok(PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: data_volume.metadata.name.clone(),
                namespace: data_volume.metadata.namespace.clone(),
                annotations: Some(annotations),
                labels: Some(labels),
                owner_references: data_volume.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
            status: None,
        })
    }

    fn new_clone_source(&self) -> VolumeCloneSource {
        let Observed { data_volume, source, .. } = self.observed;
        let (group, kind) = match source.kind {
            SourceKind::Claim => (None, "PersistentVolumeClaim"),
            SourceKind::Snapshot => (Some(snapshot::GROUP.to_owned()), "VolumeSnapshot"),
        };
        let reference =
            TypedLocalObjectReference { api_group: group, kind: kind.to_owned(), name: source.name.clone() };
        let spec = VolumeCloneSourceSpec { source: reference, ..VolumeCloneSourceSpec::default() };
        let mut object = VolumeCloneSource::new(&self.clone_source_name(), spec);
        object.metadata.namespace = Some(source.namespace.clone());
        if self.crosses_namespaces() {
            // No owner in another namespace: cleanup deletes it.
            let owner = format!("{}/{}", data_volume.namespace().unwrap_or_default(), data_volume.name_any());
            object.annotations_mut().insert(OWNED_BY_DATA_VOLUME.to_owned(), owner);
        } else {
            object.metadata.owner_references = data_volume.controller_owner_ref(&()).map(|owner| vec![owner]);
        }
        object
    }
}
