//! A DataVolume from its creation to its end, told while it happens.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use common::api::{DataVolume, Phase};
use kube::Api;
use tokio::{sync::mpsc, time::interval, try_join};

use super::{NAMESPACE, Tour, transcript::Transcript};
use crate::bench::watch::Watch;

/// A copy of the tour's disk, on a slow day.
const PATIENCE: Duration = Duration::from_mins(3);

impl Tour<'_> {
    /// Creates a DataVolume from its file and shows how it gets on until it has succeeded.
    pub(super) async fn clone_and_follow(&self, name: &str) -> Result<()> {
        self.clone_and_follow_in(NAMESPACE, name).await
    }

    /// The same of a DataVolume in this namespace.
    pub(super) async fn clone_and_follow_in(&self, namespace: &str, name: &str) -> Result<()> {
        let file = self.show(name)?;
        let api: Api<DataVolume> = Api::namespaced(self.client.clone(), namespace);
        let mut watch = Watch::open(&api, name).await?;
        let (tell, told) = mpsc::unbounded_channel();
        let watching = async move {
            let ended = watch.until(PATIENCE, |volume| {
                let news = News::of(volume);
                let ended = matches!(news.phase, Phase::Succeeded | Phase::Failed);
                // Whoever listens no more has failed by itself.
                let _ = tell.send((Instant::now(), news));
                Ok(ended)
            });
            let status = ended.await?.status.unwrap_or_default();
            let ready = status.conditions.into_iter().find(|it| it.type_ == "Ready");
            match status.phase {
                Phase::Succeeded => Ok(()),
                _ => bail!("{name} has failed: {}", ready.and_then(|it| it.message).unwrap_or_default()),
            }
        };
        let showing = async {
            // What happens meanwhile is shown afterwards, with the time at which it happened.
            self.shell.kubectl(&["create", "-f", &file]).await?;
            show(self.transcript, told).await
        };
        try_join!(watching, showing)?;
        Ok(())
    }
}

/// What is told of one version of a DataVolume.
#[derive(Debug, Clone, PartialEq)]
struct News {
    phase: Phase,
    share: Option<f64>,
}

impl News {
    fn of(volume: &DataVolume) -> Self {
        let status = volume.status.clone().unwrap_or_default();
        Self { phase: status.phase, share: status.progress.as_deref().and_then(share) }
    }
}

/// `12.34%` as a share of 1; other words are none.
fn share(progress: &str) -> Option<f64> {
    progress.strip_suffix('%')?.parse::<f64>().ok().map(|percent| percent / 100.0)
}

/// A line per phase, and for what takes its time a moving one.
async fn show(transcript: Transcript, mut told: mpsc::UnboundedReceiver<(Instant, News)>) -> Result<()> {
    let Some((start, mut now)) = told.recv().await else { return Ok(()) };
    let mut tick = interval(Duration::from_millis(100));
    transcript.moment(Duration::ZERO, "created")?;
    loop {
        tokio::select! {
            news = told.recv() => {
                let Some((at, next)) = news else { return transcript.still() };
                let since = at.duration_since(start);
                if next.phase != now.phase {
                    transcript.moment(since, next.phase.as_str())?;
                } else if !transcript.is_live() && next.share != now.share && next.share.is_some() {
                    transcript.moving(since, next.phase.as_str(), next.share)?;
                }
                now = next;
            }
            _ = tick.tick(), if transcript.is_live() && now.phase != Phase::Succeeded => {
                transcript.moving(start.elapsed(), now.phase.as_str(), now.share)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_a_share_or_nothing() {
        assert_eq!(share("50.00%"), Some(0.5));
        assert_eq!(share("100.0%"), Some(1.0));
        assert_eq!(share("N/A"), None);
    }
}
