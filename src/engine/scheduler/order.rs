//! Whose prompt comes first. Must not know: slots, cells, the step.
//!
//! Interactive requests before background ones, and of these first who was relegated: its caller waits
//! for the answer, only longer than was promised. A request that was preempted before those of its
//! tier that never ran; of the others, the least of *deadline + remaining work* (Niyama's hybrid of
//! earliest deadline and shortest job, arXiv 2503.22562: a short prompt passes a long one, and a long
//! one cannot be passed for ever, because deadlines stand still and time does not). Ties go to who
//! finds more in the cache, then to who came first.

use std::cmp::Ordering;

use crate::clock::Nanos;
use crate::engine::sequence::Sequence;
use crate::event::{Class, RequestId};

/// The deadline, after its arrival, of a request that was promised none: a second, about what a
/// person takes for an answer without thinking of something else (Nielsen, "Response Times", 1993).
pub const NO_PROMISE: Nanos = 1_000_000_000;

/// A background request that has waited so long, 30 s, is as urgent as an interactive one.
pub const BACKGROUND_PATIENCE: Nanos = 30_000_000_000;

/// What the order goes by first; the least is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    Interactive,
    Relegated,
    Background,
}

impl Tier {
    pub(super) fn of(sequence: &Sequence) -> Self {
        match sequence.class {
            Class::Interactive => Self::Interactive,
            Class::Background if sequence.relegated => Self::Relegated,
            Class::Background => Self::Background,
        }
    }
}

/// A place in the order; the least is first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rank {
    /// Its tier now: who has waited for long enough is in the first.
    pub tier: Tier,
    /// Its tenant had more than its share.
    pub ahead: bool,
    fresh: bool,
    /// When it was preempted, else deadline and work, in nanoseconds.
    due: u128,
    misses: usize,
    pub id: RequestId,
}

impl Rank {
    /// `work` is what is left of its prompt, in seconds; `hit` the part of it in the cache.
    pub(super) fn new(sequence: &Sequence, now: Nanos, ahead: bool, work: f64, hit: usize) -> Self {
        let waited = now.saturating_sub(sequence.queued_at);
        let aged = waited >= BACKGROUND_PATIENCE && sequence.answer_len() == 0;
        let deadline = sequence
            .first_token_due
            .unwrap_or_else(|| sequence.queued_at.saturating_add(NO_PROMISE));
        Self {
            tier: if aged { Tier::Interactive } else { Tier::of(sequence) },
            ahead,
            fresh: sequence.parked_at.is_none(),
            due: match sequence.parked_at {
                Some(at) => u128::from(at),
                None => u128::from(deadline) + (work * 1e9) as u128,
            },
            misses: usize::MAX - hit,
            id: sequence.id,
        }
    }
}

impl Eq for Rank {}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |rank: &Self| (rank.tier, rank.ahead, rank.fresh, rank.due, rank.misses, rank.id);
        key(self).cmp(&key(other))
    }
}
