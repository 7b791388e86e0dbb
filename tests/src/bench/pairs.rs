//! Two ways to the same end, taken in turn, so that a busy moment of the machine hits both.

use std::time::Duration;

use anyhow::Result;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// With smartclone.
    Ours,
    /// By hand, with nothing but the storage's own means.
    Floor,
}

/// How long both sides took in one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// With smartclone.
    pub ours: Duration,
    /// By hand.
    pub floor: Duration,
}

/// Runs one pair that doesn't count, since caches fill and connections open in it, and then `pairs` that do; returns these. `run` is
/// given the side and the number of the pair, and puts everything back before it returns. Whoever went second goes first next time.
pub async fn in_turn(
    pairs: usize,
    mut run: impl AsyncFnMut(Side, usize) -> Result<Duration>,
    mut tell: impl FnMut(usize, Pair),
) -> Result<Vec<Pair>> {
    let mut counted = Vec::with_capacity(pairs);
    for number in 0..=pairs {
        let pair = if number % 2 == 0 {
            let ours = run(Side::Ours, number).await?;
            Pair { ours, floor: run(Side::Floor, number).await? }
        } else {
            let floor = run(Side::Floor, number).await?;
            Pair { ours: run(Side::Ours, number).await?, floor }
        };
        tell(number, pair);
        if number > 0 {
            counted.push(pair);
        }
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::{
        Side::{Floor, Ours},
        *,
    };

    #[tokio::test]
    async fn sides_alternate_and_the_first_pair_does_not_count() -> Result<()> {
        let (mut runs, mut told) = (Vec::new(), Vec::new());
        let pairs = in_turn(
            2,
            async |side, number| {
                runs.push((side, number));
                Ok(Duration::from_millis(runs.len() as u64))
            },
            |number, _| told.push(number),
        )
        .await?;
        assert_eq!(runs, [(Ours, 0), (Floor, 0), (Floor, 1), (Ours, 1), (Ours, 2), (Floor, 2)]);
        assert_eq!(told, [0, 1, 2]);
        let pair = |ours, floor| Pair { ours: Duration::from_millis(ours), floor: Duration::from_millis(floor) };
        assert_eq!(pairs, [pair(4, 3), pair(5, 6)]);
        Ok(())
    }

    #[tokio::test]
    async fn a_run_that_fails_ends_it() {
        let mut runs = 0;
        let result = in_turn(
            5,
            async |_, _| {
                runs += 1;
                anyhow::ensure!(runs < 3, "the third one fails");
                Ok(Duration::ZERO)
            },
            |_, _| {},
        )
        .await;
        assert!(result.is_err());
        assert_eq!(runs, 3);
    }
}
