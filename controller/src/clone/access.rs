//! The requester's rights in other namespaces. They are checked in every pass, before anything there is read, because a right may be
//! revoked.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::{
    clone::observed::Authorization,
    keys,
    lookup::Lookup,
    object::{self, ObjectName, SourceName},
    requester::{self, Reference, Requester},
};
use config::api::Objects;
use k8s_openapi::{
    api::authorization::v1::{ResourceAttributes, SubjectAccessReview},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::PostParams;

use super::Reconciler;

/// The time for which an answer is cached. Many clones of one source by one requester ask once. A revoked right takes effect after this
/// time.
const ANSWER_TTL: Duration = Duration::from_secs(1);

/// The stage of a clone for which a right is checked. An answer for one stage is not used for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Objects are created for the clone in the source's namespace.
    Begin,
    /// The volume is handed over to the requester.
    HandOver,
}

/// An action for which the requester needs rights.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Act {
    /// Clone the object of this name. Nothing is read of it before.
    Clone(SourceName, Stage),
    /// Follow a reference into another namespace.
    Follow(Reference, ObjectName),
}

impl Act {
    /// Alternative lists of rights. The requester needs all rights of one list.
    fn rights(&self) -> Vec<Vec<ResourceAttributes>> {
        match self {
            Self::Clone(source, _) => requester::questions(source),
            Self::Follow(kind, name) => vec![vec![requester::reference_right(*kind, name)]],
        }
    }

    /// True if an earlier answer may be used. A reference is followed once for each clone, so a cache would save nothing.
    fn may_be_remembered(&self) -> bool {
        matches!(self, Self::Clone(..))
    }

    fn denial(&self, requester: &Requester) -> String {
        match self {
            Self::Clone(source, _) => requester::denial(requester, source),
            Self::Follow(kind, name) => requester::reference_denial(requester, *kind, name),
        }
    }
}

/// The key of an answer: one requester and one action.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    stamp: String,
    act: Act,
}

/// The answers of the last `ANSWER_TTL`.
#[derive(Default)]
pub struct AccessCache(Mutex<HashMap<Question, (Instant, Authorization)>>);

impl AccessCache {
    fn get(&self, question: &Question, now: Instant) -> Option<Authorization> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| now.duration_since(*since) < ANSWER_TTL);
        all.get(question).map(|(_, answer)| answer.clone())
    }

    fn put(&self, question: Question, since: Instant, answer: Authorization) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(question, (since, answer));
    }
}

/// Asks the API server about the requester in the annotation of `object`. Absent without the annotation.
pub async fn ask(object: &ObjectMeta, act: Act, ctx: &Reconciler) -> Lookup<Authorization> {
    let Some(stamp) = object::annotation(object, keys::REQUESTER) else { return Lookup::Absent };
    let Some(requester) = Requester::read(stamp) else {
        return Lookup::Unknown(format!("the annotation {} is not what the webhook writes", keys::REQUESTER));
    };
    let question = Question { stamp: stamp.to_owned(), act };
    let now = Instant::now();
    if let Some(answer) = ctx.access.get(&question, now).filter(|_| question.act.may_be_remembered()) {
        return Lookup::Present(answer);
    }
    for rights in question.act.rights() {
        let mut allowed = true;
        for attributes in rights {
            match may(&requester, attributes, ctx).await {
                Ok(answer) => allowed &= answer,
                Err(error) => return Lookup::Unknown(format!("{}", config::Chain(&error))),
            }
        }
        if allowed {
            ctx.access.put(question, now, Authorization::Allowed);
            return Lookup::Present(Authorization::Allowed);
        }
    }
    let answer = Authorization::Denied(question.act.denial(&requester));
    ctx.access.put(question, now, answer.clone());
    Lookup::Present(answer)
}

async fn may(requester: &Requester, attributes: ResourceAttributes, ctx: &Reconciler) -> Result<bool, kube::Error> {
    let api = Objects::<SubjectAccessReview>::all(ctx.context.client.clone());
    let answered = api.create(&PostParams::default(), &requester.may(attributes)).await?.0;
    Ok(answered
        .ok()
        .and_then(|answered| answered.status)
        .is_some_and(|status| status.allowed && status.denied != Some(true)))
}

#[cfg(test)]
mod tests {
    use common::object::SourceKind;

    use super::*;

    fn question(stamp: &str, name: &str, stage: Stage) -> Question {
        let object = ObjectName { namespace: "gold".into(), name: name.into() };
        let act = Act::Clone(SourceName { kind: SourceKind::Claim, object }, stage);
        Question { stamp: stamp.into(), act }
    }

    /// An answer is used for the same question only, and for a limited time.
    #[test]
    fn an_answer_is_about_one_user_one_object_and_one_stage() {
        let (answers, now) = (AccessCache::default(), Instant::now());
        let asked = || question("alice", "disk", Stage::Begin);
        answers.put(asked(), now, Authorization::Allowed);
        assert_eq!(answers.get(&asked(), now), Some(Authorization::Allowed));
        let object = ObjectName { namespace: "gold".into(), name: "disk".into() };
        for other in [
            question("mallory", "disk", Stage::Begin),
            question("alice", "other", Stage::Begin),
            question("alice", "disk", Stage::HandOver),
            Question { act: Act::Follow(Reference::DataSource, object), ..asked() },
        ] {
            assert_eq!(answers.get(&other, now), None, "{other:?}");
        }
        assert_eq!(answers.get(&asked(), now + ANSWER_TTL), None);
    }
}
