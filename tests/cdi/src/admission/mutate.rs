//! The mutating webhook: the requester's right to clone the source, and the token that says so.

use common::{
    api::DataVolume,
    keys::{CHECK_STATIC_VOLUME, PRE_POPULATED},
    object::annotation,
};
use jiff::Timestamp;

use super::review::{Decision, Operation, Request};
use crate::{
    keys::CLONE_TOKEN,
    source::{Origin, Source},
    token::{TOKEN_LIFE, Tokens},
};

/// What was found out about the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// The DataSource does not exist, or names nothing.
    NoSource,
    /// The namespace of the source does not exist.
    NoNamespace(Source),
    /// The requester may not clone the source.
    Forbidden(Source),
    /// The requester may clone the source; in the own namespace everybody may.
    Allowed(Source),
}

/// The source to ask about, if the review is about a clone at all.
pub fn question(request: &Request) -> Option<Origin> {
    let object = request.data_volume()?;
    if object.metadata.deletion_timestamp.is_some() || request.operation == Operation::Other {
        return None;
    }
    Some(Origin::from_data_volume(&object)).filter(|origin| *origin != Origin::Other)
}

/// True if missing rights are tolerated, without a token: the object's data is said to be there already.
fn is_lenient(object: &DataVolume) -> bool {
    [PRE_POPULATED, CHECK_STATIC_VOLUME].iter().any(|key| annotation(&object.metadata, key).is_some())
}

/// Decides about a clone. Pure.
pub fn mutate(request: &Request, access: &Access, tokens: &Tokens, now: Timestamp) -> Decision {
    let Some(object) = request.data_volume() else { return Decision::Allow };
    let denial = match access {
        Access::Allowed(source) => {
            // Only the creator's right is worth a token.
            if request.operation != Operation::Create {
                return Decision::Allow;
            }
            let value = tokens.issue(source, &request.namespace, now + TOKEN_LIFE);
            return Decision::Annotate { key: CLONE_TOKEN, value };
        }
        Access::NoSource => "sourceRef: the DataSource does not exist or names no source".to_owned(),
        Access::NoNamespace(source) => format!("clone source namespace {} doesn't exist", source.namespace),
        Access::Forbidden(source) => {
            let user = request.user_info.username.as_deref().unwrap_or_default();
            format!("User {user} has insufficient permissions in clone source namespace {}", source.namespace)
        }
    };
    if is_lenient(&object) { Decision::Allow } else { Decision::Deny(denial) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::source::SourceKind;

    fn request(operation: &str, annotations: &Value, source_namespace: &str) -> Request {
        let spec = json!({"source": {"pvc": {"namespace": source_namespace, "name": "disk"}}, "storage": {}});
        let object = json!({"metadata": {"name": "d", "annotations": annotations}, "spec": spec});
        let review = json!({"uid": "u", "operation": operation, "namespace": "n", "object": object});
        serde_json::from_value(review).unwrap()
    }

    /// The answer to a requester with or without the right: a token, nothing, or a denial.
    #[rstest]
    #[case::create("CREATE", json!({}), "token", "denied")]
    #[case::update("UPDATE", json!({}), "nothing", "denied")]
    #[case::create_with_sentinel("CREATE", json!({PRE_POPULATED: "smartclone.dev"}), "token", "nothing")]
    #[case::create_with_static_volume("CREATE", json!({CHECK_STATIC_VOLUME: ""}), "token", "nothing")]
    #[case::update_with_sentinel("UPDATE", json!({PRE_POPULATED: "anything"}), "nothing", "nothing")]
    fn leniency_follows_the_new_object(
        #[case] operation: &str,
        #[case] annotations: Value,
        #[case] with_right: &str,
        #[case] without: &str,
        #[values("n", "golden")] namespace: &str,
    ) {
        let tokens = Tokens::new("s");
        let request = request(operation, &annotations, namespace);
        let source = Source::new(SourceKind::Claim, namespace, "disk");
        assert_eq!(question(&request), Some(Origin::Clone(source.clone())));
        let answer = |access| match mutate(&request, &access, &tokens, Timestamp::UNIX_EPOCH) {
            Decision::Allow => "nothing",
            Decision::Annotate { value, .. } => {
                assert_eq!(tokens.check(&value, &source, "n", Timestamp::UNIX_EPOCH), Ok(()));
                "token"
            }
            Decision::Deny(_) => "denied",
        };
        assert_eq!(answer(Access::Allowed(source.clone())), with_right);
        for access in [Access::Forbidden(source.clone()), Access::NoNamespace(source.clone()), Access::NoSource] {
            assert_eq!(answer(access), without);
        }
    }

    #[test]
    fn nothing_is_asked_about_one_that_is_being_deleted() {
        let mut request = request("UPDATE", &json!({}), "golden");
        let deleted = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        request.object.as_mut().unwrap().metadata.deletion_timestamp = deleted;
        assert_eq!(question(&request), None);
    }
}
