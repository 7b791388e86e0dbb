//! Memory for direct I/O: its address is a multiple of a page.

use std::ops::{Deref, DerefMut};

use crate::zero::PAGE;

/// Bytes that start on a page of memory.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// Sets the length to `len` bytes. The content is then undefined.
    pub fn resize(&mut self, len: usize) {
        if self.memory.len() < len + PAGE {
            self.memory = vec![0; len + PAGE];
            self.start = self.memory.as_ptr().align_offset(PAGE).min(PAGE);
        }
        self.len = len;
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
impl From<&[u8]> for Buffer {
    fn from(bytes: &[u8]) -> Self {
        let mut buffer = Self::default();
        buffer.resize(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_on_a_page_whatever_its_length() {
        let mut buffer = Buffer::default();
        for len in [1, PAGE, 10 * PAGE + 3, 5, 0] {
            buffer.resize(len);
            assert_eq!((buffer.len(), buffer.as_ptr().align_offset(PAGE)), (len, 0));
        }
    }
}
