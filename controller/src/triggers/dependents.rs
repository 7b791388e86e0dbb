//! The index of dependents: clones by the objects that they depend on.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use common::object::{ObjectName, SourceName};

/// An object that a clone may depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependency {
    /// The claim or snapshot that is its source.
    Source(SourceName),
    /// The DataSource that it names.
    DataSource(ObjectName),
    /// The VolumeCloneSource that a claim names.
    CloneSource(ObjectName),
    /// The volumes in use that nodes report.
    Nodes,
}

#[derive(Default)]
struct Maps {
    waiting: HashMap<Dependency, BTreeSet<ObjectName>>,
    keys: HashMap<ObjectName, Vec<Dependency>>,
}

/// The clones that are not done, by the objects that they depend on. Each pass records its dependencies before it reads, so that no event
/// is missed.
#[derive(Default)]
pub struct Dependents(Mutex<Maps>);

impl Dependents {
    /// Records that `clone` depends on exactly `keys`.
    pub fn record(&self, clone: &ObjectName, keys: Vec<Dependency>) {
        let mut maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if maps.keys.get(clone).map(Vec::as_slice).unwrap_or_default() == keys {
            return;
        }
        for key in maps.keys.remove(clone).unwrap_or_default() {
            if let Some(clones) = maps.waiting.get_mut(&key) {
                clones.remove(clone);
                if clones.is_empty() {
                    maps.waiting.remove(&key);
                }
            }
        }
        for key in &keys {
            maps.waiting.entry(key.clone()).or_default().insert(clone.clone());
        }
        if !keys.is_empty() {
            maps.keys.insert(clone.clone(), keys);
        }
    }

    /// Adds `key` to the dependencies of `clone`.
    pub fn add(&self, clone: &ObjectName, key: Dependency) {
        let mut maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = maps.keys.entry(clone.clone()).or_default();
        if !keys.contains(&key) {
            keys.push(key.clone());
            maps.waiting.entry(key).or_default().insert(clone.clone());
        }
    }

    /// The clones that depend on `key`.
    pub fn of(&self, key: &Dependency) -> Vec<ObjectName> {
        let maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        maps.waiting.get(key).into_iter().flatten().cloned().collect()
    }

    /// All clones with their dependencies.
    pub fn all(&self) -> Vec<(ObjectName, Vec<Dependency>)> {
        let maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        maps.keys.iter().map(|(clone, keys)| (clone.clone(), keys.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use common::object::SourceKind;

    use super::*;

    #[test]
    fn a_clone_is_found_by_what_it_waits_for_now() {
        let name = |name: &str| ObjectName { namespace: "n".into(), name: name.into() };
        let key = |name_: &str| Dependency::Source(SourceName { kind: SourceKind::Claim, object: name(name_) });
        let dependents = Dependents::default();
        dependents.record(&name("a"), vec![key("x"), Dependency::DataSource(name("d"))]);
        dependents.record(&name("b"), vec![key("x")]);
        dependents.record(&name("a"), vec![key("y")]);
        assert_eq!((dependents.of(&key("x")), dependents.of(&key("y"))), (vec![name("b")], vec![name("a")]));
        assert_eq!(dependents.of(&Dependency::DataSource(name("d"))), vec![]);
        dependents.add(&name("a"), Dependency::Nodes);
        assert_eq!(dependents.of(&Dependency::Nodes), vec![name("a")]);
        dependents.record(&name("a"), vec![]);
        assert_eq!(dependents.of(&Dependency::Nodes), vec![]);
        assert_eq!((dependents.of(&key("y")), dependents.all().len()), (vec![], 1));
    }
}
