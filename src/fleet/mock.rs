//! Workers that have nothing to do: their loads and events are random, and reproducible by a seed.

use std::hash::{BuildHasher, RandomState};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::load::ForwardPassMetrics;
use super::worker::Member;

/// Places for requests, and blocks, of every mock worker.
const TOTAL: u64 = 100;

/// A worker of random load.
#[derive(Debug)]
pub struct Mock {
    /// Apart, so that neither depends on how often the other is asked for.
    loads: ChaCha8Rng,
    hits: ChaCha8Rng,
}

impl Mock {
    /// So many mock workers with their numbers; the same for the same seed.
    ///
    /// ```
    /// use ryot_metrics::fleet::{Member, Mock};
    /// let mut one = Mock::several(2, Some(7));
    /// let mut same = Mock::several(2, Some(7));
    /// assert_eq!((one[1].0, one[1].1.load()), (same[1].0, same[1].1.load()));
    /// assert_ne!(one[0].0, one[1].0);
    /// ```
    pub fn several(count: usize, seed: Option<u64>) -> Vec<(i64, Self)> {
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(()));
        let mut seeds = ChaCha8Rng::seed_from_u64(seed);
        let mut one = || {
            let id = (seeds.next_u64() >> 1) as i64;
            let mut random = || ChaCha8Rng::seed_from_u64(seeds.next_u64());
            (id, Self { loads: random(), hits: random() })
        };
        (0..count).map(|_| one()).collect()
    }
}

/// A number from 0 to `most`.
fn up_to(random: &mut ChaCha8Rng, most: u64) -> u64 {
    random.next_u64() % (most + 1)
}

impl Member for Mock {
    fn load(&mut self) -> Result<ForwardPassMetrics, String> {
        Ok(ForwardPassMetrics {
            request_active_slots: up_to(&mut self.loads, TOTAL),
            request_total_slots: TOTAL,
            kv_active_blocks: up_to(&mut self.loads, TOTAL),
            kv_total_blocks: TOTAL,
        })
    }

    fn hits(&mut self) -> Option<(u64, u64)> {
        let isl = up_to(&mut self.hits, TOTAL);
        Some((isl, up_to(&mut self.hits, isl)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_hits_are_within_their_bounds_and_do_not_disturb_each_other() {
        let mut pair = Mock::several(1, Some(1)).remove(0).1;
        let mut alone = Mock::several(1, Some(1)).remove(0).1;
        for _ in 0..200 {
            let (isl, overlap) = pair.hits().unwrap();
            assert!(overlap <= isl && isl <= TOTAL);
            let load = pair.load().unwrap();
            assert!(load.kv_active_blocks <= TOTAL && load.request_active_slots <= TOTAL);
            assert_eq!(alone.load().unwrap(), load);
        }
    }
}
