//! Images of one static binary each, from cargo's target directory into containerd.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use tokio::process::Command;

use super::{
    build,
    command::{command, run, write},
    layout::Layout,
};

/// An image that pods of the cluster can run, `FROM scratch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// The admission webhook.
    Webhook,
    /// The controller.
    Controller,
    /// The data mover.
    Cloner,
    /// Fills and checks volumes, waits; also the sandbox of every pod.
    Tools,
}

/// All of them.
pub const ALL: [Image; 4] = [Image::Webhook, Image::Controller, Image::Cloner, Image::Tools];

impl Image {
    /// The program's name, and the image's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Controller => "controller",
            Self::Cloner => "cloner",
            Self::Tools => "tools",
        }
    }

    /// What a pod's `image` field says.
    pub fn reference(self) -> String {
        format!("localhost/smartclone/{}:{}", self.name(), env!("CARGO_PKG_VERSION"))
    }

    fn containerfile(self) -> String {
        let name = self.name();
        // A sandbox's container is started without arguments: then the tools wait.
        let arguments = if self == Self::Tools { "CMD [\"sleep\"]\n" } else { "" };
        format!("FROM scratch\nCOPY {name} /{name}\nENTRYPOINT [\"/{name}\"]\n{arguments}")
    }
}

/// Builds and imports those whose program has changed; returns which, so that their pods can be replaced.
/// The programs have to be built, containerd has to run.
pub async fn ensure(layout: &Layout, images: &[Image]) -> Result<Vec<Image>> {
    let done = try_join_all(images.iter().map(|image| ensure_one(layout, *image))).await?;
    Ok(images.iter().zip(done).filter_map(|(image, changed)| changed.then_some(*image)).collect())
}

async fn ensure_one(layout: &Layout, image: Image) -> Result<bool> {
    let name = image.name();
    let binary = build::binary(name)?;
    let content = std::fs::read(&binary).with_context(|| format!("read {}", binary.display()))?;
    let wanted =
        blake3::Hasher::new().update(&content).update(image.containerfile().as_bytes()).finalize().to_hex().to_string();
    let imported = layout.at("images").join(name);
    if is(&imported, &wanted) {
        return Ok(false);
    }
    let archive = Archive::of(layout, image);
    if !archive.file.exists() || !is(&archive.stamp, &wanted) {
        archive.build(layout, image).await.with_context(|| format!("build the image {name}"))?;
        write(&archive.stamp, &wanted)?;
    }
    let mut import = ctr(layout, &["images", "import"]);
    import.arg(&archive.file);
    run(import).await.with_context(|| format!("import the image {name}"))?;
    write(&imported, &wanted)?;
    Ok(true)
}

fn is(stamp: &std::path::Path, wanted: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|found| found == wanted)
}

/// containerd's own client, in kubelet's corner.
pub(super) fn ctr(layout: &Layout, args: &[&str]) -> Command {
    let mut ctr = command("ctr", ["--address"]);
    ctr.arg(layout.containerd_socket()).args(["--namespace", "k8s.io"]).args(args);
    ctr
}

/// A built image, kept in the checkout so that a cluster that starts from nothing only imports it.
struct Archive {
    file: PathBuf,
    stamp: PathBuf,
}

impl Archive {
    fn of(layout: &Layout, image: Image) -> Self {
        let place = layout.cache().join("images");
        Self {
            file: place.join(format!("{}.tar", image.name())),
            stamp: place.join(format!("{}.built-from", image.name())),
        }
    }

    async fn build(&self, layout: &Layout, image: Image) -> Result<()> {
        let name = image.name();
        let context = layout.at("buildah").join(name);
        let stripped = context.join(name);
        write(&context.join("Containerfile"), image.containerfile())?;
        let mut strip = command("strip", ["-o"]);
        strip.arg(&stripped).arg(build::binary(name)?);
        run(strip).await?;
        let buildah = |args: &[&str]| {
            let mut buildah = command("buildah", ["--storage-driver=vfs"]);
            buildah.arg(format!("--root={}", layout.at("buildah/root").display()));
            buildah.arg(format!("--runroot={}", layout.at("buildah/run").display()));
            buildah.args(args);
            buildah
        };
        let reference = image.reference();
        let mut bake = buildah(&["build", "--quiet", "--isolation=chroot", "--tag", &reference]);
        bake.arg(&context);
        run(bake).await?;
        // buildah appends to an archive that exists.
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => std::fs::create_dir_all(layout.cache().join("images"))?,
        }
        let archive = format!("docker-archive:{}:{reference}", self.file.display());
        run(buildah(&["push", "--quiet", &reference, &archive])).await?;
        Ok(())
    }
}
