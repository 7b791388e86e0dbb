//! The decision: facts in, strategy out. Total and deterministic; it reads nothing and asks nobody.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use super::ladder::Reason;
use super::{
    facts::{Class, Facts, Profile, Source},
    ladder::{Candidate, Ladder, Rung},
    request::{ContentType, Form, MadeFor, Request, SourceKind, VolumeMode, annotation_path},
    rules::{
        driver::RestoreRule,
        size::{SizeError, SizePlan, SourceSize, size},
    },
};
use crate::{
    api::{ClaimPropertySet, CloneStrategy, PlanRung},
    cdi_config::{required, usable},
    field::FieldError,
    lookup::Lookup,
    meta,
    quantity::Bytes,
};

/// What is to be done with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is cloned like this.
    Chosen(Box<Chosen>),
    /// Nobody can say yet; decided again when that changes.
    Undecided(Undecided),
    /// It can't be cloned as it is written; every reason is listed.
    Rejected(Vec<FieldError>),
}

/// The chosen strategy with all that is needed to carry it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// How.
    pub strategy: CloneStrategy,
    /// By which way the content comes to the claim.
    pub route: Route,
    /// Who wanted it so.
    pub by: ChosenBy,
    /// Why it isn't what was wanted first.
    pub fallback: Option<Reason>,
    /// What became of each rung of the ladder, the cheapest first.
    pub verdicts: Vec<Verdict>,
    /// The identity of the source that this was decided for.
    pub source_uid: String,
    /// The StorageClass of the source; empty where it has none.
    pub source_class: String,
    /// The StorageClass with which a source snapshot is restored to be copied from.
    pub restore_class: Option<String>,
    /// The driver of the clone's class.
    pub driver: String,
    /// The StorageClass of the clone.
    pub class: String,
    /// The volume mode of the source.
    pub source_mode: VolumeMode,
    /// The volume mode of the clone.
    pub mode: VolumeMode,
    /// The access modes of the clone.
    pub access_modes: Vec<String>,
    /// The sizes as far as they are known before the snapshot is cut.
    pub sizes: SizePlan,
    /// The VolumeSnapshotClass, for the strategy `snapshot`.
    pub snapshot_class: Option<String>,
    /// What the source has.
    pub source_size: Bytes,
    /// The clone's volume is made when a pod wants it (`WaitForFirstConsumer`).
    pub waits_for_consumer: bool,
    /// The class is of that kind, whether or not the requester wants to wait.
    pub binds_late: bool,
    resize: Resize,
}

/// How the content comes to the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The claim names its data source, and the driver fills it.
    Direct,
    /// A temporary claim beside the source is filled; then its volume is handed over.
    Transfer,
}

/// What the sizes depend on; kept to compute them once more when the driver has told the snapshot's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resize {
    pub(super) request: Option<Bytes>,
    pub(super) source: SourceSize,
    pub(super) rule: RestoreRule,
    pub(super) expands: bool,
}

impl Chosen {
    /// The sizes with what the driver says a restore of the snapshot needs.
    pub fn sizes_for(&self, restore_size: Option<Bytes>) -> Result<SizePlan, SizeError> {
        let Resize { request, source, rule, expands } = self.resize;
        size(request, SourceSize { restore_size, ..source }, rule, expands)
    }
}

/// Whose wish a strategy is; the first that has one is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChosenBy {
    /// Decided before and written on the object.
    Pinned,
    /// The annotation `cdi.kubevirt.io/cloneType` that the object was created with.
    Requester,
    /// `CDI.spec.cloneStrategyOverride`.
    Override,
    /// `StorageProfile.spec.cloneStrategy`.
    Profile,
    /// The annotation `cdi.kubevirt.io/clone-strategy` of the StorageClass.
    StorageClass,
    /// What is known of the driver, as the StorageProfile's status shows.
    Record,
    /// Nobody's: the cheapest that most drivers can.
    Default,
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "the earlier decision",
            Self::Requester => "the annotation cdi.kubevirt.io/cloneType",
            Self::Override => "cloneStrategyOverride of the CDI object",
            Self::Profile => "the StorageProfile",
            Self::StorageClass => "the StorageClass",
            Self::Record => "what is known of the driver",
            Self::Default => "default",
        })
    }
}

/// Why nobody can say yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undecided {
    /// The source doesn't exist.
    SourceMissing,
    /// The source exists and has no volume yet; a snapshot can't be restored yet.
    SourceNotReady {
        /// What the driver complains about.
        driver_says: Option<String>,
    },
    /// Something could not be read.
    Unknown(String),
}

/// The [`PlanRung::outcome`] of the strategy that was chosen.
pub const CHOSEN: &str = "Chosen";

/// What became of one rung.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The rung.
    pub strategy: CloneStrategy,
    /// Its fate.
    pub outcome: Outcome,
}

impl From<&Verdict> for PlanRung {
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

/// The fate of a rung.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is carried out.
    Chosen,
    /// It would do, and another one is wanted.
    NotWanted,
    /// It can't be had.
    Impossible(Reason),
}

/// What became of earlier passes over the same request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The strategy that is already written on the object by us.
    pub pinned: Option<CloneStrategy>,
    /// The UID of the source for which it was decided. Another source of the same name needs another decision.
    pub decided_for: Option<String>,
    /// What the driver has refused to do for it.
    pub refused: Vec<PastRefusal>,
}

impl History {
    /// The strategy that is written on the object, if it was decided for this source.
    pub fn pinned_for(&self, source_uid: &str) -> Option<CloneStrategy> {
        self.pinned.filter(|_| self.decided_for.as_deref() == Some(source_uid))
    }
}

/// A strategy that was tried in vain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PastRefusal {
    /// The strategy.
    pub strategy: CloneStrategy,
    /// Nobody refused, but it wasn't done within its deadline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub too_slow: bool,
    /// The driver's words, without secrets.
    pub message: String,
}

/// What a file system takes for its log, whatever its size; the share that is configured is too little for it on a small volume.
const JOURNAL: Bytes = Bytes(64 * Bytes::MIB.0);

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
    let ladder = Ladder { request, history, class, source, mode, resize, least: fits(capacity), facts };
    let candidates = match ladder.candidates() {
        Ok(candidates) => candidates,
        Err(why) => return undecided("the VolumeSnapshotClasses", &why),
    };
    let (wanted, by) = match wanted(request, standing(history, source, &candidates), class, facts) {
        Ok(wanted) => wanted,
        Err(why) => return undecided("the wanted strategy", &why),
    };
    let (strategy, rung, fallback) = match choose(&ladder, &candidates, wanted, by) {
        Ok(chosen) => chosen,
        Err(decision) => return decision,
    };
    let verdicts = candidates.iter().map(|candidate| Verdict {
        strategy: candidate.strategy,
        outcome: match (&candidate.fate, &candidate.remembered) {
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
    let direct = filled_by_driver && !request.crosses() && request.made_for == MadeFor::DataVolume;
    Decision::Chosen(Box::new(Chosen {
        strategy,
        route: if direct { Route::Direct } else { Route::Transfer },
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
        sizes: rung.sizes,
        source_size: capacity,
        snapshot_class: rung.snapshot_class.clone(),
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
    ladder: &Ladder<'_>,
    candidates: &'a [Candidate],
    wanted: CloneStrategy,
    by: ChosenBy,
) -> Result<(CloneStrategy, &'a Rung, Option<Reason>), Decision> {
    let of = |strategy: CloneStrategy| candidates.iter().find(|candidate| candidate.strategy == strategy);
    let wrong = |field: String, value: &str, detail: String| {
        Err(Decision::Rejected(vec![FieldError::invalid(field, value, detail)]))
    };
    let (Some(asked), Some(copy)) = (of(wanted), of(CloneStrategy::Copy)) else {
        return Err(undecided("the wanted strategy", "it is not on the ladder"));
    };
    match (&asked.fate, &copy.fate) {
        (Ok(rung), Ok(other)) => match &asked.remembered {
            Some(reason) if ladder.request.fallback_allowed && copy.remembered.is_none() => {
                Ok((CloneStrategy::Copy, other, Some(reason.clone())))
            }
            _ => Ok((wanted, rung, None)),
        },
        (Ok(rung), Err(_)) => Ok((wanted, rung, None)),
        // What the driver refused while it was at it is nobody's slip: the next rung will do, if one is allowed.
        (Err(reason), _) if by == ChosenBy::Requester && !reason.came_from_the_driver() => {
            let detail = format!("{reason}; or leave the annotation out and let smartclone choose");
            wrong(annotation_path(meta::CLONE_TYPE), wanted.as_str(), detail)
        }
        (Err(reason), Ok(copy)) if ladder.request.fallback_allowed => {
            Ok((CloneStrategy::Copy, copy, Some(reason.clone())))
        }
        (Err(reason), Ok(_)) => {
            let detail = format!("\"{wanted}\" can't be had, and no fallback is allowed: {reason}");
            wrong(annotation_path(meta::FALLBACK), "Never", detail)
        }
        (Err(_), Err(reason)) => {
            let field = format!("{}.{}", ladder.request.form.path(), reason.field());
            let value =
                if reason.field() == "volumeMode" { ladder.mode.to_string() } else { ladder.class.name.clone() };
            wrong(field, &value, reason.to_string())
        }
    }
}

/// The volume mode of the clone: the one that is asked for; `spec.pvc` means what Kubernetes means by leaving it out; `spec.storage` the
/// source's, unless the StorageProfile has only the other one.
fn mode(request: &Request, source: &Source, facts: &Facts) -> VolumeMode {
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
pub(super) fn access_modes(request: &Request, source: &Source, mode: VolumeMode, facts: &Facts) -> Vec<String> {
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
fn wanted(
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
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::{
        super::{
            breaker::{ErrorSource, MetRefusal, NamespaceRefusal, NamespaceRefusals, RefusalKey, VolumeRequest},
            facts::SnapshotClass,
            fixtures::{annotated, class, facts, gi, request, sized, volume},
            rules::complaint::Scope,
        },
        *,
    };
    use crate::{
        api::Refusal,
        lookup::Lookup::{Absent, Present, Unknown},
        quantity::Bytes,
    };

    type World = fn(&mut Facts);
    type Wish = fn(&mut Value);

    fn as_is(_: &mut Value) {}
    fn usual(_: &mut Facts) {}
    fn larger(object: &mut Value) {
        sized("2Gi")(object);
    }
    fn block(object: &mut Value) {
        object["spec"]["pvc"]["volumeMode"] = json!("Block");
    }

    fn chosen(wish: Wish, world: World) -> Chosen {
        let mut facts = facts();
        world(&mut facts);
        match decide(&request(&volume(wish)), &History::default(), &facts) {
            Decision::Chosen(chosen) => *chosen,
            other => panic!("not chosen: {other:?}"),
        }
    }

    /// Each rule of the ladder: what makes the snapshot possible, and what turns it into a copy, with the word for it.
    #[rstest]
    #[case::everything_fits(as_is, usual, Ok(()))]
    #[case::no_snapshot_api(as_is, |f: &mut Facts| f.snapshot_classes = Absent, Err("NoVolumeSnapshotClass"))]
    #[case::no_snapshot_class(as_is, |f: &mut Facts| f.snapshot_classes = Present(vec![]), Err("NoVolumeSnapshotClass"))]
    #[case::profile_names_a_wrong_class(
        as_is,
        |f: &mut Facts| f.profile = Present(Profile { snapshot_class: Some("gone".into()), ..Profile::default() }),
        Err("NoVolumeSnapshotClass")
    )]
    #[case::another_driver(as_is, |f: &mut Facts| f.target_class = Present(class("fast", "other")), Err("IncompatibleProvisioners"))]
    #[case::another_class_of_the_driver(as_is, |f: &mut Facts| f.target_class = Present(class("fast", "driver")), Ok(()))]
    #[case::other_parameters(as_is, other_pool, Err("IncompatibleStorageClasses"))]
    #[case::other_parameters_declared_compatible(as_is, declared_compatible, Ok(()))]
    #[case::other_secret_only(as_is, other_secret, Ok(()))]
    #[case::not_csi(as_is, |f: &mut Facts| source(f).driver = Absent, Err("NoCsiDriver"))]
    #[case::other_mode(block, usual, Err("IncompatibleVolumeModes"))]
    #[case::larger(larger, usual, Ok(()))]
    #[case::larger_exact_driver(larger, exact_driver, Ok(()))]
    #[case::larger_exact_driver_no_expansion(larger, exact_driver_no_expansion, Err("NoVolumeExpansion"))]
    fn snapshot_or_copy(#[case] wish: Wish, #[case] world: World, #[case] expected: Result<(), &str>) {
        let chosen = chosen(wish, world);
        let expected_strategy = if expected.is_ok() { CloneStrategy::Snapshot } else { CloneStrategy::Copy };
        assert_eq!(chosen.strategy, expected_strategy);
        assert_eq!(chosen.fallback.as_ref().map_or(Ok(()), |reason| Err(reason.code)), expected);
        assert_eq!(chosen.snapshot_class.is_some(), chosen.strategy == CloneStrategy::Snapshot);
        // Every rung has a verdict, exactly one is carried out.
        assert_eq!(chosen.verdicts.len(), 3);
        assert_eq!(chosen.verdicts.iter().filter(|v| v.outcome == Outcome::Chosen).count(), 1);
    }

    fn source(facts: &mut Facts) -> &mut Source {
        match &mut facts.source {
            Present(source) => source,
            other => panic!("{other:?}"),
        }
    }
    fn pool(name: &str, pool: &str) -> Class {
        let mut class = class(name, "driver");
        class.parameters.insert("pool".into(), pool.into());
        class
    }
    fn other_pool(facts: &mut Facts) {
        facts.source_class = Present(pool("cow", "a"));
        facts.target_class = Present(pool("fast", "b"));
    }
    fn declared_compatible(facts: &mut Facts) {
        facts.source_class = Present(pool("cow", "a"));
        facts.target_class = Present(Class { compatible_with: vec!["cow".into()], ..pool("fast", "b") });
    }
    fn other_secret(facts: &mut Facts) {
        let mut target = class("fast", "driver");
        target.parameters.insert("csi.storage.k8s.io/node-stage-secret-name".into(), "mine".into());
        facts.target_class = Present(target);
    }
    fn exact_driver(facts: &mut Facts) {
        facts.target_class = Present(Class { restore: RestoreRule::SourceSizeOnly, ..class("cow", "driver") });
    }
    fn exact_driver_no_expansion(facts: &mut Facts) {
        exact_driver(facts);
        if let Present(class) = &mut facts.target_class {
            class.expands = false;
        }
    }

    /// The first that has a wish is heard: requester, CDI object, profile, class.
    #[rstest]
    #[case::nobody(as_is, usual, CloneStrategy::Snapshot, ChosenBy::Default)]
    #[case::class(as_is, |f: &mut Facts| wish_of_class(f, "copy"), CloneStrategy::Copy, ChosenBy::StorageClass)]
    #[case::class_with_an_unknown_word(as_is, |f: &mut Facts| wish_of_class(f, "smart"), CloneStrategy::Snapshot, ChosenBy::Default)]
    #[case::profile_before_class(as_is, |f: &mut Facts| { wish_of_class(f, "copy"); wish_of_profile(f); }, CloneStrategy::CsiClone, ChosenBy::Profile)]
    #[case::override_before_profile(as_is, |f: &mut Facts| { wish_of_profile(f); f.cluster_override = Present(CloneStrategy::Copy); }, CloneStrategy::Copy, ChosenBy::Override)]
    #[case::override_snapshot(as_is, |f: &mut Facts| { wish_of_class(f, "copy"); f.cluster_override = Present(CloneStrategy::Snapshot); }, CloneStrategy::Snapshot, ChosenBy::Override)]
    #[case::requester_before_override(wishes_snapshot, |f: &mut Facts| f.cluster_override = Present(CloneStrategy::Copy), CloneStrategy::Snapshot, ChosenBy::Requester)]
    fn whose_wish(#[case] wish: Wish, #[case] world: World, #[case] strategy: CloneStrategy, #[case] by: ChosenBy) {
        let chosen = chosen(wish, world);
        assert_eq!((chosen.strategy, chosen.by, chosen.fallback), (strategy, by, None));
    }

    fn wish_of_class(facts: &mut Facts, word: &str) {
        facts.target_class = Present(Class { strategy: Some(word.into()), ..class("cow", "driver") });
    }
    fn wish_of_profile(facts: &mut Facts) {
        facts.profile = Present(Profile { strategy: Some(CloneStrategy::CsiClone), ..Profile::default() });
    }
    fn wishes_snapshot(object: &mut Value) {
        annotated(meta::CLONE_TYPE, "snapshot")(object);
    }
    fn never_falls_back(object: &mut Value) {
        annotated(meta::FALLBACK, "Never")(object);
    }
    fn no_snapshot_class(facts: &mut Facts) {
        facts.snapshot_classes =
            Present(vec![SnapshotClass { name: "x".into(), driver: "other".into(), is_default: true }]);
    }

    /// What is rejected, under which field, and that the message holds the cure.
    #[rstest]
    #[case::too_small(|o: &mut Value| sized("512Mi")(o), usual, "spec.pvc.resources.requests.storage", "ask for at least 1Gi")]
    #[case::too_small_for_an_unbound_source(|o: &mut Value| sized("512Mi")(o), |f: &mut Facts| unbound(f), "spec.pvc.resources.requests.storage", "ask for at least 1Gi")]
    #[case::unknown_class(as_is, |f: &mut Facts| f.target_class = Absent, "spec.pvc.storageClassName", "kubectl get storageclass")]
    #[case::no_default_class(|o: &mut Value| o["spec"]["pvc"]["storageClassName"] = Value::Null, |f: &mut Facts| f.target_class = Absent, "spec.pvc.storageClassName", "name one")]
    #[case::impossible_wish(
        wishes_snapshot,
        no_snapshot_class,
        "metadata.annotations[cdi.kubevirt.io/cloneType]",
        "create a VolumeSnapshotClass with driver: driver"
    )]
    #[case::no_fallback_wanted(
        never_falls_back,
        no_snapshot_class,
        "metadata.annotations[smartclone.dev/fallback]",
        "create a VolumeSnapshotClass"
    )]
    #[case::files_of_a_device(
        |o: &mut Value| { larger(o); o["spec"]["contentType"] = json!("archive"); },
        |f: &mut Facts| source(f).mode = Some(VolumeMode::Block),
        "spec.pvc.volumeMode",
        "clone it as contentType kubevirt"
    )]
    fn rejects(#[case] wish: Wish, #[case] world: World, #[case] field: &str, #[case] cure: &str) {
        let mut facts = facts();
        world(&mut facts);
        match decide(&request(&volume(wish)), &History::default(), &facts) {
            Decision::Rejected(errors) => {
                assert_eq!(errors.len(), 1, "{errors:?}");
                assert_eq!(errors[0].field, field);
                assert!(errors[0].detail.contains(cure), "{}", errors[0]);
            }
            other => panic!("not rejected: {other:?}"),
        }
    }

    fn unbound(facts: &mut Facts) {
        let source = source(facts);
        source.ready = false;
        source.capacity = None;
    }

    /// What can't be known is waited for, and is never mistaken for what doesn't exist.
    #[rstest]
    #[case::source_missing(|f: &mut Facts| f.source = Absent)]
    #[case::source_unknown(|f: &mut Facts| f.source = Unknown("x".into()))]
    #[case::source_unbound(unbound)]
    #[case::volume_unknown(|f: &mut Facts| source(f).driver = Unknown("x".into()))]
    #[case::class_unknown(|f: &mut Facts| f.target_class = Unknown("x".into()))]
    #[case::override_unknown(|f: &mut Facts| f.cluster_override = Unknown("x".into()))]
    #[case::profile_unknown(|f: &mut Facts| f.profile = Unknown("x".into()))]
    #[case::snapshot_classes_unknown(|f: &mut Facts| f.snapshot_classes = Unknown("x".into()))]
    fn undecided_until_known(#[case] world: World) {
        let mut facts = facts();
        world(&mut facts);
        assert!(matches!(decide(&request(&volume(as_is)), &History::default(), &facts), Decision::Undecided(_)));
    }

    #[test]
    fn the_sizes_follow_what_the_driver_says_of_the_snapshot() {
        let chosen = chosen(larger, exact_driver);
        assert_eq!(chosen.sizes, SizePlan { create_at: gi(1), finally: gi(2) });
        assert_eq!(chosen.sizes_for(Some(Bytes(128 << 20))), Ok(chosen.sizes));
        assert_eq!(chosen.sizes_for(Some(gi(3))), Ok(SizePlan::exactly(gi(3))));
    }

    const EVERY: [CloneStrategy; 3] = [CloneStrategy::Snapshot, CloneStrategy::CsiClone, CloneStrategy::Copy];

    /// Refusals of the source's class, by everybody, that count for any size.
    fn refused_for_all(strategies: &[CloneStrategy]) -> Vec<Refusal> {
        let refusal = |strategy: &CloneStrategy| Refusal {
            strategy: Some(*strategy),
            source_class: Some("cow".into()),
            driver: Some("driver".into()),
            reason: Some("FailedPrecondition".into()),
            namespaces: 3,
            ..Refusal::default()
        };
        strategies.iter().map(refusal).collect()
    }

    fn refused_here(strategies: &[CloneStrategy], size: Bytes) -> Vec<NamespaceRefusal> {
        let mut known = NamespaceRefusals::default();
        for strategy in strategies {
            let key = RefusalKey {
                strategy: *strategy,
                driver: "driver".into(),
                source_class: "cow".into(),
                class: "cow".into(),
            };
            let request =
                VolumeRequest { size, mode: VolumeMode::Filesystem, access_modes: vec!["ReadWriteOnce".into()] };
            let met = MetRefusal {
                key,
                request,
                code: "OutOfRange",
                scope: Scope::Request,
                read_in: ErrorSource::Event,
                message: "call +1-555".into(),
            };
            known.record("here", &met, Timestamp::UNIX_EPOCH);
        }
        known.in_force("here", "cow", Timestamp::UNIX_EPOCH)
    }

    fn remembering(refused: Vec<Refusal>, refused_here: Vec<NamespaceRefusal>) -> Facts {
        Facts { profile: Present(Profile { refused, refused_here, ..Profile::default() }), ..facts() }
    }

    /// Where the wanted strategy is remembered as refused; all of it with `fallback` and by a wish of the requester's own.
    #[rstest]
    #[case::a_copy_is_left(as_is, &[CloneStrategy::Snapshot], CloneStrategy::Copy)]
    #[case::wished(wishes_snapshot, &[CloneStrategy::Snapshot], CloneStrategy::Copy)]
    #[case::no_fallback(never_falls_back, &[CloneStrategy::Snapshot], CloneStrategy::Snapshot)]
    #[case::all_of_them(as_is, &EVERY, CloneStrategy::Snapshot)]
    #[case::all_of_them_wished(wishes_snapshot, &EVERY, CloneStrategy::Snapshot)]
    #[case::another_one(as_is, &[CloneStrategy::CsiClone], CloneStrategy::Snapshot)]
    fn what_others_met_moves_a_strategy_down(
        #[case] wish: Wish,
        #[case] refused: &[CloneStrategy],
        #[case] expected: CloneStrategy,
    ) {
        match decide(&request(&volume(wish)), &History::default(), &remembering(refused_for_all(refused), vec![])) {
            Decision::Chosen(chosen) => {
                assert_eq!(chosen.strategy, expected);
                assert_eq!(chosen.fallback.is_some(), expected == CloneStrategy::Copy);
            }
            other => panic!("not chosen: {other:?}"),
        }
    }

    /// A decision stands, whatever other namespaces meet; what the own one has met replaces it before the clone is begun.
    #[test]
    fn a_decision_is_replaced_by_what_the_own_namespace_met_only() {
        let wanted = request(&volume(as_is));
        let pinned = CloneStrategy::Snapshot;
        let history = History { pinned: Some(pinned), decided_for: Some("source".into()), ..History::default() };
        let strategy = |facts: &Facts| match decide(&wanted, &history, facts) {
            Decision::Chosen(chosen) => (chosen.strategy, chosen.by, chosen.fallback.map(|reason| reason.to_string())),
            other => panic!("not chosen: {other:?}"),
        };
        let others = remembering(refused_for_all(&[pinned]), vec![]);
        assert_eq!(strategy(&others), (pinned, ChosenBy::Pinned, None));
        let larger = remembering(vec![], refused_here(&[pinned], gi(900 << 10)));
        assert_eq!(strategy(&larger), (pinned, ChosenBy::Pinned, None));
        let (next, by, why) = strategy(&remembering(vec![], refused_here(&[pinned], gi(1))));
        assert_eq!((next, by), (CloneStrategy::Copy, ChosenBy::Default));
        assert!(why.unwrap().contains("call +1-555"), "its own namespace may read it");
    }

    /// Strangers' refusals are told by code and time.
    #[test]
    fn what_others_met_is_told_without_their_words() {
        let known = remembering(refused_for_all(&[CloneStrategy::Snapshot]), vec![]);
        match decide(&request(&volume(as_is)), &History::default(), &known) {
            Decision::Chosen(chosen) => {
                let reason = chosen.fallback.unwrap();
                assert_eq!(reason.code, "DriverRefused");
                assert!(reason.message.contains("several namespaces (FailedPrecondition)"), "{reason}");
            }
            other => panic!("not chosen: {other:?}"),
        }
    }

    proptest! {
        /// Whatever is remembered, by whomever and for whatever size: nothing is rejected that isn't rejected without it.
        #[test]
        fn a_memory_never_rejects(
            shared in prop::collection::vec(prop::sample::select(EVERY.to_vec()), 0..4),
            own in prop::collection::vec(prop::sample::select(EVERY.to_vec()), 0..4),
            size in 0u64..4,
            wish in prop::option::of(prop::sample::select(vec!["snapshot", "csi-clone", "copy"])),
            never in any::<bool>(),
            pinned in prop::option::of(prop::sample::select(EVERY.to_vec())),
            past in prop::option::of(prop::sample::select(EVERY.to_vec())),
            world in 0usize..5,
        ) {
            let wanted = request(&volume(|object| {
                if let Some(wish) = wish { annotated(meta::CLONE_TYPE, wish)(object); }
                if never { never_falls_back(object); }
            }));
            let refused = past.map(|strategy| PastRefusal { strategy, too_slow: false, message: "no".into() });
            let history =
                History { pinned, decided_for: Some("source".into()), refused: refused.into_iter().collect() };
            let change: World = [usual, no_snapshot_class, other_pool, exact_driver_no_expansion, unbound][world];
            let decide_with = |mut facts: Facts| { change(&mut facts); decide(&wanted, &history, &facts) };
            let without = decide_with(remembering(vec![], vec![]));
            let with = decide_with(remembering(refused_for_all(&shared), refused_here(&own, gi(size))));
            prop_assert_eq!(matches!(with, Decision::Rejected(_)), matches!(without, Decision::Rejected(_)));
        }
    }
}
