//! Detection of zero parts in a buffer.

use std::ops::Range;

/// The unit of zero detection, in bytes; ranges are multiples of it except at the end of the content.
pub const PAGE: usize = 4096;

/// The minimum length of a hole. Shorter runs of zeros inside of data are written like data: a hole costs the file system an extent.
const SHORTEST_HOLE: usize = 64 << 10;

/// A buffer of zeros to write from, also with direct I/O.
pub static ZEROS: Aligned<[u8; 256 << 10]> = Aligned([0; 256 << 10]);

/// A value that is aligned to a page of memory.
#[repr(align(4096))]
pub struct Aligned<T>(pub T);

/// The longest ranges of pages that are not zero, in order. `data` starts on a page.
pub fn data_runs(data: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for page in data.chunks(PAGE) {
        let end = start + page.len();
        // Comparing with a constant page is a memcmp, several times faster than a loop over bytes.
        if page != &ZEROS.0[..page.len()] {
            match runs.last_mut() {
                Some(run) if run.end == start => run.end = end,
                _ => runs.push(start..end),
            }
        }
        start = end;
    }
    runs
}

/// `runs` with those merged that are too close to each other for a hole between them.
pub fn without_short_holes(runs: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut merged: Vec<Range<usize>> = Vec::new();
    for run in runs {
        match merged.last_mut() {
            Some(last) if run.start - last.end < SHORTEST_HOLE => last.end = run.end,
            _ => merged.push(run.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_byte_makes_its_page_data() {
        let mut data = vec![0; 3 * PAGE + 10];
        data[2 * PAGE - 1] = 1;
        data[3 * PAGE + 9] = 1;
        assert_eq!(data_runs(&data), [PAGE..2 * PAGE, 3 * PAGE..3 * PAGE + 10]);
        assert!(data_runs(&vec![0; PAGE + 1]).is_empty());
    }

    #[test]
    fn only_long_runs_of_zeros_become_holes() {
        let far = 2 * PAGE + SHORTEST_HOLE;
        let runs = [0..PAGE, 2 * PAGE - 1..2 * PAGE, far..far + PAGE];
        assert_eq!(without_short_holes(&runs), [0..2 * PAGE, far..far + PAGE]);
    }
}
