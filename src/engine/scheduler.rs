//! Which tokens the next step computes. A pure value: no I/O, no clock, no thread, so that a test
//! can add two sequences, ask for a plan and compare.
//!
//! The policy: every running answer gets its next token in every step; what the step has left goes
//! to prompts, first come first served. A sequence runs only if the cells for its whole prompt and
//! its longest answer are reserved, so the decoder cannot run out of them halfway; until then it
//! waits, and those behind it wait as well. [`Scheduler::check_integrity`] states the books.

use std::collections::{BTreeSet, HashSet, VecDeque};

use crate::backend::{Row, SeqId, Token};
use crate::engine::config::EngineConfig;
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

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to compute.
    pub rows: Vec<Row>,
    /// Whose rows these are, in the same order.
    pub spans: Vec<Span>,
    /// Requests that left the queue for this step.
    pub admitted: Vec<RequestId>,
    /// How many rows, from the first, continue answers; the rest are prompts.
    pub decode_tokens: usize,
}

/// The sequences that run and those that wait.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: EngineConfig,
    waiting: VecDeque<Sequence>,
    /// In the order in which they were admitted.
    running: Vec<Sequence>,
    free_slots: BTreeSet<SeqId>,
    reserved: usize,
}

impl Scheduler {
    /// An empty scheduler for a valid configuration.
    pub fn new(config: EngineConfig) -> Self {
        let free_slots = (0..config.parallel as SeqId).collect();
        Self { config, waiting: VecDeque::new(), running: Vec::new(), free_slots, reserved: 0 }
    }

    /// Puts a sequence at the end of the queue. Its cells must fit into the context.
    pub fn add(&mut self, sequence: Sequence) {
        debug_assert!(sequence.cells() <= self.config.ctx_size, "it would wait for ever");
        self.waiting.push_back(sequence);
    }

    /// The next step; none if there is nothing to compute.
    pub fn schedule(&mut self) -> Option<Plan> {
        let mut plan = Plan::default();
        for sequence in self.running.iter().filter(|sequence| sequence.is_decoding()) {
            plan.append(sequence, sequence.pending());
        }
        plan.decode_tokens = plan.rows.len();
        let mut budget = self.prefill_budget(plan.decode_tokens);
        for sequence in self.running.iter().filter(|sequence| !sequence.is_decoding()) {
            budget -= plan.append(sequence, budget);
        }
        while budget > 0 && self.admit_next() {
            let sequence = self.running.last().expect("one was just admitted");
            plan.admitted.push(sequence.id);
            budget -= plan.append(sequence, budget);
        }
        (!plan.rows.is_empty()).then_some(plan)
    }

    /// The plan was computed.
    pub fn commit(&mut self, plan: &Plan) {
        for span in &plan.spans {
            if let Some(sequence) = self.running_mut(span.id) {
                sequence.advance(span.count);
            }
        }
    }

    /// Adds a token to an answer whose logits were computed.
    pub fn push(&mut self, id: RequestId, token: Token) {
        if let Some(sequence) = self.running_mut(id) {
            sequence.push(token);
        }
    }

    /// Takes a sequence out, running or waiting. If it has a slot, the decoder must forget it.
    pub fn remove(&mut self, id: RequestId) -> Option<Sequence> {
        if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(index);
            self.reserved -= sequence.cells();
            self.free_slots.extend(sequence.slot);
            return Some(sequence);
        }
        let index = self.waiting.iter().position(|sequence| sequence.id == id)?;
        self.waiting.remove(index)
    }

    /// A running sequence.
    pub fn sequence(&self, id: RequestId) -> Option<&Sequence> {
        self.running.iter().find(|sequence| sequence.id == id)
    }

    /// The most tokens in a step.
    pub fn batch_size(&self) -> usize {
        self.config.batch_size
    }

    /// How many sequences run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many sequences wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// KV cells that running sequences have reserved.
    pub fn reserved_cells(&self) -> usize {
        self.reserved
    }

    /// KV cells that hold a token.
    pub fn used_cells(&self) -> usize {
        self.running.iter().map(Sequence::computed).sum()
    }

    /// Prompt tokens that fit beside this many tokens of answers.
    fn prefill_budget(&self, decode_tokens: usize) -> usize {
        let left = self.config.batch_size - decode_tokens;
        if decode_tokens == 0 { left } else { left.min(self.config.prefill_chunk) }
    }

    /// Moves the head of the queue to the running sequences, if a slot and its cells are free.
    fn admit_next(&mut self) -> bool {
        let Some(head) = self.waiting.front() else { return false };
        let reserved = self.reserved + head.cells();
        if reserved > self.config.ctx_size {
            return false;
        }
        let Some(slot) = self.free_slots.pop_first() else { return false };
        self.reserved = reserved;
        self.running.extend(self.waiting.pop_front());
        self.running.last_mut().expect("the queue had a head").slot = Some(slot);
        true
    }

    fn running_mut(&mut self, id: RequestId) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|sequence| sequence.id == id)
    }

    /// Checks what must hold between any two calls. For tests and simulations.
    ///
    /// # Errors
    ///
    /// The first entry that is wrong.
    pub fn check_integrity(&self) -> Result<(), String> {
        let ensure =
            |ok: bool, what: &str| if ok { Ok(()) } else { Err(format!("{what}: {self:?}")) };
        let cells: usize = self.running.iter().map(Sequence::cells).sum();
        ensure(cells == self.reserved, "reserved cells are those of running sequences")?;
        ensure(cells <= self.config.ctx_size, "reserved cells fit into the context")?;
        let mut slots = self.free_slots.clone();
        for sequence in &self.running {
            let free_before = sequence.slot.is_none_or(|slot| !slots.insert(slot));
            ensure(!free_before, "each running sequence has a slot of its own")?;
        }
        ensure(slots.iter().copied().eq(0..self.config.parallel as SeqId), "no slot is lost")?;
        let all = || self.running.iter().chain(&self.waiting);
        let ids: HashSet<RequestId> = all().map(|sequence| sequence.id).collect();
        ensure(ids.len() == all().count(), "each request is in one place")?;
        for sequence in all() {
            ensure(sequence.computed() < sequence.tokens().len(), "something is left to compute")?;
            ensure(sequence.tokens().len() <= sequence.cells(), "no answer exceeds its room")?;
        }
        let untouched = |sequence: &Sequence| sequence.slot.is_none() && sequence.computed() == 0;
        ensure(self.waiting.iter().all(untouched), "who waits holds nothing")
    }
}

impl Plan {
    /// Adds up to `limit` of a running sequence's pending tokens and returns how many. Only its
    /// very last token asks for logits: an answer must not begin in the middle of a prompt.
    fn append(&mut self, sequence: &Sequence, limit: usize) -> usize {
        let count = sequence.pending().min(limit);
        if count == 0 {
            return 0;
        }
        let seq = sequence.slot.expect("a running sequence has a slot");
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
