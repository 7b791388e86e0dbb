//! Kubelet's plugin registration: it finds the registration socket, asks what is behind it, and says whether it agrees.
//!
//! The messages and the service are kubelet's `pluginregistration` API, small enough to be written by hand.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Request, Response, Status,
    body::BoxBody,
    codec::ProstCodec,
    codegen::{Body, BoxFuture, Service, StdError, empty_body, http},
    server::{Grpc, NamedService, UnaryService},
};
use tracing::{error, info};

#[derive(Clone, PartialEq, prost::Message)]
struct InfoRequest {}

/// What kubelet is told about the plugin.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PluginInfo {
    #[prost(string, tag = "1")]
    pub(crate) r#type: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) supported_versions: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RegistrationStatus {
    #[prost(bool, tag = "1")]
    plugin_registered: bool,
    #[prost(string, tag = "2")]
    error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RegistrationStatusResponse {}

/// The service on the registration socket.
#[derive(Debug, Clone)]
pub(crate) struct Registration(Arc<PluginInfo>);

impl Registration {
    /// Offers a CSI driver that serves on a socket.
    pub(crate) fn of_driver(name: &str, socket: &str) -> Self {
        Self(Arc::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: name.to_owned(),
            endpoint: socket.to_owned(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }
}

struct GetInfo(Registration);

impl UnaryService<InfoRequest> for GetInfo {
    type Response = PluginInfo;
    type Future = BoxFuture<Response<PluginInfo>, Status>;

    fn call(&mut self, _: Request<InfoRequest>) -> Self::Future {
        let info = PluginInfo::clone(&self.0.0);
        Box::pin(async move { Ok(Response::new(info)) })
    }
}

struct NotifyRegistrationStatus;

impl UnaryService<RegistrationStatus> for NotifyRegistrationStatus {
    type Response = RegistrationStatusResponse;
    type Future = BoxFuture<Response<RegistrationStatusResponse>, Status>;

    fn call(&mut self, request: Request<RegistrationStatus>) -> Self::Future {
        match request.into_inner() {
            RegistrationStatus { plugin_registered: true, .. } => info!("registered with kubelet"),
            RegistrationStatus { error, .. } => error!(%error, "kubelet refused the registration"),
        }
        Box::pin(async { Ok(Response::new(RegistrationStatusResponse {})) })
    }
}

impl NamedService for Registration {
    const NAME: &'static str = "pluginregistration.Registration";
}

impl<B> Service<http::Request<B>> for Registration
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<BoxBody>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let registration = self.clone();
        Box::pin(async move {
            match request.uri().path() {
                "/pluginregistration.Registration/GetInfo" => {
                    Ok(Grpc::new(ProstCodec::default()).unary(GetInfo(registration), request).await)
                }
                "/pluginregistration.Registration/NotifyRegistrationStatus" => {
                    Ok(Grpc::new(ProstCodec::default()).unary(NotifyRegistrationStatus, request).await)
                }
                _ => {
                    let mut response = http::Response::new(empty_body());
                    let headers = response.headers_mut();
                    // gRPC's UNIMPLEMENTED.
                    headers.insert("grpc-status", http::HeaderValue::from_static("12"));
                    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
                    Ok(response)
                }
            }
        })
    }
}
