//! How much of a prompt began an earlier prompt: what a prompt cache would save, or saves.
//!
//! A prompt is cut into blocks, and each is known by a digest of the prompt up to its end, as a
//! prefix cache would know it. For each block the time is kept at which it was last seen. Memory
//! is bounded: of the least recent blocks, up to half are forgotten at a time. Must not know:
//! series, models' tokenizers.

use std::collections::HashMap;
use std::hash::Hash;

use crate::clock::{Nanos, seconds_between};

/// The windows of the label `context_reuse_window`, and their lengths in seconds.
pub(super) const WINDOWS: [(&str, f64); 3] =
    [("1h", 3_600.0), ("24h", 86_400.0), ("7d", 604_800.0)];

/// Blocks that are remembered at most: a million tokens.
const BLOCKS_MAX: usize = 65_536;

/// Items (tokens, or bytes of text) in a block.
pub(super) const TOKENS_PER_BLOCK: usize = 16;
pub(super) const BYTES_PER_BLOCK: usize = 64;

/// When each block was last seen.
#[derive(Debug, Default)]
pub(super) struct Reuse {
    hasher: ahash::RandomState,
    recent: HashMap<u64, Nanos>,
    older: HashMap<u64, Nanos>,
}

impl Reuse {
    /// The shares of this prompt that were seen within each of the windows; takes note of it.
    pub(super) fn see<T: Hash>(
        &mut self,
        now: Nanos,
        model: &str,
        prompt: &[T],
        block: usize,
    ) -> [f64; WINDOWS.len()] {
        let mut seen = [0; WINDOWS.len()];
        let mut digest = self.hasher.hash_one(model);
        for items in prompt.chunks(block) {
            digest = self.hasher.hash_one((digest, items));
            let Some(last) = self.touch(digest, now) else { continue };
            for ((_, seconds), seen) in WINDOWS.iter().zip(&mut seen) {
                *seen += if seconds_between(last, now) <= *seconds { items.len() } else { 0 };
            }
        }
        seen.map(|seen| seen as f64 / prompt.len().max(1) as f64)
    }

    fn touch(&mut self, digest: u64, now: Nanos) -> Option<Nanos> {
        let last = self.recent.get(&digest).or_else(|| self.older.get(&digest)).copied();
        self.recent.insert(digest, now);
        if self.recent.len() >= BLOCKS_MAX / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        last
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // all shares are exact in binary, or the nearest number
mod tests {
    use super::*;

    const HOUR: Nanos = 3_600_000_000_000;

    #[test]
    fn a_share_is_of_the_common_beginning_within_each_window() {
        let mut reuse = Reuse::default();
        let mut see = |now, prompt: &[i32]| reuse.see(now, "m", prompt, 4);
        assert_eq!(see(0, &[1, 2, 3, 4, 5, 6, 7, 8]), [0.0; 3]);
        assert_eq!(see(HOUR, &[1, 2, 3, 4, 9, 9, 9, 9]), [0.5; 3]);
        assert_eq!(see(HOUR, &[9, 9, 9, 9, 1, 2, 3, 4]), [0.0; 3], "not at its beginning");
        assert_eq!(see(3 * HOUR, &[1, 2, 3, 4]), [0.0, 1.0, 1.0]);
        assert_eq!(see(40 * HOUR, &[1, 2, 3, 4, 5]), [0.0, 0.0, 0.8]);
        assert_eq!(see(40 * HOUR, &[]), [0.0; 3]);
    }

    #[test]
    fn models_are_apart() {
        let mut reuse = Reuse::default();
        assert_eq!(reuse.see(0, "a", b"text", 4), [0.0; 3]);
        assert_eq!(reuse.see(0, "b", b"text", 4), [0.0; 3]);
        assert_eq!(reuse.see(0, "a", b"text", 4), [1.0; 3]);
    }

    #[test]
    fn the_least_recent_blocks_are_forgotten() {
        let mut reuse = Reuse::default();
        let often = [0_usize];
        for other in 1..2 * BLOCKS_MAX {
            reuse.see(0, "m", &[other], 1);
            if other % 1_000 == 0 {
                reuse.see(0, "m", &often, 1);
            }
        }
        assert!(reuse.recent.len() + reuse.older.len() <= BLOCKS_MAX);
        assert_eq!(reuse.see(0, "m", &often, 1), [1.0; 3]);
        assert_eq!(reuse.see(0, "m", &[1_usize], 1), [0.0; 3]);
    }
}
