//! The webhook alone: the program itself beside the load, asked without an API server in between what an API server would ask it, in a cluster
//! with many claims and StorageClasses.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use common::manifest::NAMESPACE;
use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::{BoxFuture, try_join_all},
    stream,
};
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Bytes,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use webhook::manifests::{ALLOCATION, MUTATE_PATH, VALIDATE_PATH};

use super::{
    in_spaces,
    report::{Count, Report},
    statistics::{each, percentile},
};
use crate::{
    harness::{
        Space, clone_of,
        review::{self, patch_in},
        wait::Look,
    },
    lab::{Lab, build::binary, command::until, process, progress::Progress},
};

/// How many connections ask without pause, for how long, and how often.
const CONNECTIONS: usize = 8;
const TIME: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// What part of the processors others may have meanwhile; a turn in which they had more is asked again, so often at most.
const STOLEN: f64 = 0.03;
const TRIES: usize = 5;
/// What is asked before that doesn't count: memory is got and pages are touched for the first time.
const WARMING_UP: Duration = Duration::from_secs(1);

/// What is asked for: at least so many reviews a second, at most so many milliseconds for 99 of 100, MiB, and seconds.
const REVIEWS: f64 = 10_000.0;
const P99: f64 = 5.0;
const RESIDENT: f64 = 25.0;
const READY: f64 = 1.0;

/// The label of what fills the cluster.
const FILLING: (&str, &str) = ("smartclone.dev/measure", "filling");

/// In what company, and where to.
#[derive(Debug, Args)]
pub struct Options {
    /// Write the result to this file, too.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// The program to measure, if it isn't the one of this build: one that was built with --release, as images are.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// How many claims are in the cluster.
    #[arg(long, default_value_t = 10_000)]
    claims: usize,
    /// How many StorageClasses are in the cluster.
    #[arg(long, default_value_t = 200)]
    classes: usize,
}

/// Measures.
pub async fn run(lab: &Lab, options: &Options, progress: &Progress) -> Result<(Report, String)> {
    in_spaces(lab, "measure-webhook", true, async |space, crowd| measure((space, crowd), options, progress).await).await
}

async fn measure((space, crowd): (&Space, &Space), options: &Options, progress: &Progress) -> Result<(Report, String)> {
    let source = space.source("source").class("cow").blank().await?;
    let object = clone_of(&source).named("probe").class("cow").object(space.name());
    let program = options.program.clone().map_or_else(|| binary("webhook"), Ok)?;
    let mut report = Report { bench: "webhook", unit: "", cases: Vec::new(), counts: Vec::new() };
    progress.step(&format!("{} classes", options.classes), fill_with_classes(space, options.classes)).await?;

    // Before there are claims: others would use the processors to look at them.
    let webhook = Alone::start(space.lab()?, &program).await?;
    let alice = json!({"username": "alice", "groups": ["system:authenticated"]});
    let creation = review::creation(&object, space.name(), &alice);
    let written = webhook.connect().await?.written(&object, &creation).await?;
    let written = review::creation(&written, space.name(), &alice);
    let mut kinds = [
        ("mutating", MUTATE_PATH, &creation, Load::default()),
        ("validating", VALIDATE_PATH, &written, Load::default()),
    ];
    // In turns, so that both have the same part of what else the machine does.
    for _ in 0..ROUNDS {
        for (name, path, review, all) in &mut kinds {
            for last in (0..TRIES).rev() {
                progress.step("the cluster is quiet", quiet()).await?;
                let load = webhook.load(path, review).await?;
                progress.line(&format!("{name}: {load}"));
                if load.machine.stolen() <= STOLEN || last == 0 {
                    all.add(load);
                    break;
                }
            }
        }
    }
    for (name, _, _, load) in &kinds {
        let rate = load.rate();
        let p99 = percentile(&load.times, 99).context("nothing was asked")?.as_secs_f64() * 1e3;
        report.counts.push(Count::of(&format!("{name} reviews a second"), rate).at_least(REVIEWS));
        report.counts.push(Count::of(&format!("{name} p99, ms"), p99).at_most(P99));
        report.counts.push(Count::of(&format!("{name}, µs of a processor for a review"), load.cost()));
        report.counts.push(Count::of(&format!("{name}, % of the processors stolen"), load.machine.stolen() * 100.0));
    }
    webhook.end().await?;

    progress.step(&format!("{} claims", options.claims), fill_with_claims(crowd, options.claims)).await?;
    let webhook = Alone::start(space.lab()?, &program).await?;
    report.counts.push(Count::of("ready after, s", webhook.ready_after.as_secs_f64()).at_most(READY));
    report.counts.push(Count::of("memory when ready, MiB", webhook.resident()?).at_most(RESIDENT));
    for (_, path, review, _) in &kinds {
        webhook.load(path, review).await?;
    }
    report.counts.push(Count::of("memory under load, MiB", webhook.resident()?).at_most(RESIDENT));
    webhook.end().await?;
    progress.step("the claims are gone", clear(crowd, options.claims)).await?;
    let note = format!(
        "{CONNECTIONS} connections ask {ROUNDS} times for {TIME:?} what an API server would ask about one clone; the load has the same processors. \
         A turn in which more than {:.0} % of them were stolen by other machines is asked again, up to {TRIES} times. Readiness and memory are those with the claims.\n",
        STOLEN * 100.0
    );
    Ok((report, note))
}

/// Waits until the cluster has digested what was made: the webhook shares the processors with the load, and with nobody else.
async fn quiet() -> Result<()> {
    const SAMPLE: Duration = Duration::from_secs(1);
    const IDLE: f64 = 0.85;
    until("processors that are idle", Duration::from_mins(5), async || {
        let before = Processors::now()?;
        tokio::time::sleep(SAMPLE).await;
        let idle = Processors::now()?.since(before).idle();
        Ok(if idle > IDLE { Look::Break(()) } else { Look::Continue(format!("{:.0} % idle", idle * 100.0)) })
    })
    .await
}

/// What all processors have done since the machine was started, in the kernel's ticks.
#[derive(Debug, Clone, Copy, Default)]
struct Processors {
    idle: f64,
    /// The machine is a virtual one, and others had them.
    stolen: f64,
    all: f64,
}

impl Processors {
    fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat")?;
        let line = text.lines().find_map(|line| line.strip_prefix("cpu ")).context("no processors in /proc/stat")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is in user and nice, too.
        let ticks = line.split_whitespace().take(8).map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        Ok(Self { idle: ticks[3..5].iter().sum(), stolen: ticks[7], all: ticks.iter().sum() })
    }

    fn since(self, before: Self) -> Self {
        Self { idle: self.idle - before.idle, stolen: self.stolen - before.stolen, all: self.all - before.all }
    }

    /// What part of them was.
    fn idle(self) -> f64 {
        self.idle / self.all.max(1.0)
    }

    /// What part of them was.
    fn stolen(self) -> f64 {
        self.stolen / self.all.max(1.0)
    }
}

/// Does it for every number below `count`, some at once.
async fn for_each<T>(count: usize, work: impl AsyncFn(usize) -> Result<T>) -> Result<()> {
    const AT_ONCE: usize = 32;
    stream::iter(0..count).map(|number| work(number)).buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await
}

async fn fill_with_classes(space: &Space, count: usize) -> Result<()> {
    let classes: Api<StorageClass> = space.everywhere();
    space.undo({
        let classes = classes.clone();
        async move {
            let (key, value) = FILLING;
            classes
                .delete_collection(&DeleteParams::default(), &ListParams::default().labels(&format!("{key}={value}")))
                .await?;
            Ok(())
        }
    });
    for_each(count, async |number| {
        let class: StorageClass = serde_json::from_value(json!({
            "metadata": {"name": format!("measure-{number}"), "labels": {FILLING.0: FILLING.1}},
            "provisioner": "nobody.example.com",
        }))?;
        classes.create(&PostParams::default(), &class).await.context("create a StorageClass")
    })
    .await
}

/// What no volume can be had for lies still: its volume is named, and isn't there.
async fn fill_with_claims(space: &Space, count: usize) -> Result<()> {
    let claims: Api<PersistentVolumeClaim> = space.api();
    for_each(count, async |number| {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "metadata": {"name": format!("measure-{number}")},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "measure-0", "volumeName": format!("none-{number}"),
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }))?;
        claims.create(&PostParams::default(), &claim).await.context("create a claim")
    })
    .await
}

/// Removes the claims, each of which Kubernetes looks at before it goes: that takes longer than a namespace is waited for, and than one request
/// for all of them may.
async fn clear(space: &Space, count: usize) -> Result<()> {
    let claims: Api<PersistentVolumeClaim> = space.api();
    let params = DeleteParams::default();
    let delete = async |number| claims.delete(&format!("measure-{number}"), &params).await.context("delete a claim");
    for_each(count, delete).await?;
    until("the claims to be gone", Duration::from_mins(10), async || {
        let left = claims.list_metadata(&ListParams::default().limit(1)).await?;
        let more = left.metadata.remaining_item_count.unwrap_or_default();
        Ok(if left.items.is_empty() { Look::Break(()) } else { Look::Continue(format!("there are {}", more + 1)) })
    })
    .await
}

/// A webhook's process, with rights and facts of the local cluster.
struct Alone {
    child: Child,
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    ready_after: Duration,
    _files: Files,
}

/// What the process reads; gone when it is.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What came of asking without pause.
#[derive(Default)]
struct Load {
    times: Vec<Duration>,
    took: Duration,
    /// Processor time of the webhook, in s.
    spent: f64,
    /// Meanwhile.
    machine: Processors,
}

impl Load {
    /// Reviews a second.
    fn rate(&self) -> f64 {
        each(self.times.len(), 1) / self.took.as_secs_f64()
    }

    /// Microseconds of a processor that the webhook spends on a review: the machine may be slow for a while, with other things to do.
    fn cost(&self) -> f64 {
        self.spent * 1e6 / each(self.times.len(), 1)
    }

    fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.took += other.took;
        self.spent += other.spent;
        self.machine.idle += other.machine.idle;
        self.machine.stolen += other.machine.stolen;
        self.machine.all += other.machine.all;
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [idle, stolen] = [self.machine.idle(), self.machine.stolen()].map(|part| part * 100.0);
        write!(
            f,
            "{:.0} reviews/s, {:.1} µs each, processors {idle:.0} % idle and {stolen:.0} % stolen",
            self.rate(),
            self.cost()
        )
    }
}

const NAME: &str = "smartclone-webhook.smartclone.svc";

impl Alone {
    async fn start(lab: &Lab, program: &Path) -> Result<Self> {
        let files = Files(std::env::temp_dir().join(format!("smartclone-measure-{}", std::process::id())));
        std::fs::create_dir_all(&files.0)?;
        let own = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let (certificate, key) = (files.0.join("tls.crt"), files.0.join("tls.key"));
        std::fs::write(&certificate, own.cert.pem())?;
        std::fs::write(&key, own.signing_key.serialize_pem())?;
        let mut trusted = RootCertStore::empty();
        trusted.add(own.cert.der().clone())?;
        let tls = ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth();

        let (address, admin) = (free_address()?, free_address()?);
        let path = |path: &Path| path.display().to_string();
        let start = Instant::now();
        let child = Command::new(program)
            .args(["--listen", &address.to_string(), "--admin-address", &admin.to_string()])
            .args(["--tls-cert-file", &path(&certificate), "--tls-key-file", &path(&key)])
            .args(["--service-namespace", NAMESPACE, "--log-level", "warn"])
            .env("KUBECONFIG", lab.kubeconfig())
            .env(ALLOCATION.0, ALLOCATION.1)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start the webhook")?;
        let answered = until("the webhook to be ready", Duration::from_secs(20), async || {
            Ok(match ready(admin).await {
                Ok(true) => Look::Break(()),
                Ok(false) => Look::Continue("not ready".to_owned()),
                Err(error) => Look::Continue(format!("{error:#}")),
            })
        });
        answered.await?;
        Ok(Self { child, address, tls: Arc::new(tls), ready_after: start.elapsed(), _files: files })
    }

    /// In MiB.
    fn resident(&self) -> Result<f64> {
        let pid = self.child.id().context("the webhook has ended")?;
        let kib = process::resident(pid).context("the webhook's memory can't be told")? >> 10;
        Ok(f64::from(u32::try_from(kib)?) / 1024.0)
    }

    /// Processor time so far, in s.
    fn spent(&self) -> Result<f64> {
        let pid = self.child.id().context("the webhook has ended")?;
        let ticks = process::ticks(pid).context("the webhook's processor time can't be told")?;
        Ok(f64::from(u32::try_from(ticks)?) / f64::from(u32::try_from(rustix::param::clock_ticks_per_second())?))
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(NAME.try_into()?, stream).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Connection { sender, driver: driver.boxed() })
    }

    async fn load(&self, path: &'static str, review: &Value) -> Result<Load> {
        let body = Bytes::from(review.to_string());
        let mut connections = try_join_all((0..CONNECTIONS).map(|_| self.connect())).await?;
        for connection in &mut connections {
            allowed(&connection.ask(path, body.clone()).await?)?;
        }
        let start = Instant::now() + WARMING_UP;
        let mut asking = JoinSet::new();
        for mut connection in connections {
            let body = body.clone();
            asking.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let asked = Instant::now();
                    if asked > start + TIME {
                        break;
                    }
                    connection.ask(path, body.clone()).await?;
                    if asked >= start {
                        times.push(asked.elapsed());
                    }
                }
                Ok::<_, anyhow::Error>(times)
            });
        }
        tokio::time::sleep_until(start.into()).await;
        let (machine, spent) = (Processors::now()?, self.spent()?);
        let times: Vec<_> = asking.join_all().await.into_iter().collect::<Result<_>>()?;
        Ok(Load {
            times: times.concat(),
            took: start.elapsed(),
            spent: self.spent()? - spent,
            machine: Processors::now()?.since(machine),
        })
    }

    async fn end(mut self) -> Result<()> {
        self.child.kill().await.context("end the webhook")
    }
}

/// One that is driven by whoever asks: another task for it would take processor time from what is measured.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: BoxFuture<'static, hyper::Result<()>>,
}

impl Connection {
    /// The body of the answer.
    async fn ask(&mut self, path: &str, body: Bytes) -> Result<Bytes> {
        let request = Request::post(path)
            .header(header::HOST, NAME)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let answer = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
            Ok(body)
        };
        tokio::select! {
            ended = &mut self.driver => bail!("the connection ended: {ended:?}"),
            answer = answer => answer,
        }
    }

    /// The object with what the mutating webhook writes on it.
    async fn written(&mut self, object: &Value, review: &Value) -> Result<Value> {
        let reply = allowed(&self.ask(MUTATE_PATH, Bytes::from(review.to_string())).await?)?;
        let mut object = object.clone();
        json_patch::patch(&mut object, &patch_in(&reply)?)?;
        Ok(object)
    }
}

fn allowed(body: &Bytes) -> Result<Value> {
    let reply: Value = serde_json::from_slice(body)?;
    if reply["response"]["allowed"] == true { Ok(reply) } else { bail!("not admitted: {reply}") }
}

async fn ready(admin: SocketAddr) -> Result<bool> {
    let (mut sender, driver) = http1::handshake(TokioIo::new(TcpStream::connect(admin).await?)).await?;
    let request = Request::get("/ready").header(header::HOST, "localhost").body(Full::<Bytes>::default())?;
    tokio::select! {
        ended = driver => bail!("the connection ended: {ended:?}"),
        response = sender.send_request(request) => Ok(response?.status().is_success()),
    }
}

/// One that nobody uses now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
