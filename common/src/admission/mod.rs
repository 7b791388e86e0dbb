//! The answers of the webhook: pure functions from object, facts and decision to annotations, warnings and errors.

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

/// The answer to a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Admitted.
    Admitted {
        /// What its annotations are to be; `None` removes a key.
        annotations: Annotations,
        /// The strategy, where one was chosen.
        strategy: Option<CloneStrategy>,
        /// A line each, for the user's terminal.
        warnings: Vec<String>,
    },
    /// Not admitted.
    Denied(Vec<FieldError>),
}

/// Who reads the answer to a new DataVolume.
///
/// A controller that is denied tries again in longer and longer intervals (client-go: up to 1000 s), and its user sees nothing until
/// then. So what the cluster can cure without a new object, a StorageClass or a name that is taken, is admitted with a warning, and
/// waited for with CDI's reason. A person reads the denial at once, and creates the object again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// A user at a terminal.
    Person,
    /// A service account, or whoever creates an object that a controller owns.
    Controller,
}

impl Audience {
    /// The audience of a review of the object with this metadata.
    pub fn of(requester: &Requester, meta: &ObjectMeta) -> Self {
        let is_controller = requester.is_service_account() || object::controller(meta).is_some();
        if is_controller { Self::Controller } else { Self::Person }
    }
}

/// Judges a new DataVolume that parsed to `request`.
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

/// The verdict on a DataVolume whose claim's name is taken by a claim of somebody else.
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

/// Admits a DataVolume whose DataSource can't be followed yet, and tells why.
pub fn not_followed(request: &Request, why: &str) -> Verdict {
    let line = format!("smartclone: spec.sourceRef: {why}; the strategy is decided when it leads to a source");
    undecided(request, vec![line])
}

/// Admits a DataVolume whose claim is filled already. Nothing is copied, so the source doesn't matter.
pub fn taken_over(request: &Request) -> Verdict {
    let line = format!(
        "smartclone: PersistentVolumeClaim {} is taken over as it is; nothing is cloned, and nothing was checked",
        request.target
    );
    undecided(request, vec![line])
}

/// The wish stays; a decision that hasn't been made, and the reason for it, don't.
fn undecided(request: &Request, warnings: Vec<String>) -> Verdict {
    let mut annotations = Annotations::from([(keys::CLONE_FALLBACK_REASON, None), (keys::PLAN, None)]);
    if request.wish.is_none() {
        annotations.insert(keys::CLONE_TYPE, None);
    }
    Verdict::Admitted { annotations, strategy: None, warnings }
}

/// The field that says what is cloned, for a denial on account of the source's namespace.
pub fn namespace_path(request: &Request) -> &'static str {
    match request.source.kind {
        _ if request.by_reference => "spec.sourceRef",
        SourceKind::Claim => "spec.source.pvc.namespace",
        SourceKind::Snapshot => "spec.source.snapshot.namespace",
    }
}

/// That `volume` carries another decision than this one, if it is a whole one: a plan, and the strategy that it chose.
///
/// Only smartclone writes those. What it depends on has changed between the looks of the two webhooks, or is known to one replica and not
/// yet to the other: whoever asked has forged nothing, and is told to ask again.
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

/// What in `volume` differs from the decision: annotations that somebody forged, or changed after the decision was written.
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
