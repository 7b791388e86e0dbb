//! UIDs of the temporary objects that this process has created, as the API server answered them.
//!
//! This record makes an object ours (`common::clone::ownership`). A DataVolume's status keeps the same record across restarts.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use common::clone::ownership::Created;

/// UIDs by the UID of the clone and the name of the object.
#[derive(Default)]
pub struct CreatedObjects(Mutex<HashMap<String, Created>>);

impl CreatedObjects {
    /// Records the UID in the answer to the creation of an object for the clone `uid`.
    pub fn record(&self, uid: &str, name: String, object_uid: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(uid.to_owned()).or_default().insert(name, object_uid);
    }

    /// Adds the UIDs of the clone `uid` to the record in its status, which may be older.
    pub fn complete(&self, uid: &str, record: &mut Created) {
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid) {
            record.extend(known.iter().map(|(name, uid)| (name.clone(), uid.clone())));
        }
    }

    /// The UID of the object of this name that was created for the clone `uid`.
    pub fn of(&self, uid: &str, name: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid)?.get(name).cloned()
    }

    /// Forgets the clone `uid`, which is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_answer_counts_until_the_clone_is_gone() {
        let created = CreatedObjects::default();
        created.record("dv", "mover".into(), "1".into());
        created.record("dv", "mover".into(), "2".into());
        let mut record = Created::from([("mover".into(), "0".into()), ("claim".into(), "3".into())]);
        created.complete("dv", &mut record);
        assert_eq!(record, Created::from([("mover".into(), "2".into()), ("claim".into(), "3".into())]));
        assert_eq!(created.of("other", "mover"), None);
        created.forget("dv");
        assert_eq!(created.of("dv", "mover"), None);
    }
}
