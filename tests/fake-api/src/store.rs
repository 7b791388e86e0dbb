//! The objects, and what each verb does to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    answer::{Answer, Request},
    path::Path,
};

/// The time at which every object is created, and deleted.
const TIME: &str = "2026-01-01T00:00:00Z";

/// Objects by path, and every change of them.
#[derive(Default)]
pub struct Store {
    objects: BTreeMap<String, Value>,
    changes: Vec<Change>,
    /// The version of the newest change.
    version: u64,
}

struct Change {
    version: u64,
    path: String,
    kind: &'static str,
    object: Value,
}

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, path: &str) -> Option<&Value> {
        self.objects.get(path)
    }

    /// Stores an object as it is, with a new version. One without a UID gets one.
    pub fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = json!(self.version.to_string());
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.version));
        }
        let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        self.changed(path, kind, object.clone());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// Removes an object, whatever its finalizers.
    pub fn remove(&mut self, path: &str) -> Option<Value> {
        let mut object = self.objects.remove(path)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.changed(path, "DELETED", object.clone());
        Some(object)
    }

    fn changed(&mut self, path: &str, kind: &'static str, object: Value) {
        self.changes.push(Change { version: self.version, path: path.to_owned(), kind, object });
    }

    /// Paths of the objects of a collection.
    pub fn paths(&self, collection: &Path) -> Vec<String> {
        self.objects.keys().filter(|path| collection.contains(path)).cloned().collect()
    }

    pub fn list(&self, collection: &Path) -> Answer {
        let items: Vec<_> =
            self.objects.iter().filter(|(path, _)| collection.contains(path)).map(|(_, object)| object).collect();
        let version = self.version.to_string();
        Answer::json(200, &json!({"kind": "List", "metadata": {"resourceVersion": version}, "items": items}))
    }

    /// The changes of a collection after a version, one event in a line; empty when there are none.
    pub fn events_after(&self, collection: &Path, version: u64) -> String {
        let changes =
            self.changes.iter().filter(|change| change.version > version && collection.contains(&change.path));
        // The API server writes the type before the object.
        let lines = changes.map(|it| format!(r#"{{"type":"{}","object":{}}}"#, it.kind, it.object));
        lines.flat_map(|line| [line, "\n".to_owned()]).collect()
    }

    /// Answers a request about one object.
    pub fn answer(&mut self, path: &Path, request: &Request) -> Answer {
        let answered = match request.method.as_str() {
            "GET" => self.read(path, request.metadata_only),
            "POST" => self.create(path, request.body.clone()),
            "PUT" => self.replace(path, request.body.clone()),
            "PATCH" => self.patch(path, request),
            "DELETE" => self.delete(path, &request.body),
            _ => Err(Answer::failure(405, "the server does not allow this method on the requested resource")),
        };
        answered.unwrap_or_else(|failure| failure)
    }

    fn present(&self, path: &Path) -> Result<Value, Answer> {
        let name = path.name.as_deref().unwrap_or_default();
        let message = || format!("{} {name:?} not found", path.plural);
        self.objects.get(&path.object()).cloned().ok_or_else(|| Answer::failure(404, &message()))
    }

    fn read(&self, path: &Path, metadata_only: bool) -> Result<Answer, Answer> {
        let object = self.present(path)?;
        if !metadata_only {
            return Ok(Answer::json(200, &object));
        }
        let metadata = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"],
        });
        Ok(Answer::json(200, &metadata))
    }

    fn create(&mut self, collection: &Path, mut object: Value) -> Result<Answer, Answer> {
        let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned) else {
            return Err(Answer::failure(422, "name or generateName is required"));
        };
        let path = collection.with_name(&name).object();
        if self.objects.contains_key(&path) {
            return Err(Answer::failure(409, &format!("{} {name:?} already exists", collection.plural)));
        }
        if let Some(namespace) = &collection.namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["metadata"]["creationTimestamp"] = json!(TIME);
        object["metadata"]["uid"] = Value::Null;
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        Ok(Answer::json(201, &self.put(&path, object)))
    }

    /// Stores the part of `object` that a request to this path may change, and answers with the result.
    fn update(&mut self, path: &Path, present: Value, mut object: Value) -> Answer {
        if path.subresource.as_deref() == Some("status") {
            let status = object["status"].take();
            object = present;
            object["status"] = status;
        } else {
            keep_status(&mut object, &present);
        }
        self.finish(path, object)
    }

    fn replace(&mut self, path: &Path, object: Value) -> Result<Answer, Answer> {
        let present = self.present(path)?;
        check_preconditions(path, &present, &object["metadata"])?;
        Ok(self.update(path, present, object))
    }

    fn patch(&mut self, path: &Path, request: &Request) -> Result<Answer, Answer> {
        let present = self.present(path)?;
        let mut object = present.clone();
        if request.json_patch {
            let invalid = |message: String| Answer::failure(422, &message);
            let operations: json_patch::Patch =
                serde_json::from_value(request.body.clone()).map_err(|error| invalid(error.to_string()))?;
            json_patch::patch(&mut object, &operations).map_err(|error| invalid(error.to_string()))?;
        } else {
            check_preconditions(path, &present, &request.body["metadata"])?;
            json_patch::merge(&mut object, &request.body);
        }
        Ok(self.update(path, present, object))
    }

    /// Stores a changed object. One that is being deleted and has no finalizers any more goes.
    fn finish(&mut self, path: &Path, mut object: Value) -> Answer {
        let key = path.object();
        let present = &self.objects[&key];
        for field in ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"] {
            match present["metadata"].get(field) {
                Some(value) => object["metadata"][field] = value.clone(),
                None => drop(object["metadata"].as_object_mut().and_then(|meta| meta.remove(field))),
            }
        }
        if object == *present {
            return Answer::json(200, &object);
        }
        let object = self.put(&key, object);
        if !object["metadata"]["deletionTimestamp"].is_null() && !has_finalizers(&object) {
            self.remove(&key);
        }
        Answer::json(200, &object)
    }

    fn delete(&mut self, path: &Path, options: &Value) -> Result<Answer, Answer> {
        let mut present = self.present(path)?;
        check_preconditions(path, &present, &options["preconditions"])?;
        if has_finalizers(&present) {
            if present["metadata"]["deletionTimestamp"].is_null() {
                present["metadata"]["deletionTimestamp"] = json!(TIME);
                self.put(&path.object(), present);
            }
        } else {
            self.remove(&path.object());
        }
        Ok(Answer::json(200, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})))
    }
}

/// Compares the UID and the version that a write names with those of the object.
fn check_preconditions(path: &Path, present: &Value, wanted: &Value) -> Result<(), Answer> {
    for field in ["uid", "resourceVersion"] {
        let (wanted, present) = (&wanted[field], &present["metadata"][field]);
        if !wanted.is_null() && wanted != "" && wanted != present {
            let (plural, name) = (&path.plural, path.name.as_deref().unwrap_or_default());
            let message = format!(
                "Operation cannot be fulfilled on {plural} {name:?}: Precondition failed: {field} in precondition: \
                 {wanted}, in object meta: {present}"
            );
            return Err(Answer::failure(409, &message));
        }
    }
    Ok(())
}

/// A write to an object leaves its status alone.
fn keep_status(object: &mut Value, present: &Value) {
    let fields = object.as_object_mut();
    match (fields, present.get("status")) {
        (Some(fields), Some(status)) => drop(fields.insert("status".to_owned(), status.clone())),
        (Some(fields), None) => drop(fields.remove("status")),
        (None, _) => {}
    }
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty())
}
