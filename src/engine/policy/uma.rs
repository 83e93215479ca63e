//! The policies that the UMA Serve project describes, as a choice beside the default.
//!
//! An adaptive budget follows the average duration of steps; a latency guard stops prefill for
//! some steps after one that took too long; a bytes-moved guard bounds the KV cells that one step
//! reads; a prompt without a first token gets short chunks.
//!
//! Not taken over, since these are defects there: a chunk that does not end its prompt asks for
//! no logits (there, a prompt of more than one chunk is answered from its first); decodes are never
//! cut by the budget (there, eleven decoders and a budget of 8 share 8 rows); the average is kept as
//! it is (there, as thousandths in 32 bits); a budget that decodes fill, or a guard that always
//! finds a reason, cannot stop prompts for ever (here, the same floor as the default's); the guard
//! exists (there, it is planned, and its limits are stored and unused).
//! Must not know: sequences, queues, metrics.

use crate::clock::Nanos;
use crate::engine::policy::budget::Floor;
use crate::engine::policy::step_model::{StepModel, Work, chunk_cells};
use crate::engine::policy::{Allowance, Load, Yields};

/// The constants of UMA Serve's policies; the defaults are that project's, except where said.
#[derive(Clone, Debug, PartialEq)]
pub struct UmaConfig {
    /// The duration that a step should have, in milliseconds, and the average's start. Default 30.
    pub tick_ms: f64,
    /// The weight of the last step in the average. Default 0.2.
    pub weight: f64,
    /// The budget shrinks while the average is above so many ticks. Default 1.3.
    pub shrink_above: f64,
    /// What a shrinking budget is multiplied by. Default 0.7.
    pub shrink: f64,
    /// The budget grows while the average is below so many ticks. Default 0.8.
    pub grow_below: f64,
    /// The part of itself that a growing budget adds, at least one token: one in so many.
    /// Default 8.
    pub grow_divisor: usize,
    /// The least budget, in tokens. Default 8.
    pub min_batch: usize,
    /// The longest chunk of a prompt without a first token (`kBurst`). Default 16.
    pub burst: usize,
    /// A step longer than this stops prefill, in milliseconds. Default 50: the middle of the 40–60
    /// that its design names.
    pub guard_ms: f64,
    /// For so many steps. Default 4: its design names none; the floor allows no more anyway.
    pub guard_steps: usize,
    /// The most KV cells that a step reads, prefill permitting (`UMA_BMT_BUDGET`); 0, the default,
    /// sets no limit.
    pub bytes_moved: usize,
}

impl Default for UmaConfig {
    fn default() -> Self {
        Self {
            tick_ms: 30.0,
            weight: 0.2,
            shrink_above: 1.3,
            shrink: 0.7,
            grow_below: 0.8,
            grow_divisor: 8,
            min_batch: 8,
            burst: 16,
            guard_ms: 50.0,
            guard_steps: 4,
            bytes_moved: 0,
        }
    }
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct UmaBudget {
    config: UmaConfig,
    batch_size: usize,
    /// All tokens of a step, decodes included.
    target: usize,
    /// The average duration of a step, in milliseconds.
    average: f64,
    /// Steps for which the latency guard still stops prefill.
    guarded: usize,
    floor: Floor,
    /// Not used for the budget: others ask how long a prompt will take.
    model: StepModel,
}

impl UmaBudget {
    /// Begins with a whole batch.
    pub fn new(config: UmaConfig, batch_size: usize) -> Self {
        let (average, target) = (config.tick_ms, batch_size);
        let (floor, model) = (Floor::default(), StepModel::default());
        Self { config, batch_size, target, average, guarded: 0, floor, model }
    }

    /// How many prompt tokens the next step takes.
    pub fn prefill(&mut self, load: &Load) -> Allowance {
        let wanted = load.wanted.min(load.room);
        let budget = match self.guarded {
            0 => wanted.min(self.target.saturating_sub(load.work.decodes)),
            _ => 0,
        };
        let tokens = self.trimmed(load, budget).max(self.floor.least(load)).min(wanted);
        self.floor.record(load, tokens);
        Allowance {
            tokens,
            target: self.target,
            skipped: wanted > 0 && tokens == 0,
            yields: Yields::ToNothing,
        }
    }

    /// The most tokens of one prompt in one step.
    pub fn chunk(&self, answered: bool) -> usize {
        if answered { usize::MAX } else { self.config.burst }
    }

    /// A step was computed: moves the average, the budget and the latency guard.
    pub fn observe(&mut self, work: &Work, nanos: Nanos) {
        self.model.observe(work, nanos);
        let (config, millis) = (&self.config, nanos as f64 / 1e6);
        self.average += config.weight * (millis - self.average);
        let least = config.min_batch.min(self.batch_size);
        if self.average > config.shrink_above * config.tick_ms {
            self.target = ((config.shrink * self.target as f64) as usize).max(least);
        } else if self.average < config.grow_below * config.tick_ms {
            let more = (self.target / config.grow_divisor).max(1);
            self.target = (self.target + more).min(self.batch_size);
        }
        let over = millis > config.guard_ms;
        self.guarded = if over { config.guard_steps } else { self.guarded.saturating_sub(1) };
    }

    /// How long steps take.
    pub fn model(&self) -> &StepModel {
        &self.model
    }

    /// The bytes-moved guard, in KV cells: a decode reads `n_past + 1`, a chunk of `m` tokens at
    /// `b` reads `m·(2b + m + 1)/2`. It trims the end of the prefill, never a decode.
    fn trimmed(&self, load: &Load, tokens: usize) -> usize {
        if self.config.bytes_moved == 0 {
            return tokens;
        }
        let left = self.config.bytes_moved.saturating_sub(load.work.context);
        (1..=tokens).take_while(|&n| chunk_cells(n, load.base_context) <= left).last().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn load(decodes: usize) -> Load {
        let work = (0..decodes).fold(Work::default(), |work, _| work.with_decode(10));
        Load { work, wanted: 4000, base_context: 5, room: 512 - decodes, ..Load::default() }
    }

    fn budget(config: UmaConfig) -> UmaBudget {
        UmaBudget::new(config, 512)
    }

    #[test]
    fn a_decode_and_a_chunk_move_their_cells() {
        let decode = Work::default().with_decode(10);
        assert_eq!((decode.context, chunk_cells(3, 5)), (11, 21));
        assert_eq!(decode.with_prefill(3, 5).context, 32);
    }

    #[test]
    fn bytes_moved_trim_prefill_and_never_decodes() {
        let guarded = |bytes_moved| {
            let mut budget = budget(UmaConfig { bytes_moved, ..UmaConfig::default() });
            budget.prefill(&load(1))
        };
        assert_eq!(guarded(32).tokens, 3);
        assert_eq!(guarded(31).tokens, 2);
        assert_eq!(guarded(11), Allowance { target: 512, skipped: true, ..Allowance::default() });
        assert_eq!(guarded(1).tokens, 0);
        assert_eq!(guarded(0).tokens, 511);
    }

    #[test]
    fn budget_follows_the_average() {
        let mut budget = budget(UmaConfig { guard_ms: 1e9, ..UmaConfig::default() });
        let mut after = |millis| {
            budget.observe(&load(1).work, millis * MS);
            (budget.target, (budget.average * 10.0).round() / 10.0)
        };
        assert_eq!(after(74), (512, 38.8)); // 0.8·30 + 0.2·74, below 1.3·30
        assert_eq!(after(100), (358, 51.0)); // 0.7·512
        let shrunk: Vec<usize> = (0..20).map(|_| after(100).0).collect();
        assert_eq!(shrunk.last(), Some(&8));
        let grown: Vec<usize> = (0..40).map(|_| after(1).0).collect();
        assert_eq!(grown[..8], [8, 8, 8, 8, 8, 8, 9, 10]); // 99 ms come down to 24 in seven steps
        assert!(grown.windows(2).all(|two| two[1] <= two[0] + (two[0] / 8).max(1)));
        assert!(grown.last() > Some(&100), "{grown:?}");
    }

    #[test]
    fn a_step_over_the_limit_stops_prefill_for_four_and_decodes_leave_the_rest() {
        let mut budget = budget(UmaConfig::default());
        let mut step = |millis, decodes| {
            let allowance = budget.prefill(&load(decodes));
            budget.observe(&load(decodes).work, millis * MS);
            allowance.tokens
        };
        assert_eq!([step(51, 2), step(20, 2), step(20, 2)], [510, 0, 0]);
        assert_eq!([step(20, 2), step(20, 2), step(20, 2)], [0, 0, 510]);
        let forever: Vec<usize> = (0..10).map(|_| step(90, 2)).collect();
        assert_eq!(forever[1..], [0, 0, 0, 0, 16, 0, 0, 0, 0]);
    }

    #[test]
    fn decodes_that_fill_the_budget_do_not_starve_prompts() {
        let config = UmaConfig { min_batch: 8, guard_ms: 1e9, ..UmaConfig::default() };
        let mut budget = budget(config);
        (0..50).for_each(|_| budget.observe(&load(11).work, 90 * MS));
        assert_eq!(budget.target, 8);
        let tokens: Vec<usize> = (0..10).map(|_| budget.prefill(&load(11)).tokens).collect();
        assert_eq!(tokens, [0, 0, 0, 0, 16, 0, 0, 0, 0, 16]);
        assert_eq!((budget.chunk(false), budget.chunk(true)), (16, usize::MAX));
    }
}
