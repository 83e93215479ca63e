//! What the books ask of the decoder. Must not know: why.

use std::ops::Range;

use crate::backend::SeqId;
use crate::engine::scheduler::host::SnapshotKey;

/// What the decoder must do before it computes on.
///
/// ```
/// use ryot_metrics::engine::{EngineConfig, Op, Scheduler, Sequence, Terms};
/// let mut scheduler = Scheduler::new(EngineConfig::default(), true, 0, None);
/// scheduler.add(Sequence::new(1, vec![5, 6, 7], 10, &Terms::default(), 0), 0);
/// let plan = scheduler.schedule(0);
/// scheduler.commit(&plan, 12_000_000);
/// scheduler.remove(1, true); // too few tokens to be kept
/// assert_eq!(scheduler.take_ops(), [Op::Forget(0)]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Free a sequence.
    Forget(SeqId),
    /// Let `to` use the cells of `from` at these positions, or, where each sequence has cells of
    /// its own, copies of all of them. May fail.
    Share {
        /// Who has them.
        from: SeqId,
        /// Who gets them; its own there go.
        to: SeqId,
        /// Which.
        positions: Range<usize>,
    },
    /// Cut a sequence off.
    Truncate {
        /// The sequence.
        seq: SeqId,
        /// How many of its tokens stay.
        length: usize,
    },
    /// Copy a sequence to the host. May fail.
    Save {
        /// The sequence.
        seq: SeqId,
        /// Where.
        key: SnapshotKey,
    },
    /// Make an empty sequence what the copy says, and cut it off. May fail.
    Restore {
        /// The sequence.
        seq: SeqId,
        /// Which copy.
        key: SnapshotKey,
        /// How many of its tokens are wanted.
        length: usize,
    },
    /// Throw a copy away.
    Discard(SnapshotKey),
}
