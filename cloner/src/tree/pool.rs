//! A pool of threads for small files. They wait for the disk, so there are more threads than processors.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use crate::{error::Error, stream::spawn};

const THREADS: usize = 4;
/// The minimum number of items for threads; below it they cost more than they save.
const WORTH_IT: usize = 8;

/// Applies `work` to every item, in any order. `take` receives the results in the calling thread, with the item's number. Ends at the first
/// error.
pub fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, Error> + Sync,
    mut take: impl FnMut(usize, R) -> Result<(), Error>,
) -> Result<(), Error> {
    if items.len() < WORTH_IT {
        return items.iter().enumerate().try_for_each(|(number, item)| take(number, work(item)?));
    }
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (done, results) = mpsc::sync_channel(THREADS);
        for _ in 0..THREADS {
            let (next, work, done) = (&next, &work, done.clone());
            spawn(scope, "worker", move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else { break };
                    // The receiver is gone once a step has failed.
                    if done.send((number, work(item))).is_err() {
                        break;
                    }
                }
            })?;
        }
        drop(done);
        // Consumed here, so that the channel is closed if `take` fails and no thread blocks.
        for (number, result) in results {
            take(number, result?)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    fn everything_is_done_once(#[values(0, 3, 500)] count: usize) {
        let items: Vec<usize> = (0..count).collect();
        let mut seen = vec![0; count];
        each(
            &items,
            |item| Ok(item * 2),
            |number, result| {
                assert_eq!(result, number * 2);
                seen[number] += 1;
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(seen, vec![1; count]);
    }

    #[rstest]
    fn an_error_ends_it(#[values(3, 500)] count: usize) {
        let items: Vec<usize> = (0..count).collect();
        let failing = |item: &usize| if *item == 2 { Err(Error::retry("two")) } else { Ok(()) };
        assert!(each(&items, failing, |_, ()| Ok(())).is_err());
        assert!(each(&items, |_| Ok(()), |_, ()| Err(Error::retry("enough"))).is_err());
    }
}
