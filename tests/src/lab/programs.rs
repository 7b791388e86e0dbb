//! The processes of a cluster and how each is started.

use anyhow::{Context as _, Result, ensure};

use super::{
    Lab,
    command::{find, write},
    images::Image,
    layout::NODE,
    network::{Link, PODS, SERVICES},
    packages::CNI_PLUGINS,
    process::Program,
    storage::Driver,
};

/// What they are called in `status`, logs, and [`Lab::restart`].
pub const ETCD: &str = "etcd";
/// The API server.
pub const API_SERVER: &str = "kube-apiserver";
/// The container runtime.
pub const CONTAINERD: &str = "containerd";
/// The node's agent.
pub const KUBELET: &str = "kubelet";
/// The controller of snapshots, one for all drivers.
pub const SNAPSHOT_CONTROLLER: &str = "snapshot-controller";

/// Nobody's own limit is to be what a bench measures.
const API_LIMITS: [&str; 2] = ["--kube-api-qps=200", "--kube-api-burst=400"];

/// Writes the configuration files that the programs read.
pub fn configure(lab: &Lab) -> Result<()> {
    let layout = lab.layout();
    for (file, template) in [
        ("containerd.toml", include_str!("../../lab/config/containerd.toml")),
        ("cni/pods.conflist", include_str!("../../lab/config/pods.conflist")),
        ("kubelet.yaml", include_str!("../../lab/config/kubelet.yaml")),
        ("kube-proxy.yaml", include_str!("../../lab/config/kube-proxy.yaml")),
        ("kube-scheduler.yaml", include_str!("../../lab/config/kube-scheduler.yaml")),
        ("audit-policy.yaml", include_str!("../../lab/config/audit-policy.yaml")),
        ("admission.yaml", include_str!("../../lab/config/admission.yaml")),
    ] {
        let text = template
            .replace("${state}", &layout.state().display().to_string())
            .replace("${cgroup}", &layout.cgroup())
            .replace("${node}", NODE)
            .replace("${pods}", PODS)
            .replace("${cni_plugins}", CNI_PLUGINS)
            .replace("${sandbox_image}", &Image::Tools.reference());
        ensure!(!text.contains("${"), "{file} has a placeholder that nobody fills");
        write(&layout.etc(file), text)?;
    }
    Ok(())
}

impl Lab {
    /// etcd.
    pub(super) fn etcd(&self) -> Program {
        let data = self.layout().at("etcd");
        let args = vec![
            format!("--data-dir={}", data.display()),
            "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
            "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            // The data need not survive the machine's crash; a slow disk under a developer's machine shouldn't be measured.
            "--unsafe-no-fsync".to_owned(),
        ];
        Program::new(ETCD, self.components_bin().join("etcd"), args)
    }

    /// The API server.
    pub(super) fn api_server(&self, link: Link) -> Program {
        let layout = self.layout();
        let pki = |file: &str| layout.pki(file).display().to_string();
        let (policy, admission) = (layout.etc("audit-policy.yaml"), layout.etc("admission.yaml"));
        let args = vec![
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--advertise-address={}", link.node),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--profiling=false".to_owned(),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", pki("service-accounts.pub")),
            format!("--service-account-signing-key-file={}", pki("service-accounts.key")),
            format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            format!("--kubelet-client-certificate={}", pki("apiserver-kubelet-client.crt")),
            format!("--kubelet-client-key={}", pki("apiserver-kubelet-client.key")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--requestheader-client-ca-file={}", pki("ca.crt")),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")),
            format!("--proxy-client-key-file={}", pki("front-proxy-client.key")),
            // Dial webhooks' pods themselves, without the detour over a Service's address.
            "--enable-aggregator-routing=true".to_owned(),
            format!("--admission-control-config-file={}", admission.display()),
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", self.audit_log().display()),
            "--audit-log-maxsize=1000".to_owned(),
            "--audit-log-maxbackup=2".to_owned(),
        ];
        Program::new(API_SERVER, self.components_bin().join(API_SERVER), args)
            .reads(policy)
            .reads(admission)
            .reads(layout.pki("apiserver.crt"))
            .reads(layout.pki("service-accounts.pub"))
    }

    /// What runs as soon as the API server answers.
    pub(super) fn controllers(&self) -> Vec<Program> {
        let layout = self.layout();
        let bin = self.components_bin();
        let pki = |file: &str| layout.pki(file).display().to_string();
        let user = layout.kubeconfig("controller-manager").display().to_string();
        let mut manager = vec![
            format!("--kubeconfig={user}"),
            format!("--authentication-kubeconfig={user}"),
            format!("--authorization-kubeconfig={user}"),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!("--service-account-private-key-file={}", pki("service-accounts.key")),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--profiling=false".to_owned(),
            format!("--flex-volume-plugin-dir={}", layout.at("kubelet/volumeplugins").display()),
        ];
        manager.extend(API_LIMITS.map(str::to_owned));
        let config = |name: &str, file: &str| {
            let file = layout.etc(file);
            Program::new(name, bin.join(name), vec![format!("--config={}", file.display())]).reads(file)
        };
        let ca = layout.pki("ca.crt");
        [
            Program::new("kube-controller-manager", bin.join("kube-controller-manager"), manager),
            config("kube-scheduler", "kube-scheduler.yaml"),
            config("kube-proxy", "kube-proxy.yaml"),
        ]
        .map(|program| program.reads(ca.clone()))
        .into()
    }

    /// containerd, without which kubelet doesn't start.
    pub(super) fn containerd(&self) -> Result<Program> {
        let config = self.layout().etc("containerd.toml");
        let executable = find(CONTAINERD).context("containerd is not installed")?;
        let args = vec![format!("--config={}", config.display())];
        Ok(Program::new(CONTAINERD, executable, args).reads(config).reads(self.layout().etc("cni/pods.conflist")))
    }

    /// The node's agent, which takes its copies of two directories at fixed places for the host's: another kubelet's
    /// are not to be touched. Its own directory stays shared with containerd and the drivers.
    pub(super) fn kubelet(&self, link: Link) -> Program {
        const MOVE_IN: &str = r#"
            for fixed in /var/lib/kubelet /var/log/containers; do
                mkdir -p "$fixed" "$0$fixed"
                mount --make-slave "$(findmnt --noheadings --output TARGET --target "$fixed" | tail -n 1)"
                mount --bind "$0$fixed" "$fixed"
            done
            exec "$@""#;
        let layout = self.layout();
        let config = layout.etc("kubelet.yaml");
        let root = layout.at("kubelet");
        let enter = ["--mount", "--propagation=unchanged", "--", "sh", "-euc", MOVE_IN];
        let mut args: Vec<_> = enter.map(str::to_owned).into();
        args.extend([
            layout.at("fixed").display().to_string(),
            self.components_bin().join(KUBELET).display().to_string(),
            format!("--config={}", config.display()),
            format!("--root-dir={}", root.display()),
            format!("--cert-dir={}", root.join("pki").display()),
            format!("--kubeconfig={}", layout.kubeconfig("kubelet").display()),
            format!("--hostname-override={NODE}"),
            format!("--node-ip={}", link.node),
        ]);
        Program::new(KUBELET, "/usr/bin/unshare", args).reads(config).reads(layout.pki("kubelet.crt"))
    }

    /// The controller of snapshots; it ends at once while the CRDs are missing.
    pub(super) fn snapshot_controller(&self) -> Program {
        self.client_of_the_api(SNAPSHOT_CONTROLLER, SNAPSHOT_CONTROLLER, Vec::new())
    }

    /// The programs which translate the API's objects into calls of one driver.
    pub(super) fn sidecars(&self, driver: &Driver) -> Vec<Program> {
        let extra: [(&str, &[&str]); 3] = [
            // A claim that is deleted while it is restored leaves its snapshot with a finalizer of the provisioner's, which a sweep
            // removes. Its default of 5 min would be waited for whenever a clone is cancelled.
            (
                "csi-provisioner",
                &["--extra-create-metadata", "--default-fstype=ext4", "--snapshot-orphan-sweep-interval=5s"],
            ),
            ("csi-snapshotter", &["--extra-create-metadata"]),
            // It would watch all pods to learn what no driver here wants to know.
            ("csi-resizer", &["--handle-volume-inuse-error=false"]),
        ];
        let build = |(sidecar, extra): (&str, &[&str])| {
            let mut args = vec![format!("--csi-address={}", driver.socket().display())];
            args.extend(extra.iter().map(ToString::to_string));
            self.client_of_the_api(&driver.sidecar(sidecar), sidecar, args)
        };
        extra.into_iter().map(build).collect()
    }

    fn client_of_the_api(&self, name: &str, program: &str, mut args: Vec<String>) -> Program {
        args.push(format!("--kubeconfig={}", self.layout().kubeconfig(program).display()));
        args.push("--leader-election=false".to_owned());
        args.extend(API_LIMITS.map(str::to_owned));
        Program::new(name, self.components_bin().join(program), args).reads(self.layout().pki("ca.crt"))
    }
}

impl Driver {
    /// A storage driver's process.
    pub(super) fn program(&self) -> Result<Program> {
        let path = |path: std::path::PathBuf| path.display().to_string();
        for file in [self.socket(), self.registration_socket(), self.control_file()] {
            std::fs::create_dir_all(file.parent().context("a file has a directory")?)?;
        }
        std::fs::create_dir_all(self.data_dir())?;
        let args = [
            ("--driver-name", self.name()),
            ("--endpoint", format!("unix://{}", self.socket().display())),
            ("--registration-socket", path(self.registration_socket())),
            ("--data-dir", path(self.data_dir())),
            ("--node-id", NODE.to_owned()),
            ("--control-file", path(self.control_file())),
            ("--calls-file", path(self.calls_file())),
        ];
        let args = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        Ok(Program::new(self.process(), super::build::binary("reference-csi")?, args))
    }
}
