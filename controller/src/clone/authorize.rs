//! Whether the requester may read a source in another namespace: the API server is asked again before anything is made, and before the
//! volume is handed over, since rights may have been taken away meanwhile.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::{
    api::DataVolume,
    clone::{plan::Authorization, request::SourceName},
    lookup::Lookup,
    meta,
    requester::{self, Requester},
};
use config::api::Objects;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview};
use kube::api::PostParams;

use crate::run::Context;

/// A hundred clones of one source by one requester need not ask a hundred times; rights that are taken away count after this time.
const FRESH: Duration = Duration::from_secs(1);

/// What is about to be done. The answer of the beginning is none for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Something is made for the clone, beside the source.
    Begin,
    /// The volume is given to the requester.
    HandOver,
}

/// What an answer is about: who may clone which object, by its UID, since another one of that name is another question.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    stamp: String,
    source: SourceName,
    uid: Option<String>,
    stage: Stage,
}

/// What has been answered lately.
#[derive(Default)]
pub struct Answers(Mutex<HashMap<Question, (Instant, Authorization)>>);

impl Answers {
    fn get(&self, question: &Question, now: Instant) -> Option<Authorization> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| now.duration_since(*since) < FRESH);
        all.get(question).map(|(_, answer)| answer.clone())
    }

    fn put(&self, question: Question, since: Instant, answer: Authorization) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(question, (since, answer));
    }
}

/// Asks for the requester that is stamped on `volume`, about the source with this UID, if it has one now; absent when there is no stamp.
pub async fn ask(
    volume: &DataVolume,
    source: &SourceName,
    uid: Option<String>,
    stage: Stage,
    ctx: &Context,
) -> Lookup<Authorization> {
    let Some(stamp) = meta::annotation(&volume.metadata, meta::REQUESTER) else { return Lookup::Absent };
    let Some(requester) = Requester::read(stamp) else {
        return Lookup::Unknown(format!("the annotation {} is not what the webhook writes", meta::REQUESTER));
    };
    let question = Question { stamp: stamp.to_owned(), source: source.clone(), uid, stage };
    let now = Instant::now();
    if let Some(answer) = ctx.answers.get(&question, now) {
        return Lookup::Present(answer);
    }
    for rights in requester::questions(source) {
        let mut allowed = true;
        for attributes in rights {
            match may(&requester, attributes, ctx).await {
                Ok(answer) => allowed &= answer,
                Err(error) => return Lookup::Unknown(format!("{}", config::Chain(&error))),
            }
        }
        if allowed {
            ctx.answers.put(question, now, Authorization::Allowed);
            return Lookup::Present(Authorization::Allowed);
        }
    }
    let answer = Authorization::Denied(requester::denial(&requester, source));
    ctx.answers.put(question, now, answer.clone());
    Lookup::Present(answer)
}

async fn may(requester: &Requester, attributes: ResourceAttributes, ctx: &Context) -> Result<bool, kube::Error> {
    let api = Objects::<SubjectAccessReview>::all(ctx.client.clone());
    let answered = api.create(&PostParams::default(), &requester.may(attributes)).await?.0;
    Ok(answered
        .ok()
        .and_then(|answered| answered.status)
        .is_some_and(|status| status.allowed && status.denied != Some(true)))
}

#[cfg(test)]
mod tests {
    use common::clone::request::{ObjectName, SourceKind};

    use super::*;

    fn question(change: impl FnOnce(&mut Question)) -> Question {
        let object = ObjectName { namespace: "gold".into(), name: "disk".into() };
        let source = SourceName { kind: SourceKind::Claim, object };
        let mut question = Question { stamp: "alice".into(), source, uid: Some("1".into()), stage: Stage::Begin };
        change(&mut question);
        question
    }

    /// Only the same question has the same answer, and not for long.
    #[test]
    fn an_answer_is_about_one_user_one_object_and_one_stage() {
        let (answers, now) = (Answers::default(), Instant::now());
        answers.put(question(|_| {}), now, Authorization::Allowed);
        assert_eq!(answers.get(&question(|_| {}), now), Some(Authorization::Allowed));
        for other in [
            question(|q| q.stamp = "mallory".into()),
            question(|q| q.source.object.name = "other".into()),
            question(|q| q.uid = Some("2".into())),
            question(|q| q.uid = None),
            question(|q| q.stage = Stage::HandOver),
        ] {
            assert_eq!(answers.get(&other, now), None, "{other:?}");
        }
        assert_eq!(answers.get(&question(|_| {}), now + FRESH), None);
    }
}
