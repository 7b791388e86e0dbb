//! The gate before the routes: a request at a path without an accepted segment gets only a 404, whatever the rest of the path, the method
//! and the body are. The body is not read.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, StatusCode, Uri, header},
};
use certs::SecretPath;
use futures::future::Either;
use tower::Service;

use super::callers::Caller;
use crate::metrics::Metrics;

/// The service of one connection.
#[derive(Clone)]
pub(super) struct Gate {
    routes: Router,
    path: SecretPath,
    caller: Caller,
    metrics: Metrics,
}

impl Gate {
    pub(super) fn new(routes: Router, path: SecretPath, caller: Caller, metrics: Metrics) -> Self {
        Self { routes, path, caller, metrics }
    }
}

impl<B> Service<Request<B>> for Gate
where
    Router: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<Body>, Infallible>>, <Router as Service<Request<B>>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.routes.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The segment is removed here and never passed on.
        let route = self.path.route(request.uri().path()).and_then(|route| Uri::try_from(route).ok());
        if let Some(route) = route {
            *request.uri_mut() = route;
            self.caller.prove();
            Either::Right(self.routes.call(request))
        } else {
            self.metrics.refused("unknown path");
            Either::Left(ready(Ok(not_found())))
        }
    }
}

/// The last answer on its connection: an unread body may be on its way.
fn not_found() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
