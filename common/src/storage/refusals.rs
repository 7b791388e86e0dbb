//! Remembered refusals: strategies that a driver refused recently, and the clones that skip them.
//!
//! A clone that meets a refusal saves similar clones the attempt. The clones for which it counts depend on the refusal's [`Scope`] and
//! [`ErrorSource`], because one tenant can provoke a refusal, and write an Event, at will:
//!
//! * For its own namespace one refusal is enough ([`NamespaceRefusals`], in the controller's memory). It counts for requests that are at
//!   least as large and, if its scope is the request, have the same modes.
//! * For all namespaces ([`Refusal`], in the status of the class's StorageProfile) it counts only after [`NAMESPACES`] namespaces met it
//!   without a success in between, only if its scope is the StorageClass, and only if it was read in a status that no tenant writes. It
//!   counts for requests at least as large as what each of these namespaces requested. Every tenant may read the StorageProfile, so it
//!   holds a code, numbers and times; never the driver's text, and no namespace.
//!
//! A remembered refusal only changes the strategy to a more expensive one; it rejects nothing (see
//! [`decide`](fn@crate::clone::decide::decide)). Refusals of `copy` are not remembered, as no other strategy follows it.
//!
//! Namespaces are not stored, neither as names nor as hashes: the hash of a name can be guessed, and UIDs would need the right to read
//! namespaces. So the refusals of a namespace are forgotten when the controller restarts, and relearned by one attempt.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{CloneStrategy, Refusal, StorageProfile},
    keys,
    object::{self, VolumeMode},
    quantity::Bytes,
    storage::driver_error::Scope,
};

/// The time for which the first refusal counts.
pub const FIRST: SignedDuration = SignedDuration::from_mins(5);
/// The longest time for which a refusal counts, and for which a namespace's refusal is evidence about the StorageClass.
pub const LONGEST: SignedDuration = SignedDuration::from_hours(6);
/// The number of refusals that are remembered per StorageProfile and per namespace.
pub const REMEMBERED: usize = 32;
/// The number of namespaces whose refusals are remembered.
pub const REMEMBERED_NAMESPACES: usize = 1024;
/// The number of namespaces that must meet a refusal before it counts for all.
pub const NAMESPACES: usize = 3;

/// The refused strategy, driver and StorageClasses.
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

/// The part of a request that a refusal may depend on.
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

/// The place where a refusal was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorSource {
    /// A status that only storage components write.
    Status,
    /// An Event in the clone's namespace, which tenants may write.
    Event,
    /// An Event in another namespace: evidence for this clone only.
    ForeignEvent,
}

/// A refusal that one clone met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetRefusal {
    /// The refused strategy, driver and StorageClasses.
    pub key: RefusalKey,
    /// The refused request.
    pub request: VolumeRequest,
    /// The gRPC code, or the code of a known text.
    pub code: &'static str,
    /// The part of the request that it depends on.
    pub scope: Scope,
    /// The place where it was read.
    pub read_in: ErrorSource,
    /// The driver's message, redacted.
    pub message: String,
}

/// A refusal that counts for the clones of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRefusal {
    /// The refusal, with the smallest request that was refused.
    pub met: MetRefusal,
    /// The number of refusals in a row.
    pub count: u32,
    /// The time of the latest refusal.
    pub last: Timestamp,
    /// The end of the time for which it counts.
    pub until: Timestamp,
    /// True if it is evidence about the StorageClass that has not been used yet.
    is_evidence: bool,
}

impl NamespaceRefusal {
    /// True if it concerns a clone with this `key` and this `request`.
    pub fn is_about(&self, key: &RefusalKey, request: &VolumeRequest) -> bool {
        let modes = self.met.scope == Scope::StorageClass || self.met.request.has_modes_of(request);
        self.met.key == *key && modes && request.size >= self.met.request.size
    }

    fn is_same(&self, met: &MetRefusal) -> bool {
        let modes = met.scope == Scope::StorageClass || self.met.request.has_modes_of(&met.request);
        self.met.key == met.key && self.met.scope == met.scope && modes
    }
}

/// Evidence about a StorageClass from several namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassEvidence {
    /// The refused strategy, driver and StorageClasses.
    pub key: RefusalKey,
    /// The code of the latest refusal.
    pub code: &'static str,
    /// The number of namespaces.
    pub namespaces: usize,
    /// The largest of the smallest requests that these namespaces were refused.
    pub size: Bytes,
}

/// The refusals of each namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceRefusals(BTreeMap<String, Vec<NamespaceRefusal>>);

impl NamespaceRefusals {
    /// Remembers that a clone of `namespace` met a refusal. Returns the evidence about the StorageClass if the refusal now counts for all
    /// namespaces; the same number of namespaces must then meet it again.
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
            // Clones that were in progress at the first refusal meet the same one, and count as one refusal.
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

    /// Three namespaces that were refused at 1Gi, 2Gi and 4Gi are no evidence about a clone of less than 4Gi. So a single namespace that
    /// asks for far too much affects nobody else.
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

    /// Forgets the refusals in `namespace` that a success at `size` disproves. Refusals of other namespaces are no longer evidence.
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

    /// The refusals that count at `now` for clones in `namespace` with `class`.
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

/// The refusals on record for all namespaces: in the status of the StorageProfile, or in an annotation where the status is CDI's. What
/// can't be read there, or does not name enough namespaces to be shared, counts as none.
pub fn recorded(profile: &StorageProfile, beside_cdi: bool) -> Vec<Refusal> {
    if beside_cdi {
        let text = object::annotation(&profile.metadata, keys::REFUSALS);
        let noted: Vec<Refusal> = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        noted.into_iter().filter(is_shared).collect()
    } else {
        profile.status.as_ref().map(|status| status.refusals.clone()).unwrap_or_default()
    }
}

/// True if a StorageProfile's refusal counts at `now`. One that does not name enough namespaces never counts.
pub fn open(refusal: &Refusal, now: Timestamp) -> bool {
    is_shared(refusal) && refusal.until.as_ref().is_some_and(|until| now < until.0)
}

/// True if enough namespaces met it to count for all.
pub fn is_shared(refusal: &Refusal) -> bool {
    usize::try_from(refusal.namespaces).is_ok_and(|namespaces| namespaces >= NAMESPACES)
}

/// The refusals of a StorageProfile after `evidence`. Equal to `refusals` if a refusal in force already covers requests of that size.
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
    // Oldest first, so that the oldest refusals are dropped.
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

/// The refusals of a StorageProfile after a clone of this size succeeded; `None` if that disproves none of them.
pub fn succeeded(refusals: &[Refusal], key: &RefusalKey, size: Bytes) -> Option<Vec<Refusal>> {
    let disproved = |refusal: &Refusal| is_about(refusal, key) && least_size(refusal) <= size;
    let next: Vec<_> = refusals.iter().filter(|refusal| !disproved(refusal)).cloned().collect();
    (next.len() < refusals.len()).then_some(next)
}

/// The smallest request for which a StorageProfile's refusal counts.
pub fn least_size(refusal: &Refusal) -> Bytes {
    refusal.size.as_ref().and_then(|size| Bytes::parse(size).ok()).unwrap_or_default()
}

/// True if a StorageProfile's refusal concerns clones with this key; the class is the StorageProfile's.
pub fn is_about(refusal: &Refusal, key: &RefusalKey) -> bool {
    refusal.strategy == Some(key.strategy)
        && refusal.driver.as_deref() == Some(&key.driver)
        && refusal.source_class.as_deref() == Some(&key.source_class)
}

/// The end of a refusal that was met `count` times in a row: 5 minutes, doubled each time, at most 6 hours.
fn after(now: Timestamp, count: u32) -> Timestamp {
    let doublings = count.saturating_sub(1).min(16);
    let pause = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
