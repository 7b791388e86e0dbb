//! The plan of a pass: the phase, the writes, and the reason to wait.

use jiff::Timestamp;

use super::{
    decide::Chosen, note::PastRefusal, objects::SnapshotTemplate, observed::Observed, shared_snapshot::Members,
    wait::Waiting, write::Write,
};
use crate::{api::Phase, mover::Progress, storage::refusals::MetRefusal};

/// A strategy that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The refusal, for this clone.
    pub past: PastRefusal,
    /// The start of the attempt.
    pub since: Option<Timestamp>,
    /// The refusal, as evidence for other clones.
    pub met: MetRefusal,
}

/// The turn of a clone to request the snapshot that it wants. It depends on the other clones of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Now, for these clones, including itself.
    Now(Members),
    /// Not before this time, unless something changes earlier.
    Later(Option<Timestamp>),
}

/// The result of a pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The phase of the clone after the actions.
    pub phase: Phase,
    /// The writes, in this order; at most one of them is irreversible.
    pub actions: Vec<Write>,
    /// The reason to wait.
    pub waiting: Option<Waiting>,
    /// The decision that is being carried out.
    pub chosen: Option<Box<Chosen>>,
    /// The progress of a copy.
    pub progress: Option<Progress>,
    /// The number of restarts of the data mover.
    pub restarts: i32,
    /// The reason why the clone failed.
    pub failure: Option<String>,
    /// Properties of the source that could not be preserved.
    pub notes: Vec<String>,
    /// The driver's refusal in this pass, to be remembered for other clones.
    pub refused: Option<Refused>,
    /// The snapshot that it needs and requests only at its turn; see [`Plan::with_turn`].
    pub wanted_snapshot: Option<Box<SnapshotTemplate>>,
    /// The time of the next pass if no event occurs.
    pub look_again_at: Option<Timestamp>,
}

impl Plan {
    /// A plan without writes in `phase`.
    pub(crate) fn idle(seen: &Observed, phase: Phase) -> Self {
        Self {
            phase,
            actions: Vec::new(),
            waiting: None,
            chosen: None,
            progress: None,
            restarts: seen.volume.status.restart_count.unwrap_or_default(),
            failure: None,
            notes: Vec::new(),
            refused: None,
            wanted_snapshot: None,
            look_again_at: None,
        }
    }

    pub(crate) fn wait(seen: &Observed, phase: Phase, waiting: Waiting) -> Self {
        Self { waiting: Some(waiting), ..Self::idle(seen, phase) }
    }

    pub(crate) fn act(seen: &Observed, phase: Phase, action: Write) -> Self {
        Self { actions: vec![action], ..Self::idle(seen, phase) }
    }

    /// The plan with the answer about its [wanted snapshot](Self::wanted_snapshot); unchanged if it wants none.
    #[must_use]
    pub fn with_turn(self, turn: &Turn) -> Self {
        let Some(wanted) = &self.wanted_snapshot else { return self };
        match turn {
            Turn::Now(members) => {
                let snapshot = wanted.snapshot(members);
                Self {
                    actions: vec![Write::CreateSnapshot(Box::new(snapshot))],
                    waiting: Some(Waiting::SnapshotNotReady { driver_says: None }),
                    look_again_at: None,
                    ..self
                }
            }
            Turn::Later(again_at) => {
                Self { look_again_at: [self.look_again_at, *again_at].into_iter().flatten().min(), ..self }
            }
        }
    }

    /// The plan after the API server refused its writes: reports the refusal and none of the writes.
    ///
    /// An exceeded quota has the phase `Pending`, as in CDI: KubeVirt looks for `ErrExceededQuota` only at that phase.
    #[must_use]
    pub fn refused(self, why: Waiting, observed: &Observed) -> Self {
        let recorded = observed.volume.status.phase;
        let is_quota = matches!(why, Waiting::Refused { quota: true, .. });
        let is_over = matches!(recorded, Phase::Succeeded | Phase::Failed);
        let phase = if recorded.is_unset() || is_quota && !is_over { Phase::Pending } else { recorded };
        Self { actions: Vec::new(), phase, waiting: Some(why), ..self }
    }

    /// True if it creates the clone's claim, named `name`.
    pub(crate) fn makes_claim(&self, name: &str) -> bool {
        let made = |action: &Write| match action {
            Write::CreateClaim(claim) => claim.metadata.name.as_deref() == Some(name),
            _ => false,
        };
        self.actions.iter().any(made)
    }

    #[must_use]
    pub(crate) fn and(mut self, action: Write) -> Self {
        self.actions.push(action);
        self
    }

    #[must_use]
    pub(crate) fn with_waiting(mut self, waiting: Waiting) -> Self {
        self.waiting = Some(waiting);
        self
    }
}
