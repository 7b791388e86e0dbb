//! Admission of DataVolumes: pure functions from object, facts and decision to annotations, warnings and errors.

pub mod beside;
pub mod claim;
mod explain;
#[cfg(test)]
mod hostile;
mod namesake;
pub mod stamp;
mod update;

pub use explain::{in_use, warnings};
pub use namesake::{Namesake, namesake};
pub use update::{carried_over, changes};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    api::{CloneStrategy, DataVolume},
    clone::{
        Decision, Facts, Undecided,
        decide::{CHOSEN, decide, pin},
        note::{History, PlanNote},
        request::Request,
    },
    field::{FieldError, annotation_path},
    keys::{self, Annotations},
    object::{self, SourceKind},
    requester::Requester,
};

/// The answer to the creation of a DataVolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Admitted.
    Admitted {
        /// The annotations to write; `None` removes a key.
        annotations: Annotations,
        /// The strategy, if one was chosen.
        strategy: Option<CloneStrategy>,
        /// Warnings for the user, one line each.
        warnings: Vec<String>,
    },
    /// Not admitted.
    Denied(Vec<FieldError>),
}

/// The reader of the answer to a new DataVolume.
///
/// A controller that is denied retries at growing intervals (client-go: up to 1000 s), and meanwhile its user sees nothing. So errors that
/// the cluster can cure without a new object (a missing StorageClass, a name conflict) are admitted with a warning, and reported with CDI's
/// reason while the clone waits. A person reads the denial at once and creates the object again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// A user at a terminal.
    Person,
    /// A service account, or any creator of an object with a controller reference.
    Controller,
}

impl Audience {
    /// The audience of the review of an object with this metadata.
    pub fn of(requester: &Requester, meta: &ObjectMeta) -> Self {
        let is_controller = requester.is_service_account() || object::controller(meta).is_some();
        if is_controller { Self::Controller } else { Self::Person }
    }
}

/// Decides the admission of a new DataVolume that parsed to `request`.
pub fn judge(request: &Request, facts: &Facts, audience: Audience) -> Verdict {
    let decision = decide(request, &History::default(), facts);
    let warnings = warnings(request, &decision, facts);
    match decision {
        Decision::Rejected(errors) => Verdict::Denied(errors),
        Decision::Chosen(chosen) => {
            Verdict::Admitted { annotations: pin(request, &chosen, &[]), strategy: Some(chosen.strategy), warnings }
        }
        Decision::Undecided(Undecided::NoStorageClass(error)) if audience == Audience::Person => {
            Verdict::Denied(vec![error])
        }
        Decision::Undecided(_) => undecided(request, warnings),
    }
}

/// The verdict on a DataVolume whose name is taken by a claim of another owner.
pub fn name_conflict(verdict: Verdict, name: &str, audience: Audience) -> Verdict {
    let fact = "there is a PersistentVolumeClaim of that name, which the clone's claim needs; rename the DataVolume or delete the claim";
    let error = FieldError::invalid("metadata.name", name, fact);
    match (verdict, audience) {
        (Verdict::Admitted { annotations, strategy, mut warnings }, Audience::Controller) => {
            warnings.push(format!("smartclone: {error}; the clone is admitted, and starts when the claim is gone"));
            Verdict::Admitted { annotations, strategy, warnings }
        }
        (Verdict::Admitted { .. }, Audience::Person) => Verdict::Denied(vec![error]),
        (Verdict::Denied(others), _) => Verdict::Denied([error].into_iter().chain(others).collect()),
    }
}

/// Admits a DataVolume whose DataSource can't be resolved yet, with the reason as a warning.
pub fn not_followed(request: &Request, why: &str) -> Verdict {
    let line = format!("smartclone: spec.sourceRef: {why}; the strategy is decided when it leads to a source");
    undecided(request, vec![line])
}

/// Admits a DataVolume whose claim is populated already. Nothing is copied, so the source is not checked.
pub fn taken_over(request: &Request) -> Verdict {
    let line = format!(
        "smartclone: PersistentVolumeClaim {} is taken over as it is; nothing is cloned, and nothing was checked",
        request.target
    );
    undecided(request, vec![line])
}

/// Admits without a decision: keeps the requested strategy, removes annotations of a decision and its reason.
fn undecided(request: &Request, warnings: Vec<String>) -> Verdict {
    let mut annotations = Annotations::from([(keys::CLONE_FALLBACK_REASON, None), (keys::PLAN, None)]);
    if request.wish.is_none() {
        annotations.insert(keys::CLONE_TYPE, None);
    }
    Verdict::Admitted { annotations, strategy: None, warnings }
}

/// The path of the field that names the source, for a denial because of the source's namespace.
pub fn namespace_path(request: &Request) -> &'static str {
    match request.source.kind {
        _ if request.by_reference => "spec.sourceRef",
        SourceKind::Claim => "spec.source.pvc.namespace",
        SourceKind::Snapshot => "spec.source.snapshot.namespace",
    }
}

/// The error if `volume` carries a complete decision (a plan and its chosen strategy) that differs from this one.
///
/// Only smartclone writes such decisions. So its inputs changed between the two webhooks, or one replica has observed a change that the
/// other has not. The requester has forged nothing, and is told to retry.
pub fn outdated(volume: &DataVolume, annotations: &Annotations) -> Option<FieldError> {
    let has = |key: &str| object::annotation(&volume.metadata, key);
    let plan = has(keys::PLAN).filter(|plan| annotations.get(keys::PLAN).and_then(Option::as_deref) != Some(*plan))?;
    let note = PlanNote::read(plan)?;
    let strategy = note.strategy_in_force(has(keys::CLONE_TYPE))?;
    let whole = note.candidates.iter().any(|it| it.strategy == Some(strategy) && it.outcome == CHOSEN);
    whole.then(|| {
        let why = format!("what smartclone chose \"{strategy}\" for a moment ago has changed since; try again");
        FieldError::invalid(annotation_path(keys::PLAN), plan, why)
    })
}

/// The annotations in `volume` that differ from the decision: forged, or changed after the decision was written.
pub fn forged(volume: &DataVolume, annotations: &Annotations) -> Vec<FieldError> {
    let has = |key: &str| object::annotation(&volume.metadata, key);
    annotations
        .iter()
        .filter(|(key, value)| has(key) != value.as_deref())
        .map(|(key, value)| {
            let path = annotation_path(key);
            match value {
                Some(value) => FieldError::invalid(
                    path,
                    has(key).unwrap_or_default(),
                    format!("smartclone decided {value:?}; leave the annotation to it"),
                ),
                None => FieldError::forbidden(path, "smartclone writes it; leave it out"),
            }
        })
        .collect()
}
