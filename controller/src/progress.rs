//! How far data movers are: their logs, followed. A log is pushed to us while it is written, so nothing is polled, and the mover
//! needs neither a network nor an account.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use common::{
    api::DataVolume,
    clone::{Observed, plan::MoverState},
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

/// A status is written at most this often for progress alone.
const STEP: Duration = Duration::from_secs(1);

/// A mover says something at least every few seconds; a log that is silent for this long is given up, and followed anew by the next pass.
const SILENCE: Duration = Duration::from_mins(1);

/// What was heard of a mover that has ended is of use until its result has been recorded, which takes a moment.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// Movers that may be followed at once, waiting to be taken up.
const QUEUE: usize = 1024;

#[derive(Clone)]
struct Followed {
    volume: ObjectRef<DataVolume>,
    uid: String,
    pod_uid: String,
    namespace: String,
    pod: String,
}

/// What has been heard of one mover.
#[derive(Default)]
struct Page {
    pod_uid: String,
    heard: Option<Progress>,
    /// When its log ended; until then somebody is listening.
    ended: Option<Instant>,
}

/// What is known of the progress of every mover, by the UID of the DataVolume.
#[derive(Clone)]
pub struct ProgressBook {
    pages: Arc<Mutex<HashMap<String, Page>>>,
    follow: mpsc::Sender<Followed>,
}

/// The other end of a [`ProgressBook`], to be run as a service.
pub struct Follower {
    book: ProgressBook,
    requests: mpsc::Receiver<Followed>,
    progressed: mpsc::Sender<ObjectRef<DataVolume>>,
}

impl ProgressBook {
    /// A book, the service that fills it, and a stream of the DataVolumes for which there is news.
    pub fn new() -> (Self, Follower, impl Stream<Item = ObjectRef<DataVolume>> + Send) {
        let (follow, requests) = mpsc::channel(QUEUE);
        let (progressed, news) = mpsc::channel(QUEUE);
        let book = Self { pages: Arc::default(), follow };
        (book.clone(), Follower { book, requests, progressed }, ReceiverStream::new(news))
    }

    /// The last that was heard from the mover of the DataVolume `uid`.
    pub fn of(&self, uid: &str) -> Option<Progress> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).get(uid)?.heard
    }

    /// Sees that a mover which is running is listened to, and that one which is gone is forgotten.
    pub fn follow(&self, seen: &Observed) {
        let volume = &seen.volume;
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mover) = seen.mover.present() else {
            if pages.get(&volume.uid).is_some_and(|page| page.ended.is_some()) {
                pages.remove(&volume.uid);
            }
            return;
        };
        let known = pages.get(&volume.uid).is_some_and(|page| page.ended.is_none() && page.pod_uid == mover.exact.uid);
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
        // A full queue is no loss: the mover's next event brings us here again.
        if self.follow.try_send(followed).is_ok() {
            // DataVolumes that are deleted meanwhile have no pass that would remove their page.
            pages.retain(|_, page| page.ended.is_none_or(|ended| ended.elapsed() < FORGOTTEN));
            let page = pages.entry(volume.uid.clone()).or_default();
            if page.pod_uid != mover.exact.uid {
                *page = Page { pod_uid: mover.exact.uid.clone(), ..Page::default() };
            }
            page.ended = None;
        }
    }

    /// The page of a mover, unless another one has taken its place.
    fn note(&self, followed: &Followed, note: impl FnOnce(&mut Page)) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = pages.get_mut(&followed.uid).filter(|page| page.pod_uid == followed.pod_uid) {
            note(page);
        }
    }

    fn turn(&self, followed: &Followed, progress: Progress) {
        // One mover never goes back; what it said before may be heard again when its log is followed anew.
        self.note(followed, |page| {
            if page.heard.is_none_or(|heard| heard.done <= progress.done) {
                page.heard = Some(progress);
            }
        });
    }

    fn ended(&self, followed: &Followed) {
        self.note(followed, |page| page.ended = Some(Instant::now()));
    }
}

impl Follower {
    /// Listens to movers until the process ends.
    pub async fn run(mut self, client: Client, shutdown: Shutdown) {
        let mut listening = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.draining() => return,
                Some(_) = listening.join_next() => {}
                Some(followed) = self.requests.recv() => {
                    let (book, news, client) = (self.book.clone(), self.progressed.clone(), client.clone());
                    listening.spawn(async move {
                        let heard = listen(&followed, &book, &news, client).await;
                        if let Err(error) = heard {
                            debug!(pod = followed.pod, error = %config::Chain(&error), "a mover's log ended");
                        }
                        book.ended(&followed);
                    });
                }
            }
        }
    }
}

async fn listen(
    followed: &Followed,
    book: &ProgressBook,
    news: &mpsc::Sender<ObjectRef<DataVolume>>,
    client: Client,
) -> Result<(), kube::Error> {
    // kube puts names into the path as they are.
    if !NameRule::Label.permits(&followed.namespace) || !NameRule::Subdomain.permits(&followed.pod) {
        return Ok(());
    }
    let pods: Api<Pod> = Api::namespaced(client, &followed.namespace);
    // From the newest line on: what was before is past.
    let params = LogParams { follow: true, tail_lines: Some(1), ..LogParams::default() };
    let mut lines = pods.log_stream(&followed.pod, &params).await?.lines();
    let mut told: Option<Instant> = None;
    while let Ok(Some(line)) = timeout(SILENCE, lines.next()).await.map(|line| line.and_then(Result::ok)) {
        // Anything that isn't progress is for people.
        let Ok(progress) = serde_json::from_str(&line) else { continue };
        book.turn(followed, progress);
        if told.is_none_or(|told| told.elapsed() >= STEP) {
            told = Some(Instant::now());
            if news.send(followed.volume.clone()).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
