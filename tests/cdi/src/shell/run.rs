//! Starts the parts.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use common::api::{Cdi, CdiConfig};
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::{
    Api, Client, Config, ResourceExt as _,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use tokio::time::sleep;
use tracing::info;

use super::{
    args::{Args, Part},
    cache::{Queues, Watches},
    controller::Controller,
    install::install,
    lease::Candidate,
    limiter::Limiter,
    operator::Operator,
    recorder::Recorder,
    server::{Admission, router, serve},
    tls,
    uninstall::uninstall,
    webhooks::Endpoint,
    writer::Writer,
};
use crate::{
    keys::{ADMISSION_ACCOUNT, CDI, CONTROLLER_ACCOUNT, NAMESPACE},
    token::Tokens,
};

/// Runs until a part fails. Nothing is cleaned up at the end: a CDI that is stopped leaves everything, too.
pub async fn run(args: Args) -> Result<()> {
    let client = client(&args.kubeconfig, None).await?;
    if args.uninstall {
        return uninstall(&client).await;
    }
    match args.part {
        Part::Admission => Box::pin(admission(&args, client)).await,
        Part::Controller => Box::pin(controller(&args, client)).await,
        Part::All => {
            let (one, other) = (Box::pin(admission(&args, client.clone())), Box::pin(controller(&args, client)));
            tokio::select! { ended = one => ended, ended = other => ended }
        }
    }
}

/// A client of the administrator, or of one of CDI's accounts.
async fn client(kubeconfig: &Path, account: Option<&str>) -> Result<Client> {
    let mut kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    if let Some(account) = account {
        for named in &mut kubeconfig.auth_infos {
            let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
            named.auth_info.get_or_insert_default().impersonate = Some(user);
        }
    }
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static("cdi-double")));
    Ok(Client::try_from(config)?)
}

/// The key of tokens, which both parts take from the CDI object. Waits until it is there.
async fn tokens(client: &Client) -> Tokens {
    let api: Api<Cdi> = Api::all(client.clone());
    loop {
        if let Ok(Some(uid)) = api.get_opt(CDI).await.map(|found| found.and_then(|cdi| cdi.uid())) {
            return Tokens::new(&uid);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

async fn admission(args: &Args, client: Client) -> Result<()> {
    install(&client).await?;
    let identity = tls::identity(&args.host)?;
    let listener = std::net::TcpListener::bind(args.listen).with_context(|| format!("listen at {}", args.listen))?;
    listener.set_nonblocking(true)?;
    let endpoint =
        Endpoint { url: format!("https://{}:{}", args.host, args.listen.port()), authority: identity.authority };
    let (cdis, cdi_writer) = reflector::store::<Cdi>();
    let (configs, config_writer) = reflector::store::<CdiConfig>();
    let account = self::client(&args.kubeconfig, Some(ADMISSION_ACCOUNT)).await?;
    let cdi_watch = watcher(Api::all(account.clone()), watcher::Config::default());
    let config_watch = watcher(Api::all(account.clone()), watcher::Config::default());
    let watches = async {
        let cdis = cdi_watch.default_backoff().reflect(cdi_writer).for_each(async |_| ());
        let configs = config_watch.default_backoff().reflect(config_writer).for_each(async |_| ());
        futures::join!(cdis, configs);
    };
    let tokens = tokens(&client).await;
    let admission = Arc::new(Admission::new(account, tokens, args.cdi_version, args.rates, (cdis, configs)));
    let operator = Operator::new(client, args.cdi_version, endpoint, args.unknown_driver.clone());
    info!(version = %args.cdi_version, address = %args.listen, "admission");
    tokio::select! {
        ended = serve(listener, identity.server, router(admission)) => ended,
        ended = operator.run() => ended,
        () = watches => bail!("a watch has ended"),
    }
}

async fn controller(args: &Args, client: Client) -> Result<()> {
    let tokens = tokens(&client).await;
    let account = self::client(&args.kubeconfig, Some(CONTROLLER_ACCOUNT)).await?;
    let identity = format!("cdi-deployment_{}_{:x}", std::process::id(), Timestamp::now().as_nanosecond());
    let candidate = Candidate::new(Api::namespaced(account.clone(), NAMESPACE), identity);
    candidate.acquire().await;
    let queues = Arc::new(Queues::default());
    let work = async {
        let (mut watches, caches, triggers) = Watches::start(account.clone(), queues.clone()).await?;
        let controller = Controller {
            caches,
            queues,
            writer: Writer::new(account.clone(), args.cdi_version),
            recorder: Recorder::new(account.clone()),
            tokens,
            version: args.cdi_version,
            limiter: if args.rates { Limiter::new(20, 30) } else { Limiter::unlimited() },
        };
        info!(version = %args.cdi_version, "controller");
        tokio::select! {
            () = controller.run() => Ok(()),
            () = triggers.run() => Ok(()),
            () = watches.ended() => bail!("a watch has ended"),
        }
    };
    tokio::select! { ended = work => ended, ended = candidate.renew() => ended }
}
