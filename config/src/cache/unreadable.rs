//! The objects of a watch that exist and can't be read.
//!
//! Each event of a watch passes here twice: before the store, where unreadable objects are taken out, and after it, where objects that can
//! be read again are removed. So a name is in one of the two at any moment.

use std::{
    collections::{HashMap, HashSet},
    sync::{PoisonError, RwLock, RwLockWriteGuard},
};

use common::decode::{Decoded, Unreadable};
use kube::{
    Resource,
    api::ObjectMeta,
    runtime::{
        reflector::{ObjectRef, Store},
        watcher::Event,
    },
};

use crate::api::report;

/// Unreadable objects by name, with the version that was reported.
pub(super) struct UnreadableObjects<K: Resource<DynamicType = ()>>(RwLock<State<K>>);

struct State<K: Resource<DynamicType = ()>> {
    versions: HashMap<ObjectRef<K>, Option<String>>,
    /// The unreadable objects of the list in progress.
    listed: HashSet<ObjectRef<K>>,
    /// The object that leaves the store because it can't be read any more.
    leaving: Option<ObjectRef<K>>,
}

impl<K: Resource<DynamicType = ()>> Default for UnreadableObjects<K> {
    fn default() -> Self {
        Self(RwLock::new(State { versions: HashMap::new(), listed: HashSet::new(), leaving: None }))
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> UnreadableObjects<K> {
    /// Returns the event for the store, if there is one. An object that was readable before is deleted from the store.
    pub(super) fn take_out(&self, event: Event<Decoded<K>>, store: &Store<K>) -> Option<Event<K>> {
        let from_store = |reference: &ObjectRef<K>| store.get(reference).map(|last| Event::Delete((*last).clone()));
        match event {
            Event::Init => {
                self.write().listed.clear();
                Some(Event::Init)
            }
            Event::InitDone => Some(Event::InitDone),
            Event::InitApply(Decoded(Ok(object))) => Some(Event::InitApply(object)),
            Event::Apply(Decoded(Ok(object))) => Some(Event::Apply(object)),
            Event::Delete(Decoded(Ok(object))) => Some(Event::Delete(object)),
            Event::InitApply(Decoded(Err(unreadable))) => {
                let reference = self.note(&unreadable);
                self.write().listed.insert(reference);
                None
            }
            Event::Apply(Decoded(Err(unreadable))) => {
                let reference = self.note(&unreadable);
                let event = from_store(&reference);
                self.write().leaving = event.is_some().then_some(reference);
                event
            }
            Event::Delete(Decoded(Err(unreadable))) => {
                let reference = reference_of(&unreadable.metadata);
                let event = from_store(&reference);
                if event.is_none() {
                    self.write().versions.remove(&reference);
                }
                event
            }
        }
    }

    /// Removes objects that can be read again or are gone, once the store has the event.
    pub(super) fn settle(&self, event: &Event<K>) {
        match event {
            Event::Init | Event::InitApply(_) => {}
            Event::InitDone => {
                let State { versions, listed, .. } = &mut *self.write();
                versions.retain(|reference, _| listed.contains(reference));
                listed.clear();
            }
            Event::Apply(object) | Event::Delete(object) => {
                let reference = reference_of(object.meta());
                let mut state = self.write();
                if state.leaving.take().as_ref() != Some(&reference) {
                    state.versions.remove(&reference);
                }
            }
        }
    }

    /// The reason why an object is not known, if it exists and can't be read. It discloses nothing of the content.
    pub(super) fn reason(&self, reference: &ObjectRef<K>) -> Option<String> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        state.versions.contains_key(reference).then(|| reason(reference))
    }

    /// The same for any one object of a namespace.
    pub(super) fn reason_in(&self, namespace: &str) -> Option<String> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        state.versions.keys().find(|reference| reference.namespace.as_deref() == Some(namespace)).map(reason)
    }

    /// Records an unreadable object. Reports each version once, however often it is listed.
    fn note(&self, unreadable: &Unreadable) -> ObjectRef<K> {
        let (reference, version) = (reference_of(&unreadable.metadata), unreadable.metadata.resource_version.clone());
        let before = self.write().versions.insert(reference.clone(), version.clone());
        if before.is_none_or(|before| before != version) {
            report::<K>(unreadable);
        }
        reference
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reference_of<K: Resource<DynamicType = ()>>(meta: &ObjectMeta) -> ObjectRef<K> {
    let mut reference = ObjectRef::new(meta.name.as_deref().unwrap_or_default());
    reference.namespace.clone_from(&meta.namespace);
    reference
}

fn reason<K: Resource<DynamicType = ()>>(reference: &ObjectRef<K>) -> String {
    let namespace = reference.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    format!("{} {namespace}{} exists and can't be read; see smartclone's log", K::kind(&()), reference.name)
}
