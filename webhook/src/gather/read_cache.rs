//! A short-lived cache of reads, good for an unconditional allow: a burst of reviews about one source reads it once.

use std::{future::Future, hash::Hash, time::Duration};

use moka::future::Cache;

/// The freshness of what a review reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Reads from a cache, here or of the API server. It may be older than the last write, so it is good for an unconditional allow only.
    Cached,
    /// Reads the latest state from the API server.
    Latest,
}

/// The capacity of one cache, in answers.
const MAX_ENTRIES: u64 = 512;

/// A cache of answers with a time to live. An error is never cached.
pub struct ReadCache<K, V>(Cache<K, V>);

impl<K, V> ReadCache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A cache with this time to live.
    pub fn of(time: Duration) -> Self {
        Self(Cache::builder().max_capacity(MAX_ENTRIES).time_to_live(time).build())
    }

    /// What is known of `key`, else what `ask` finds out; looking closely, only the latter. At a glance, whoever comes while somebody asks
    /// gets the same answer. What asks is big and rarely needed: it is made when it is, and elsewhere than in the review.
    pub async fn seen<E, F>(&self, freshness: Freshness, key: &K, ask: impl FnOnce() -> F) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
        F: Future<Output = Result<V, E>>,
    {
        if freshness == Freshness::Cached {
            if let Some(known) = self.0.get(key).await {
                return Ok(known);
            }
            let asked = Box::pin(self.0.try_get_with(key.clone(), ask()));
            return asked.await.map_err(|answer| (*answer).clone());
        }
        let answer = Box::pin(ask()).await;
        match &answer {
            Ok(value) => self.0.insert(key.clone(), value.clone()).await,
            Err(_) => self.0.invalidate(key).await,
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use super::*;

    #[tokio::test]
    async fn only_what_is_fine_is_remembered_and_only_for_a_glance() {
        let memory = ReadCache::of(Duration::from_mins(1));
        let asked = Cell::new(0);
        let answers = |freshness, answer: Result<u8, u8>| {
            let (memory, asked) = (&memory, &asked);
            async move {
                let ask = async {
                    asked.set(asked.get() + 1);
                    answer
                };
                memory.seen(freshness, &"key", || ask).await
            }
        };
        assert_eq!(answers(Freshness::Cached, Err(1)).await, Err(1));
        assert_eq!(answers(Freshness::Cached, Ok(2)).await, Ok(2));
        assert_eq!(answers(Freshness::Cached, Ok(3)).await, Ok(2));
        assert_eq!(answers(Freshness::Latest, Ok(4)).await, Ok(4));
        assert_eq!(answers(Freshness::Cached, Ok(5)).await, Ok(4));
        assert_eq!(answers(Freshness::Latest, Err(6)).await, Err(6));
        assert_eq!(answers(Freshness::Cached, Ok(7)).await, Ok(7));
        assert_eq!(asked.get(), 5);
    }

    #[tokio::test]
    async fn who_comes_while_somebody_asks_gets_the_same_answer() {
        let memory = ReadCache::of(Duration::from_mins(1));
        let slow = async {
            tokio::task::yield_now().await;
            Ok::<_, ()>(1)
        };
        let quick = async { Ok::<_, ()>(2) };
        let both = tokio::join!(
            memory.seen(Freshness::Cached, &"key", || slow),
            memory.seen(Freshness::Cached, &"key", || quick)
        );
        assert_eq!(both, (Ok(1), Ok(1)));
    }
}
