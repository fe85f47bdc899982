//! Memory of the host device.
//!
//! Buffers are arrays of relaxed atomic words: blocks of one launch run on several threads and may store next
//! to each other. A relaxed load or store is an ordinary move; only stores below 32 bits cost more.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::error::DeviceError;

/// A buffer's words, and which bytes were ever written when that is tracked.
pub(super) struct HostBuffer {
    pub words: Vec<AtomicU32>,
    /// One bit per byte.
    pub written: Option<Vec<AtomicU32>>,
}

impl HostBuffer {
    pub fn new(bytes: usize, track: bool) -> Result<Self, DeviceError> {
        let words = |count: usize, word: u32| -> Result<Vec<AtomicU32>, DeviceError> {
            let mut words = Vec::new();
            words
                .try_reserve_exact(count)
                .map_err(|_| DeviceError::OutOfMemory { bytes, free: 0 })?;
            words.extend((0..count).map(|_| AtomicU32::new(word)));
            Ok(words)
        };
        // Whole 16-byte units; undefined contents of a sanitizing device are NaN as f32, so that tests notice.
        let fresh = if track { u32::MAX } else { 0 };
        Ok(Self {
            words: words(bytes.div_ceil(16) * 4, fresh)?,
            written: if track {
                Some(words(bytes.div_ceil(32), 0)?)
            } else {
                None
            },
        })
    }

    pub fn mark(&self, start: usize, bytes: usize) {
        let Some(written) = &self.written else { return };
        let mut byte = start;
        while byte < start + bytes {
            let Some(word) = written.get(byte / 32) else {
                return;
            };
            let until = (start + bytes).min((byte / 32 + 1) * 32);
            let mask = (((1u64 << (until - byte)) - 1) << (byte % 32)) as u32;
            word.fetch_or(mask, Relaxed);
            byte = until;
        }
    }

    pub fn is_written(&self, start: usize, bytes: usize) -> bool {
        let Some(written) = &self.written else {
            return true;
        };
        (start..start + bytes).all(|byte| {
            written
                .get(byte / 32)
                .is_some_and(|word| word.load(Relaxed) >> (byte % 32) & 1 == 1)
        })
    }

    pub fn write(&self, offset: usize, data: &[u8]) {
        self.mark(offset, data.len());
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            if at.is_multiple_of(4) && rest.len() >= 4 {
                let (chunks, tail) = rest.as_chunks::<4>();
                for (word, chunk) in self.words[at / 4..].iter().zip(chunks) {
                    word.store(u32::from_le_bytes(*chunk), Relaxed);
                }
                at += rest.len() - tail.len();
                rest = tail;
            } else {
                store_bits(&self.words[at / 4], (at % 4) as u32 * 8, 0xff, u32::from(rest[0]));
                at += 1;
                rest = &rest[1..];
            }
        }
    }

    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            if at.is_multiple_of(4) && rest.len() >= 4 {
                let whole = rest.len() / 4 * 4;
                let (now, later) = rest.split_at_mut(whole);
                for (chunk, word) in now.as_chunks_mut::<4>().0.iter_mut().zip(&self.words[at / 4..]) {
                    *chunk = word.load(Relaxed).to_le_bytes();
                }
                at += whole;
                rest = later;
            } else {
                rest[0] = (self.words[at / 4].load(Relaxed) >> (at % 4 * 8)) as u8;
                at += 1;
                rest = &mut rest[1..];
            }
        }
    }
}

fn store_bits(word: &AtomicU32, shift: u32, mask: u32, value: u32) {
    // Neighbouring bytes may be stored by another thread at the same time.
    let _ = word.fetch_update(Relaxed, Relaxed, |old| {
        Some((old & !(mask << shift)) | ((value & mask) << shift))
    });
}

/// Word-addressed memory: global or shared. Indices were checked before; a wrong one reads 0 and stores nothing.
pub(super) trait Words {
    fn get(&self, word: usize) -> u32;
    fn set(&mut self, word: usize, value: u32);
    fn set_bits(&mut self, word: usize, shift: u32, mask: u32, value: u32);
}

impl Words for &[AtomicU32] {
    #[inline(always)]
    fn get(&self, word: usize) -> u32 {
        <[AtomicU32]>::get(self, word).map_or(0, |word| word.load(Relaxed))
    }

    #[inline(always)]
    fn set(&mut self, word: usize, value: u32) {
        if let Some(word) = <[AtomicU32]>::get(self, word) {
            word.store(value, Relaxed);
        }
    }

    #[inline(always)]
    fn set_bits(&mut self, word: usize, shift: u32, mask: u32, value: u32) {
        if let Some(word) = <[AtomicU32]>::get(self, word) {
            store_bits(word, shift, mask, value);
        }
    }
}

impl Words for &mut [u32] {
    #[inline(always)]
    fn get(&self, word: usize) -> u32 {
        <[u32]>::get(self, word).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn set(&mut self, word: usize, value: u32) {
        if let Some(word) = <[u32]>::get_mut(self, word) {
            *word = value;
        }
    }

    #[inline(always)]
    fn set_bits(&mut self, word: usize, shift: u32, mask: u32, value: u32) {
        if let Some(word) = <[u32]>::get_mut(self, word) {
            *word = (*word & !(mask << shift)) | ((value & mask) << shift);
        }
    }
}

impl Words for &[u32] {
    #[inline(always)]
    fn get(&self, word: usize) -> u32 {
        <[u32]>::get(self, word).copied().unwrap_or(0)
    }

    fn set(&mut self, _: usize, _: u32) {}

    fn set_bits(&mut self, _: usize, _: u32, _: u32, _: u32) {}
}
