//! Requests as they were sent, and answers that a test prescribes.

use std::{fmt, io};

use http::StatusCode;
use kube::client::Body;
use serde_json::{Value, json};

/// A request as it reached the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The HTTP method; `WATCH` for the GET that starts a watch.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query; empty where there is none.
    pub query: String,
    /// The body; null where there is none.
    pub body: Value,
    /// Only the metadata is wanted.
    pub(crate) metadata_only: bool,
    /// The body is a JSON patch (RFC 6902), not a merge patch (RFC 7386).
    pub(crate) json_patch: bool,
}

impl Request {
    pub(crate) async fn read(request: http::Request<Body>) -> Result<Self, kube::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let watches = query.split('&').any(|pair| pair == "watch=true");
        Ok(Self {
            method: if watches { "WATCH".to_owned() } else { head.method.to_string() },
            path: head.uri.path().to_owned(),
            query,
            body: serde_json::from_slice(&body).unwrap_or_default(),
            metadata_only: header(http::header::ACCEPT).contains("as=PartialObjectMetadata"),
            json_patch: header(http::header::CONTENT_TYPE).contains("json-patch+json"),
        })
    }

    /// The request changes something.
    pub fn is_write(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "WATCH") && !self.is_review()
    }

    /// The request asks for a right.
    pub(crate) fn is_review(&self) -> bool {
        self.path.ends_with("/subjectaccessreviews")
    }

    /// The value of a key of the query.
    pub(crate) fn parameter(&self, key: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == key).map(|it| it.1))
    }
}

/// `METHOD PATH`.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// An answer that a test prescribes instead of what the objects give.
#[derive(Debug, Clone)]
pub enum Answer {
    /// This code with this body.
    Reply(u16, String),
    /// The connection fails with this error.
    Disconnect(io::ErrorKind),
    /// No answer ever comes.
    Never,
}

impl Answer {
    /// This code with a body in JSON.
    pub fn json(code: u16, body: &Value) -> Self {
        Self::Reply(code, body.to_string())
    }

    /// A failure with this code and message.
    pub fn failure(code: u16, message: &str) -> Self {
        Self::json(code, &failure(code, message))
    }

    /// The refusal of a creation in a namespace that is being deleted.
    pub fn namespace_ends(plural: &str, name: &str, namespace: &str) -> Self {
        let message = format!(
            "{plural} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being \
             terminated"
        );
        let mut status = failure(403, &message);
        status["details"] = json!({"name": name, "kind": plural, "causes": [{
            "reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {namespace} is being terminated"),
        }]});
        Self::json(403, &status)
    }
}

/// The object `Status` of a failed request.
fn failure(code: u16, message: &str) -> Value {
    let reason = match code {
        409 if message.contains("already exists") => "AlreadyExists".to_owned(),
        422 => "Invalid".to_owned(),
        500 => "InternalError".to_owned(),
        code => {
            let code = StatusCode::from_u16(code).ok();
            code.and_then(|code| code.canonical_reason()).unwrap_or_default().replace(' ', "")
        }
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}
