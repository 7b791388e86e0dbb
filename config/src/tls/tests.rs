//! A live server, and a client that trusts what an API server would be told to trust.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, routing::get};
use axum_server::tls_rustls::RustlsConfig;
use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{args::ShutdownArgs, listen, tls::authority::Authority};

const NAME: &str = "webhook.smartclone.svc";

pub(super) fn serving() -> (Serving, Readiness) {
    let args = ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO };
    let readiness = Readiness::new(Shutdown::new(&args));
    let certificate = readiness.register("certificate");
    (Serving { resolver: Arc::default(), certificate, metrics: CertificateMetrics::default() }, readiness)
}

struct Server {
    address: SocketAddr,
    serving: Serving,
    _tasks: JoinSet<io::Result<()>>,
}

impl Server {
    fn start() -> Self {
        let (serving, _) = serving();
        let config = RustlsConfig::from_config(Arc::new(server_config(serving.resolver.clone()).unwrap()));
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let server = axum_server::from_tcp_rustls(listener, config).unwrap();
        let router = Router::new().route("/", get(async || "served"));
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve(router.into_make_service()));
        Self { address, serving, _tasks: tasks }
    }

    /// Connects as an API server that was told to trust `bundle`.
    async fn connect(&self, bundle: &str, protocols: &[&str]) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let tcp = TcpStream::connect(self.address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), tcp).await
    }
}

fn peer(stream: &TlsStream<TcpStream>) -> CertificateDer<'_> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    let request = format!("GET / HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn certificates_are_swapped_under_running_connections() {
    let now = Timestamp::now();
    let server = Server::start();
    let authority = Authority::generate("", now).unwrap();
    let leaves = [(); 3].map(|()| authority.issue(&[NAME.to_owned()], now).unwrap().pair);

    assert!(server.connect(&authority.bundle, &[]).await.is_err(), "no certificate, no handshake");
    let mut connections = Vec::new();
    for leaf in &leaves {
        server.serving.present(leaf);
        let connection = server.connect(&authority.bundle, &["http/1.1"]).await.unwrap();
        assert_eq!(peer(&connection), leaf.key.cert[0]);
        connections.push(connection);
    }
    for mut connection in connections {
        assert!(ask(&mut connection).await.ends_with("served"), "older connections go on");
    }
}

#[tokio::test]
async fn http2_is_preferred() {
    let now = Timestamp::now();
    let server = Server::start();
    let authority = Authority::generate("", now).unwrap();
    server.serving.present(&authority.issue(&[NAME.to_owned()], now).unwrap().pair);
    let connection = server.connect(&authority.bundle, &["http/1.1", "h2"]).await.unwrap();
    assert_eq!(connection.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn clients_trust_both_sides_of_a_handover() {
    let now = Timestamp::now();
    let server = Server::start();
    let old = Authority::generate("", now).unwrap();
    let new = Authority::generate(&old.bundle, now).unwrap();
    let leaf = |authority: &Authority| authority.issue(&[NAME.to_owned()], now).unwrap().pair;

    server.serving.present(&leaf(&old));
    assert!(server.connect(&old.bundle, &[]).await.is_ok());
    assert!(server.connect(&new.bundle, &[]).await.is_ok(), "the successor's bundle has the predecessor");
    server.serving.present(&leaf(&new));
    assert!(server.connect(&new.bundle, &[]).await.is_ok());
    assert!(server.connect(&old.bundle, &[]).await.is_err(), "which is why the bundle is published before the switch");
}
