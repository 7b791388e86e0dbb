//! The annotations of a clone that smartclone takes beside CDI: written on it, taken from one that is left to CDI, and kept in updates.

use kube::core::ObjectMeta;

use crate::{
    admission::{stamp, update},
    api::DataVolume,
    clone::note::PlanNote,
    field::{FieldError, annotation_path},
    keys::{self, Annotations},
    object,
};

/// True if CDI keeps off the DataVolume for smartclone.
pub fn is_marked(metadata: &ObjectMeta) -> bool {
    object::annotation(metadata, keys::PRE_POPULATED) == Some(keys::SENTINEL)
}

/// True if the object names a requester.
pub fn is_stamped(metadata: &ObjectMeta) -> bool {
    object::annotation(metadata, keys::REQUESTER).is_some()
}

/// The changes of a new DataVolume that is left to CDI: it loses what smartclone has written on an earlier object, which was exported or
/// backed up. Empty if it has nothing of it. CDI would take a strategy that smartclone decided on for the requester's choice.
pub fn unmarked(metadata: &ObjectMeta) -> Annotations {
    let mut changes = ours(metadata);
    if is_marked(metadata) {
        changes.insert(keys::PRE_POPULATED, None);
    }
    if let Some(plan) = object::annotation(metadata, keys::PLAN) {
        let strategy = object::annotation(metadata, keys::CLONE_TYPE);
        let wish = PlanNote::read(plan).and_then(|note| note.wish_on_record(strategy.and_then(|it| it.parse().ok())));
        let has_reason = object::annotation(metadata, keys::CLONE_FALLBACK_REASON).is_some();
        changes.extend(has_reason.then_some((keys::CLONE_FALLBACK_REASON, None)));
        changes.extend(strategy.filter(|_| wish.is_none()).map(|_| (keys::CLONE_TYPE, None)));
    }
    changes
}

/// The same for a DataVolume whose claim is filled already. CDI goes on to keep off it if it is marked: the mark becomes the name of the
/// claim, as CDI writes it.
pub fn unmarked_for_filled(metadata: &ObjectMeta) -> Annotations {
    let mut changes = unmarked(metadata);
    if is_marked(metadata) {
        changes.insert(keys::PRE_POPULATED, Some(metadata.name.as_deref().unwrap_or("true").to_owned()));
    }
    changes
}

/// The changes of a new claim that is left to CDI. One that smartclone had declared complete is to be filled.
pub fn unmarked_claim(metadata: &ObjectMeta) -> Annotations {
    let mut changes = ours(metadata);
    if changes.contains_key(keys::BESIDE_CDI) && object::annotation(metadata, keys::CLONE_PHASE).is_some() {
        changes.insert(keys::CLONE_PHASE, None);
    }
    changes
}

/// The changes of a claim of CDI's account, to which CDI has copied the annotations of a DataVolume or of a claim that it moves: it loses
/// those that only smartclone's controller may write.
pub fn unmarked_copy(metadata: &ObjectMeta) -> Annotations {
    let copied = keys::EVIDENCE.into_iter().chain([keys::STATUS, keys::NUDGED]);
    let copied = copied.filter(|key| object::annotation(metadata, key).is_some()).map(|key| (key, None));
    ours(metadata).into_iter().chain(copied).collect()
}

/// Removes the annotations of which only smartclone is the author. An opt-out stays.
fn ours(metadata: &ObjectMeta) -> Annotations {
    let keys = [keys::REQUESTER, keys::PLAN, keys::OWNERSHIP_KEY, keys::BESIDE_CDI];
    let is_opt_out = |key: &str| key == keys::BESIDE_CDI && opts_out(metadata);
    let is_there = |key: &&str| object::annotation(metadata, key).is_some() && !is_opt_out(key);
    keys.into_iter().filter(is_there).map(|key| (key, None)).collect()
}

/// True if the object, or the StorageClass, is given to CDI on purpose. An update of a client that does not know the annotations only loses
/// them.
pub fn opts_out(metadata: &ObjectMeta) -> bool {
    object::annotation(metadata, keys::BESIDE_CDI) == Some("false")
}

/// The annotations that an update of `old` to `new` may not lose although other programs write them, too. A mark that is replaced by a name
/// is not lost: CDI, KubeVirt and backups write it when the claim is filled.
pub fn kept(old: &ObjectMeta, new: &ObjectMeta) -> &'static [&'static str] {
    if opts_out(new) {
        &[]
    } else if is_marked(old) {
        let is_replaced = object::annotation(new, keys::PRE_POPULATED).is_some_and(|value| value != keys::SENTINEL);
        if is_replaced { &[] } else { &keys::MARK }
    } else if object::annotation(old, keys::BESIDE_CDI) == Some("true") {
        &[keys::CLONE_PHASE]
    } else {
        &[]
    }
}

/// The errors in changing `old` to `new` beside CDI. Only a marked clone is protected: CDI writes its decisions on a clone of its own.
pub fn changes(old: &DataVolume, new: &DataVolume, by_controller: bool) -> Vec<FieldError> {
    if new.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    if !is_marked(&old.metadata) {
        return stamp::changed(&old.metadata, &new.metadata).into_iter().collect();
    }
    let mut errors = update::changes(old, new, by_controller);
    if opts_out(&new.metadata) {
        errors.retain(|error| error.field != annotation_path(keys::BESIDE_CDI));
    }
    errors
}
