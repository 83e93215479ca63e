//! One step as the scheduler plans it.

use crate::backend::Row;
use crate::engine::policy::{Work, Yields};
use crate::engine::scheduler::cells::Op;
use crate::engine::sequence::Sequence;
use crate::event::RequestId;

/// The part of a plan that belongs to one sequence: consecutive rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The request.
    pub id: RequestId,
    /// How many rows.
    pub count: usize,
    /// The row whose logits give the answer's next token; none within a prompt.
    pub sample: Option<usize>,
}

/// A request that got a place, for this step or a later one.
///
/// ```
/// use ryot_metrics::engine::{Admission, EngineConfig, Scheduler, Sequence, Terms};
/// let mut scheduler = Scheduler::new(EngineConfig::default(), true, 0, None);
/// scheduler.add(Sequence::new(1, vec![5, 6, 7], 10, &Terms::default(), 0), 0);
/// let first = Admission { id: 1, queried: 3, hit: 0, resumed: false };
/// assert_eq!(scheduler.schedule(0).admitted, [first]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The request.
    pub id: RequestId,
    /// Tokens that were looked for in the cache.
    pub queried: usize,
    /// Tokens that were there.
    pub hit: usize,
    /// It had a place before, and gave it up.
    pub resumed: bool,
}

/// One step.
///
/// ```
/// use ryot_metrics::engine::{EngineConfig, Scheduler, Sequence, Terms};
/// let mut scheduler = Scheduler::new(EngineConfig::default(), true, 0, None);
/// scheduler.add(Sequence::new(1, vec![5, 6, 7], 10, &Terms::default(), 0), 0);
/// let plan = scheduler.schedule(0);
/// assert_eq!((plan.work().prefill, plan.spans[0].sample), (3, Some(2)));
/// scheduler.commit(&plan, 12_000_000);
/// scheduler.push(1, 8, 12_000_000);
/// assert_eq!(scheduler.schedule(12_000_000).decode_tokens, 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What the decoder must do first, in this order.
    pub ops: Vec<Op>,
    /// What all rows are computed with; 0 is the bare model.
    pub adapter: usize,
    /// What to compute.
    pub rows: Vec<Row>,
    /// Whose rows these are, in the same order.
    pub spans: Vec<Span>,
    /// Requests that left the queue.
    pub admitted: Vec<Admission>,
    /// Requests that gave up their place.
    pub parked: Vec<RequestId>,
    /// How many rows, from the first, continue answers; the rest are prompts.
    pub decode_tokens: usize,
    /// How many tokens the policy allowed, decodes included.
    pub budget: usize,
    /// What it is given up for.
    pub yields: Yields,
    /// What it adds to the prompt tokens that a lower tier may take first; below 0 if it takes more.
    pub credit: f64,
    /// Prompts waited, and the policy let none of them in.
    pub prefill_skipped: bool,
}

impl Plan {
    /// What it takes, for the model of step times.
    pub fn work(&self) -> Work {
        Work {
            prefill: self.rows.len() - self.decode_tokens,
            decodes: self.decode_tokens,
            logits: self.rows.iter().filter(|row| row.wants_logits).count(),
            context: self.rows.iter().map(|row| row.position + 1).sum(),
        }
    }

    /// The requests whose prompts it computes.
    pub fn prompts(&self) -> impl Iterator<Item = RequestId> {
        self.spans[self.decode_tokens..].iter().map(|span| span.id) // a decode is a span of one row
    }

    /// Adds up to `limit` of a live sequence's pending tokens and returns how many. Only its
    /// very last token asks for logits: an answer must not begin in the middle of a prompt.
    pub(super) fn append(&mut self, sequence: &Sequence, limit: usize) -> usize {
        let count = sequence.pending().min(limit);
        if count == 0 {
            return 0;
        }
        let seq = sequence.slot.expect("a live sequence has a slot");
        let start = sequence.computed();
        let last = sequence.tokens().len() - 1;
        self.rows.extend((start..start + count).map(|position| Row {
            token: sequence.tokens()[position],
            position,
            seq,
            wants_logits: position == last,
        }));
        let sample = (count == sequence.pending()).then(|| self.rows.len() - 1);
        self.spans.push(Span { id: sequence.id, count, sample });
        count
    }
}
