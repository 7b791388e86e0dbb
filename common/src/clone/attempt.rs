//! How long a strategy is tried, and what comes after it.

use jiff::Timestamp;

use super::{
    action::Action,
    decide::{Chosen, Decision, History, PastRefusal, decide},
    note::pin_for,
    plan::{Observed, Plan, Refused},
    request::Request,
    rules::complaint,
    step::recorded,
    wait::Waiting,
};
use crate::{
    api::{CloneStrategy, Phase},
    field, profile,
};

/// What the driver's refusal, or the end of its time, leads to: the next rung, or the end. Nothing, while there is hope for the attempt
/// to do it by `strategy` that began at `since`.
pub(super) fn attempt(
    seen: &Observed,
    request: &Request,
    chosen: &Chosen,
    strategy: CloneStrategy,
    since: Option<Timestamp>,
    error: Option<&str>,
) -> Option<Plan> {
    // Before the text is made fit to be shown.
    let understood = error.map(complaint::classify);
    let terminal = understood.is_some_and(|it| it.class == complaint::Class::Terminal);
    let over = deadline(seen, request, since).is_some_and(|end| end <= seen.now);
    (terminal || over).then(|| {
        let message = error.map_or_else(|| "it did not say why".to_owned(), complaint::redact);
        let past = PastRefusal { strategy, too_slow: !terminal, message };
        let code = understood.map_or("Unknown", |it| it.code);
        give_up(seen, request, chosen, (since, code), past)
    })
}

/// When an attempt that began at `since` is over.
pub(super) fn deadline(seen: &Observed, request: &Request, since: Option<Timestamp>) -> Option<Timestamp> {
    let of_driver = || seen.facts.profile.present().and_then(|profile| profile.deadline);
    let deadline = request.deadline.or_else(of_driver).unwrap_or(profile::DEADLINE.unsigned_abs());
    since?.checked_add(deadline).ok()
}

/// A strategy didn't work out: the next rung, if there is one and it is allowed; else the end.
fn give_up(
    seen: &Observed,
    request: &Request,
    chosen: &Chosen,
    (since, code): (Option<Timestamp>, &'static str),
    past: PastRefusal,
) -> Plan {
    let mut refused = seen.volume.history.refused.clone();
    refused.push(past.clone());
    let history = History { refused, ..History::default() };
    let copying = past.strategy == CloneStrategy::Copy;
    let mut plan = match decide(request, &history, &seen.facts) {
        Decision::Chosen(next) if !copying && request.fallback_allowed => {
            let pin = pin_for(seen, request, &next, &history.refused);
            Plan { chosen: Some(next), ..Plan::act(seen, Phase::CloneScheduled, Action::Pin(pin)) }
        }
        Decision::Undecided(_) if !copying => {
            return Plan::wait(seen, recorded(seen), Waiting::CouldNotTell(past.message));
        }
        Decision::Rejected(errors) if !copying => failed(seen, field::joined(&errors)),
        Decision::Chosen(_) | Decision::Undecided(_) | Decision::Rejected(_) => {
            failed(seen, format!("\"{}\" did not work: {}", past.strategy, past.message))
        }
    };
    plan.refused = Some(Refused {
        past,
        code,
        since,
        driver: chosen.driver.clone(),
        source_class: chosen.source_class.clone(),
        class: chosen.class.clone(),
    });
    plan
}

pub(super) fn failed(seen: &Observed, why: String) -> Plan {
    Plan { failure: Some(why), ..Plan::idle(seen, Phase::Failed) }
}
