//! A change of an object's metadata, applied to whatever version of it is the newest.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// A change of metadata. Applying it twice changes nothing more.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edit {
    annotations: Vec<(String, Option<String>)>,
    labels: Vec<(String, String)>,
    added_finalizers: Vec<String>,
    removed_finalizers: Vec<String>,
    controller: Option<OwnerReference>,
}

impl Edit {
    /// Sets an annotation.
    #[must_use]
    pub fn annotate(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.push((key.to_owned(), Some(value.into())));
        self
    }

    /// Removes an annotation.
    #[must_use]
    pub fn without_annotation(mut self, key: &str) -> Self {
        self.annotations.push((key.to_owned(), None));
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds a finalizer.
    #[must_use]
    pub fn with_finalizer(mut self, name: &str) -> Self {
        self.added_finalizers.push(name.to_owned());
        self
    }

    /// Removes a finalizer.
    #[must_use]
    pub fn without_finalizer(mut self, name: &str) -> Self {
        self.removed_finalizers.push(name.to_owned());
        self
    }

    /// Makes this the controller.
    #[must_use]
    pub fn controlled_by(mut self, owner: OwnerReference) -> Self {
        self.controller = Some(owner);
        self
    }

    /// Applies the change. Returns false if the object says all of it already.
    pub fn apply(&self, meta: &mut ObjectMeta) -> bool {
        let before = meta.clone();
        for (key, value) in &self.annotations {
            let annotations = meta.annotations.get_or_insert_default();
            match value {
                Some(value) => drop(annotations.insert(key.clone(), value.clone())),
                None => drop(annotations.remove(key)),
            }
        }
        for (key, value) in &self.labels {
            meta.labels.get_or_insert_default().insert(key.clone(), value.clone());
        }
        for finalizer in &self.added_finalizers {
            let finalizers = meta.finalizers.get_or_insert_default();
            if !finalizers.contains(finalizer) {
                finalizers.push(finalizer.clone());
            }
        }
        if let Some(finalizers) = &mut meta.finalizers {
            finalizers.retain(|finalizer| !self.removed_finalizers.contains(finalizer));
        }
        if let Some(owner) = &self.controller {
            let owners = meta.owner_references.get_or_insert_default();
            if owners.iter().all(|present| present.uid != owner.uid) {
                owners.push(owner.clone());
            }
        }
        // Empty and absent maps are the same to the API.
        let filled = |meta: &ObjectMeta| {
            let annotations = meta.annotations.clone().filter(|map| !map.is_empty());
            let finalizers = meta.finalizers.clone().filter(|list| !list.is_empty());
            (annotations, meta.labels.clone(), finalizers, meta.owner_references.clone())
        };
        filled(&before) != filled(meta)
    }

    /// True if the object would change.
    pub fn changes(&self, meta: &ObjectMeta) -> bool {
        self.apply(&mut meta.clone())
    }
}
