//! The digest of the content of one file or device.

use std::ops::Range;

use blake3::{Hash, Hasher};

use crate::stream::Piece;

/// BLAKE3 of the bytes that are not zero, and separately of their positions. The two streams and the length determine the content, and are
/// determined by it: runs are as long as possible, in whole pages.
#[derive(Default)]
pub struct Digest {
    data: Hasher,
    places: Hasher,
    run: Range<u64>,
    end: u64,
}

impl Digest {
    /// Adds a piece. Pieces come in order and without gaps.
    pub fn add(&mut self, piece: &Piece) {
        for run in &piece.runs {
            self.data.update(&piece.data[run.clone()]);
            let at = |offset: usize| piece.range.start + offset as u64;
            if self.run.end == at(run.start) {
                self.run.end = at(run.end);
            } else {
                self.close_run();
                self.run = at(run.start)..at(run.end);
            }
        }
        self.end = piece.range.end;
    }

    /// Adds zeros up to `end`.
    pub fn add_zeros(&mut self, end: u64) {
        self.end = end;
    }

    pub fn finish(mut self) -> Hash {
        self.close_run();
        let mut whole = Hasher::new();
        whole.update(&self.end.to_le_bytes());
        whole.update(self.places.finalize().as_bytes());
        whole.update(self.data.finalize().as_bytes());
        whole.finalize()
    }

    fn close_run(&mut self) {
        if !self.run.is_empty() {
            self.places.update(&self.run.start.to_le_bytes());
            self.places.update(&self.run.end.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::Buffer;
    use crate::zero::{self, PAGE};

    fn digest(content: &[u8], pieces: &[usize]) -> Hash {
        let mut digest = Digest::default();
        let mut start = 0;
        let mut sizes = pieces.iter().cycle();
        while start < content.len() {
            let size = sizes.next().map_or(PAGE, |pages| pages * PAGE).min(content.len() - start);
            let data = content[start..start + size].to_vec();
            // A piece of zeros may be represented as a hole.
            let runs = zero::data_runs(&data);
            let data = if runs.is_empty() { Vec::new() } else { data };
            let range = start as u64..(start + size) as u64;
            digest.add(&Piece { range, data: Buffer::from(data.as_slice()), runs });
            start += size;
        }
        digest.finish()
    }

    fn contents() -> impl Strategy<Value = Vec<u8>> {
        let page = prop_oneof![Just(0u8), 0..3u8];
        (prop::collection::vec(page, 0..12), 0..PAGE).prop_map(|(pages, tail)| {
            let mut content: Vec<u8> = pages.into_iter().flat_map(|fill| [fill; PAGE]).collect();
            content.truncate(content.len().saturating_sub(tail));
            content
        })
    }

    proptest! {
        #[test]
        fn same_content_same_digest_however_it_was_cut(
            content in contents(), one in prop::collection::vec(1..5usize, 1..4), other in prop::collection::vec(1..5usize, 1..4)
        ) {
            prop_assert_eq!(digest(&content, &one), digest(&content, &other));
        }

        #[test]
        fn other_content_other_digest(one in contents(), other in contents()) {
            prop_assert_eq!(one == other, digest(&one, &[2]) == digest(&other, &[2]));
        }
    }
}
