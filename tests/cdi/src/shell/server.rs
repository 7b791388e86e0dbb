//! The admission server: reads what the two webhooks need, within the limits of CDI's replicas, and answers.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    routing::post,
};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use common::api::{Cdi, CdiConfig, DataSource};
use jiff::Timestamp;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::{Namespace, PersistentVolumeClaim},
};
use kube::{Api, Client, api::PostParams, runtime::reflector::Store};
use rustls::ServerConfig;
use serde_json::Value;

use super::{
    limiter::Limiter,
    webhooks::{MUTATE_PATH, VALIDATE_PATH},
};
use crate::{
    admission::{
        Decision, Operation, Request,
        mutate::{Access, mutate, question},
        review::Review,
        validate,
    },
    settings::Settings,
    source::{Origin, Source, SourceKind},
    token::Tokens,
    version::Version,
};

/// The largest number of replicas that are imitated.
const MAX_REPLICAS: usize = 16;

/// The limits of one replica: CDI's clients have one for each API group.
struct Replica {
    core: Limiter,
    cdi: Limiter,
    authorization: Limiter,
}

/// The admission server.
pub struct Admission {
    client: Client,
    tokens: Tokens,
    version: Version,
    replicas: Vec<Replica>,
    next: AtomicUsize,
    cdis: Store<Cdi>,
    configs: Store<CdiConfig>,
}

impl Admission {
    /// A server with as many replicas as the CDI object says.
    pub fn new(
        client: Client,
        tokens: Tokens,
        version: Version,
        rates: bool,
        (cdis, configs): (Store<Cdi>, Store<CdiConfig>),
    ) -> Self {
        let limiter = || if rates { Limiter::new(5, 10) } else { Limiter::unlimited() };
        let replica = |_| Replica { core: limiter(), cdi: limiter(), authorization: limiter() };
        let replicas = (0..MAX_REPLICAS).map(replica).collect();
        Self { client, tokens, version, replicas, next: AtomicUsize::new(0), cdis, configs }
    }

    /// The replica that answers the next review.
    fn replica(&self) -> Option<&Replica> {
        let cdis = self.cdis.state();
        let infra = cdis.first().and_then(|cdi| cdi.spec.infra.as_ref());
        let wanted = infra.and_then(|infra| infra.api_server_replicas).unwrap_or(1);
        let count = usize::try_from(wanted).unwrap_or(1).clamp(1, MAX_REPLICAS);
        self.replicas.get(self.next.fetch_add(1, Ordering::Relaxed) % count)
    }

    /// Answers a review of the mutating webhook.
    pub async fn mutate(&self, request: &Request) -> Result<Decision> {
        let Some(origin) = question(request) else { return Ok(Decision::Allow) };
        let access = self.access(request, &origin).await?;
        Ok(mutate(request, &access, &self.tokens, Timestamp::now()))
    }

    async fn access(&self, request: &Request, origin: &Origin) -> Result<Access> {
        let Some(replica) = self.replica() else { return Ok(Access::NoSource) };
        let mut found = None;
        if let Origin::Reference { namespace, name } = origin {
            replica.cdi.acquire().await;
            let api: Api<DataSource> = Api::namespaced(self.client.clone(), namespace);
            found = api.get_opt(name).await?;
        }
        let Some(source) = origin.resolve(|_, _| found.as_ref().map(|it| it.spec.source.clone())) else {
            return Ok(Access::NoSource);
        };
        replica.core.acquire().await;
        if Api::<Namespace>::all(self.client.clone()).get_opt(&source.namespace).await?.is_none() {
            return Ok(Access::NoNamespace(source));
        }
        if source.namespace == request.namespace {
            return Ok(Access::Allowed(source));
        }
        // Either right is enough.
        for (group, resource, subresource) in rights(&source) {
            replica.authorization.acquire().await;
            if self.may(request, &source, (group, resource, subresource)).await? {
                return Ok(Access::Allowed(source));
            }
        }
        Ok(Access::Forbidden(source))
    }

    async fn may(&self, request: &Request, source: &Source, what: (&str, &str, Option<&str>)) -> Result<bool> {
        let (group, resource, subresource) = what;
        let user = &request.user_info;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username.clone(),
                groups: user.groups.clone(),
                uid: user.uid.clone(),
                extra: user.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    namespace: Some(source.namespace.clone()),
                    verb: Some("create".to_owned()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.map(str::to_owned),
                    name: Some(source.name.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Answers a review of the validating webhook.
    pub async fn validate(&self, request: &Request) -> Result<Decision> {
        let configs = self.configs.state();
        let settings = Settings::new(self.version, configs.first().map(|config| &**config), [], []);
        let mut claim = None;
        // A name that is still to be generated is nobody's.
        let name = request.data_volume().and_then(|object| object.metadata.name);
        if let (Operation::Create, Some(name), Some(replica)) = (request.operation, name, self.replica()) {
            replica.core.acquire().await;
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &request.namespace);
            claim = api.get_opt(&name).await?;
        }
        Ok(validate(request, claim.as_ref(), &settings))
    }
}

/// The rights of which one is needed: CDI's own, or that to run a pod that reads the source.
fn rights(source: &Source) -> Vec<(&'static str, &'static str, Option<&'static str>)> {
    let own = ("cdi.kubevirt.io", "datavolumes", Some("source"));
    match source.kind {
        SourceKind::Claim => vec![own, ("", "pods", None)],
        SourceKind::Snapshot => vec![own],
    }
}

/// The routes.
pub fn router(admission: Arc<Admission>) -> Router {
    Router::new()
        .route(MUTATE_PATH, post(mutate_review))
        .route(VALIDATE_PATH, post(validate_review))
        .layer(DefaultBodyLimit::max(8 << 20))
        .with_state(admission)
}

async fn mutate_review(
    State(admission): State<Arc<Admission>>,
    Json(Review { request }): Json<Review>,
) -> Result<Json<Value>, (StatusCode, String)> {
    answer(&request, admission.mutate(&request).await)
}

async fn validate_review(
    State(admission): State<Arc<Admission>>,
    Json(Review { request }): Json<Review>,
) -> Result<Json<Value>, (StatusCode, String)> {
    answer(&request, admission.validate(&request).await)
}

fn answer(request: &Request, decision: Result<Decision>) -> Result<Json<Value>, (StatusCode, String)> {
    match decision {
        Ok(decision) => Ok(Json(request.answer(&decision))),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n"))),
    }
}

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, routes: Router) -> Result<()> {
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls));
    let server = axum_server::from_tcp(listener)?.acceptor(acceptor).http1_only();
    Ok(server.serve(routes.into_make_service()).await?)
}

#[cfg(test)]
mod tests;
