//! An API server in memory that supports only the needs of certificates: conditional writes of whole objects.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// Objects by path. Clones share them.
#[derive(Clone, Default)]
pub(super) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// A write by somebody else just before the next patch of that path.
    interference: Option<(String, Value)>,
    writes: usize,
    refused: usize,
}

impl FakeApi {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let answer = api.state().answer(&head.method, head.uri.path(), body);
                let (code, body) = answer.unwrap_or_else(|code| {
                    let reason = code.canonical_reason().unwrap_or_default().replace(' ', "");
                    (code, json!({"kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason}))
                });
                let response = Response::builder().status(code).body(Body::from(serde_json::to_vec(&body).unwrap()));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        Client::new(service, "smartclone")
    }

    pub(super) fn put(&self, path: &str, object: &Value) {
        self.state().store(path, object.clone());
    }

    pub(super) fn get(&self, path: &str) -> Value {
        self.state().objects[path].clone()
    }

    pub(super) fn delete(&self, path: &str) {
        self.state().objects.remove(path).unwrap();
    }

    pub(super) fn before_next_patch(&self, path: &str, object: &Value) {
        self.state().interference = Some((path.to_owned(), object.clone()));
    }

    /// The number of writes by clients so far.
    pub(super) fn writes(&self) -> usize {
        self.state().writes
    }

    /// The number of writes so far whose precondition failed.
    pub(super) fn refused(&self) -> usize {
        self.state().refused
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, body: Value) -> Result<(StatusCode, Value), StatusCode> {
        if method == Method::GET {
            let found = self.objects.get(path).cloned().ok_or(StatusCode::NOT_FOUND)?;
            return Ok((StatusCode::OK, found));
        }
        self.writes += 1;
        let written = self.write(method, path, body);
        self.refused += usize::from(written.is_err());
        written
    }

    fn write(&mut self, method: &Method, path: &str, body: Value) -> Result<(StatusCode, Value), StatusCode> {
        match method.as_str() {
            "POST" => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return Err(StatusCode::CONFLICT);
                }
                Ok((StatusCode::CREATED, self.store(&path, body)))
            }
            "PUT" => {
                let present = self.objects.get(path).ok_or(StatusCode::NOT_FOUND)?;
                if present["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return Err(StatusCode::CONFLICT);
                }
                Ok((StatusCode::OK, self.store(path, body)))
            }
            "PATCH" => {
                if let Some((path, object)) = self.interference.take_if(|(target, _)| target == path) {
                    self.store(&path, object);
                }
                let mut object = self.objects.get(path).cloned().ok_or(StatusCode::NOT_FOUND)?;
                let changes: json_patch::Patch = serde_json::from_value(body).unwrap();
                json_patch::patch(&mut object, &changes).map_err(|_| StatusCode::UNPROCESSABLE_ENTITY)?;
                Ok((StatusCode::OK, self.store(path, object)))
            }
            _ => Err(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}
