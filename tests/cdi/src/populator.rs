//! The clone populator: fills claims that name a VolumeCloneSource.
//!
//! **Flow**: a temporary claim beside the source, which the storage driver clones; its volume is rebound to the target claim; then the
//! target's `clonePhase` becomes `Succeeded`, and everything with the label `cdi.kubevirt.io/OwnedByUID` of the target goes.
//!
//! **Guarantees**: a claim with `clonePhase: Succeeded` is left alone, but for `condition.bound*` since 1.64.

use common::{
    api::{VolumeCloneSource, snapshot},
    keys::{
        CLONE_PHASE, CLONE_POPULATOR_FINALIZER, CONDITION_RUNNING, CONDITION_RUNNING_MESSAGE, CONDITION_RUNNING_REASON,
        POPULATOR_PROGRESS, SELECTED_NODE,
    },
    object::annotation,
    quantity::Bytes,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, TypedLocalObjectReference,
        VolumeResourceRequirements,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::ResourceExt as _;

use crate::{
    claim::{self, ClaimPhase},
    edit::Edit,
    keys::{CONDITION_BOUND, CONDITION_BOUND_MESSAGE, CONDITION_BOUND_REASON, EXTENDED_CLONE_TOKEN, OWNED_BY_UID},
    reconcile::SourceObject,
    settings::Settings,
    source::{Source, SourceKind},
    token::Tokens,
};

/// What a pass of the populator has read.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The target claim.
    pub claim: &'a PersistentVolumeClaim,
    /// The VolumeCloneSource that it names.
    pub clone_source: Option<&'a VolumeCloneSource>,
    /// What is known of the source, if it is there.
    pub source_object: Option<&'a SourceObject>,
    /// The temporary claim.
    pub temporary: Option<&'a PersistentVolumeClaim>,
    /// The volume of the temporary claim.
    pub volume: Option<&'a PersistentVolume>,
    /// The settings.
    pub settings: &'a Settings,
}

/// A write of the populator.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A patch of the target claim.
    Claim(Edit),
    /// The creation of the temporary claim.
    CreateTemporary(Box<PersistentVolumeClaim>),
    /// Gives a volume to the target claim.
    Rebind {
        /// The name of the volume.
        volume: String,
        /// Its version, as a precondition.
        version: Option<String>,
    },
    /// The deletion of all temporary objects of the target claim, in all namespaces.
    DeleteOwned,
}

/// An error, after which the pass is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

/// The name of the temporary claim of a target claim.
pub fn temporary_name(claim: &PersistentVolumeClaim) -> String {
    format!("tmp-pvc-{}", claim.uid().unwrap_or_default())
}

/// The source that a VolumeCloneSource names.
pub fn source_of(clone_source: &VolumeCloneSource) -> Source {
    let reference = &clone_source.spec.source;
    let kind = if reference.kind == "VolumeSnapshot" { SourceKind::Snapshot } else { SourceKind::Claim };
    Source::new(kind, clone_source.namespace().unwrap_or_default(), &reference.name)
}

/// Decides what to write for a claim that names a VolumeCloneSource. Pure.
pub fn populate(observed: &Observed<'_>, tokens: &Tokens, now: Timestamp) -> Result<Vec<Write>, Refusal> {
    let claim = observed.claim;
    let mut writes: Vec<_> = report_bound(observed).map(Write::Claim).into_iter().collect();
    let has_finalizer = claim.finalizers().iter().any(|name| name == CLONE_POPULATOR_FINALIZER);
    let finished = claim::clone_phase(claim) == Some("Succeeded");
    if finished || claim.metadata.deletion_timestamp.is_some() {
        if has_finalizer {
            let edit = Edit::default().without_finalizer(CLONE_POPULATOR_FINALIZER);
            writes.extend([Write::DeleteOwned, Write::Claim(edit)]);
        }
        return Ok(writes);
    }
    let waits = claim::class(claim).is_none() || claim::waits_for_consumer(claim, observed.settings);
    let Some(clone_source) = observed.clone_source.filter(|_| !waits) else {
        report_phase(claim, "Pending", &mut writes);
        return Ok(writes);
    };
    let source = source_of(clone_source);
    check_token(claim, &source, tokens, now)?;
    let Some(object) = observed.source_object.filter(|object| object.ready) else {
        report_phase(claim, "Pending", &mut writes);
        return Ok(writes);
    };
    if !has_finalizer {
        writes.push(Write::Claim(Edit::default().with_finalizer(CLONE_POPULATOR_FINALIZER)));
    }
    fill(observed, &source, object, &mut writes);
    Ok(writes)
}

/// The step from a temporary claim to a bound target.
fn fill(observed: &Observed<'_>, source: &Source, object: &SourceObject, writes: &mut Vec<Write>) {
    let claim = observed.claim;
    if ClaimPhase::of(claim) == ClaimPhase::Bound {
        let finish = Edit::default()
            .annotate(CLONE_PHASE, "Succeeded")
            .annotate(POPULATOR_PROGRESS, "100.0%")
            .annotate(CONDITION_RUNNING, "false")
            .annotate(CONDITION_RUNNING_REASON, "Completed")
            .annotate(CONDITION_RUNNING_MESSAGE, "");
        writes.push(Write::Claim(finish));
        return;
    }
    let Some(temporary) = observed.temporary else {
        report_phase(claim, fill_phase(source), writes);
        writes.push(Write::CreateTemporary(Box::new(new_temporary(claim, source, object))));
        return;
    };
    match observed.volume {
        Some(volume) if ClaimPhase::of(temporary) == ClaimPhase::Bound && is_claimed_by(volume, temporary) => {
            report_phase(claim, "Rebind", writes);
            writes.push(Write::Rebind { volume: volume.name_any(), version: volume.resource_version() });
        }
        // Rebound: the claim's own event follows.
        Some(volume) if is_claimed_by(volume, claim) => {}
        _ => report_phase(claim, fill_phase(source), writes),
    }
}

fn fill_phase(source: &Source) -> &'static str {
    match source.kind {
        SourceKind::Claim => "CSIClone",
        SourceKind::Snapshot => "SnapshotClone",
    }
}

fn is_claimed_by(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|reference| reference.uid == claim.metadata.uid)
}

fn report_phase(claim: &PersistentVolumeClaim, phase: &str, writes: &mut Vec<Write>) {
    let edit = Edit::default().annotate(CLONE_PHASE, phase);
    if edit.changes(&claim.metadata) {
        writes.push(Write::Claim(edit));
    }
}

/// The change of `condition.bound*`, on every claim of the kind, also on one that is skipped.
fn report_bound(observed: &Observed<'_>) -> Option<Edit> {
    let Observed { claim, settings, .. } = observed;
    if !settings.version.reports_bound_on_claims() {
        return None;
    }
    let edit = match ClaimPhase::of(claim) {
        ClaimPhase::Pending => Edit::default()
            .annotate(CONDITION_BOUND, "false")
            .annotate(CONDITION_BOUND_REASON, "Pending")
            .annotate(CONDITION_BOUND_MESSAGE, "PVC Pending"),
        ClaimPhase::Bound => Edit::default()
            .without_annotation(CONDITION_BOUND)
            .without_annotation(CONDITION_BOUND_REASON)
            .without_annotation(CONDITION_BOUND_MESSAGE),
        ClaimPhase::Lost => return None,
    };
    edit.changes(&claim.metadata).then_some(edit)
}

/// A source in another namespace needs the controller's token, which no user can make.
fn check_token(claim: &PersistentVolumeClaim, source: &Source, tokens: &Tokens, now: Timestamp) -> Result<(), Refusal> {
    let namespace = claim.namespace().unwrap_or_default();
    if source.namespace == namespace {
        return Ok(());
    }
    let token = annotation(&claim.metadata, EXTENDED_CLONE_TOKEN)
        .ok_or_else(|| Refusal("clone from another namespace without a token".to_owned()))?;
    tokens.check(token, source, &namespace, now).map_err(|error| Refusal(error.to_string()))
}

/// A claim beside the source, at least as large as source and target.
fn new_temporary(claim: &PersistentVolumeClaim, source: &Source, object: &SourceObject) -> PersistentVolumeClaim {
    let spec = claim.spec.clone().unwrap_or_default();
    let wanted = spec.resources.as_ref().and_then(|it| it.requests.as_ref()).and_then(|it| it.get("storage"));
    let size = larger(wanted, object.size.as_ref());
    let (group, kind) = match source.kind {
        SourceKind::Claim => (None, "PersistentVolumeClaim"),
        SourceKind::Snapshot => (Some(snapshot::GROUP.to_owned()), "VolumeSnapshot"),
    };
    let node = annotation(&claim.metadata, SELECTED_NODE);
    let annotations = node.map(|node| [(SELECTED_NODE.to_owned(), node.to_owned())].into());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(temporary_name(claim)),
            namespace: Some(source.namespace.clone()),
            labels: Some([(OWNED_BY_UID.to_owned(), claim.uid().unwrap_or_default())].into()),
            annotations,
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: spec.access_modes,
            volume_mode: spec.volume_mode,
            storage_class_name: spec.storage_class_name,
            resources: Some(VolumeResourceRequirements {
                requests: size.map(|size| [("storage".to_owned(), size)].into()),
                ..VolumeResourceRequirements::default()
            }),
            data_source: Some(TypedLocalObjectReference {
                api_group: group,
                kind: kind.to_owned(),
                name: source.name.clone(),
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn larger(one: Option<&Quantity>, other: Option<&Quantity>) -> Option<Quantity> {
    let bytes = |quantity: &Quantity| Bytes::of(quantity).ok();
    match (one, other) {
        (Some(one), Some(other)) if bytes(other) > bytes(one) => Some(other.clone()),
        (Some(one), _) => Some(one.clone()),
        (None, other) => other.cloned(),
    }
}

#[cfg(test)]
mod tests;
