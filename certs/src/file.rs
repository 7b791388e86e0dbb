//! Certificates in files that an external issuer renews: cert-manager, or an operator.
//!
//! kubelet renews a mounted Secret or ConfigMap by swapping a symbolic link of a directory above the files. A watch on the files themselves
//! sees that only once. Reading a few kilobytes every few seconds always works.

use std::{error, io, path::PathBuf, time::Duration};

use config::Chain;
use jiff::Timestamp;
use thiserror::Error;
use tokio::{fs, time::sleep};
use tracing::{info, warn};

use super::{
    Serving,
    pair::{self, Pair},
};
use crate::metrics::CertificateMetrics;

pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// The files contain nothing usable.
#[derive(Debug, Error)]
pub enum Error<E> {
    /// A file cannot be read.
    #[error("failed to read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The contents are unusable.
    #[error("failed to use {0}")]
    Use(String, #[source] E),
}

/// A user of the contents of `N` files.
pub(super) trait User<const N: usize> {
    /// The reason why contents are unusable.
    type Error: error::Error + 'static;

    /// Applies these contents; if they are unusable, keeps the last ones.
    fn take(&self, contents: &[Vec<u8>; N], now: Timestamp) -> Result<(), Self::Error>;
}

/// Follows files and applies their contents.
pub(super) struct Files<const N: usize, U> {
    paths: [PathBuf; N],
    user: U,
    metrics: CertificateMetrics,
    /// The contents that were used last.
    taken: Option<[Vec<u8>; N]>,
}

impl<const N: usize, U: User<N>> Files<N, U> {
    /// Applies the contents of the files, which have to exist and be usable.
    pub(super) async fn open(
        paths: [PathBuf; N],
        user: U,
        metrics: CertificateMetrics,
    ) -> Result<Self, Error<U::Error>> {
        let mut files = Self { paths, user, metrics, taken: None };
        files.refresh(Timestamp::now()).await?;
        Ok(files)
    }

    /// Follows the files. Whatever happens to them, the last usable contents stay in use.
    pub(super) async fn follow(mut self) {
        loop {
            sleep(PERIOD).await;
            if let Err(error) = self.refresh(Timestamp::now()).await {
                self.metrics.failed();
                warn!(error = %Chain(&error), "kept what was last good");
            }
        }
    }

    pub(super) async fn refresh(&mut self, now: Timestamp) -> Result<(), Error<U::Error>> {
        let contents = read(&self.paths).await.map_err(|(path, error)| Error::Read(path, error))?;
        if self.taken.as_ref() == Some(&contents) {
            return Ok(());
        }
        self.user.take(&contents, now).map_err(|error| Error::Use(names(&self.paths), error))?;
        self.taken = Some(contents);
        Ok(())
    }
}

async fn read<const N: usize>(paths: &[PathBuf; N]) -> Result<[Vec<u8>; N], (PathBuf, io::Error)> {
    let mut contents = [const { Vec::new() }; N];
    for (content, path) in contents.iter_mut().zip(paths) {
        *content = fs::read(path).await.map_err(|error| (path.clone(), error))?;
    }
    Ok(contents)
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" with ")
}

/// Serves a certificate with its key.
impl User<2> for Serving {
    type Error = pair::Error;

    fn take(&self, [certificate, key]: &[Vec<u8>; 2], now: Timestamp) -> Result<(), pair::Error> {
        let pair = Pair::from_pem(certificate, key)?.valid_at(now)?;
        self.present(&pair);
        self.certificate.ready();
        info!(not_after = %pair.validity.not_after, "loaded the certificate");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, date_time_ymd};

    use super::*;
    use crate::tests::{Issuer, Load, Material, Mount, NAME, Server, Trust, client, issuer, serving, until, visit};

    async fn open(mount: &Mount, serving: &Serving) -> Result<Files<2, Serving>, Error<pair::Error>> {
        let paths = ["tls.crt", "tls.key"].map(|name| mount.path(name));
        Files::open(paths, serving.clone(), serving.metrics.clone()).await
    }

    fn expired(issuer: &Issuer) -> Material {
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.not_after = date_time_ymd(2001, 1, 1);
        Material::signed(issuer, &params)
    }

    #[tokio::test(start_paused = true)]
    async fn every_swap_of_a_mounted_secret_is_seen_and_a_bad_one_changes_nothing() {
        let issuer = issuer();
        let [first, second, third, fourth] = [(); 4].map(|()| Material::for_server(&issuer));
        let mut mount = Mount::new(&first.files());
        let (serving, readiness) = serving();
        let served = || serving.resolver.0.load_full().map(|key| key.cert[0].clone());

        let files = open(&mount, &serving).await.unwrap();
        assert_eq!(served(), Some(first.der()));
        assert_eq!(readiness.missing(), Vec::<&str>::new());

        let rotations = async {
            for next in [&second, &third] {
                mount.swap(&next.files());
                until(|| served() == Some(next.der())).await;
            }
            mount.swap(&[("tls.crt", &fourth.certificate), ("tls.key", &first.key)]);
            until(|| serving.metrics.failures() == 1).await;
            assert_eq!(served(), Some(third.der()), "a key that does not fit is not served");
            mount.swap(&fourth.files());
            until(|| served() == Some(fourth.der())).await;
        };
        tokio::select! {
            () = rotations => {}
            () = files.follow() => panic!("following never ends"),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_client_notices_a_swap_of_a_mounted_secret() {
        let issuer = issuer();
        let [first, second, third, fourth] = [(); 4].map(|()| Material::for_server(&issuer));
        let expired = expired(&issuer);
        let mut mount = Mount::new(&first.files());
        let (serving, _) = serving();
        let server = Arc::new(Server::start(&serving, None));
        let mut files = open(&mount, &serving).await.unwrap();
        let clients = [(); 4].map(|()| {
            let bundle = issuer.pem();
            (server.clone(), Box::new(move || (bundle.clone(), "/".to_owned())) as Trust)
        });
        let mut load = Load::start(clients);
        load.goes_on().await;

        let swaps = [
            (second.files(), "", &second),
            ([("tls.crt", &third.certificate), ("tls.key", &first.key)], "failed to join certificate and key", &second),
            (third.files(), "", &third),
            (expired.files(), "the certificate is valid from", &third),
            (fourth.files(), "", &fourth),
        ];
        for (swapped, reason, served) in swaps {
            mount.swap(&swapped);
            load.goes_on().await;
            let message = files.refresh(Timestamp::now()).await.err().map(|error| Chain(&error).to_string());
            let message = message.unwrap_or_default();
            assert!(message.contains(reason) && message.is_empty() == reason.is_empty(), "{message}");
            load.goes_on().await;
            assert_eq!(visit(&server, client(&issuer.pem(), None)).await.unwrap(), served.der());
        }
    }

    #[tokio::test]
    async fn an_expired_missing_or_empty_certificate_fails_the_start() {
        let (serving, _) = serving();
        let mut mount = Mount::new(&expired(&issuer()).files());
        assert!(matches!(open(&mount, &serving).await, Err(Error::Use(_, pair::Error::Time(..)))));
        mount.swap(&[("tls.crt", ""), ("tls.key", "")]);
        assert!(matches!(open(&mount, &serving).await, Err(Error::Use(_, pair::Error::Key(_)))));
        mount.swap(&[]);
        assert!(matches!(open(&mount, &serving).await, Err(Error::Read(..))));
    }
}
