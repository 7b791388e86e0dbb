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
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview};
use kube::{Api, ResourceExt, api::PostParams};

use crate::run::Context;

/// A hundred clones of one source by one requester need not ask a hundred times; rights that are taken away count after this time.
const FRESH: Duration = Duration::from_secs(5);

/// What has been answered lately, by stamp and source.
#[derive(Default)]
pub struct Answers(Mutex<HashMap<(String, SourceName), (Instant, Authorization)>>);

impl Answers {
    fn get(&self, key: &(String, SourceName), now: Instant) -> Option<Authorization> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| now.duration_since(*since) < FRESH);
        all.get(key).map(|(_, answer)| answer.clone())
    }

    fn put(&self, key: (String, SourceName), now: Instant, answer: Authorization) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (now, answer));
    }
}

/// Asks for the requester that is stamped on `volume`; absent when there is no stamp.
pub async fn ask(volume: &DataVolume, source: &SourceName, ctx: &Context) -> Lookup<Authorization> {
    let Some(stamp) = volume.annotations().get(meta::REQUESTER) else { return Lookup::Absent };
    let Some(requester) = Requester::read(stamp) else {
        return Lookup::Unknown(format!("the annotation {} is not what the webhook writes", meta::REQUESTER));
    };
    let key = (stamp.clone(), source.clone());
    let now = Instant::now();
    if let Some(answer) = ctx.answers.get(&key, now) {
        return Lookup::Present(answer);
    }
    for question in requester::questions(source) {
        let mut allowed = true;
        for attributes in question {
            match may(&requester, attributes, ctx).await {
                Ok(answer) => allowed &= answer,
                Err(error) => return Lookup::Unknown(format!("{}", config::Chain(&error))),
            }
        }
        if allowed {
            ctx.answers.put(key, now, Authorization::Allowed);
            return Lookup::Present(Authorization::Allowed);
        }
    }
    let answer = Authorization::Denied(requester::denial(&requester, source));
    ctx.answers.put(key, now, answer.clone());
    Lookup::Present(answer)
}

async fn may(requester: &Requester, attributes: ResourceAttributes, ctx: &Context) -> Result<bool, kube::Error> {
    let api: Api<SubjectAccessReview> = Api::all(ctx.client.clone());
    let answered = api.create(&PostParams::default(), &requester.may(attributes)).await?;
    Ok(answered.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
}
