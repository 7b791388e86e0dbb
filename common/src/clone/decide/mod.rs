//! The decision: derives the strategy from the facts. Pure and total; it reads nothing and depends on nothing but its arguments.

mod candidates;
mod decision;
pub(crate) mod modes;
pub mod pin;
pub mod reason;
pub mod size;
pub(crate) mod wish;

use self::{
    candidates::{Candidate, Candidates, Feasible},
    modes::{access_modes, mode},
    size::{Resize, SizeError, SourceSize},
    wish::{standing, wanted},
};
use super::{
    facts::{Facts, Profile, Source, sizes::Doubt},
    note::{ChosenBy, History, SourceFacts},
    request::{Form, Request},
};
use crate::{
    api::CloneStrategy,
    field::{FieldError, annotation_path},
    keys,
    lookup::Lookup,
    object::{SourceKind, TargetKind, VolumeMode},
    quantity::Bytes,
    storage::{
        overhead::{required, usable},
        restore::RestoreRule,
    },
};

pub use self::{
    decision::{CHOSEN, Chosen, Decision, Outcome, Route, Undecided, Verdict},
    pin::pin,
    reason::{FallbackCode, FallbackReason},
};

/// The size of a file system's journal, which doesn't depend on the volume's size; on a small volume it exceeds the configured overhead.
const JOURNAL: Bytes = Bytes(64 * Bytes::MIB.0);

/// Decides the strategy for `request`.
pub fn decide(request: &Request, history: &History, facts: &Facts) -> Decision {
    let decision = decide_by(request, history, facts);
    // Remembered refusals only change the strategy to a more expensive one. They never reject.
    match (&decision, without_memory(facts)) {
        (Decision::Rejected(_), Some(facts)) => decide_by(request, history, &facts),
        _ => decision,
    }
}

/// The facts without remembered refusals; `None` if there are none.
fn without_memory(facts: &Facts) -> Option<Facts> {
    let profile = facts.profile.present()?;
    let remembers = !profile.refused.is_empty() || !profile.refused_here.is_empty();
    let profile = Profile { refused: Vec::new(), refused_here: Vec::new(), ..profile.clone() };
    remembers.then(|| Facts { profile: Lookup::Present(profile), ..facts.clone() })
}

fn decide_by(request: &Request, history: &History, facts: &Facts) -> Decision {
    // Reported together with other errors.
    let class = match &facts.target_class {
        Lookup::Present(class) => Ok(class),
        Lookup::Absent => Err(no_class(request)),
        Lookup::Unknown(why) => return undecided("the clone's StorageClass", why),
    };
    let source = match (&facts.source, &class) {
        (Lookup::Present(source), _) => source,
        (_, Err(error)) => return without_class(request, error.clone()),
        (Lookup::Absent, Ok(_)) => return Decision::Undecided(Undecided::SourceMissing),
        (Lookup::Unknown(why), Ok(_)) => return undecided("the source", why),
    };
    let mode = mode(request, source, facts);
    // When a block image becomes a file, the file system needs more than the image; when a file system becomes a block volume, only its
    // usable part counts.
    let fits = |capacity: Bytes| match (source.mode.unwrap_or(mode), mode) {
        (VolumeMode::Block, VolumeMode::Filesystem) => {
            Bytes(required(capacity, facts.overhead).0.saturating_add(JOURNAL.0))
        }
        (VolumeMode::Filesystem, VolumeMode::Block) => usable(capacity, facts.overhead),
        _ => capacity,
    };
    let disk = size_of(source, request);
    let asked = wanted_size(request, mode, facts).map(|asked| match disk {
        // A request for a disk of the source's size or more gets a volume with room for the source.
        Some(disk) if request.form == Form::Storage && request.size >= Some(disk) => asked.max(fits(disk)),
        _ => asked,
    });
    if let Some(error) = too_small(request, source, asked, fits) {
        return Decision::Rejected(class.err().into_iter().chain([error]).collect());
    }
    let class = match class {
        Ok(class) => class,
        Err(error) => return without_class(request, error),
    };
    if let Some(finalizers) = source.deleting.clone() {
        return Decision::Undecided(Undecided::SourceDeleting { finalizers });
    }
    if !source.ready {
        return Decision::Undecided(Undecided::SourceNotReady { driver_says: source.complaint.clone() });
    }
    if let Lookup::Unknown(why) = &source.driver {
        return undecided("the source's volume", why);
    }
    if let (Some(Doubt::Unread(why)), None) = (&source.doubt, request.size) {
        return undecided("the volume of which the snapshot was taken", why);
    }
    let Some(capacity) = disk.or(asked) else {
        return Decision::Rejected(vec![FieldError::required(
            request.form.size_path(),
            "nobody knows how large the snapshot is: the driver does not say, and the volume of which it was taken is gone; give the size of that volume",
        )]);
    };
    let resize = Resize {
        request: asked,
        source: SourceSize {
            request: source.request.unwrap_or(capacity),
            capacity,
            cut_at: source.cut_at,
            restore_size: None,
        },
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
    if let Some(error) = over_limit(request, feasible.sizes.finally) {
        return Decision::Rejected(vec![error]);
    }
    let verdicts = candidates.iter().map(|candidate| Verdict {
        strategy: candidate.strategy,
        outcome: match (&candidate.feasibility, &candidate.remembered) {
            (Ok(_), _) if candidate.strategy == strategy => Outcome::Chosen,
            (Ok(_), None) => Outcome::NotWanted,
            (Ok(_), Some(reason)) | (Err(reason), _) => Outcome::Infeasible(reason.clone()),
        },
    });
    let binds_at_once = request.immediate || facts.beside_cdi.is_some_and(|cdi| !cdi.waits_for_consumers);
    let waits_for_consumer = class.waits_for_consumer && !binds_at_once;
    // A claim that references its snapshot keeps it until a pod is scheduled, and thus blocks the snapshots of other clones.
    let holds_a_snapshot =
        waits_for_consumer && strategy.spec().takes_snapshot && request.source.kind == SourceKind::Claim;
    let filled_by_driver = strategy.spec().filled_by_driver && !holds_a_snapshot;
    // Beside CDI the clone's claim exists from the start: CDI reports what it says.
    let direct = filled_by_driver
        && !request.crosses()
        && facts.beside_cdi.is_none()
        && request.made_for == TargetKind::DataVolume;
    Decision::Chosen(Box::new(Chosen {
        strategy,
        route: if direct { Route::Direct } else { Route::Rebind },
        by,
        fallback,
        verdicts: verdicts.collect(),
        source_uid: source.uid.clone(),
        source_facts: SourceFacts {
            class: source.class.clone(),
            driver: source.driver.present().cloned().unwrap_or_default(),
            volume_mode: source.mode.map(|mode| mode.to_string()),
            access_modes: source.access_modes.clone(),
            request: source.request.unwrap_or(capacity).0,
            capacity: capacity.0,
        },
        source_class: source.class.clone(),
        restore_class: facts.source_class.present().map(|class| class.name.clone()),
        driver: class.provisioner.clone(),
        class: class.name.clone(),
        attributes_class: request.attributes_class.clone(),
        limit: request.limit,
        source_mode: source.mode.unwrap_or(mode),
        mode,
        access_modes: access_modes(request, source, mode, facts),
        sizes: feasible.sizes,
        restore_at: restore_at(request, history, source, facts, capacity),
        snapshot_class: feasible.snapshot_class.clone(),
        waits_for_consumer,
        binds_late: class.waits_for_consumer,
        resize: if strategy.spec().filled_by_driver { resize } else { Resize { rule: RestoreRule::Larger, ..resize } },
    }))
}

/// The size of the source as far as it is known. If the size of a snapshot is in doubt, the requested size may be the better one.
fn size_of(source: &Source, request: &Request) -> Option<Bytes> {
    match source.doubt {
        None => source.capacity,
        Some(_) => source.capacity.max(request.size),
    }
}

/// The size for the temporary restore of a source snapshot. If two sizes are plausible, the second is used once the driver refused the
/// first. If the snapshot's volume isn't known, the requested size may be the better one.
fn restore_at(request: &Request, history: &History, source: &Source, facts: &Facts, capacity: Bytes) -> Bytes {
    let Some(cut_at) = source.cut_at else { return capacity };
    let is_known = source.capacity > Some(cut_at);
    let larger = if is_known { capacity } else { capacity.max(request.size.unwrap_or_default()) };
    let is_exact = facts.source_class.present().is_some_and(|class| class.restore == RestoreRule::SourceSizeOnly);
    let (first, second) = if is_exact { (cut_at, larger) } else { (capacity, cut_at) };
    let was_refused = history.refused.iter().any(|past| past.restored_at.is_some_and(|size| size >= first.0));
    if was_refused { second } else { first }
}

/// The error for a size that is too small for the source's content; `fits` converts a size to the clone's volume mode. It is reported as
/// early as possible: even a source without a volume has a minimum size.
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

/// The error for a limit that the clone would exceed.
fn over_limit(request: &Request, size: Bytes) -> Option<FieldError> {
    let limit = request.limit.filter(|limit| *limit < size)?;
    let cure = format!("the clone needs {size}; raise the limit or leave it out");
    Some(FieldError::invalid(request.form.limit_path(), &limit.to_string(), cure))
}

/// The wanted strategy; its fallback with the reason; or the error.
///
/// Remembered refusals only replace a cheaper strategy by a copy. If a copy is impossible, not allowed, or remembered as refused too, the
/// wanted strategy is tried regardless.
fn choose<'a>(
    input: &Candidates<'_>,
    candidates: &'a [Candidate],
    wanted: CloneStrategy,
    by: ChosenBy,
) -> Result<(CloneStrategy, &'a Feasible, Option<FallbackReason>), Decision> {
    let of = |strategy: CloneStrategy| candidates.iter().find(|candidate| candidate.strategy == strategy);
    let wrong = |field: String, value: &str, detail: String| {
        Err(Decision::Rejected(vec![FieldError::invalid(field, value, detail)]))
    };
    // A strategy without a fallback is its own fallback.
    let next = wanted.spec().fallback.unwrap_or(wanted);
    let (Some(asked), Some(fallback)) = (of(wanted), of(next)) else {
        return Err(undecided("the wanted strategy", "unknown strategy"));
    };
    match (&asked.feasibility, &fallback.feasibility) {
        (Ok(feasible), Ok(other)) => match &asked.remembered {
            Some(reason) if input.request.fallback_allowed && fallback.remembered.is_none() => {
                Ok((next, other, Some(reason.clone())))
            }
            _ => Ok((wanted, feasible, None)),
        },
        (Ok(feasible), Err(_)) => Ok((wanted, feasible, None)),
        // A strategy that the driver refused during the clone falls back even if the requester asked for it.
        (Err(reason), _) if by == ChosenBy::Requester && !reason.is_of_the_driver() => {
            let detail = format!("{reason}; or leave the annotation out and let smartclone choose");
            wrong(annotation_path(keys::CLONE_TYPE), wanted.as_str(), detail)
        }
        (Err(reason), Ok(other)) if input.request.fallback_allowed => Ok((next, other, Some(reason.clone()))),
        (Err(reason), Ok(_)) => {
            let detail = format!("\"{wanted}\" is not possible, and no fallback is allowed: {reason}");
            wrong(annotation_path(keys::FALLBACK), "Never", detail)
        }
        (Err(_), Err(reason)) => {
            let field = format!("{}.{}", input.request.form.path(), reason.field());
            let value = match reason.field() {
                "volumeMode" => input.mode.to_string(),
                "accessModes" => input.request.access_modes.join(", "),
                _ => input.class.name.clone(),
            };
            wrong(field, &value, reason.to_string())
        }
    }
}

/// The size of the clone's volume, if one is requested. `spec.storage` requests the size of the disk, so the file system overhead is added.
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

/// A missing StorageClass may be created later; one named by the empty string can't.
fn without_class(request: &Request, error: FieldError) -> Decision {
    match request.storage_class.as_deref() {
        Some("") => Decision::Rejected(vec![error]),
        Some(_) | None => Decision::Undecided(Undecided::NoStorageClass(error)),
    }
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

#[cfg(test)]
mod tests;
