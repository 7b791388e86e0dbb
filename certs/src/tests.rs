//! A live server, clients that trust the published bundle, and files as kubelet mounts them.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    Router,
    http::{StatusCode, Uri},
};
use axum_server::tls_rustls::RustlsConfig;
use clap::Parser;
use config::{Chain, args::ShutdownArgs, listen};
use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rstest::rstest;
use rustls::{
    ALL_VERSIONS, ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{RwLock, RwLockWriteGuard},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{authority::Authority, fake_api::FakeApi};

pub(super) const NAME: &str = "webhook.smartclone.svc";
/// Longer than any step takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn shutdown() -> Shutdown {
    Shutdown::new(&ShutdownArgs { shutdown_pause: Duration::ZERO, shutdown_limit: Duration::ZERO })
}

pub(super) fn serving() -> (Serving, Readiness) {
    let readiness = Readiness::new(shutdown());
    let certificate = readiness.register("certificate");
    (Serving { resolver: Arc::default(), certificate, metrics: CertificateMetrics::default() }, readiness)
}

/// Serves until dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    _tasks: JoinSet<io::Result<()>>,
}

impl Server {
    pub(super) fn start(serving: &Serving, clients: Option<Arc<Clients>>) -> Self {
        Self::start_at(serving, clients, SecretPath::open())
    }

    /// The same, with these accepted paths.
    pub(super) fn start_at(serving: &Serving, clients: Option<Arc<Clients>>, path: SecretPath) -> Self {
        let config = server_config(serving.resolver.clone(), clients).unwrap();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(config))).unwrap();
        let router = Router::new()
            .fallback(async move |uri: Uri| path.route(uri.path()).map(|_| "served").ok_or(StatusCode::NOT_FOUND));
        let mut tasks = JoinSet::new();
        tasks.spawn(server.serve(router.into_make_service()));
        Self { address, _tasks: tasks }
    }
}

/// An API server that trusts `bundle`, with or without a client certificate.
pub(super) fn client(bundle: &str, own: Option<&Material>) -> ClientConfig {
    client_speaking(ALL_VERSIONS, bundle, own)
}

pub(super) fn client_speaking(
    versions: &[&'static SupportedProtocolVersion],
    bundle: &str,
    own: Option<&Material>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let Some(own) = own else { return builder.with_no_client_auth() };
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
    builder.with_client_auth_cert(vec![own.der()], key).unwrap()
}

async fn connect(server: &Server, config: impl Into<Arc<ClientConfig>>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(server.address).await?;
    TlsConnector::from(config.into()).connect(ServerName::try_from(NAME).unwrap(), tcp).await
}

fn peer(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> io::Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.ends_with("served") { Ok(()) } else { Err(io::Error::other(answer)) }
}

/// Connects and sends one request. Returns the certificate of the server.
pub(super) async fn visit(
    server: &Server,
    config: impl Into<Arc<ClientConfig>>,
) -> io::Result<CertificateDer<'static>> {
    visit_at(server, config, "/").await
}

/// The same at another path.
pub(super) async fn visit_at(
    server: &Server,
    config: impl Into<Arc<ClientConfig>>,
    path: &str,
) -> io::Result<CertificateDer<'static>> {
    let mut stream = connect(server, config).await?;
    ask(&mut stream, path).await?;
    Ok(peer(&stream))
}

/// Returns the bundle and the path for a client that connects now.
pub(super) type Trust = Box<dyn Fn() -> (String, String) + Send>;

/// Clients that connect continuously until one of them is refused.
#[derive(Default)]
pub(super) struct Load {
    visits: Vec<Arc<AtomicUsize>>,
    gate: Arc<RwLock<()>>,
    tasks: JoinSet<io::Error>,
}

impl Load {
    pub(super) fn start(clients: impl IntoIterator<Item = (Arc<Server>, Trust)>) -> Self {
        let mut load = Self::default();
        for (server, trust) in clients {
            let (visits, gate) = (Arc::new(AtomicUsize::new(0)), load.gate.clone());
            load.visits.push(visits.clone());
            load.tasks.spawn(async move {
                loop {
                    let _gate = gate.read().await;
                    let (bundle, path) = trust();
                    let answer = timeout(PATIENCE, visit_at(&server, client(&bundle, None), &path)).await;
                    if let Err(error) = answer.unwrap_or_else(|late| Err(late.into())) {
                        return error;
                    }
                    visits.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load
    }

    /// While this guard is held, no client is between reading the bundle and its answer.
    pub(super) async fn pause(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().await
    }

    /// Waits until every client has made some more visits, and asserts that none was ever refused.
    pub(super) async fn goes_on(&mut self) {
        // The first of them may have begun before.
        let wanted: Vec<_> = self.visits.iter().map(|visits| visits.load(Ordering::Relaxed) + 4).collect();
        loop {
            let done =
                self.visits.iter().zip(&wanted).all(|(visits, wanted)| visits.load(Ordering::Relaxed) >= *wanted);
            if let Some(turned_away) = self.tasks.try_join_next() {
                panic!("a client was turned away: {:?}", turned_away.unwrap());
            }
            if done {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// An external authority. All have the same name, as successors of the cluster's authority may have.
pub(super) type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(super) fn issuer() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, as files hold them.
pub(super) struct Material {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Material {
    pub(super) fn signed(issuer: &Issuer, params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.signed_by(&key, issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    /// A certificate for serving.
    pub(super) fn for_server(issuer: &Issuer) -> Self {
        Self::signed(issuer, &CertificateParams::new([NAME.to_owned()]).unwrap())
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    pub(super) fn files(&self) -> [(&'static str, &str); 2] {
        [("tls.crt", &self.certificate), ("tls.key", &self.key)]
    }
}

/// A directory as kubelet creates it: the files are links into `..data`, itself a link that is replaced as a whole.
pub(super) struct Mount {
    directory: tempfile::TempDir,
    versions: usize,
}

impl Mount {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let mut mount = Self { directory: tempfile::tempdir().unwrap(), versions: 0 };
        mount.swap(files);
        for (name, _) in files {
            symlink(Path::new("..data").join(name), mount.path(name)).unwrap();
        }
        mount
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn swap(&mut self, files: &[(&str, &str)]) {
        let old = fs::read_link(self.path("..data"));
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        fs::create_dir(self.path(&version)).unwrap();
        for (name, content) in files {
            fs::write(self.path(&version).join(name), content).unwrap();
        }
        symlink(&version, self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        if let Ok(old) = old {
            fs::remove_dir_all(self.directory.path().join(old)).unwrap();
        }
    }
}

/// Waits until the condition holds. The time is simulated, so this takes none.
pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(file::PERIOD * 3, poll).await.expect("within three periods");
}

#[tokio::test]
async fn certificates_are_swapped_under_running_connections() {
    let now = Timestamp::now();
    let (serving, _) = serving();
    let server = Server::start(&serving, None);
    let authority = Authority::generate("", now).unwrap();
    let leaves = [(); 3].map(|()| authority.issue(&[NAME.to_owned()], now).unwrap().pair);

    assert!(connect(&server, client(&authority.bundle, None)).await.is_err(), "no certificate, no handshake");
    let mut connections = Vec::new();
    for leaf in &leaves {
        serving.present(leaf);
        let connection = connect(&server, client(&authority.bundle, None)).await.unwrap();
        assert_eq!(peer(&connection), leaf.key.cert[0]);
        connections.push(connection);
    }
    for mut connection in connections {
        ask(&mut connection, "/").await.expect("older connections go on");
    }
}

#[tokio::test]
async fn http2_is_not_offered() {
    let now = Timestamp::now();
    let (serving, _) = serving();
    let server = Server::start(&serving, None);
    let authority = Authority::generate("", now).unwrap();
    serving.present(&authority.issue(&[NAME.to_owned()], now).unwrap().pair);
    let mut config = client(&authority.bundle, None);
    config.alpn_protocols = ["h2", "http/1.1"].map(|protocol| protocol.as_bytes().to_vec()).to_vec();
    let connection = connect(&server, config).await.unwrap();
    assert_eq!(connection.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn clients_trust_both_sides_of_a_handover() {
    let now = Timestamp::now();
    let (serving, _) = serving();
    let server = Server::start(&serving, None);
    let old = Authority::generate("", now).unwrap();
    let new = Authority::generate(&old.bundle, now).unwrap();
    let leaf = |authority: &Authority| authority.issue(&[NAME.to_owned()], now).unwrap().pair;

    serving.present(&leaf(&old));
    assert!(visit(&server, client(&old.bundle, None)).await.is_ok());
    assert!(visit(&server, client(&new.bundle, None)).await.is_ok(), "the successor's bundle has the predecessor");
    serving.present(&leaf(&new));
    assert!(visit(&server, client(&new.bundle, None)).await.is_ok());
    assert!(
        visit(&server, client(&old.bundle, None)).await.is_err(),
        "which is why the bundle is published before the switch"
    );
}

#[derive(Parser)]
struct Everything {
    #[command(flatten)]
    certificate: CertificateArgs,
}

async fn start(mount: &Mount, metrics: CertificateMetrics) -> Result<Certificates, Error> {
    start_with(mount, metrics, &[]).await
}

async fn start_with(mount: &Mount, metrics: CertificateMetrics, more: &[String]) -> Result<Certificates, Error> {
    let files = [("--tls-cert-file", "tls.crt"), ("--tls-key-file", "tls.key"), ("--client-ca-file", "ca.crt")];
    let options = files.map(|(option, file)| format!("{option}={}", mount.path(file).display()));
    let args =
        Everything::parse_from(["test".to_owned()].into_iter().chain(options).chain(more.iter().cloned())).certificate;
    let (client, shutdown) = (FakeApi::default().client(), shutdown());
    let readiness = &Readiness::new(shutdown.clone());
    certificates(&args, &[], Process { client: &client, readiness, metrics, shutdown }).await
}

#[rstest]
#[case::empty("", "failed to find an authority")]
#[case::no_certificate("rubbish", "failed to find an authority")]
#[case::cut_off("-----BEGIN CERTIFICATE-----\nMIIB", "failed to read the certificates")]
#[case::not_parsable("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "failed to use a certificate")]
#[tokio::test]
async fn a_bad_file_of_authorities_fails_the_start(#[case] content: &str, #[case] reason: &str) {
    let material = Material::for_server(&issuer());
    let [certificate, key] = material.files();
    let mount = Mount::new(&[certificate, key, ("ca.crt", content)]);
    let error = start(&mount, CertificateMetrics::default()).await.err().unwrap();
    let message = Chain(&error).to_string();
    let file = mount.path("ca.crt").display().to_string();
    assert!(message.contains(&format!("{file}: {reason}")), "{message}");
}

#[tokio::test]
async fn with_files_every_path_is_answered_unless_a_file_says_otherwise() {
    let issuer = issuer();
    let (bundle, material) = (issuer.pem(), Material::for_server(&issuer));
    let [certificate, key] = material.files();
    let mount = Mount::new(&[certificate, key, ("ca.crt", &bundle), ("segments", &"a".repeat(64)), ("none", "")]);
    let path = start(&mount, CertificateMetrics::default()).await.unwrap().path;
    assert_eq!(path.route("/mutate"), Some("/mutate"));
    let with = async |file| {
        let option = format!("--path-segment-file={}", mount.path(file).display());
        start_with(&mount, CertificateMetrics::default(), &[option]).await
    };
    let path = with("segments").await.unwrap().path;
    assert_eq!(path.route("/mutate"), None);
    assert_eq!(path.route(&format!("/{}/mutate", "a".repeat(64))), Some("/mutate"));
    assert!(matches!(with("none").await, Err(Error::Segments(_))));
}

#[tokio::test(start_paused = true)]
async fn certificate_and_authorities_are_followed_by_one_service() {
    let issuer = issuer();
    let (bundle, material) = (issuer.pem(), Material::for_server(&issuer));
    let [certificate, key] = material.files();
    let mut mount = Mount::new(&[certificate, key, ("ca.crt", &bundle)]);
    let metrics = CertificateMetrics::default();
    let service = start(&mount, metrics.clone()).await.unwrap().service;
    let damages = async {
        mount.swap(&[certificate, key, ("ca.crt", "rubbish")]);
        until(|| metrics.failures() > 0).await;
        mount.swap(&[certificate, key, ("ca.crt", &bundle)]);
        sleep(file::PERIOD * 2).await;
        let before = metrics.failures();
        mount.swap(&[certificate, ("tls.key", "rubbish"), ("ca.crt", &bundle)]);
        until(|| metrics.failures() > before).await;
    };
    tokio::select! {
        () = damages => {}
        () = service => panic!("following ends with the process only"),
    }
}

#[test]
fn clients_are_named_in_one_argument_or_in_several() {
    let args = ["test", "--client-ca-file=ca.crt", "--client-name=one,two", "--client-name=three"];
    assert_eq!(Everything::parse_from(args).certificate.client_name, ["one", "two", "three"]);
}

#[rstest]
#[case::certificate_without_key(&["test", "--tls-cert-file", "tls.crt"])]
#[case::key_without_certificate(&["test", "--tls-key-file", "tls.key"])]
#[case::segments_without_certificate(&["test", "--path-segment-file", "segments"])]
#[case::client_without_authority(&["test", "--client-name", "kube-apiserver"])]
#[case::client_without_name(&["test", "--client-ca-file", "ca.crt", "--client-name", "kube-apiserver,"])]
fn nonsense_is_refused(#[case] args: &[&str]) {
    assert!(Everything::try_parse_from(args).is_err());
}
