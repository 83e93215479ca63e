//! Which tokens the next step computes. A pure value: no I/O, no clock, no thread, so that a test
//! can add two sequences, ask for a plan and compare.
//!
//! [`Scheduler::schedule`] is the policy, in its order:
//! 1. Answers go on: whoever decodes gets its next token in every step. If the cells for these
//!    tokens are not there, cached prefixes go, then the lowest tier gives up its place.
//! 2. Places: the first in the [`order`] that fits, beginning with what the cache holds of it.
//! 3. Whose turn it is: llama.cpp applies an adapter to a whole batch, so a step holds sequences of
//!    one. They take turns, and a policy of its own learns how long the steps of each take.
//! 4. Decodes; those of background requests that nothing was promised to take turns where they
//!    would break an interactive promise.
//! 5. Prompts, with the time that the [`Policy`] finds left. Who shares a prefix with one that is
//!    being computed waits and takes it over. Where no answer is under way, the step may be long: it
//!    is given up for whoever comes.
//!
//! Whoever gives up its place keeps its tokens in the [`cells`] (or in the host's memory), waits at
//! the head of its class and goes on where it was: nothing is reserved for the longest answer, and
//! nobody fails because another's answer grew, nor waits for it who needs no more than an equal part
//! of the cells. [`Scheduler::check_integrity`] states the books.

mod cells;
mod host;
mod order;
mod places;
mod plan;
mod radix;
mod step;

use std::collections::HashSet;
use std::sync::Arc;

use crate::backend::Token;
use crate::clock::{Nanos, seconds_between};
use crate::engine::config::{EngineConfig, Overload};
use crate::engine::policy::{Policy, TokenCounters, Work};
use crate::engine::sequence::Sequence;
use crate::event::{Class, RequestId, Slo};

use self::cells::Cells;
pub use self::cells::Op;
pub use self::host::SnapshotKey;
use self::order::Rank;
pub use self::order::{BACKGROUND_PATIENCE, NO_PROMISE};
pub use self::plan::{Admission, Plan, Span};
pub use self::radix::BLOCK;
use self::radix::Scope;

/// Prompt tokens after which it is known well enough what one takes to refuse a request.
const LEARNED: usize = 32;

/// Failures in a row, for want of cells or by an abort, after which a request is given up.
const MAX_FAILURES: u32 = 8;

/// What became of a new request.
///
/// ```
/// use ryot_metrics::engine::{EngineConfig, Scheduler, Sequence, Terms, Verdict};
/// let mut scheduler = Scheduler::new(EngineConfig::default(), true, 0, None);
/// let sequence = Sequence::new(1, vec![5, 6, 7], 10, &Terms::default(), 0);
/// assert_eq!(scheduler.add(sequence, 0), Verdict::Accepted);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It waits.
    Accepted,
    /// It waits as a background request: its promise could not have been kept.
    Relegated,
    /// Its promise cannot be kept: the first token would come after so many seconds.
    Refused {
        /// From now, in seconds.
        expected: f64,
    },
}

/// The sequences that have a place and those that wait.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: EngineConfig,
    divisible: bool,
    /// The name of the scope in which all share, kept because it is asked for in each step.
    everybody: Arc<str>,
    waiting: Vec<Sequence>,
    /// In the order in which they got their place.
    live: Vec<Sequence>,
    cells: Cells,
    /// By adapter.
    policies: Vec<Policy>,
    /// By adapter, the last step that was its.
    turns: Vec<u64>,
    steps: u64,
    /// The adapter of the last plan.
    planned: usize,
    /// By class, the tenants whose prompts wait.
    tenants: [TokenCounters<Arc<str>>; Class::ALL.len()],
    /// Prompt tokens that a lower tier may take before a higher one.
    credit: f64,
    /// The part of the time that goes to prompts while some wait, as a moving mean.
    prefill_share: f64,
    failures: u32,
    /// Prompt tokens computed so far, up to [`LEARNED`].
    learned: usize,
}

impl Scheduler {
    /// An empty scheduler for a valid configuration. `divisible`: whether the model's sequences
    /// can be cut and shared. `adapters`: how many it has. `cell_bytes`: what its decoder needs for a
    /// KV cell, if it is known.
    pub fn new(
        config: EngineConfig,
        divisible: bool,
        adapters: usize,
        cell_bytes: Option<u64>,
    ) -> Self {
        let cells = Cells::new(&config, divisible, cell_bytes);
        let policy = Policy::new(config.policy, (config.step, config.lone_step), config.batch_size);
        let policies = vec![policy; 1 + adapters];
        let counters = || TokenCounters::new(config.fairness_tokens);
        Self {
            divisible,
            everybody: Arc::from(""),
            waiting: Vec::new(),
            live: Vec::new(),
            cells,
            turns: vec![0; policies.len()],
            policies,
            steps: 0,
            planned: 0,
            tenants: [counters(), counters()],
            credit: 0.0,
            prefill_share: 1.0,
            failures: 0,
            learned: 0,
            config,
        }
    }

    /// Sequences that can run at once.
    pub fn slots(&self) -> usize {
        self.config.parallel
    }

    /// Puts a sequence into the queue, unless its promise cannot be kept and that is to be refused.
    /// Its cells must fit into the context.
    pub fn add(&mut self, mut sequence: Sequence, now: Nanos) -> Verdict {
        debug_assert!(sequence.cells() <= self.config.longest().0, "it would wait for ever");
        sequence.hint = self.cells.matched(&self.scope(&sequence), sequence.tokens());
        if sequence.class == Class::Interactive {
            self.policies[self.planned].somebody_came();
        }
        let verdict = self.judge(&sequence, now);
        match verdict {
            Verdict::Refused { .. } => return verdict,
            Verdict::Relegated => sequence.relegate(),
            Verdict::Accepted => (),
        }
        self.counters(sequence.class).activate(&sequence.tenant);
        sequence.backlogged = true;
        self.waiting.push(sequence);
        verdict
    }

    /// The next step. Without rows, there is nothing to compute.
    pub fn schedule(&mut self, now: Nanos) -> Plan {
        let mut plan = Plan::default();
        self.make_room_for_answers(now, &mut plan);
        self.give_places(now, &mut plan);
        for adapter in self.turns() {
            plan.adapter = adapter;
            self.plan_decodes(now, &mut plan);
            self.plan_prefill(now, &mut plan);
            if !plan.rows.is_empty() {
                self.steps += 1;
                self.turns[adapter] = self.steps;
                break;
            }
        }
        if plan.rows.is_empty() && self.live.len() > 1 {
            self.park_last(now, &mut plan, |_, _| true); // prompts that got stuck in each other
        }
        self.planned = plan.adapter;
        plan.ops = self.cells.take_ops();
        plan
    }

    /// The plan was computed, in so many nanoseconds.
    pub fn commit(&mut self, plan: &Plan, nanos: Nanos) {
        self.failures = 0;
        self.credit += plan.credit;
        let work = plan.work();
        self.learned = LEARNED.min(self.learned + work.prefill);
        self.note_share(plan.adapter, &work, nanos);
        self.policies[plan.adapter].observe(&work, nanos);
        for span in &plan.spans {
            let Some(index) = self.live.iter().position(|sequence| sequence.id == span.id) else {
                continue;
            };
            let sequence = &mut self.live[index];
            let (start, slot) = (sequence.computed(), sequence.slot.expect("it is live"));
            let decoding = sequence.is_decoding();
            self.cells.write(slot, &sequence.tokens()[start..start + span.count]);
            sequence.advance(span.count);
            let counters = &mut self.tenants[sequence.class as usize];
            let (prefill, decode) = if decoding { (0, 1) } else { (span.count, 0) };
            counters.charge(&sequence.tenant, prefill, decode);
            if sequence.pending() == 0 && std::mem::take(&mut sequence.backlogged) {
                counters.deactivate(&sequence.tenant);
            }
        }
    }

    /// Adds a token to an answer whose logits were computed. Says whether it came later than
    /// promised.
    pub fn push(&mut self, id: RequestId, token: Token, at: Nanos) -> Option<Slo> {
        let sequence = self.live.iter_mut().find(|sequence| sequence.id == id)?;
        sequence.push(token);
        let last = sequence.last_token_at.replace(at);
        match (last, sequence.first_token_due, sequence.tbt) {
            (None, Some(due), _) if at > due => Some(Slo::Ttft),
            (Some(last), _, Some(tbt)) if at.saturating_sub(last) > tbt => Some(Slo::Tbt),
            _ => None,
        }
    }

    /// Takes a sequence out, with or without a place. What is computed of it stays in the cache if
    /// it is worth anything.
    pub fn remove(&mut self, id: RequestId, worth: bool) -> Option<Sequence> {
        if let Some(index) = self.live.iter().position(|sequence| sequence.id == id) {
            let sequence = self.live.remove(index);
            self.settle(&sequence);
            let slot = sequence.slot.expect("it is live");
            if worth && self.config.prefix_cache {
                self.cells.keep(slot, self.seconds_of(&sequence), false);
            } else {
                self.cells.forget(slot);
            }
            self.forget_private(&sequence);
            return Some(sequence);
        }
        let index = self.waiting.iter().position(|sequence| sequence.id == id)?;
        let sequence = self.waiting.swap_remove(index);
        self.settle(&sequence);
        if sequence.parked_at.is_some() {
            self.cells.unpark(&self.scope(&sequence), sequence.tokens());
        }
        self.forget_private(&sequence);
        Some(sequence)
    }

    /// Without prefix cache, what a request leaves is of use to nobody.
    fn forget_private(&mut self, sequence: &Sequence) {
        if !self.config.prefix_cache {
            self.cells.forget_scope(&self.scope(sequence));
        }
    }

    /// What the decoder must do that no plan asked for yet.
    pub fn take_ops(&mut self) -> Vec<Op> {
        self.cells.take_ops()
    }

    /// A copy was made, of so many bytes, or could not be made.
    pub fn saved(&mut self, key: SnapshotKey, bytes: Option<u64>) {
        self.cells.saved(key, bytes);
    }

    /// The plan could not be computed, and nothing of it was. Returns which request must end: none,
    /// as long as it helps that others make room.
    pub fn failed(&mut self, plan: &Plan, now: Nanos, parked: &mut Plan) -> Option<RequestId> {
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            self.failures = 0;
            return plan.spans.last().map(|span| span.id);
        }
        let free = self.config.ctx_size - self.cells.used();
        if !self.cells.make_room(free + plan.rows.len()) && self.live.len() > 1 {
            self.park_last(now, parked, |_, _| true);
        }
        None
    }

    /// The plan was given up after so many nanoseconds, and nothing of it was computed.
    pub fn interrupted(&mut self, plan: &Plan, nanos: Nanos) {
        self.policies[plan.adapter].interrupted(nanos);
    }

    /// The decoder's memory is not what the books say: all of it goes, and all sequences begin
    /// again. Returns who lost its place.
    pub fn restart(&mut self, now: Nanos) -> Vec<RequestId> {
        self.cells.reset();
        let mut live = std::mem::take(&mut self.live);
        for sequence in &mut live {
            sequence.park(now);
        }
        let ids = live.iter().map(|sequence| sequence.id).collect();
        self.waiting.append(&mut live);
        ids
    }

    /// Empties the prefix cache, but for what preempted requests wait for. Returns how many tokens
    /// left it; [`Self::take_evicted`] does not count them.
    pub fn clear_cache(&mut self) -> usize {
        self.cells.clear()
    }

    /// A sequence that has a place.
    pub fn sequence(&self, id: RequestId) -> Option<&Sequence> {
        self.live.iter().find(|sequence| sequence.id == id)
    }

    /// How many sequences have a place.
    pub fn running(&self) -> usize {
        self.live.len()
    }

    /// How many sequences wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// KV cells that hold a token.
    pub fn used_cells(&self) -> usize {
        self.cells.used()
    }

    /// KV cells that sequences with a place need; the other used ones are cached prefixes.
    pub fn live_cells(&self) -> usize {
        self.cells.live()
    }

    /// Bytes of the prefix cache in the host's memory.
    pub fn host_bytes(&self) -> u64 {
        self.cells.host_bytes()
    }

    /// Tokens that left the prefix cache for want of memory since the last call.
    pub fn take_evicted(&mut self) -> usize {
        self.cells.take_evicted()
    }

    /// Seconds until the first token of such a sequence, if all goes on as it does.
    fn expected_ttft(&self, sequence: &Sequence, now: Nanos) -> f64 {
        let own = self.rank(sequence, now);
        let ahead = self.live.iter().chain(&self.waiting);
        let ahead = ahead.filter(|other| !other.is_decoding() && self.rank(other, now) < own);
        let work: f64 = ahead.chain([sequence]).map(|other| self.work_of(other)).sum();
        work / self.prefill_share
    }

    fn judge(&self, sequence: &Sequence, now: Nanos) -> Verdict {
        let promised = sequence.first_token_due.filter(|_| sequence.class == Class::Interactive);
        let Some(due) = promised.filter(|_| self.learned >= LEARNED) else {
            return Verdict::Accepted;
        };
        let expected = self.expected_ttft(sequence, now);
        match self.config.overload {
            _ if expected <= seconds_between(now, due) => Verdict::Accepted,
            Overload::Accept => Verdict::Accepted,
            Overload::Relegate => Verdict::Relegated,
            Overload::Reject => Verdict::Refused { expected },
        }
    }

    fn rank(&self, sequence: &Sequence, now: Nanos) -> Rank {
        let ahead = !self.tenants[sequence.class as usize].may_run(&sequence.tenant);
        let hit = sequence.hint.max(sequence.computed());
        Rank::new(sequence, now, ahead, self.work_of(sequence), hit)
    }

    /// Seconds of prefill that a sequence still needs.
    fn work_of(&self, sequence: &Sequence) -> f64 {
        let done = sequence.hint.max(sequence.computed()).min(sequence.tokens().len());
        let model = self.policies[sequence.adapter].model();
        model.prefill_seconds(sequence.tokens().len() - done, done)
    }

    /// Seconds of prefill that what is computed of a sequence saves.
    fn seconds_of(&self, sequence: &Sequence) -> f64 {
        self.policies[sequence.adapter].model().prefill_seconds(sequence.computed(), 0)
    }

    fn note_share(&mut self, adapter: usize, work: &Work, nanos: Nanos) {
        if work.prefill == 0 || nanos == 0 {
            return;
        }
        let decodes = Work { prefill: 0, logits: work.decodes, ..*work };
        let model = self.policies[adapter].model();
        let decodes = if work.decodes == 0 { 0 } else { model.predict(&decodes) };
        let share = (1.0 - decodes as f64 / nanos as f64).clamp(0.1, 1.0);
        self.prefill_share += 0.1 * (share - self.prefill_share);
    }

    /// The sequence's prompt waits no more.
    fn settle(&mut self, sequence: &Sequence) {
        if sequence.backlogged {
            self.counters(sequence.class).deactivate(&sequence.tenant);
        }
    }

    fn counters(&mut self, class: Class) -> &mut TokenCounters<Arc<str>> {
        &mut self.tenants[class as usize]
    }

    /// The adapters of those with a place, the one whose last step is longest ago first: each has a
    /// step at least once in as many steps as there are adapters.
    fn turns(&self) -> Vec<usize> {
        let mut adapters: Vec<usize> = self.live.iter().map(|sequence| sequence.adapter).collect();
        adapters.sort_by_key(|&adapter| (self.turns[adapter], adapter));
        adapters.dedup();
        if adapters.is_empty() { vec![0] } else { adapters }
    }

    fn scope(&self, sequence: &Sequence) -> Scope {
        let name = if !self.config.prefix_cache {
            format!("request {}", sequence.id).into()
        } else if self.config.isolate_tenants {
            Arc::clone(&sequence.tenant)
        } else {
            Arc::clone(&self.everybody)
        };
        (sequence.adapter, name)
    }

    /// Checks what must hold between any two calls. For tests and simulations.
    ///
    /// # Errors
    ///
    /// The first entry that is wrong.
    pub fn check_integrity(&self) -> Result<(), String> {
        let ensure =
            |ok: bool, what: &str| if ok { Ok(()) } else { Err(format!("{what}: {self:?}")) };
        self.cells.check_integrity()?;
        ensure(self.live.len() <= self.config.parallel, "no more have a place than there are")?;
        let mut slots = HashSet::new();
        for sequence in &self.live {
            let Some(slot) = sequence.slot else { return ensure(false, "who is live has a slot") };
            ensure(slots.insert(slot), "each has a slot of its own")?;
            let held = self.cells.tokens(slot);
            let computed = &sequence.tokens()[..sequence.computed()];
            ensure(held == computed, "a slot holds what its sequence has computed")?;
        }
        let all = || self.live.iter().chain(&self.waiting);
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
