//! A short-lived cache of reads, for unconditional admissions only: a burst of reviews about one source reads it once.

use std::{future::Future, hash::Hash, time::Duration};

use moka::future::Cache;

/// The required freshness of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Reads from a cache, here or of the API server. It may be older than the last write, so it suffices for an unconditional admission
    /// only.
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
    pub fn new(time_to_live: Duration) -> Self {
        Self(Cache::builder().max_capacity(MAX_ENTRIES).time_to_live(time_to_live).build())
    }

    /// Returns the cached answer, else the result of `read`; with [`Freshness::Latest`] always the latter. Concurrent cached reads of a key
    /// share one answer. The future of `read` is large and rarely needed, so it is created on demand and boxed.
    pub async fn get_or_read<E, F>(&self, freshness: Freshness, key: &K, read: impl FnOnce() -> F) -> Result<V, E>
    where
        E: Clone + Send + Sync + 'static,
        F: Future<Output = Result<V, E>>,
    {
        if freshness == Freshness::Cached {
            if let Some(known) = self.0.get(key).await {
                return Ok(known);
            }
            let asked = Box::pin(self.0.try_get_with(key.clone(), read()));
            return asked.await.map_err(|answer| (*answer).clone());
        }
        let answer = Box::pin(read()).await;
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
    async fn only_successes_are_cached_and_only_for_cached_reads() {
        let cache = ReadCache::new(Duration::from_mins(1));
        let asked = Cell::new(0);
        let answers = |freshness, answer: Result<u8, u8>| {
            let (cache, asked) = (&cache, &asked);
            async move {
                let ask = async {
                    asked.set(asked.get() + 1);
                    answer
                };
                cache.get_or_read(freshness, &"key", || ask).await
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
    async fn concurrent_cached_reads_share_one_answer() {
        let cache = ReadCache::new(Duration::from_mins(1));
        let slow = async {
            tokio::task::yield_now().await;
            Ok::<_, ()>(1)
        };
        let quick = async { Ok::<_, ()>(2) };
        let both = tokio::join!(
            cache.get_or_read(Freshness::Cached, &"key", || slow),
            cache.get_or_read(Freshness::Cached, &"key", || quick)
        );
        assert_eq!(both, (Ok(1), Ok(1)));
    }
}
