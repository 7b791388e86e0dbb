//! A token bucket: the limit of a client's requests.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// A limit of requests: so many at once, then so many a second.
#[derive(Debug)]
pub struct Limiter {
    /// The time that one request costs; none without a limit.
    cost: Duration,
    burst: u32,
    /// The time at which the bucket is full again.
    full_at: Mutex<Option<Instant>>,
}

impl Limiter {
    /// A limit.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let cost = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { cost, burst, full_at: Mutex::default() }
    }

    /// No limit.
    pub fn unlimited() -> Self {
        Self::new(0, 1)
    }

    /// Waits for a turn. Turns are given in the order of the calls.
    pub async fn acquire(&self) {
        let now = Instant::now();
        let turn = {
            let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
            let next = full_at.filter(|at| *at > now).unwrap_or(now) + self.cost;
            *full_at = Some(next);
            next.checked_sub(self.cost * self.burst)
        };
        if let Some(turn) = turn.filter(|turn| *turn > now) {
            sleep_until(turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seconds(limiter: &Limiter, requests: u32) -> f32 {
        let start = Instant::now();
        for _ in 0..requests {
            limiter.acquire().await;
        }
        start.elapsed().as_secs_f32()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_the_rest_is_slow() {
        let limiter = Limiter::new(5, 10);
        assert!(seconds(&limiter, 10).await < 0.01);
        let more = seconds(&limiter, 10).await;
        assert!((1.9..2.1).contains(&more), "{more}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(seconds(&limiter, 10).await < 0.01, "it fills again");
        assert!(seconds(&Limiter::unlimited(), 1000).await < 0.01);
    }
}
