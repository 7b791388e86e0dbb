//! A real single-node Kubernetes of plain processes, one per checkout.

pub mod build;
pub mod cdi;
pub mod command;
mod components;
mod host;
pub mod images;
pub mod layout;
mod network;
mod objects;
pub mod packages;
pub mod pki;
pub mod process;
pub mod programs;
pub mod progress;
pub mod status;
pub mod storage;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use kube::{Client, config::Kubeconfig};
use tokio::{process::Command, try_join};

pub use self::components::user_cache;
use self::{
    command::remove_entry,
    components::Components,
    host::LoopDevice,
    images::Image,
    layout::Layout,
    network::Link,
    process::{Lock, Processes, Program},
    programs::{API_SERVER, CONTAINERD, ETCD, KUBELET, SNAPSHOT_CONTROLLER},
    progress::Progress,
    storage::{DRIVERS, Driver},
};

/// How long a process may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// This checkout's cluster, running or not.
#[derive(Debug, Clone)]
pub struct Lab {
    layout: Layout,
    components: Components,
}

impl Lab {
    /// The cluster of the checkout that this program was built from.
    pub fn for_this_checkout() -> Result<Self> {
        let layout = Layout::of_this_checkout()?;
        Ok(Self { components: Components::of(&layout)?, layout })
    }

    /// Where everything is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Starts the cluster, or what of it isn't running as it should.
    pub async fn up(&self, progress: &Progress) -> Result<()> {
        packages::check_machine()?;
        let _lock = self.lock(progress).await?;
        Box::pin(self.start(progress)).await
    }

    /// Stops the cluster and undoes what it did to the machine.
    pub async fn down(&self, progress: &Progress) -> Result<()> {
        packages::check_machine()?;
        let _lock = self.lock(progress).await?;
        progress.step("processes ended", self.stop()).await?;
        progress.step("machine as it was", async { self.remove() }).await
    }

    /// Starts anew with an empty etcd and empty storage; images and certificates stay.
    pub async fn reset(&self, progress: &Progress) -> Result<()> {
        packages::check_machine()?;
        let _lock = self.lock(progress).await?;
        progress.step("processes ended", self.stop()).await?;
        let emptied = async { self.empty(&["pki", "kubeconfig", "link.json"]) };
        progress.step("etcd, storage and containers emptied", emptied).await?;
        Box::pin(self.start(progress)).await
    }

    fn processes(&self) -> Processes<'_> {
        Processes::of(&self.layout)
    }

    async fn lock(&self, progress: &Progress) -> Result<Lock> {
        Lock::take(&self.layout.lock(), || progress.line("waiting for another command on this cluster")).await
    }

    async fn start(&self, progress: &Progress) -> Result<()> {
        let begin = Instant::now();
        packages::ensure(progress).await?;
        try_join!(
            self.components.ensure(progress),
            progress.step("the project's programs built", build::ensure(&self.layout))
        )?;
        let link = progress
            .step("network, disk, certificates", async {
                self.make_state_directory()?;
                host::prepare(&self.layout).await?;
                let (link, ()) = try_join!(network::ensure(&self.layout), storage::ensure(&self.layout))?;
                pki::ensure(&self.layout, link.node)?;
                programs::configure(self)?;
                Ok(link)
            })
            .await?;
        let client = self.client()?;
        let api = async {
            progress.step("etcd and API server", self.start_api(link, &client)).await?;
            let drivers = DRIVERS.map(|class| self.driver(class));
            let storage = async {
                try_join!(
                    progress.step("snapshot API and its controller", self.start_snapshots(&client)),
                    progress.step("storage drivers", try_join_all(drivers.iter().map(|it| self.start_driver(it)))),
                )?;
                // Not before the CRDs: a sidecar that finds none looks again after ever longer pauses.
                let sidecars: Vec<_> = drivers.iter().flat_map(|driver| self.sidecars(driver)).collect();
                progress.step("their sidecars", self.start_all(&sidecars)).await
            };
            try_join!(
                progress.step("controllers, scheduler, proxy", self.start_controllers(&client)),
                progress.step("kubelet and registered storage drivers", self.start_node(link, &client)),
                storage,
            )
        };
        try_join!(api, progress.step("containerd and images", self.start_containers()))?;
        self.check()?;
        progress.timed("up", begin.elapsed(), "all parts run");
        Ok(())
    }

    fn make_state_directory(&self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        // Keys are in it, and other users' business it is not.
        std::fs::create_dir_all(self.layout.state())?;
        std::fs::set_permissions(self.layout.state(), std::fs::Permissions::from_mode(0o700))?;
        let link = self.kubectl_path();
        if std::fs::read_link(&link).ok() != Some(self.components_bin().join("kubectl")) {
            std::fs::create_dir_all(link.parent().context("a link has a directory")?)?;
            remove_entry(&link)?;
            std::os::unix::fs::symlink(self.components_bin().join("kubectl"), link)?;
        }
        Ok(())
    }

    async fn start_api(&self, link: Link, client: &Client) -> Result<()> {
        let processes = self.processes();
        self.start_all(&[self.etcd(), self.api_server(link)]).await?;
        let alive = || [ETCD, API_SERVER].into_iter().try_for_each(|name| processes.check(name));
        self.telling(API_SERVER, objects::api_ready(client, alive).await)
    }

    async fn start_controllers(&self, client: &Client) -> Result<()> {
        let programs = self.controllers();
        self.start_all(&programs).await?;
        let alive = || programs.iter().try_for_each(|program| self.processes().check(&program.name));
        self.telling("kube-controller-manager", objects::controllers_ready(client, alive).await)
    }

    async fn start_snapshots(&self, client: &Client) -> Result<()> {
        objects::apply_crds(client, &self.components.snapshot_crds()).await?;
        self.start_all(&[self.snapshot_controller()]).await?;
        objects::apply(client, include_str!("../../lab/config/storage.yaml")).await?;
        Ok(())
    }

    async fn start_driver(&self, driver: &Driver) -> Result<()> {
        let processes = self.processes();
        let name = driver.process();
        let program = driver.program()?;
        if processes.start(&program).await? == process::Start::Started {
            // Sidecars of an ended driver linger for a while and then end.
            for sidecar in self.sidecars(driver) {
                processes.stop(&sidecar.name, Duration::ZERO).await?;
            }
        }
        let listening = command::until("the driver's socket", Duration::from_secs(20), async || {
            processes.check(&name)?;
            Ok(match tokio::net::UnixStream::connect(driver.socket()).await {
                Ok(_) => command::Look::Break(()),
                Err(error) => command::Look::Continue(error.to_string()),
            })
        });
        self.telling(&name, listening.await)
    }

    async fn start_containers(&self) -> Result<()> {
        let processes = self.processes();
        processes.start(&self.containerd()?).await?;
        let serving = command::until("containerd", Duration::from_secs(30), async || {
            processes.check(CONTAINERD)?;
            let answer = command::run(images::ctr(&self.layout, &["version"])).await;
            Ok(answer.map_or_else(|error| command::Look::Continue(format!("{error:#}")), |_| command::Look::Break(())))
        });
        self.telling(CONTAINERD, serving.await)?;
        self.ensure_images(&images::ALL).await?;
        Ok(())
    }

    async fn start_node(&self, link: Link, client: &Client) -> Result<()> {
        let processes = self.processes();
        processes.start(&self.kubelet(link)).await?;
        let drivers = DRIVERS.map(|class| self.driver(class).name());
        let alive = || [KUBELET, CONTAINERD].into_iter().try_for_each(|name| processes.check(name));
        let ready = async {
            try_join!(objects::node_ready(client, alive), objects::drivers_registered(client, &drivers, alive))
        };
        self.telling(KUBELET, ready.await.map(|_| ()))
    }

    async fn start_all(&self, programs: &[Program]) -> Result<()> {
        let processes = self.processes();
        try_join_all(programs.iter().map(|program| processes.start(program))).await?;
        Ok(())
    }

    /// Adds to a failed wait what the process that was waited for says.
    fn telling(&self, name: &str, result: Result<()>) -> Result<()> {
        result.map_err(|error| {
            let log = self.layout.log(name);
            error.context(format!("{name} said last, in {}:\n{}", log.display(), command::tail(&log, 20)))
        })
    }

    /// Fails when the cluster isn't up, or one of its processes has ended: then with the end of its log.
    pub fn check(&self) -> Result<()> {
        let processes = self.processes();
        for name in self.names() {
            ensure!(
                processes.record(&name)?.is_some(),
                "{name} was not started; start the cluster with: cargo cluster up"
            );
            processes.check(&name)?;
        }
        Ok(())
    }

    /// Of all processes.
    fn names(&self) -> Vec<String> {
        let mut names = [ETCD, API_SERVER, CONTAINERD, KUBELET, SNAPSHOT_CONTROLLER].map(str::to_owned).to_vec();
        names.extend(self.controllers().into_iter().map(|program| program.name));
        for driver in DRIVERS.map(|class| self.driver(class)) {
            names.push(driver.process());
            names.extend(self.sidecars(&driver).into_iter().map(|program| program.name));
        }
        names
    }

    /// Everything is given up here, so nothing is asked to end in peace.
    async fn stop(&self) -> Result<()> {
        let processes = self.processes();
        let records = processes.records()?;
        try_join_all(records.iter().map(|record| processes.stop(&record.name, Duration::ZERO))).await?;
        host::kill_everything(&self.layout).await?;
        storage::release(&self.layout).await?;
        network::remove(&self.layout).await?;
        host::unmount_below(&self.layout.state()).await?;
        host::remove_cgroup(&self.layout).await
    }

    /// Removes what is below the state directory except for some entries.
    fn empty(&self, except: &[&str]) -> Result<()> {
        let state = self.layout.state();
        let mounts = host::mounts_below(&state)?;
        ensure!(mounts.is_empty(), "still mounted: {mounts:?}");
        for entry in std::fs::read_dir(&state).into_iter().flatten() {
            let entry = entry?;
            if !except.iter().any(|kept| entry.file_name() == *kept) {
                remove_entry(&entry.path())?;
            }
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        self.empty(&[])?;
        remove_entry(&self.layout.state())?;
        host::sweep_fixed_places();
        remove_entry(&self.layout.lock())?;
        let others =
            std::fs::read_dir(Layout::home())?.flatten().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        if !others {
            host::restore_sysctls()?;
            // Fails when a cluster is being started just now, which is as well.
            let _ = std::fs::remove_dir(Layout::home());
        }
        Ok(())
    }

    /// Stops one process of the cluster and starts it again; a driver's sidecars go with it.
    pub async fn restart(&self, name: &str) -> Result<()> {
        let _lock = self.lock(&Progress::silent()).await?;
        self.processes().stop(name, GRACE).await?;
        self.start_named(name).await
    }

    /// Kills one process, as a crash would; [`Lab::restart`] brings it back.
    pub async fn kill(&self, name: &str) -> Result<()> {
        let _lock = self.lock(&Progress::silent()).await?;
        self.processes().stop(name, Duration::ZERO).await
    }

    async fn start_named(&self, name: &str) -> Result<()> {
        let link = Link::load(&self.layout)?.context("the cluster is not running")?;
        let client = self.client()?;
        if let Some(class) = DRIVERS.into_iter().find(|class| self.driver(class).process() == name) {
            let driver = self.driver(class);
            self.start_driver(&driver).await?;
            return self.start_all(&self.sidecars(&driver)).await;
        }
        match name {
            ETCD | API_SERVER => self.start_api(link, &client).await,
            CONTAINERD => self.start_containers().await,
            KUBELET => self.start_node(link, &client).await,
            SNAPSHOT_CONTROLLER => self.start_all(&[self.snapshot_controller()]).await,
            _ => {
                let mut programs = self.controllers();
                programs.extend(DRIVERS.iter().flat_map(|class| self.sidecars(&self.driver(class))));
                programs.retain(|program| program.name == name);
                if programs.is_empty() {
                    bail!("no process of the cluster is called {name}");
                }
                self.start_all(&programs).await
            }
        }
    }

    /// Builds and imports the images whose programs have changed; returns them. The programs have to be built.
    pub async fn ensure_images(&self, images: &[Image]) -> Result<Vec<Image>> {
        images::ensure(&self.layout, images).await
    }

    /// Builds the project's programs.
    pub async fn build(&self) -> Result<()> {
        build::ensure(&self.layout).await
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig(pki::ADMIN)
    }

    /// A client with all rights, which the audit log shows as the user `lab`.
    pub fn client(&self) -> Result<Client> {
        let file = self.layout.kubeconfig("lab");
        let kubeconfig =
            Kubeconfig::read_from(&file).context("the cluster was never up; start it with: cargo cluster up")?;
        Ok(Client::try_from(kubeconfig)?)
    }

    /// A client that may do what this user may.
    pub fn client_as(&self, user: &str) -> Result<Client> {
        let mut kubeconfig = Kubeconfig::read_from(self.layout.kubeconfig("lab"))?;
        for named in &mut kubeconfig.auth_infos {
            named.auth_info.get_or_insert_default().impersonate = Some(user.to_owned());
        }
        Ok(Client::try_from(kubeconfig)?)
    }

    /// `kubectl` as the administrator.
    pub fn kubectl(&self) -> Command {
        let mut kubectl = Command::new(self.kubectl_path());
        kubectl.env("KUBECONFIG", self.kubeconfig());
        kubectl
    }

    /// Where a user finds the `kubectl` that fits.
    pub fn kubectl_path(&self) -> PathBuf {
        self.layout.cache().join("bin/kubectl")
    }

    /// The directory of the built Kubernetes, etcd and storage programs.
    pub fn components_bin(&self) -> PathBuf {
        self.components.bin()
    }

    /// A storage driver, by the name of its class.
    pub fn driver(&self, class: &str) -> Driver {
        Driver::of(&self.layout, class)
    }

    /// One line of JSON for every request to the API server.
    pub fn audit_log(&self) -> PathBuf {
        self.layout.at("log/audit.log")
    }

    /// The loop devices that volumes of the cluster occupy.
    pub async fn volume_loop_devices(&self) -> Result<Vec<LoopDevice>> {
        host::loop_devices_below(&self.layout.at("disk")).await
    }

    /// What is mounted below kubelet's directory for volumes of storage drivers.
    pub fn volume_mounts(&self) -> Result<Vec<PathBuf>> {
        let mounts = host::mounts_below(&self.layout.at("kubelet"))?;
        Ok(mounts
            .into_iter()
            .filter(|path| {
                path.to_string_lossy().contains("kubernetes.io~csi")
                    || path.to_string_lossy().contains("/plugins/kubernetes.io/csi/")
            })
            .collect())
    }
}
