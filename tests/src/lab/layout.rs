//! Where one checkout's cluster lives, and the names it takes on the host.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Short, because paths of unix sockets end after 107 bytes.
const HOME: &str = "/var/lib/smartclone-lab";

/// The node's name.
pub const NODE: &str = "lab";

/// Where things are. Everything that a cluster writes is below [`Layout::state`], except for caches in `target/`.
#[derive(Debug, Clone)]
pub struct Layout {
    checkout: PathBuf,
    id: String,
}

impl Layout {
    /// The layout of the checkout that this program was built from.
    pub fn of_this_checkout() -> Result<Self> {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the crate has no parent directory")?
            .canonicalize()
            .context("the checkout that this program was built from is gone")?;
        Ok(Self::of(checkout))
    }

    fn of(checkout: PathBuf) -> Self {
        let id = blake3::hash(checkout.as_os_str().as_encoded_bytes()).to_hex()[..8].to_owned();
        Self { checkout, id }
    }

    /// The checkout's root directory.
    pub fn checkout(&self) -> &Path {
        &self.checkout
    }

    /// Eight hexadecimal digits which tell this checkout from others on the same machine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What all checkouts' clusters on this machine share.
    pub fn home() -> &'static Path {
        Path::new(HOME)
    }

    /// The directory of everything that is removed by `down`.
    pub fn state(&self) -> PathBuf {
        Self::home().join(&self.id)
    }

    /// The lock file; beside the state, because it outlives it.
    pub fn lock(&self) -> PathBuf {
        Self::home().join(format!("{}.lock", self.id))
    }

    /// A path below the state directory.
    pub fn at(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.state().join(relative)
    }

    /// Configuration files, written anew by every `up`.
    pub fn etc(&self, file: &str) -> PathBuf {
        self.at("etc").join(file)
    }

    /// Keys and certificates.
    pub fn pki(&self, file: &str) -> PathBuf {
        self.at("pki").join(file)
    }

    /// The kubeconfig of one user of the API.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.at("kubeconfig").join(user)
    }

    /// The log of one process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.at("log").join(format!("{process}.log"))
    }

    /// The network namespace, as a file that `nsenter --net=` takes.
    pub fn netns(&self) -> PathBuf {
        self.at("netns")
    }

    /// containerd's socket.
    pub fn containerd_socket(&self) -> PathBuf {
        self.at("containerd.sock")
    }

    /// The host's end of the link to the cluster. At most 15 bytes, as the kernel wants.
    pub fn host_link(&self) -> String {
        format!("sc{}", self.id)
    }

    /// The cgroup under which kubelet puts its pods; of its own, because a kubelet kills what it doesn't know.
    pub fn cgroup(&self) -> String {
        format!("smartclone-{}", self.id)
    }

    /// What survives `down`: built images, and links for users.
    pub fn cache(&self) -> PathBuf {
        self.checkout.join("target").join("cluster")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkouts_get_names_of_their_own_that_the_kernel_accepts() {
        let (one, other) = (Layout::of("/src/a".into()), Layout::of("/src/b".into()));
        assert_ne!(one.state(), other.state());
        assert_ne!(one.host_link(), other.host_link());
        assert!(one.host_link().len() <= 15);
        let longest = one.at("kubelet/plugins_registry/reg@other.csi.smartclone.dev.sock");
        assert!(longest.as_os_str().len() <= 107, "{}", longest.display());
    }
}
