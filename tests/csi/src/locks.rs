//! Who works on what: calls for one volume or snapshot follow each other, copies from one source go side by side.

use std::{
    collections::HashMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use tonic::Code;

use crate::{Error, Result, patience::PATIENCE};

/// Locks by id, each held by one writer or by readers.
#[derive(Debug, Default)]
pub struct Locks {
    held: Mutex<HashMap<String, Holders>>,
    freed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holders {
    Writer,
    Readers(usize),
}

/// A lock, let go when dropped.
#[derive(Debug)]
pub struct Guard<'a> {
    locks: &'a Locks,
    id: String,
}

impl Locks {
    /// The right to change what has this id; `ABORTED` if somebody else keeps it.
    pub fn exclusive(&self, id: &str) -> Result<Guard<'_>> {
        self.enter(id, |holders| holders.is_none().then_some(Holders::Writer))
    }

    /// The right to rely on what has this id; `ABORTED` if somebody keeps changing it.
    pub fn shared(&self, id: &str) -> Result<Guard<'_>> {
        self.enter(id, |holders| match holders {
            None => Some(Holders::Readers(1)),
            Some(Holders::Readers(n)) => Some(Holders::Readers(n + 1)),
            Some(Holders::Writer) => None,
        })
    }

    fn enter(&self, id: &str, next: impl Fn(Option<Holders>) -> Option<Holders>) -> Result<Guard<'_>> {
        let blocked = |held: &mut HashMap<String, Holders>| next(held.get(id).copied()).is_none();
        let (mut held, _) =
            self.freed.wait_timeout_while(self.held(), PATIENCE, blocked).unwrap_or_else(PoisonError::into_inner);
        let holders = next(held.get(id).copied())
            .ok_or_else(|| Error::refused(Code::Aborted, format!("another call for {id} is under way")))?;
        held.insert(id.to_owned(), holders);
        Ok(Guard { locks: self, id: id.to_owned() })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Holders>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut held = self.locks.held();
        match held.get_mut(&self.id) {
            Some(Holders::Readers(n)) if *n > 1 => *n -= 1,
            _ => drop(held.remove(&self.id)),
        }
        self.locks.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_excludes() {
        let locks = Locks::default();
        let (first, second) = (locks.shared("a").unwrap(), locks.shared("a").unwrap());
        drop(first);
        assert_eq!(locks.exclusive("a").unwrap_err().code(), Code::Aborted);
        drop(second);
        let writer = locks.exclusive("a").unwrap();
        assert_eq!(locks.shared("a").unwrap_err().code(), Code::Aborted);
        assert!(locks.exclusive("b").is_ok());
        drop(writer);
        assert!(locks.exclusive("a").is_ok());
    }

    #[test]
    fn a_waiting_call_goes_on_when_the_first_is_done() {
        let locks = Locks::default();
        let first = locks.exclusive("a").unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| locks.exclusive("a").map(drop));
            drop(first);
            assert!(second.join().unwrap().is_ok());
        });
    }
}
