//! Callers that are slow, numerous, or send large requests.

use serde_json::json;
use tokio::task::{JoinSet, yield_now};

use super::{hostile::SEGMENT, *};
use crate::{
    body::{Bodies, MAX_BODIES, MAX_BODY},
    fake_cluster::{Webhook, World, creation},
    manifests::MUTATE_PATH,
};

/// Longer than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(100);

/// The whole webhook behind its port, until dropped.
pub(super) struct Served {
    address: SocketAddr,
    client: Arc<ClientConfig>,
    bodies: Bodies,
    pub(super) registry: Registry,
    _webhook: Webhook,
    _serving: JoinSet<io::Result<()>>,
}

impl Served {
    pub(super) fn start(mut webhook: Webhook, limits: Limits) -> Self {
        let (port, address, client) = port(SecretPath::from_text(SEGMENT).unwrap(), limits);
        let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
        let mut serving = JoinSet::new();
        let port = Port { metrics: webhook.admission.metrics.clone(), ..port };
        serving.spawn(port.serve(webhook.router(), Shutdown::new(&args)));
        let bodies = webhook.admission.bodies.clone();
        let registry = std::mem::take(&mut webhook.registry);
        Self { address, client, bodies, registry, _webhook: webhook, _serving: serving }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        connect(self.address, Arc::clone(&self.client)).await
    }

    /// Sends this on a new connection. Returns all data until it is closed.
    pub(super) async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        // The answer may end before the request does.
        let _ = stream.write_all(request.as_bytes()).await;
        end(&mut stream).await
    }

    /// Sends a review of a clone. Returns the status.
    pub(super) async fn review(&self, segment: &str) -> u16 {
        review_on(&mut self.connect().await, segment).await
    }
}

/// Reads until the connection ends, for whatever reason.
async fn end(stream: &mut TlsStream<TcpStream>) -> String {
    let mut answer = Vec::new();
    let read = async { while stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    timeout(PATIENCE, read).await.expect("the connection does not end");
    String::from_utf8(answer).unwrap()
}

async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection does not end");
    assert_eq!(read.unwrap_or_default(), 0);
}

async fn review_on(stream: &mut TlsStream<TcpStream>, segment: &str) -> u16 {
    let spec = json!({"spec": {"source": {"pvc": {"namespace": "ns", "name": "source"}}, "storage": {}}});
    let mut object = spec;
    object["metadata"] = json!({"name": "clone"});
    let body = creation(&object).to_string();
    stream.write_all(format!("{}{body}", head(segment, body.len())).as_bytes()).await.unwrap();
    let read = timeout(PATIENCE, async {
        let mut answer = Vec::new();
        loop {
            if let Some(status) = status(&String::from_utf8_lossy(&answer)) {
                break status;
            }
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
        }
    });
    read.await.unwrap()
}

/// The status of an answer, if it is complete.
fn status(answer: &str) -> Option<u16> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let length: usize = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    (body.len() == length).then(|| head.split(' ').nth(1).unwrap().parse().unwrap())
}

fn head(segment: &str, length: usize) -> String {
    format!("POST /{segment}{MUTATE_PATH} HTTP/1.1\r\nhost: webhook.test\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_out() {
    let limits = Limits { connections: 8, ..Limits::default() };
    let served = Served::start(World::new().webhook().await, limits);
    let mut proven = served.connect().await;
    assert_eq!(review_on(&mut proven, SEGMENT).await, 200);
    let mut silent = Vec::new();
    for _ in 0..5 * limits.connections {
        silent.push(served.tcp().await);
    }
    assert_eq!(served.review(SEGMENT).await, 200, "silent before the handshake");
    closed(&mut silent[0]).await;
    let mut handshaken = Vec::new();
    for _ in 0..5 * limits.connections {
        handshaken.push(served.connect().await);
    }
    assert_eq!(served.review(SEGMENT).await, 200, "silent after it");
    assert_eq!(end(&mut handshaken[0]).await, "");
    let mut half = Vec::new();
    for _ in 0..5 * limits.connections {
        let mut stream = served.connect().await;
        stream.write_all(b"POST / HTTP/1.1\r\nhost: ").await.unwrap();
        half.push(stream);
    }
    assert_eq!(served.review(SEGMENT).await, 200, "silent within a head");
    assert_eq!(review_on(&mut proven, SEGMENT).await, 200, "an API server's connection never makes room");
}

#[tokio::test]
async fn no_more_connections_than_allowed_are_open() {
    let limits = Limits { connections: 4, ..Limits::default() };
    let served = Served::start(World::new().webhook().await, limits);
    let mut proven = Vec::new();
    for _ in 0..limits.connections {
        let mut stream = served.connect().await;
        assert_eq!(review_on(&mut stream, SEGMENT).await, 200);
        proven.push(stream);
    }
    closed(&mut served.tcp().await).await;
    // A closed connection makes room.
    proven.pop().unwrap().shutdown().await.unwrap();
    let again = async {
        loop {
            let tls = TlsConnector::from(Arc::clone(&served.client));
            if let Ok(mut stream) = tls.connect("webhook.test".try_into().unwrap(), served.tcp().await).await {
                break review_on(&mut stream, SEGMENT).await;
            }
            yield_now().await;
        }
    };
    assert_eq!(timeout(PATIENCE, again).await.unwrap(), 200);
}

#[tokio::test]
async fn a_handshake_and_a_head_come_in_time() {
    let limits = Limits { handshake_timeout: SHORT, head_timeout: SHORT, ..Limits::default() };
    let served = Served::start(World::new().webhook().await, limits);
    closed(&mut served.tcp().await).await;
    let begun = format!("POST /{SEGMENT}{MUTATE_PATH} HTTP/1.1\r\nhost: webh");
    assert!(!served.ask(&begun).await.contains("200"));
}

#[tokio::test]
async fn a_head_has_an_end() {
    let served = Served::start(World::new().webhook().await, Limits::default());
    let long = "x".repeat(1 << 20);
    let answer = served.ask(&format!("POST /{SEGMENT}{MUTATE_PATH} HTTP/1.1\r\nlong: {long}\r\n\r\n")).await;
    assert!(!answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn a_body_comes_in_time() {
    let webhook = World::new().webhook_with(Bodies::new(SHORT, SHORT)).await;
    let served = Served::start(webhook, Limits::default());
    let answer = served.ask(&format!("{}{{", head(SEGMENT, 1000))).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(served.review(SEGMENT).await, 200);
    left(&served, MAX_BODIES).await;
}

/// Waits until `bytes` of the budget are left.
async fn left(served: &Served, bytes: usize) {
    let polled = async {
        while served.bodies.left() != bytes {
            yield_now().await;
        }
    };
    timeout(PATIENCE, polled).await.unwrap_or_else(|_| panic!("{} are left", served.bodies.left()));
}

#[tokio::test]
async fn bodies_take_no_more_than_their_budget() {
    let webhook = World::new().webhook_with(Bodies::new(PATIENCE, SHORT)).await;
    let served = Served::start(webhook, Limits::default());
    let fit = MAX_BODIES / MAX_BODY;
    let mut held = Vec::new();
    for _ in 0..fit {
        let mut stream = served.connect().await;
        stream.write_all(format!("{}{{", head(SEGMENT, MAX_BODY)).as_bytes()).await.unwrap();
        held.push(stream);
    }
    left(&served, MAX_BODIES - fit * MAX_BODY).await;
    let chunked = format!(
        "POST /{SEGMENT}{MUTATE_PATH} HTTP/1.1\r\nhost: webhook.test\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{{\r\n"
    );
    for request in [head(SEGMENT, MAX_BODY), chunked] {
        let answer = served.ask(&request).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    let answer = served.ask(&head(SEGMENT, MAX_BODY + 1)).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(served.review(SEGMENT).await, 200, "a usual review has room");
    drop(held);
    left(&served, MAX_BODIES).await;
}

/// A quarter of the pod's memory limit: the rest is for caches and decoded bodies.
#[test]
fn what_the_port_holds_is_a_part_of_the_memory_limit() {
    let manifests = crate::manifests::manifests().unwrap();
    let objects = manifests.iter().flat_map(|manifest| &manifest.objects);
    let deployment = objects.into_iter().find(|object| object["kind"] == "Deployment").unwrap();
    let limit = &deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"];
    let limit: usize = limit.as_str().unwrap().strip_suffix("Mi").unwrap().parse().unwrap();
    let Limits { connections, read_buffer, .. } = Limits::default();
    // The buffers of rustls for an incomplete record and for an unsent one.
    let record = 2 * (18 << 10);
    assert!(connections * (read_buffer + record) + MAX_BODIES <= (limit << 20) / 4);
}
