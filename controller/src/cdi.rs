//! The object `cdi` of the kind CDI: created with an empty spec where there is none, because admins are told to patch it.

use std::time::Duration;

use common::api::{Cdi, CdiSpec};
use config::{api::Objects, shutdown::Shutdown};
use kube::{Client, api::ObjectMeta};
use tracing::{info, warn};

use crate::write::create_if_absent;

/// Creates the object unless it exists. Tries again after 1 s, doubled up to 1 min.
pub async fn run(client: Client, shutdown: Shutdown) -> Result<(), kube::Error> {
    let api = Objects::<Cdi>::all(client);
    let object = Cdi {
        metadata: ObjectMeta { name: Some("cdi".to_owned()), ..ObjectMeta::default() },
        spec: CdiSpec::default(),
        status: None,
    };
    let mut delay = Duration::from_secs(1);
    loop {
        match create_if_absent(&api, &object).await {
            Ok(true) => break info!("created the CDI object"),
            Ok(false) => break,
            Err(error) => warn!(error = %config::Chain(&error), "the CDI object could not be created"),
        }
        tokio::select! {
            () = shutdown.draining() => return Ok(()),
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_mins(1)),
        }
    }
    shutdown.draining().await;
    Ok(())
}
