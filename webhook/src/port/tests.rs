//! Real connections to the port.

use std::net::SocketAddr;

use axum::routing::get;
use config::{args::ShutdownArgs, supervisor::Supervisor};
use prometheus_client::registry::Registry;
use rustls::{ClientConfig, RootCertStore, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;

mod hostile;
mod limits;

fn certificate() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    config::install_provider();
    let own = rcgen::generate_simple_self_signed(["webhook.test".to_owned()]).unwrap();
    let mut trusted = RootCertStore::empty();
    trusted.add(own.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key);
    (server.unwrap().into(), ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth().into())
}

/// A port, its address, and the configuration of an accepted client.
fn port(path: SecretPath, limits: Limits) -> (Port, SocketAddr, Arc<ClientConfig>) {
    let (tls, client) = certificate();
    let listener = config::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    (Port { listener, tls, path, metrics, limits }, address, client)
}

async fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(tls).connect("webhook.test".try_into().unwrap(), stream).await.unwrap()
}

/// Reads until `text` has arrived.
async fn read_until(stream: &mut TlsStream<TcpStream>, text: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// The time for which an API server keeps an idle connection, from Go's default transport.
const KEPT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_connection_is_the_askers_to_drop() {
    let (port, address, client) = port(SecretPath::open(), Limits::default());
    let routes = Router::new().route("/", get(async || "decided"));
    let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
    let asking = async {
        let mut stream = connect(address, client).await;
        for _ in 0..2 {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: webhook.test\r\n\r\n").await.unwrap();
            read_until(&mut stream, "decided").await;
            tokio::time::pause();
            tokio::time::advance(KEPT).await;
            tokio::time::resume();
        }
    };
    tokio::select! {
        ended = port.serve(routes, Shutdown::new(&args)) => panic!("{ended:?}"),
        () = asking => {}
    }
}

#[tokio::test]
async fn what_was_asked_before_the_end_is_answered_and_nothing_after() {
    let (port, address, client) = port(SecretPath::open(), Limits::default());
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (heard, may) = (Arc::clone(&asked), Arc::clone(&answer));
    let handler = async move || {
        heard.notify_one();
        may.notified().await;
        "decided"
    };
    let routes = Router::new().route("/", get(handler));
    let limit = Duration::from_secs(30);
    let shutdown = Shutdown::new(&ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: limit });
    let serving = port.serve(routes, shutdown.clone());
    let process = Supervisor::new(shutdown.clone()).service("reviews", serving).run();

    let asking = async {
        let mut stream = connect(address, client).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: webhook.test\r\n\r\n").await.unwrap();
        asked.notified().await;
        shutdown.begin();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        answer.notify_one();
        let said = read_until(&mut stream, "decided").await;
        assert!(said.contains("connection: close"), "nothing more is to be asked here: {said}");
    };
    let (ended, ()) = timeout(limit, async { tokio::join!(process, asking) }).await.unwrap();
    ended.unwrap();
}
