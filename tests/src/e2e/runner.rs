//! Runs tests side by side, each with a namespace that is removed after it, and tells what is needed to understand a failure.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use kube::Client;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::Test;
use crate::harness::{Cluster, Space, cdi, cluster::NeedsLab};

/// Most of a test is waiting for kubelet; this many keep two cores busy and no deadline in danger.
const TOGETHER: usize = 6;

/// How many namespaces are removed at the same time. The next test begins when the namespace of the one before has its turn: on a busy
/// machine removing is slower than testing, and without a limit the last in a row of thirty waits for longer than its deadline.
const REMOVED_TOGETHER: usize = 4;

/// The longest that a test may take.
const LIMIT: Duration = Duration::from_mins(5);

/// How a test ended.
#[derive(Debug)]
pub struct Outcome {
    /// See [`Test::name`].
    pub name: &'static str,
    /// How long it took, with making and removing its namespace.
    pub took: Duration,
    /// Its result.
    pub ending: Ending,
}

/// The result of a test.
#[derive(Debug, Clone)]
pub enum Ending {
    /// It proved its sentence.
    Passed,
    /// The error, and what the cluster had to say at that moment.
    Failed(String),
    /// The cluster lacks something that the test needs.
    Ignored(String),
}

impl Ending {
    fn of(error: &anyhow::Error) -> Self {
        if NeedsLab::caused(error) { Self::Ignored(NeedsLab.to_string()) } else { Self::Failed(format!("{error:#}")) }
    }
}

impl From<Result<()>> for Ending {
    fn from(result: Result<()>) -> Self {
        result.map_or_else(|error| Self::of(&error), |()| Self::Passed)
    }
}

/// Runs the tests, as many side by side as the cluster bears and `at_most` allows, and tells `report` of each when it has ended.
pub async fn run(
    cluster: &Cluster,
    at_most: usize,
    tests: Vec<Test>,
    mut report: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>> {
    let client = cluster.client()?;
    let (beside_cdi, rest): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.beside_cdi);
    let mut outcomes = Vec::new();
    for (tests, is_beside) in [(rest, false), (beside_cdi, true)] {
        if tests.is_empty() {
            continue;
        }
        // CDI comes once for all tests beside it, and is gone after them.
        let entered = if is_beside { Box::pin(cdi::enter_on(cluster)).await } else { Ok(()) };
        let mut record = |outcome: Outcome| {
            report(&outcome);
            outcomes.push(outcome);
        };
        if let Err(error) = &entered {
            let failed = |test: Test| Outcome { name: test.name, took: Duration::ZERO, ending: Ending::of(error) };
            tests.into_iter().map(failed).for_each(record);
            continue;
        }
        let (alone, together): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.alone);
        // One after the other: whoever is alone waits for the others to end.
        run_at_once(cluster, &client, TOGETHER.min(at_most), together, &mut record).await;
        run_at_once(cluster, &client, 1, alone, &mut record).await;
        if is_beside {
            Box::pin(cdi::leave(cluster.lab()?)).await.context("remove CDI")?;
        }
    }
    Ok(outcomes)
}

/// Runs the tests, at most `at_once` at the same time, and passes each outcome to `record` when the test has ended.
async fn run_at_once(
    cluster: &Cluster,
    client: &Client,
    at_once: usize,
    tests: Vec<Test>,
    record: &mut impl FnMut(Outcome),
) {
    let room = Room { tests: Semaphore::new(at_once), removals: Semaphore::new(REMOVED_TOGETHER) };
    let all = tests.into_iter().map(|test| one(cluster, client, test, &room).boxed_local());
    let mut running: FuturesUnordered<_> = all.collect();
    while let Some(outcome) = running.next().await {
        record(outcome);
    }
}

/// The limits on how much happens at once.
struct Room {
    tests: Semaphore,
    removals: Semaphore,
}

async fn one(cluster: &Cluster, client: &Client, test: Test, room: &Room) -> Outcome {
    let place = room.tests.acquire().await;
    let start = Instant::now();
    let result = within_a_space(cluster, client, test, room, place.ok()).await;
    Outcome { name: test.name, took: start.elapsed(), ending: result.into() }
}

/// The place is given to the next as soon as only removing is left and has begun, which is Kubernetes' work. A test that is alone has to be
/// undone first.
async fn within_a_space(
    cluster: &Cluster,
    client: &Client,
    test: Test,
    room: &Room,
    place: Option<SemaphorePermit<'_>>,
) -> Result<()> {
    let space = Space::new(cluster, client, test.name).await?;
    let body = timeout(LIMIT, (test.body)(&space)).await;
    let mut result = body.unwrap_or_else(|_| bail!("it took longer than {LIMIT:?}"));
    if result.as_ref().is_err_and(|error| !NeedsLab::caused(error)) {
        let diagnosis = space.diagnosis().await;
        let place = format!("in the namespace {}", space.name());
        result = result.map_err(|error| anyhow::anyhow!("{:#}\n\n{diagnosis}", error.context(place)));
    }
    let _removal = room.removals.acquire().await;
    let _place = place.filter(|_| test.alone);
    let ended = space.clone().end().await;
    if let (Err(_), true) = (&ended, result.is_ok()) {
        let diagnosis = space.diagnosis().await;
        return ended.map_err(|error| anyhow::anyhow!("{error:#}\n\n{diagnosis}"));
    }
    match result {
        Err(error) if NeedsLab::caused(&error) => ended.and(Err(error)),
        result => result.and(ended),
    }
}
