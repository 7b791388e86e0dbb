//! What smartclone has said in the place of CDI's controller, which reports clones beside it. Kept in memory: after a restart it is said
//! once more.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The number of clones that are remembered. The rest is forgotten, and may be told twice.
const REMEMBERED: usize = 10_000;

/// The records by the UID of the clone.
#[derive(Default)]
pub struct InCdisPlace(Mutex<HashMap<String, Said>>);

#[derive(Default)]
struct Said {
    /// The version of the claim for which the end was reported.
    ended_at: Option<String>,
    /// The last wait for which an event was published.
    wait: Option<(&'static str, String)>,
}

impl InCdisPlace {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, uid: &str, record: impl FnOnce(&mut Said)) {
        let mut all = self.lock();
        if all.len() >= REMEMBERED && !all.contains_key(uid) {
            all.clear();
        }
        record(all.entry(uid.to_owned()).or_default());
    }

    /// Records that the end of the clone was reported, when its claim had this version.
    pub fn ended(&self, uid: &str, claim_version: String) {
        self.entry(uid, |said| said.ended_at = Some(claim_version));
    }

    /// True if the end of the clone was reported already, and its claim has not changed since.
    pub fn is_ended(&self, uid: &str, claim_version: Option<&str>) -> bool {
        let all = self.lock();
        let ended_at = all.get(uid).and_then(|said| said.ended_at.as_deref());
        ended_at.is_some() && ended_at == claim_version
    }

    /// True if this wait was not told last; records it.
    pub fn is_new_wait(&self, uid: &str, reason: &'static str, message: &str) -> bool {
        let mut is_new = false;
        self.entry(uid, |said| {
            let wait = Some((reason, message.to_owned()));
            is_new = said.wait != wait;
            said.wait = wait;
        });
        is_new
    }

    /// Forgets the clone `uid`, which is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_reported_once_for_a_version_of_the_claim() {
        let said = InCdisPlace::default();
        assert!(!said.is_ended("dv", Some("7")));
        said.ended("dv", "7".to_owned());
        assert_eq!([Some("7"), Some("8"), None].map(|version| said.is_ended("dv", version)), [true, false, false]);
        assert!(!said.is_ended("other", Some("7")));
        said.forget("dv");
        assert!(!said.is_ended("dv", Some("7")));
    }

    #[test]
    fn a_wait_is_told_when_it_changes() {
        let said = InCdisPlace::default();
        let told = [("A", "x"), ("A", "x"), ("A", "y"), ("B", "y"), ("B", "y")];
        assert_eq!(told.map(|(reason, text)| said.is_new_wait("dv", reason, text)), [true, false, true, true, false]);
    }

    #[test]
    fn what_is_remembered_is_limited() {
        let said = InCdisPlace::default();
        for number in 0..=REMEMBERED {
            said.ended(&number.to_string(), "1".to_owned());
        }
        assert!(said.lock().len() <= REMEMBERED);
    }
}
