//! Breadth-first search through all states.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt,
};

use super::{
    run::{Run, Scenario, Step},
    world::{Budget, KINDS, Objects, World},
};

/// The maximum number of states; a larger scenario takes too long for a daily run.
const LIMIT: usize = 1_500_000;

/// The result of a search.
#[derive(Debug)]
pub struct Found {
    pub states: usize,
    pub steps: usize,
    pub settled: usize,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states, {} steps between them, {} on the way to rest", self.states, self.steps, self.settled)
    }
}

/// A shortest trace to a violation.
#[derive(Debug)]
pub struct Counterexample {
    pub what: String,
    /// One line per event.
    pub trace: Vec<String>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.trace.iter().enumerate() {
            writeln!(f, "{:3}. {line}", at + 1)?;
        }
        write!(f, "     {}", self.what)
    }
}

struct Search {
    run: Run,
    states: Vec<(World, Option<(u32, Step)>)>,
    numbers: HashMap<World, u32>,
}

/// Visits all states of `scenario`.
pub fn search(scenario: Scenario) -> Result<Found, Counterexample> {
    let run = Run::new(scenario);
    let start = run.start();
    let mut search = Search { run, states: vec![(start, None)], numbers: HashMap::from([(start, 0)]) };
    let (mut at, mut steps, mut settled) = (0, 0, HashSet::new());
    while let Some((world, _)) = search.states.get(at).copied() {
        if let Err((what, way)) = search.run.settles(&world, &mut settled) {
            let mut trace = search.way_to(at);
            trace.push("--- from here on nothing goes wrong any more ---".to_owned());
            let mut now = World { old: None, budget: Budget { most: u8::MAX, ..Budget::default() }, ..world };
            for event in way {
                trace.push(search.run.tell(&now, Step { event, keeps: None }).to_string());
                now = search.run.apply(&now, event).unwrap_or(now);
            }
            return Err(Counterexample { what, trace });
        }
        for event in search.run.events(&world) {
            let next = match search.run.apply(&world, event) {
                Ok(next) => next,
                Err(what) => {
                    let mut trace = search.way_to(at);
                    trace.push(search.run.tell(&world, Step { event, keeps: None }).to_string());
                    return Err(Counterexample { what, trace });
                }
            };
            steps += 1;
            if next == world {
                continue;
            }
            search.add(&next, at, Step { event, keeps: None });
            if next.budget.stale && next.old.is_none() {
                search.add_late(&world, &next, at, event);
            }
        }
        at += 1;
        assert!(search.states.len() < LIMIT, "too large: {} states after {at}", search.states.len());
    }
    Ok(Found { states: search.states.len(), steps, settled: settled.len() })
}

impl Search {
    fn add(&mut self, world: &World, from: usize, step: Step) {
        let number = u32::try_from(self.states.len()).unwrap();
        if let Entry::Vacant(entry) = self.numbers.entry(*world) {
            entry.insert(number);
            self.states.push((*world, Some((u32::try_from(from).unwrap(), step))));
        }
    }

    /// Adds states in which the event's change to one kind is not yet in a cache.
    fn add_late(&mut self, before: &World, after: &World, from: usize, event: super::run::Event) {
        for kind in KINDS {
            if after.now.with(kind, &before.now) == after.now {
                continue;
            }
            let mut late = *after;
            late.old = Some((kind, Objects::default().with(kind, &before.now)));
            late.budget = Budget { stale: false, ..late.budget }.spent();
            self.add(&late, from, Step { event, keeps: Some(kind) });
        }
    }

    fn way_to(&self, mut at: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some((before, step)) = self.states[at].1 {
            at = before as usize;
            lines.push(self.run.tell(&self.states[at].0, step).to_string());
        }
        lines.reverse();
        lines
    }
}
