//! AdmissionReviews: requests and responses.
//!
//! The types are our own, because the object has to stay as it was sent: an object that does not match our types leads to an answer to the
//! user, not to a malformed request.

use common::{
    admission::beside::LeaveToCdi,
    field::{self, FieldError},
};
use json_patch::Patch;
use k8s_openapi::{
    ByteString,
    api::authentication::v1::UserInfo,
    apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails},
};
use kube::core::GroupVersionKind;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A review as the API server sends it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// The API version, which is also that of the answer.
    pub api_version: ApiVersion,
    #[serde(rename = "kind")]
    _kind: Kind,
    /// The request.
    pub request: Request,
}

/// The versions that exist; their fields are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// The version that API servers use.
    #[serde(rename = "admission.k8s.io/v1")]
    V1,
    /// Its predecessor.
    #[serde(rename = "admission.k8s.io/v1beta1")]
    V1Beta1,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Kind {
    AdmissionReview,
}

/// The request of a user.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The UID of this request, not of the object.
    pub uid: String,
    /// The kind of the object.
    pub kind: GroupVersionKind,
    /// The subresource, such as `status`; empty for the object itself.
    #[serde(default)]
    pub sub_resource: String,
    /// The object's name; empty if the API server generates one later (`generateName`).
    #[serde(default)]
    pub name: String,
    /// The namespace; the one in the object may be missing.
    #[serde(default)]
    pub namespace: String,
    /// The operation.
    pub operation: Operation,
    /// The user.
    pub user_info: UserInfo,
    /// The new object; null for a deletion.
    #[serde(default)]
    pub object: Box<RawValue>,
    /// The old object; null for a creation.
    #[serde(default)]
    pub old_object: Box<RawValue>,
    /// True if nothing will be persisted.
    #[serde(default)]
    pub dry_run: bool,
}

impl Request {
    /// The user's name.
    pub fn user(&self) -> &str {
        self.user_info.username.as_deref().unwrap_or_default()
    }
}

/// An operation on an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// A creation.
    Create,
    /// A change.
    Update,
    /// A deletion.
    Delete,
    /// A connection, such as `exec`.
    Connect,
}

impl Operation {
    /// The operation as the API server writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The request is allowed.
    Allowed {
        /// The changes.
        patch: Patch,
        /// The warnings for the user, one line each.
        warnings: Vec<String>,
    },
    /// The request is allowed, and the object is CDI's.
    LeftToCdi {
        /// The changes: the object loses what smartclone wrote on an earlier one.
        patch: Patch,
        /// The reason.
        reason: LeaveToCdi,
    },
    /// The object is invalid.
    Invalid(Vec<FieldError>),
    /// The change is not allowed.
    Forbidden(Vec<FieldError>),
    /// The object no longer matches the cluster; a new request gets an answer to the current state.
    Conflict(FieldError),
}

impl Answer {
    /// Allows the request as it is.
    pub fn untouched() -> Self {
        Self::Allowed { patch: Patch::default(), warnings: Vec::new() }
    }

    /// The outcome in one word, for logs and metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Allowed { patch, .. } if patch.0.is_empty() => "allowed",
            Self::Allowed { .. } => "patched",
            Self::LeftToCdi { .. } => "left",
            Self::Invalid(_) => "invalid",
            Self::Forbidden(_) => "forbidden",
            Self::Conflict(_) => "conflict",
        }
    }

    /// The reason of a denial; empty when allowed.
    pub fn reason(&self) -> String {
        match self {
            Self::Allowed { .. } => String::new(),
            Self::LeftToCdi { reason, .. } => reason.as_str().to_owned(),
            Self::Invalid(errors) | Self::Forbidden(errors) => line(&field::joined(errors)),
            Self::Conflict(error) => line(&error.to_string()),
        }
    }
}

/// The initial capacity of an answer, in bytes; a typical answer need not grow.
const USUAL_ANSWER: usize = 4 << 10;

fn json<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(USUAL_ANSWER);
    serde_json::to_writer(&mut text, value)?;
    Ok(text)
}

/// The answer as sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    api_version: ApiVersion,
    kind: Kind,
    response: Response,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

impl Reply {
    /// The reply to `request`.
    pub fn new(version: ApiVersion, request: &Request, answer: Answer) -> serde_json::Result<Self> {
        let blank = Response { uid: request.uid.clone(), ..Response::default() };
        let allowed = |patch: Patch, warnings: Vec<String>| -> serde_json::Result<Response> {
            let warnings = warnings.iter().map(|warning| line(warning)).collect();
            let patch = if patch.0.is_empty() { None } else { Some(ByteString(json(&patch)?)) };
            let patch_type = patch.as_ref().map(|_| "JSONPatch");
            let uid = request.uid.clone();
            Ok(Response { uid, allowed: true, patch_type, patch, warnings, ..Response::default() })
        };
        let response = match answer {
            Answer::Allowed { patch, warnings } => allowed(patch, warnings)?,
            Answer::LeftToCdi { patch, .. } => allowed(patch, Vec::new())?,
            Answer::Invalid(errors) => Response { status: Some(status(request, &errors, 422, "Invalid")), ..blank },
            Answer::Forbidden(errors) => Response { status: Some(status(request, &errors, 403, "Forbidden")), ..blank },
            Answer::Conflict(error) => Response { status: Some(status(request, &[error], 409, "Conflict")), ..blank },
        };
        Ok(Self { api_version: version, kind: Kind::AdmissionReview, response })
    }

    /// Serializes the reply.
    pub fn written(&self) -> serde_json::Result<Vec<u8>> {
        json(self)
    }
}

/// A denial in the form that clients know from the API server's own validation; `kubectl` prints a
/// line per cause.
fn status(request: &Request, errors: &[FieldError], code: i32, reason: &str) -> Status {
    let cause = |error: &FieldError| StatusCause {
        field: Some(line(&error.field)),
        reason: Some(format!("{:?}", error.kind)),
        message: Some(line(&error.message())),
    };
    Status {
        status: Some("Failure".to_owned()),
        code: Some(code),
        reason: Some(reason.to_owned()),
        message: Some(line(&field::joined(errors))),
        details: Some(StatusDetails {
            group: Some(request.kind.group.clone()),
            kind: Some(request.kind.kind.clone()),
            name: Some(line(&request.name)),
            causes: Some(first_causes(errors.iter().map(cause))),
            ..StatusDetails::default()
        }),
        ..Status::default()
    }
}

/// The first causes, limited to an amount that a user can read. The others are reported once these are fixed.
fn first_causes(causes: impl Iterator<Item = StatusCause>) -> Vec<StatusCause> {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let mut room = MAX_CAUSES;
    let fits = |cause: &StatusCause| {
        let fits = room > 0;
        room = room.saturating_sub(length(&cause.field) + length(&cause.message));
        fits
    };
    causes.take_while(fits).collect()
}

/// The maximum length of a line, in bytes. A denial with the longest possible names has 3 KiB.
const MAX_LINE: usize = 4 << 10;

/// The maximum size of all causes but the last, in bytes.
const MAX_CAUSES: usize = 16 << 10;

/// `text` as one line of a terminal or a log. Messages quote objects, which may hold megabytes and control characters.
pub(crate) fn line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_LINE));
    for c in text.chars() {
        if line.len() >= MAX_LINE {
            line.push('…');
            break;
        }
        match c {
            ' '..='~' => line.push(c),
            _ => line.extend(c.escape_debug()),
        }
    }
    line
}
