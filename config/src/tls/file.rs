//! A certificate in files, renewed by somebody else: cert-manager, or an operator.
//!
//! kubelet renews a mounted Secret by swapping a symbolic link of a directory above the files, which a watch on the
//! files themselves sees once and then never again. Reading a few kilobytes every few seconds always works.

use std::{io, path::PathBuf, time::Duration};

use jiff::Timestamp;
use thiserror::Error;
use tokio::{fs, time::sleep};
use tracing::{info, warn};

use super::{
    Serving,
    pair::{self, Pair},
};
use crate::error::Chain;

const PERIOD: Duration = Duration::from_secs(10);

/// The files hold nothing that can be served.
#[derive(Debug, Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("failed to read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Certificate and key cannot be used together.
    #[error("failed to use certificate and key")]
    Pair(#[source] pair::Error),
    /// The certificate is not valid now.
    #[error("the certificate is valid from {0} to {1} only")]
    Time(Timestamp, Timestamp),
}

/// Serves what is in two files, and what will be.
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    serving: Serving,
    /// What was last served.
    bytes: Contents,
}

#[derive(Default, PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    /// Starts serving the files' certificate, which has to be there and be valid.
    pub(super) async fn open(certificate: PathBuf, key: PathBuf, serving: Serving) -> Result<Self, Error> {
        let mut files = Self { certificate, key, serving, bytes: Contents::default() };
        files.refresh(Timestamp::now()).await?;
        Ok(files)
    }

    /// Follows the files; whatever becomes of them, the last good pair stays in use.
    pub(super) async fn follow(mut self) {
        loop {
            sleep(PERIOD).await;
            if let Err(error) = self.refresh(Timestamp::now()).await {
                self.serving.metrics.failed();
                warn!(error = %Chain(&error), "kept the last good certificate");
            }
        }
    }

    async fn refresh(&mut self, now: Timestamp) -> Result<(), Error> {
        let bytes = Contents { certificate: read(&self.certificate).await?, key: read(&self.key).await? };
        if bytes == self.bytes {
            return Ok(());
        }
        let pair = Pair::from_pem(&bytes.certificate, &bytes.key).map_err(Error::Pair)?;
        if !pair.validity.covers(now) {
            return Err(Error::Time(pair.validity.not_before, pair.validity.not_after));
        }
        self.serving.present(&pair);
        self.serving.certificate.ready();
        self.bytes = bytes;
        info!(not_after = %pair.validity.not_after, "loaded the certificate");
        Ok(())
    }
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, Error> {
    fs::read(path).await.map_err(|error| Error::Read(path.clone(), error))
}

#[cfg(test)]
mod tests {
    use std::{fs as std_fs, os::unix::fs::symlink, path::Path};

    use rustls::pki_types::CertificateDer;
    use tokio::time::timeout;

    use super::*;
    use crate::tls::{authority::Authority, tests::serving};

    /// A directory as kubelet makes it: the files are links into `..data`, itself a link that is replaced as a whole.
    struct Mount {
        directory: tempfile::TempDir,
        versions: usize,
    }

    impl Mount {
        fn new(certificate: &str, key: &str) -> Self {
            let mut mount = Self { directory: tempfile::tempdir().unwrap(), versions: 0 };
            mount.swap(certificate, key);
            for name in ["tls.crt", "tls.key"] {
                symlink(Path::new("..data").join(name), mount.path(name)).unwrap();
            }
            mount
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn swap(&mut self, certificate: &str, key: &str) {
            let old = std_fs::read_link(self.path("..data"));
            self.versions += 1;
            let version = format!("..version-{}", self.versions);
            std_fs::create_dir(self.path(&version)).unwrap();
            std_fs::write(self.path(&version).join("tls.crt"), certificate).unwrap();
            std_fs::write(self.path(&version).join("tls.key"), key).unwrap();
            symlink(&version, self.path("..data_tmp")).unwrap();
            std_fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
            if let Ok(old) = old {
                std_fs::remove_dir_all(self.directory.path().join(old)).unwrap();
            }
        }
    }

    struct Material {
        certificate: String,
        key: String,
    }

    /// Any certificate will do; an authority's is at hand.
    fn material(now: Timestamp) -> Material {
        let authority = Authority::generate("", now).unwrap();
        Material { certificate: authority.certificate_pem, key: authority.key_pem }
    }

    fn der(material: &Material) -> Vec<CertificateDer<'static>> {
        Pair::from_pem(material.certificate.as_bytes(), material.key.as_bytes()).unwrap().key.cert.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn every_swap_of_a_mounted_secret_is_seen_and_a_bad_one_changes_nothing() {
        let [first, second, third, fourth] = [(); 4].map(|()| material(Timestamp::now()));
        let mut mount = Mount::new(&first.certificate, &first.key);
        let (serving, readiness) = serving();
        let resolver = serving.resolver.clone();
        let metrics = serving.metrics.clone();
        let served = || resolver.0.load_full().map(|key| key.cert.clone());

        let files = Files::open(mount.path("tls.crt"), mount.path("tls.key"), serving).await.unwrap();
        assert_eq!(served(), Some(der(&first)));
        assert_eq!(readiness.missing(), Vec::<&str>::new());

        let rotations = async {
            for next in [&second, &third] {
                mount.swap(&next.certificate, &next.key);
                until(|| served() == Some(der(next))).await;
            }
            mount.swap(&fourth.certificate, &first.key);
            until(|| metrics.failures() == 1).await;
            assert_eq!(served(), Some(der(&third)), "a key that does not fit is not served");
            mount.swap(&fourth.certificate, &fourth.key);
            until(|| served() == Some(der(&fourth))).await;
        };
        tokio::select! {
            () = rotations => {}
            () = files.follow() => panic!("following never ends"),
        }
    }

    /// Simulated time, so this costs none.
    async fn until(mut condition: impl FnMut() -> bool) {
        let poll = async {
            while !condition() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(PERIOD * 3, poll).await.expect("within three periods");
    }

    #[tokio::test]
    async fn an_expired_or_missing_certificate_fails_the_start() {
        let expired = material("2001-01-01T00:00:00Z".parse().unwrap());
        let mount = Mount::new(&expired.certificate, &expired.key);
        let open = async |name| Files::open(mount.path(name), mount.path("tls.key"), serving().0).await.err();
        assert!(matches!(open("tls.crt").await, Some(Error::Time(..))));
        assert!(matches!(open("other.crt").await, Some(Error::Read(..))));
    }
}
