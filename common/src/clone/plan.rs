//! The plan of a pass: the phase, the writes, and what is waited for.

use jiff::Timestamp;

use super::{
    decide::Chosen, note::PastRefusal, objects::SnapshotTemplate, observed::Observed, shared_snapshot::Members,
    wait::Waiting, write::Write,
};
use crate::{api::Phase, mover::Progress, storage::refusals::MetRefusal};

/// A strategy that didn't work out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What was refused, for this clone.
    pub past: PastRefusal,
    /// When it was begun.
    pub since: Option<Timestamp>,
    /// What it says about other clones.
    pub met: MetRefusal,
}

/// Whether a clone may ask for the snapshot that it wants. The answer depends on what other clones of the source do at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Now, for these clones, itself among them.
    Now(Members),
    /// Not before this time, unless something changes earlier.
    Later(Option<Timestamp>),
}

/// What a pass concludes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Where the clone stands when the actions are done.
    pub phase: Phase,
    /// What to write, in this order; at most one of them can't be undone.
    pub actions: Vec<Write>,
    /// Who is waited for.
    pub waiting: Option<Waiting>,
    /// The decision that is being carried out.
    pub chosen: Option<Box<Chosen>>,
    /// How far a copy is.
    pub progress: Option<Progress>,
    /// How often the data mover had to be started again.
    pub restarts: i32,
    /// Why it is over without a clone.
    pub failure: Option<String>,
    /// What of the source could not be kept.
    pub notes: Vec<String>,
    /// What the driver has refused in this pass, to be remembered for others.
    pub refused: Option<Refused>,
    /// The snapshot that it needs and does not ask for before its turn; see [`Plan::with_turn`].
    pub wanted_snapshot: Option<Box<SnapshotTemplate>>,
    /// When to look again although nothing happens.
    pub look_again_at: Option<Timestamp>,
}

impl Plan {
    /// Nothing to do in `phase`.
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

    /// The plan with the answer about the [snapshot that it wants](Self::wanted_snapshot); the same plan, if it wants none.
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

    /// The plan when the API server has refused its writes: nothing of them is reported, and why they were refused is.
    ///
    /// A quota is `Pending` as in CDI: KubeVirt looks for `ErrExceededQuota` only at that phase.
    #[must_use]
    pub fn refused(self, why: Waiting, observed: &Observed) -> Self {
        let recorded = observed.volume.status.phase;
        let is_quota = matches!(why, Waiting::Refused { quota: true, .. });
        let is_over = matches!(recorded, Phase::Succeeded | Phase::Failed);
        let phase = if recorded.is_unset() || is_quota && !is_over { Phase::Pending } else { recorded };
        Self { actions: Vec::new(), phase, waiting: Some(why), ..self }
    }

    /// Creates the clone's claim, which is called `name`.
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
