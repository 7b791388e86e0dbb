//! What a series of times comes to.

use std::time::Duration;

use serde::Serialize;

/// The extremes of a series and two between, in milliseconds. The median, because one disturbed run says nothing about the others; what 90
/// of 100 didn't exceed, because it shows what happens now and then.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The shortest.
    pub min: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The longest.
    pub max: f64,
}

impl Spread {
    /// Of nothing there is none.
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let (first, last) = (sorted.first()?, sorted.last()?);
        let middle = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2;
        Some(Self {
            min: milliseconds(*first),
            median: milliseconds(middle),
            p90: milliseconds(percentile(times, 90)?),
            max: milliseconds(*last),
        })
    }
}

/// The time that so many of a hundred didn't exceed. Of nothing there is none.
pub fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied()
}

/// So many of something for each of `of`.
pub fn each(count: usize, of: usize) -> f64 {
    let number = |count| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    number(count) / number(of)
}

/// To a tenth; what is finer is noise.
fn milliseconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3, 1)
}

/// `value` with so many digits after the point.
pub fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(times: &[u64]) -> Option<Spread> {
        Spread::of(&times.iter().copied().map(Duration::from_millis).collect::<Vec<_>>())
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two_in_the_middle() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[7]), Some(Spread { min: 7.0, median: 7.0, p90: 7.0, max: 7.0 }));
        assert_eq!(spread(&[300, 100, 200]), Some(Spread { min: 100.0, median: 200.0, p90: 300.0, max: 300.0 }));
        assert_eq!(spread(&[100, 400, 200, 300]), Some(Spread { min: 100.0, median: 250.0, p90: 400.0, max: 400.0 }));
    }

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let of = |percent| percentile(&times, percent).map(|time| time.as_millis());
        assert_eq!([of(0), of(50), of(90), of(100)], [Some(1), Some(100), Some(180), Some(200)]);
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn the_order_of_the_runs_does_not_matter() {
        assert_eq!(spread(&[5, 9, 1, 3]), spread(&[9, 1, 5, 3]));
    }

    #[test]
    fn one_disturbed_run_of_many_moves_the_maximum_only() {
        let times = [10, 11, 12, 13, 14, 15, 16, 17, 18, 60_000];
        assert_eq!(spread(&times), Some(Spread { min: 10.0, median: 14.5, p90: 18.0, max: 60_000.0 }));
    }

    #[test]
    fn times_are_told_to_a_tenth_of_a_millisecond() {
        assert_eq!(Spread::of(&[Duration::from_micros(1_260)]).map(|s| s.median), Some(1.3));
        assert!((rounded(1.296, 2) - 1.3).abs() < 1e-9);
    }
}
