//! Objects to try it with. They name no StorageClass, so they work wherever the default one can take snapshots.

use common::{api, keys, manifest::Manifest};
use serde_json::{Value, json};

/// Every sample, numbered in the order in which `kubectl apply -f manifests/samples` creates them.
pub fn manifests() -> Vec<Manifest> {
    vec![
        sample("1-source", "A volume to be cloned.", vec![claim("source", "Filesystem")]),
        sample(
            "2-clone",
            "A clone of it, in the cheapest way that its storage allows.",
            vec![clone("clone", "source", json!({}))],
        ),
        sample(
            "3-clone-larger",
            "A clone that is twice as large as its source.",
            vec![clone("clone-larger", "source", sized("2Gi"))],
        ),
        sample(
            "4-clone-block",
            "A raw device and its clone, described by a complete claim.",
            vec![claim("source-block", "Block"), block_clone()],
        ),
        sample(
            "5-clone-by-copy",
            "A clone that is copied byte by byte whatever the storage allows: its own annotation says so.",
            vec![annotated(clone("clone-by-copy", "source", json!({})), keys::CLONE_TYPE, "copy")],
        ),
        // Nothing is set in it, so that applying the whole directory changes nothing for anybody else's clones.
        sample(
            "cdi",
            "The settings of the installation, as the controller makes them at its first start; spec.cloneStrategyOverride forces a strategy.",
            vec![json!({"apiVersion": api_version(), "kind": "CDI", "metadata": {"name": "cdi"}, "spec": {}})],
        ),
        // In a directory of its own, so that applying the whole of `samples` moves nothing.
        sample(
            "transfer/transfer",
            "A volume that gets another name; with spec.target.namespace it would go to another namespace. For cluster admins only.",
            vec![claim("to-be-moved", "Filesystem"), transfer("to-be-moved", "moved")],
        ),
    ]
}

fn sample(name: &str, about: &str, objects: Vec<Value>) -> Manifest {
    Manifest { objects, ..Manifest::sample(&format!("samples/{name}.yaml"), about) }
}

fn api_version() -> String {
    format!("{}/{}", api::GROUP, api::VERSION)
}

/// The samples' namespace. A clone names its source's namespace, so it has to be written down.
const NAMESPACE: &str = "default";

fn claim(name: &str, mode: &str) -> Value {
    let mut spec = sized("1Gi");
    spec["accessModes"] = json!(["ReadWriteOnce"]);
    spec["volumeMode"] = json!(mode);
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})
}

fn sized(size: &str) -> Value {
    json!({"resources": {"requests": {"storage": size}}})
}

fn data_volume(name: &str, source: &str) -> Value {
    json!({
        "apiVersion": api_version(),
        "kind": "DataVolume",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"source": {"pvc": {"namespace": NAMESPACE, "name": source}}}
    })
}

/// With `storage`, what is left out is taken from the source.
fn clone(name: &str, source: &str, storage: Value) -> Value {
    let mut volume = data_volume(name, source);
    volume["spec"]["storage"] = storage;
    volume
}

/// With `pvc`, nothing may be left out.
fn block_clone() -> Value {
    let mut volume = data_volume("clone-block", "source-block");
    volume["spec"]["pvc"] = claim("", "Block")["spec"].clone();
    volume
}

fn transfer(source: &str, target: &str) -> Value {
    json!({
        "apiVersion": api_version(),
        "kind": "ObjectTransfer",
        "metadata": {"name": format!("move-{source}")},
        "spec": {
            "source": {"kind": "PersistentVolumeClaim", "namespace": NAMESPACE, "name": source},
            "target": {"name": target},
        }
    })
}

fn annotated(mut object: Value, key: &str, value: &str) -> Value {
    object["metadata"]["annotations"] = json!({key: value});
    object
}

#[cfg(test)]
mod tests {
    use common::api::{Cdi, DataVolume, ObjectTransfer};
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;

    use super::*;

    /// What is shown to beginners has no misspelt field: what is read and written again is what was there.
    #[test]
    fn samples_are_what_the_types_know() {
        for object in manifests().into_iter().flat_map(|m| m.objects) {
            let again = match object["kind"].as_str() {
                Some("DataVolume") => {
                    serde_json::to_value(serde_json::from_value::<DataVolume>(object.clone()).unwrap())
                }
                Some("ObjectTransfer") => {
                    serde_json::to_value(serde_json::from_value::<ObjectTransfer>(object.clone()).unwrap())
                }
                Some("CDI") => serde_json::to_value(serde_json::from_value::<Cdi>(object.clone()).unwrap()),
                _ => serde_json::to_value(serde_json::from_value::<PersistentVolumeClaim>(object.clone()).unwrap()),
            };
            assert_eq!(again.unwrap(), object);
        }
    }
}
