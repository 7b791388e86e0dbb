//! The decision: facts in, strategy out. Total and deterministic; it reads nothing and asks nobody.

mod decision;
mod history;

pub use super::candidates::Reason;

use self::history::JOURNAL;
use super::{
    candidates::{Candidate, Candidates, Feasible},
    facts::{Class, Facts, Profile, Source},
    request::{Form, Request},
    rules::{
        driver::RestoreRule,
        size::{SizeError, SourceSize},
    },
};

use crate::{
    api::{ClaimPropertySet, CloneStrategy, PlanCandidate},
    cdi_config::{required, usable},
    field::{FieldError, annotation_path},
    lookup::Lookup,
    meta,
    object::{ContentType, SourceKind, TargetKind, VolumeMode},
    quantity::Bytes,
};

pub use self::history::{History, PastRefusal};

pub use self::decision::{Chosen, ChosenBy, Decision, Resize, Route, Undecided};

/// The [`PlanCandidate::outcome`] of the strategy that was chosen.
pub const CHOSEN: &str = "Chosen";

/// A candidate and its outcome, for annotation and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The strategy.
    pub strategy: CloneStrategy,
    /// The outcome.
    pub outcome: Outcome,
}

impl From<&Verdict> for PlanCandidate {
    fn from(verdict: &Verdict) -> Self {
        let (outcome, reason) = match &verdict.outcome {
            Outcome::Chosen => (CHOSEN, None),
            Outcome::NotWanted => ("NotWanted", None),
            Outcome::Impossible(reason) => ("Impossible", Some(reason)),
        };
        Self {
            strategy: Some(verdict.strategy),
            outcome: outcome.to_owned(),
            reason: reason.map(|reason| reason.code.to_owned()),
            message: reason.map(|reason| reason.message.clone()),
            cure: reason.map(|reason| reason.cure.clone()),
        }
    }
}

/// The outcome of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is carried out.
    Chosen,
    /// It would do, and another one is wanted.
    NotWanted,
    /// It can't be had.
    Impossible(Reason),
}

/// Decides how `request` is cloned.
pub fn decide(request: &Request, history: &History, facts: &Facts) -> Decision {
    let decision = decide_by(request, history, facts);
    // What is remembered moves a strategy down. It never rejects.
    match (&decision, without_memory(facts)) {
        (Decision::Rejected(_), Some(facts)) => decide_by(request, history, &facts),
        _ => decision,
    }
}

/// The facts without what is remembered of refusals; nothing, where nothing is.
fn without_memory(facts: &Facts) -> Option<Facts> {
    let profile = facts.profile.present()?;
    let remembers = !profile.refused.is_empty() || !profile.refused_here.is_empty();
    let profile = Profile { refused: Vec::new(), refused_here: Vec::new(), ..profile.clone() };
    remembers.then(|| Facts { profile: Lookup::Present(profile), ..facts.clone() })
}

fn decide_by(request: &Request, history: &History, facts: &Facts) -> Decision {
    // Told together with whatever else is wrong.
    let classless = match &facts.target_class {
        Lookup::Present(_) => None,
        Lookup::Absent => Some(no_class(request)),
        Lookup::Unknown(why) => return undecided("the clone's StorageClass", why),
    };
    let source = match (&facts.source, &classless) {
        (Lookup::Present(source), _) => source,
        (_, Some(error)) => return Decision::Rejected(vec![error.clone()]),
        (Lookup::Absent, None) => return Decision::Undecided(Undecided::SourceMissing),
        (Lookup::Unknown(why), None) => return undecided("the source", why),
    };
    let mode = mode(request, source, facts);
    // Of a raw image that leaves its file system, only the usable part is the disk's; of one that enters it, the file system needs more.
    let fits = |capacity: Bytes| match (source.mode.unwrap_or(mode), mode) {
        (VolumeMode::Block, VolumeMode::Filesystem) => {
            Bytes(required(capacity, facts.overhead).0.saturating_add(JOURNAL.0))
        }
        (VolumeMode::Filesystem, VolumeMode::Block) => usable(capacity, facts.overhead),
        _ => capacity,
    };
    let asked = wanted_size(request, mode, facts).map(|asked| match source.capacity {
        // Who asks for a disk of the source's size gets a volume that has room for it.
        Some(disk) if request.form == Form::Storage && request.size >= Some(disk) => asked.max(fits(disk)),
        _ => asked,
    });
    if let Some(error) = too_small(request, source, asked, fits) {
        return Decision::Rejected(classless.into_iter().chain([error]).collect());
    }
    let Lookup::Present(class) = &facts.target_class else {
        return Decision::Rejected(classless.into_iter().collect());
    };
    if !source.ready {
        return Decision::Undecided(Undecided::SourceNotReady { driver_says: source.complaint.clone() });
    }
    if let Lookup::Unknown(why) = &source.driver {
        return undecided("the source's volume", why);
    }
    let Some(capacity) = source.capacity.or(asked) else {
        return Decision::Rejected(vec![FieldError::required(
            request.form.size_path(),
            "the driver does not say how large the snapshot is; give the size of the clone",
        )]);
    };
    let resize = Resize {
        request: asked,
        source: SourceSize { request: source.request.unwrap_or(capacity), capacity, restore_size: None },
        rule: class.restore,
        expands: class.expands,
    };
    let input = Candidates { request, history, class, source, mode, resize, least: fits(capacity), facts };
    let candidates = match input.candidates() {
        Ok(candidates) => candidates,
        Err(why) => return undecided("the VolumeSnapshotClasses", &why),
    };
    let (wanted, by) = match wanted(request, standing(history, source, &candidates), class, facts) {
        Ok(wanted) => wanted,
        Err(why) => return undecided("the wanted strategy", &why),
    };
    let (strategy, feasible, fallback) = match choose(&input, &candidates, wanted, by) {
        Ok(chosen) => chosen,
        Err(decision) => return decision,
    };
    let verdicts = candidates.iter().map(|candidate| Verdict {
        strategy: candidate.strategy,
        outcome: match (&candidate.feasibility, &candidate.remembered) {
            (Ok(_), _) if candidate.strategy == strategy => Outcome::Chosen,
            (Ok(_), None) => Outcome::NotWanted,
            (Ok(_), Some(reason)) | (Err(reason), _) => Outcome::Impossible(reason.clone()),
        },
    });
    let waits_for_consumer = class.waits_for_consumer && !request.immediate;
    // A claim that names its snapshot would keep that until a pod comes, and with it the place of another clone's.
    let holds_a_snapshot =
        waits_for_consumer && strategy == CloneStrategy::Snapshot && request.source.kind == SourceKind::Claim;
    let filled_by_driver = strategy != CloneStrategy::Copy && !holds_a_snapshot;
    let direct = filled_by_driver && !request.crosses() && request.made_for == TargetKind::DataVolume;
    Decision::Chosen(Box::new(Chosen {
        strategy,
        route: if direct { Route::Direct } else { Route::Rebind },
        by,
        fallback,
        verdicts: verdicts.collect(),
        source_uid: source.uid.clone(),
        source_class: source.class.clone(),
        restore_class: facts.source_class.present().map(|class| class.name.clone()),
        driver: class.provisioner.clone(),
        class: class.name.clone(),
        source_mode: source.mode.unwrap_or(mode),
        mode,
        access_modes: access_modes(request, source, mode, facts),
        sizes: feasible.sizes,
        source_size: capacity,
        snapshot_class: feasible.snapshot_class.clone(),
        waits_for_consumer,
        binds_late: class.waits_for_consumer,
        resize: if strategy == CloneStrategy::Copy { Resize { rule: RestoreRule::Larger, ..resize } } else { resize },
    }))
}

/// What is wrong with a size in which the source's content has no room; `fits` is what a volume of this size needs in its new form. Even
/// a source without a volume says how small a clone may be, and a mistake is told as early as it shows.
fn too_small(
    request: &Request,
    source: &Source,
    asked: Option<Bytes>,
    fits: impl FnOnce(Bytes) -> Bytes,
) -> Option<FieldError> {
    let least = match (source.request, source.capacity) {
        (Some(request), Some(capacity)) => request.min(capacity),
        (Some(size), None) | (None, Some(size)) => size,
        (None, None) => return None,
    };
    let (asked, least) = (asked?, fits(least));
    (asked < least).then(|| {
        let given = request.size.unwrap_or(asked).to_string();
        FieldError::invalid(request.form.size_path(), &given, SizeError::TooSmall { least }.to_string())
    })
}

/// The strategy that is wanted; or a copy, and why; else what is wrong with the wish.
///
/// What is remembered about other clones only makes a copy of what would have been cheaper. Where no copy is possible or allowed, or the
/// driver is remembered to have refused that, too, the wanted strategy is tried as if nothing were remembered.
fn choose<'a>(
    input: &Candidates<'_>,
    candidates: &'a [Candidate],
    wanted: CloneStrategy,
    by: ChosenBy,
) -> Result<(CloneStrategy, &'a Feasible, Option<Reason>), Decision> {
    let of = |strategy: CloneStrategy| candidates.iter().find(|candidate| candidate.strategy == strategy);
    let wrong = |field: String, value: &str, detail: String| {
        Err(Decision::Rejected(vec![FieldError::invalid(field, value, detail)]))
    };
    let (Some(asked), Some(copy)) = (of(wanted), of(CloneStrategy::Copy)) else {
        return Err(undecided("the wanted strategy", "unknown strategy"));
    };
    match (&asked.feasibility, &copy.feasibility) {
        (Ok(feasible), Ok(other)) => match &asked.remembered {
            Some(reason) if input.request.fallback_allowed && copy.remembered.is_none() => {
                Ok((CloneStrategy::Copy, other, Some(reason.clone())))
            }
            _ => Ok((wanted, feasible, None)),
        },
        (Ok(feasible), Err(_)) => Ok((wanted, feasible, None)),
        // A strategy that the driver refused during the clone falls back even if the requester asked for it.
        (Err(reason), _) if by == ChosenBy::Requester && !reason.came_from_the_driver() => {
            let detail = format!("{reason}; or leave the annotation out and let smartclone choose");
            wrong(annotation_path(meta::CLONE_TYPE), wanted.as_str(), detail)
        }
        (Err(reason), Ok(copy)) if input.request.fallback_allowed => {
            Ok((CloneStrategy::Copy, copy, Some(reason.clone())))
        }
        (Err(reason), Ok(_)) => {
            let detail = format!("\"{wanted}\" can't be had, and no fallback is allowed: {reason}");
            wrong(annotation_path(meta::FALLBACK), "Never", detail)
        }
        (Err(_), Err(reason)) => {
            let field = format!("{}.{}", input.request.form.path(), reason.field());
            let value = if reason.field() == "volumeMode" { input.mode.to_string() } else { input.class.name.clone() };
            wrong(field, &value, reason.to_string())
        }
    }
}

/// The volume mode of the clone: the one that is asked for; `spec.pvc` means what Kubernetes means by leaving it out; `spec.storage` the
/// source's, unless the StorageProfile has only the other one.
pub(crate) fn mode(request: &Request, source: &Source, facts: &Facts) -> VolumeMode {
    if request.content == ContentType::Archive {
        return VolumeMode::Filesystem;
    }
    match (request.volume_mode, request.form) {
        (Some(mode), _) => mode,
        (None, Form::Pvc) => VolumeMode::default(),
        (None, Form::Storage) => {
            let sets = property_sets(facts);
            let of = |set: &ClaimPropertySet| set.volume_mode.as_deref().and_then(|m| m.parse::<VolumeMode>().ok());
            match (source.mode, sets.iter().find_map(of)) {
                (Some(mode), Some(best)) if !sets.iter().any(|set| of(set) == Some(mode)) => best,
                (Some(mode), _) => mode,
                (None, best) => best.unwrap_or_default(),
            }
        }
    }
}

fn property_sets(facts: &Facts) -> &[ClaimPropertySet] {
    facts.profile.present().map(|p| p.claim_property_sets.as_slice()).unwrap_or_default()
}

/// The access modes of the clone: those that are asked for, else the StorageProfile's best for its volume mode, else the source's.
pub(crate) fn access_modes(request: &Request, source: &Source, mode: VolumeMode, facts: &Facts) -> Vec<String> {
    if !request.access_modes.is_empty() {
        return request.access_modes.clone();
    }
    let sets = property_sets(facts);
    let best = sets.iter().find(|set| set.volume_mode.as_deref() == Some(mode.as_str()));
    match best.and_then(|set| set.access_modes.clone()).filter(|modes| !modes.is_empty()) {
        Some(modes) => modes,
        None if source.access_modes.is_empty() => vec!["ReadWriteOnce".to_owned()],
        None => source.access_modes.clone(),
    }
}

/// The size of the clone's volume, where one is asked for. What `spec.storage` asks for is the disk's; its file system needs more.
fn wanted_size(request: &Request, mode: VolumeMode, facts: &Facts) -> Option<Bytes> {
    let size = request.size?;
    if request.form == Form::Pvc {
        return Some(size);
    }
    let size = match mode {
        VolumeMode::Filesystem => required(size, facts.overhead),
        VolumeMode::Block => size,
    };
    Some(size.max(facts.profile.present().and_then(|profile| profile.minimum).unwrap_or_default()))
}

fn undecided(what: &str, why: &str) -> Decision {
    Decision::Undecided(Undecided::Unknown(format!("{what}: {why}")))
}

fn no_class(request: &Request) -> FieldError {
    let field = format!("{}.storageClassName", request.form.path());
    match request.storage_class.as_deref() {
        None => {
            FieldError::required(field, "no StorageClass is marked as default; name one (kubectl get storageclass)")
        }
        Some("") => FieldError::invalid(field, "", "a clone is provisioned, which needs a StorageClass; name one"),
        Some(name) => FieldError::not_found(
            field,
            name,
            "there is no such StorageClass; kubectl get storageclass lists those that exist",
        ),
    }
}

/// The decision that was made before, unless nothing is begun and the clone's namespace has met since then that the driver refuses it. Then
/// it is decided again from the wish on, so that the wish stays on record.
fn standing(history: &History, source: &Source, candidates: &[Candidate]) -> Option<CloneStrategy> {
    let refused =
        |strategy: CloneStrategy| candidates.iter().any(|it| it.strategy == strategy && it.remembered.is_some());
    history.pinned_for(&source.uid).filter(|strategy| *strategy == CloneStrategy::Copy || !refused(*strategy))
}

/// The first wish that somebody has.
pub(crate) fn wanted(
    request: &Request,
    pinned: Option<CloneStrategy>,
    class: &Class,
    facts: &Facts,
) -> Result<(CloneStrategy, ChosenBy), String> {
    if let Some(strategy) = pinned {
        return Ok((strategy, ChosenBy::Pinned));
    }
    if let Some(strategy) = request.wish {
        return Ok((strategy, ChosenBy::Requester));
    }
    match &facts.cluster_override {
        Lookup::Present(strategy) => return Ok((*strategy, ChosenBy::Override)),
        Lookup::Unknown(why) => return Err(why.clone()),
        Lookup::Absent => {}
    }
    match &facts.profile {
        Lookup::Present(profile) => {
            if let Some(strategy) = profile.strategy {
                return Ok((strategy, ChosenBy::Profile));
            }
        }
        Lookup::Unknown(why) => return Err(why.clone()),
        Lookup::Absent => {}
    }
    // An unknown word in the class's annotation counts as none, so that a slip of the admin's doesn't stop everybody.
    Ok(match class.strategy.as_deref().and_then(|text| text.parse().ok()) {
        Some(strategy) => (strategy, ChosenBy::StorageClass),
        None => match facts.profile.present().and_then(|profile| profile.advised) {
            Some(strategy) => (strategy, ChosenBy::Record),
            None => (CloneStrategy::Snapshot, ChosenBy::Default),
        },
    })
}

#[cfg(test)]
mod tests;
