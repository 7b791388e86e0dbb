//! The trigger of DataSources: those whose status depends on a changed object of their own namespace.

use std::sync::Arc;

use common::{
    api::DataSource,
    data_source::{observable, resolve_source},
    lookup::Lookup,
    object::ObjectName,
};
use config::cache::Cache;
use futures::channel::mpsc;
use kube::{Resource, runtime::reflector::ObjectRef};

use crate::{context::name_of, data_source::find};

/// Starts passes over DataSources.
#[derive(Clone)]
pub struct DataSourceTrigger {
    sources: Cache<DataSource>,
    triggered: mpsc::UnboundedSender<ObjectRef<DataSource>>,
}

impl DataSourceTrigger {
    /// The trigger, and the DataSources that are triggered.
    pub fn new(sources: Cache<DataSource>) -> (Self, mpsc::UnboundedReceiver<ObjectRef<DataSource>>) {
        let (sender, triggered) = mpsc::unbounded();
        (Self { sources, triggered: sender }, triggered)
    }

    /// Triggers the DataSources in the namespace of a changed claim, VolumeSnapshot or DataVolume that refer to it.
    pub fn content<K: Resource>(&self, object: &K) {
        let sources = self.sources.known_objects();
        self.trigger(sources.iter().filter(|source| depends_on(source, object, find(&self.sources))));
    }

    /// Triggers the DataSources in the namespace of a changed DataSource that refer to it.
    pub fn reference(&self, touched: &DataSource) {
        let sources = self.sources.known_objects();
        self.trigger(sources.iter().filter(|source| names(source, touched)));
    }

    fn trigger<'a>(&self, sources: impl Iterator<Item = &'a Arc<DataSource>>) {
        for source in sources {
            // Sending fails only during shutdown.
            let _ = self.triggered.unbounded_send(ObjectRef::from_obj(&**source));
        }
    }
}

/// True if the status of `source` depends on `object`, which is of a kind to which a DataSource may refer.
fn depends_on<K: Resource>(source: &DataSource, object: &K, find: impl Fn(&str, &str) -> Lookup<DataSource>) -> bool {
    if source.metadata.namespace != object.meta().namespace {
        return false;
    }
    let name = name_of(source);
    let resolution = resolve_source(&name, &source.spec.source, find);
    observable(&name, &resolution).is_some_and(|found| has_name(&found.object, object))
}

/// True if `source` names `other`.
fn names(source: &DataSource, other: &DataSource) -> bool {
    let named = source.spec.source.data_source.as_ref();
    source.metadata.namespace == other.metadata.namespace
        && named.is_some_and(|named| Some(&named.name) == other.metadata.name.as_ref())
}

fn has_name<K: Resource>(name: &ObjectName, object: &K) -> bool {
    let meta = object.meta();
    meta.namespace.as_deref() == Some(&name.namespace) && meta.name.as_deref() == Some(&name.name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    use super::*;

    fn data_source(namespace: &str, name: &str, kind: &str, of: [&str; 2]) -> DataSource {
        let source = json!({(kind): {"namespace": of[0], "name": of[1]}});
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"source": source}}))
            .unwrap()
    }

    fn claim(namespace: &str, name: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}})).unwrap()
    }

    /// A tenant's DataSource is triggered by objects in the tenant's namespace only.
    #[test]
    fn nothing_is_triggered_by_another_namespace() {
        let own = data_source("mine", "own", "pvc", ["mine", "disk"]);
        let foreign = data_source("mine", "foreign", "pvc", ["gold", "disk"]);
        let find = |namespace: &str, name: &str| match (namespace, name) {
            ("mine", "own") => Lookup::Present(own.clone()),
            ("mine", "foreign") => Lookup::Present(foreign.clone()),
            _ => Lookup::Absent,
        };
        let to_own = data_source("mine", "to-own", "dataSource", ["mine", "own"]);
        let to_foreign = data_source("mine", "to-foreign", "dataSource", ["mine", "foreign"]);
        for (source, by_own) in [(&own, true), (&to_own, true), (&foreign, false), (&to_foreign, false)] {
            assert_eq!(depends_on(source, &claim("mine", "disk"), find), by_own, "{source:?}");
            assert!(!depends_on(source, &claim("gold", "disk"), find), "{source:?}");
            assert!(!depends_on(source, &claim("mine", "other"), find), "{source:?}");
        }
        assert!(names(&to_own, &own) && !names(&to_own, &foreign));
        assert!(!names(&to_own, &data_source("gold", "own", "pvc", ["gold", "disk"])));
    }
}
