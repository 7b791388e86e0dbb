//! Remembered refusals: the strategies that a driver refused recently, and the clones for which that counts.
//!
//! A clone that meets a refusal spares similar clones the attempt. For whom it counts depends on what it hangs on
//! ([`Scope`]) and on where it was read ([`ErrorSource`]), because one tenant can provoke a refusal, and write an Event, at will:
//!
//! * For its own namespace one refusal is enough ([`NamespaceRefusals`], in the controller's memory). It counts for requests that are at
//!   least as large, and, where it hangs on the request, have the same modes.
//! * For all namespaces ([`Refusal`], in the status of the class's StorageProfile) only after [`NAMESPACES`] namespaces met it with no
//!   success between, only where it hangs on the StorageClass, and only as read in a status that no tenant writes. It counts for requests
//!   that are at least as large as what each of those namespaces asked for. The StorageProfile, which every tenant may read, has a code,
//!   numbers and times; never the driver's text, and no namespace.
//!
//! A remembered refusal only ever moves a strategy down; it rejects nothing (see [`decide`](fn@crate::clone::decide::decide)). `copy` is not remembered:
//! there is nothing to move on to.
//!
//! Namespaces are not stored, neither as names nor as hashes: a hash of a name can be guessed, and a namespace's UID would need a right
//! to read namespaces. So what one namespace met is forgotten when the controller restarts, and is found again by one attempt.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{CloneStrategy, Refusal},
    object::VolumeMode,
    quantity::Bytes,
    storage::driver_error::Scope,
};

/// How long the first refusal counts.
pub const FIRST: SignedDuration = SignedDuration::from_mins(5);
/// The longest time for which a refusal counts; and for which a namespace's refusal is evidence about the StorageClass.
pub const LONGEST: SignedDuration = SignedDuration::from_hours(6);
/// How many refusals one StorageProfile, and one namespace, remembers.
pub const REMEMBERED: usize = 32;
/// For how many namespaces refusals are remembered.
pub const REMEMBERED_NAMESPACES: usize = 1024;
/// How many namespaces have to meet a refusal before it counts for all.
pub const NAMESPACES: usize = 3;

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalKey {
    /// The strategy.
    pub strategy: CloneStrategy,
    /// The driver.
    pub driver: String,
    /// The StorageClass of the source; empty for a snapshot.
    pub source_class: String,
    /// The StorageClass of the clone.
    pub class: String,
}

/// The part of a request that a refusal may hang on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// The size at which the volume is created.
    pub size: Bytes,
    /// The volume mode.
    pub mode: VolumeMode,
    /// The access modes, in any order.
    pub access_modes: Vec<String>,
    /// The VolumeAttributesClass.
    pub attributes_class: Option<String>,
}

impl VolumeRequest {
    fn has_modes_of(&self, other: &Self) -> bool {
        let sorted = |request: &Self| {
            let mut modes = request.access_modes.clone();
            modes.sort();
            modes
        };
        self.mode == other.mode && self.attributes_class == other.attributes_class && sorted(self) == sorted(other)
    }
}

/// Where a refusal was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorSource {
    /// In a status that only the storage's components write.
    Status,
    /// In an Event of the clone's namespace, which its tenants may write.
    Event,
    /// In an Event of another namespace: evidence for this one clone and for no other.
    ForeignEvent,
}

/// A refusal as one clone met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetRefusal {
    /// What was refused.
    pub key: RefusalKey,
    /// What was asked for.
    pub request: VolumeRequest,
    /// The word for it: the gRPC code, or what a known text means.
    pub code: &'static str,
    /// What it hangs on.
    pub scope: Scope,
    /// Where it was read.
    pub read_in: ErrorSource,
    /// The driver's words, without secrets.
    pub message: String,
}

/// A refusal that counts for the clones of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRefusal {
    /// How it was met; the smallest request that was refused.
    pub met: MetRefusal,
    /// How often in a row.
    pub count: u32,
    /// When it was met last.
    pub last: Timestamp,
    /// Until when it counts.
    pub until: Timestamp,
    /// It is evidence about the StorageClass that has not been used yet.
    is_evidence: bool,
}

impl NamespaceRefusal {
    /// Whether it is about a clone with this `key` that asks for `request`.
    pub fn is_about(&self, key: &RefusalKey, request: &VolumeRequest) -> bool {
        let modes = self.met.scope == Scope::StorageClass || self.met.request.has_modes_of(request);
        self.met.key == *key && modes && request.size >= self.met.request.size
    }

    fn is_same(&self, met: &MetRefusal) -> bool {
        let modes = met.scope == Scope::StorageClass || self.met.request.has_modes_of(&met.request);
        self.met.key == met.key && self.met.scope == met.scope && modes
    }
}

/// What several namespaces together say about a StorageClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassEvidence {
    /// What was refused.
    pub key: RefusalKey,
    /// The word for it, as it was met last.
    pub code: &'static str,
    /// The number of namespaces.
    pub namespaces: usize,
    /// What each of them asked for is at most so large.
    pub size: Bytes,
}

/// The refusals that each namespace met.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceRefusals(BTreeMap<String, Vec<NamespaceRefusal>>);

impl NamespaceRefusals {
    /// Remembers that a clone of `namespace` met a refusal. Returns what is known about the StorageClass if this makes it count for all;
    /// the next time it takes as many namespaces again.
    pub fn record(&mut self, namespace: &str, met: &MetRefusal, now: Timestamp) -> Option<ClassEvidence> {
        let remembered = met.key.strategy.spec().fallback.is_some() && met.scope != Scope::Object;
        if !remembered || met.read_in == ErrorSource::ForeignEvent {
            return None;
        }
        self.forget_old(now);
        let known = self.0.entry(namespace.to_owned()).or_default();
        let old = known.iter().position(|old| old.is_same(met)).map(|at| known.remove(at));
        let mut next =
            NamespaceRefusal { met: met.clone(), count: 1, last: now, until: after(now, 1), is_evidence: false };
        if let Some(old) = old {
            // Clones that were under way when the first one was refused find out the same, and it is one refusal.
            let again = old.until <= now;
            next.count = if again { old.count.saturating_add(1) } else { old.count };
            next.until = if again { after(now, next.count) } else { old.until };
            next.is_evidence = old.is_evidence;
            if old.met.request.size < met.request.size {
                next.met.request = old.met.request;
            }
        }
        next.is_evidence |= met.scope == Scope::StorageClass && met.read_in == ErrorSource::Status;
        known.push(next);
        known.drain(..known.len().saturating_sub(REMEMBERED));
        self.evidence(&met.key, met.code)
    }

    /// Three namespaces that were refused at 1Gi, 2Gi and 4Gi say nothing about a clone of less than 4Gi: that one namespace of them asks
    /// for far too much moves nobody else.
    fn evidence(&mut self, key: &RefusalKey, code: &'static str) -> Option<ClassEvidence> {
        let of_key = |refusal: &&mut NamespaceRefusal| refusal.is_evidence && refusal.met.key == *key;
        let mut evidence: Vec<_> = self.0.values_mut().filter_map(|known| known.iter_mut().find(of_key)).collect();
        if evidence.len() < NAMESPACES {
            return None;
        }
        evidence.sort_by_key(|refusal| refusal.met.request.size);
        evidence.truncate(NAMESPACES);
        let size = evidence.last().map(|refusal| refusal.met.request.size).unwrap_or_default();
        for refusal in evidence {
            refusal.is_evidence = false;
        }
        Some(ClassEvidence { key: key.clone(), code, namespaces: NAMESPACES, size })
    }

    /// Forgets what a clone of `namespace` that succeeded at `size` disproves, and what others met is no evidence any more.
    pub fn succeeded(&mut self, namespace: &str, key: &RefusalKey, size: Bytes) {
        let disproved = |refusal: &NamespaceRefusal| refusal.met.key == *key && refusal.met.request.size <= size;
        for (other, known) in &mut self.0 {
            if other == namespace {
                known.retain(|refusal| !disproved(refusal));
            }
            for refusal in known.iter_mut().filter(|refusal| refusal.met.key == *key) {
                refusal.is_evidence = false;
            }
        }
        self.0.retain(|_, known| !known.is_empty());
    }

    /// The refusals that count at `now` for clones of `namespace` into `class`.
    pub fn in_force(&self, namespace: &str, class: &str, now: Timestamp) -> Vec<NamespaceRefusal> {
        let known = self.0.get(namespace).map(Vec::as_slice).unwrap_or_default();
        known.iter().filter(|refusal| refusal.met.key.class == class && now < refusal.until).cloned().collect()
    }

    fn forget_old(&mut self, now: Timestamp) {
        for known in self.0.values_mut() {
            known.retain(|refusal| now < refusal.until.saturating_add(LONGEST).unwrap_or(Timestamp::MAX));
        }
        self.0.retain(|_, known| !known.is_empty());
        while self.0.len() >= REMEMBERED_NAMESPACES {
            let newest = |known: &[NamespaceRefusal]| known.iter().map(|refusal| refusal.last).max();
            let oldest = self.0.iter().min_by_key(|(_, known)| newest(known)).map(|(namespace, _)| namespace.clone());
            let Some(oldest) = oldest else { return };
            self.0.remove(&oldest);
        }
    }
}

/// Whether a StorageProfile's refusal counts at `now`. One that does not say that several namespaces met it never does.
pub fn open(refusal: &Refusal, now: Timestamp) -> bool {
    is_shared(refusal) && refusal.until.as_ref().is_some_and(|until| now < until.0)
}

/// Whether enough namespaces met it to count for all.
pub fn is_shared(refusal: &Refusal) -> bool {
    usize::try_from(refusal.namespaces).is_ok_and(|namespaces| namespaces >= NAMESPACES)
}

/// The refusals of a StorageProfile after `evidence`. Equal to `refusals` when it is already known to be open, for requests of that size.
pub fn refused(refusals: &[Refusal], evidence: &ClassEvidence, now: Timestamp) -> Vec<Refusal> {
    let key = &evidence.key;
    let known = refusals.iter().find(|known| is_about(known, key));
    if known.is_some_and(|known| open(known, now)) {
        let mut next = refusals.to_vec();
        for known in next.iter_mut().filter(|known| is_about(known, key) && evidence.size < least_size(known)) {
            known.size = Some(evidence.size.to_string());
        }
        return next;
    }
    let count = known.filter(|known| is_shared(known)).map_or(0, |known| known.count).saturating_add(1);
    let mut next: Vec<_> = refusals.iter().filter(|known| !is_about(known, key)).cloned().collect();
    // Oldest first, so that what was refused longest ago is forgotten first.
    next.sort_by_key(|known| known.last.as_ref().map(|last| last.0));
    next.drain(..next.len().saturating_sub(REMEMBERED - 1));
    next.push(Refusal {
        strategy: Some(key.strategy),
        source_class: Some(key.source_class.clone()),
        driver: Some(key.driver.clone()),
        reason: Some(evidence.code.to_owned()),
        namespaces: u32::try_from(evidence.namespaces).unwrap_or(u32::MAX),
        size: Some(evidence.size.to_string()),
        count,
        last: Some(Time(now)),
        until: Some(Time(after(now, count))),
    });
    next
}

/// The refusals of a StorageProfile after a clone of this size succeeded; nothing, if it disproves none of them.
pub fn succeeded(refusals: &[Refusal], key: &RefusalKey, size: Bytes) -> Option<Vec<Refusal>> {
    let disproved = |refusal: &Refusal| is_about(refusal, key) && least_size(refusal) <= size;
    let next: Vec<_> = refusals.iter().filter(|refusal| !disproved(refusal)).cloned().collect();
    (next.len() < refusals.len()).then_some(next)
}

/// Smaller requests are not affected.
pub fn least_size(refusal: &Refusal) -> Bytes {
    refusal.size.as_ref().and_then(|size| Bytes::parse(size).ok()).unwrap_or_default()
}

/// Whether a StorageProfile's refusal is about clones with this key; the class is the StorageProfile's.
pub fn is_about(refusal: &Refusal, key: &RefusalKey) -> bool {
    refusal.strategy == Some(key.strategy)
        && refusal.driver.as_deref() == Some(&key.driver)
        && refusal.source_class.as_deref() == Some(&key.source_class)
}

/// The end of a refusal that was met `count` times in a row: five minutes, doubled each time, six hours at most.
fn after(now: Timestamp, count: u32) -> Timestamp {
    let doublings = count.saturating_sub(1).min(16);
    let pause = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
