//! Progress of data movers, read from their logs as they are written. Nothing is polled, and a mover needs neither network access nor a
//! ServiceAccount.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::{
    api::DataVolume,
    clone::{Observed, data_mover::MoverState},
    field::NameRule,
    mover::Progress,
};
use config::shutdown::Shutdown;
use futures::{AsyncBufReadExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::LogParams, runtime::reflector::ObjectRef};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

/// The minimum interval between two passes over a clone that progress alone starts.
const MIN_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The time after which a silent log is no longer followed. The next pass follows it anew. A mover writes a line every few seconds.
const LOG_IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// The time for which the progress of a mover that ended is kept. Its result is recorded well before that.
const ENTRY_TTL: Duration = Duration::from_mins(10);

/// The number of movers that may be queued for following.
const QUEUE_LENGTH: usize = 1024;

#[derive(Clone)]
struct Followed {
    volume: ObjectRef<DataVolume>,
    uid: String,
    pod_uid: String,
    namespace: String,
    pod: String,
}

/// The progress of one mover.
#[derive(Default)]
struct Entry {
    pod_uid: String,
    heard: Option<Progress>,
    /// The time at which its log ended; absent while it is followed.
    ended: Option<Instant>,
}

/// The progress of all movers, by the UID of the DataVolume.
#[derive(Clone)]
pub struct ProgressTracker {
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    follow: mpsc::Sender<Followed>,
}

/// The service of a [`ProgressTracker`]: follows the logs.
pub struct Follower {
    tracker: ProgressTracker,
    requests: mpsc::Receiver<Followed>,
    progressed: mpsc::Sender<ObjectRef<DataVolume>>,
}

impl ProgressTracker {
    /// A tracker, the service that fills it, and a stream of the DataVolumes that progressed.
    pub fn new() -> (Self, Follower, impl Stream<Item = ObjectRef<DataVolume>> + Send) {
        let (follow, requests) = mpsc::channel(QUEUE_LENGTH);
        let (progressed, volumes) = mpsc::channel(QUEUE_LENGTH);
        let tracker = Self { entries: Arc::default(), follow };
        (tracker.clone(), Follower { tracker, requests, progressed }, ReceiverStream::new(volumes))
    }

    /// The last progress of the mover of the DataVolume `uid`.
    pub fn of(&self, uid: &str) -> Option<Progress> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(uid)?.heard
    }

    /// Follows the log of a mover that runs, and forgets one that is gone.
    pub fn follow(&self, seen: &Observed) {
        let volume = &seen.volume;
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mover) = seen.mover.present() else {
            if entries.get(&volume.uid).is_some_and(|entry| entry.ended.is_some()) {
                entries.remove(&volume.uid);
            }
            return;
        };
        let known =
            entries.get(&volume.uid).is_some_and(|entry| entry.ended.is_none() && entry.pod_uid == mover.exact.uid);
        if known || mover.state != MoverState::Running || mover.deleting {
            return;
        }
        let followed = Followed {
            volume: ObjectRef::new(&volume.name).within(&volume.namespace),
            uid: volume.uid.clone(),
            pod_uid: mover.exact.uid.clone(),
            namespace: mover.exact.namespace.clone(),
            pod: mover.exact.name.clone(),
        };
        // A full queue loses nothing: the mover's next event starts another attempt.
        if self.follow.try_send(followed).is_ok() {
            // DataVolumes that are deleted in the meantime have no pass that removes their entry.
            entries.retain(|_, entry| entry.ended.is_none_or(|ended| ended.elapsed() < ENTRY_TTL));
            let entry = entries.entry(volume.uid.clone()).or_default();
            if entry.pod_uid != mover.exact.uid {
                *entry = Entry { pod_uid: mover.exact.uid.clone(), ..Entry::default() };
            }
            entry.ended = None;
        }
    }

    /// Changes the entry of a mover, unless another one has taken its place.
    fn note(&self, followed: &Followed, note: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&followed.uid).filter(|entry| entry.pod_uid == followed.pod_uid) {
            note(entry);
        }
    }

    fn update(&self, followed: &Followed, progress: Progress) {
        // The progress of one mover never decreases. Earlier lines may be read again when its log is followed anew.
        self.note(followed, |entry| {
            if entry.heard.is_none_or(|heard| heard.done <= progress.done) {
                entry.heard = Some(progress);
            }
        });
    }

    fn ended(&self, followed: &Followed) {
        self.note(followed, |entry| entry.ended = Some(Instant::now()));
    }
}

impl Follower {
    /// Follows the logs of movers until the process ends.
    pub async fn run(mut self, client: Client, shutdown: Shutdown) {
        let mut logs = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                Some(_) = logs.join_next() => {}
                Some(followed) = self.requests.recv() => {
                    let (tracker, progressed, client) = (self.tracker.clone(), self.progressed.clone(), client.clone());
                    logs.spawn(async move {
                        let heard = follow_log(&followed, &tracker, &progressed, client).await;
                        if let Err(error) = heard {
                            debug!(pod = followed.pod, error = %config::Chain(&error), "a mover's log ended");
                        }
                        tracker.ended(&followed);
                    });
                }
            }
        }
    }
}

async fn follow_log(
    followed: &Followed,
    tracker: &ProgressTracker,
    progressed: &mpsc::Sender<ObjectRef<DataVolume>>,
    client: Client,
) -> Result<(), kube::Error> {
    // kube puts names into the URL path unescaped.
    if !NameRule::Label.permits(&followed.namespace) || !NameRule::Subdomain.permits(&followed.pod) {
        return Ok(());
    }
    let pods: Api<Pod> = Api::namespaced(client, &followed.namespace);
    // From the newest line on: earlier progress is out of date.
    let params = LogParams { follow: true, tail_lines: Some(1), ..LogParams::default() };
    let mut lines = pods.log_stream(&followed.pod, &params).await?.lines();
    let mut reported: Option<Instant> = None;
    while let Ok(Some(line)) = timeout(LOG_IDLE_TIMEOUT, lines.next()).await.map(|line| line.and_then(Result::ok)) {
        // Other lines are meant for humans.
        let Ok(progress) = serde_json::from_str(&line) else { continue };
        tracker.update(followed, progress);
        if reported.is_none_or(|at| at.elapsed() >= MIN_REPORT_INTERVAL) {
            reported = Some(Instant::now());
            if progressed.send(followed.volume.clone()).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
