//! The Identity service: who the driver is and what it can do.

use bpfman_csi::v1::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    PluginCapability, ProbeRequest, ProbeResponse, identity_server::Identity, plugin_capability as plugin,
};
use tonic::{Request, Response, Status};

use crate::{calls::Rpc, driver::Service, server::Ability};

#[tonic::async_trait]
impl Identity for Service {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        self.call(Rpc::GetPluginInfo, |driver| {
            Ok(GetPluginInfoResponse {
                name: driver.args.driver_name.clone(),
                vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
                ..GetPluginInfoResponse::default()
            })
        })
        .await
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        self.call(Rpc::GetPluginCapabilities, |driver| {
            let controller =
                plugin::Type::Service(plugin::Service { r#type: plugin::service::Type::ControllerService.into() });
            let expansion = plugin::Type::VolumeExpansion(plugin::VolumeExpansion {
                r#type: plugin::volume_expansion::Type::Online.into(),
            });
            let capabilities = std::iter::once(controller)
                .chain(driver.can(Ability::Expansion).then_some(expansion))
                .map(|capability| PluginCapability { r#type: Some(capability) })
                .collect();
            Ok(GetPluginCapabilitiesResponse { capabilities })
        })
        .await
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        self.call(Rpc::Probe, |_| Ok(ProbeResponse { ready: Some(true) })).await
    }
}
