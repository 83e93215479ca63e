//! What of the sequences with a place a step computes. Must not know: who gets a place.

use crate::clock::Nanos;
use crate::engine::policy::{Load, Work};
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::host::common;
use crate::engine::scheduler::order::Tier;
use crate::engine::scheduler::plan::Plan;
use crate::engine::scheduler::radix::BLOCK;
use crate::engine::sequence::Sequence;
use crate::event::Class;

/// The part of the prompt tokens that a lower tier gets while a higher one wants them all.
const LOWER_SHARE: f64 = 0.1;

impl Scheduler {
    pub(super) fn plan_decodes(&mut self, now: Nanos, plan: &mut Plan) {
        let is_free = |s: &Sequence| s.class == Class::Background && s.tbt.is_none();
        let (mut free, bound): (Vec<usize>, Vec<usize>) = (0..self.live.len())
            .filter(|&index| self.live[index].adapter == plan.adapter)
            .filter(|&index| self.live[index].is_decoding())
            .partition(|&index| is_free(&self.live[index]));
        let work = |indices: &[usize]| {
            let decode = |work: Work, &index: &usize| work.with_decode(self.live[index].computed());
            indices.iter().fold(Work::default(), decode)
        };
        let load = Load { work: work(&bound), slack: self.slack(now), ..Load::default() };
        let count = self.policies[plan.adapter].background_decodes(&load, &work(&free));
        free.sort_by_key(|&index| std::cmp::Reverse(self.live[index].skipped));
        let run = free.len().min(count);
        for &index in &free[run..] {
            self.live[index].skipped += 1;
        }
        let room = self.config.ctx_size - self.cells.used();
        for &index in bound.iter().chain(&free[..run]).take(room) {
            self.live[index].skipped = 0;
            plan.append(&self.live[index], 1);
        }
        plan.decode_tokens = plan.rows.len();
    }

    /// Time until the tightest promise of an answer is due.
    fn slack(&self, now: Nanos) -> Option<Nanos> {
        let due = |s: &Sequence| Some(s.last_token_at?.saturating_add(s.tbt?).saturating_sub(now));
        self.live.iter().filter(|sequence| sequence.is_decoding()).filter_map(due).min()
    }

    pub(super) fn plan_prefill(&mut self, now: Nanos, plan: &mut Plan) {
        let mut order = self.leaders(now, plan.adapter);
        let wanted = order.iter().map(|&index| self.live[index].pending()).sum();
        let first = order.first().map_or(0, |&index| self.live[index].pending());
        let room = self.config.batch_size - plan.rows.len();
        let load = Load {
            work: plan.work(),
            slack: self.slack(now),
            wanted,
            base_context: order.first().map_or(0, |&index| self.live[index].computed()),
            room: if plan.rows.is_empty() { room } else { room.min(self.config.prefill_chunk) },
            lone: if self.live.iter().any(Sequence::is_decoding) { 0 } else { first },
            crowded: self.is_crowded(),
            promised: self.is_promised(&order),
        };
        let allowance = self.policies[plan.adapter].prefill(&load);
        plan.budget = plan.decode_tokens + allowance.target;
        plan.prefill_skipped = allowance.skipped;
        plan.yields = allowance.yields;
        self.cells.make_room(plan.decode_tokens + allowance.tokens);
        let free = self.config.ctx_size - self.cells.used() - plan.decode_tokens;
        let mut left = allowance.tokens.min(free);
        if let Some(lower) = self.lower_tier(&order) {
            plan.credit = left as f64 * LOWER_SHARE;
            let credit = (self.credit + plan.credit) as usize;
            if credit >= BLOCK {
                let given = plan.append(&self.live[order.remove(lower)], credit.min(left));
                plan.credit -= given as f64;
                left -= given;
            }
        }
        for index in order {
            let sequence = &self.live[index];
            let chunk = self.policies[plan.adapter].chunk(sequence.answer_len() > 0);
            left -= plan.append(sequence, left.min(chunk));
        }
    }

    /// Whether each answer under way has a promise, and the first of these prompts is an interactive
    /// request's.
    fn is_promised(&self, order: &[usize]) -> bool {
        let first = order.first().map(|&index| Tier::of(&self.live[index]));
        let mut answers = self.live.iter().filter(|sequence| sequence.is_decoding());
        first == Some(Tier::Interactive) && answers.all(|sequence| sequence.tbt.is_some())
    }

    /// The first of these prompts that is of a lower tier than the very first.
    fn lower_tier(&self, order: &[usize]) -> Option<usize> {
        let tier = |&index: &usize| Tier::of(&self.live[index]);
        let first = order.first().map(tier)?;
        order.iter().position(|index| tier(index) > first)
    }

    /// Prompts to compute, in their order. Who shares with one before it what that is about to
    /// compute waits for it; each of the others takes over what is there of it.
    fn leaders(&mut self, now: Nanos, adapter: usize) -> Vec<usize> {
        let takes_part = |s: &Sequence| s.adapter == adapter && !s.is_decoding();
        let mut order: Vec<usize> =
            (0..self.live.len()).filter(|&index| takes_part(&self.live[index])).collect();
        order.sort_by_cached_key(|&index| self.rank(&self.live[index], now));
        let mut leaders: Vec<usize> = Vec::with_capacity(order.len());
        for index in order {
            if !leaders.iter().any(|&leader| self.follows(index, leader)) {
                self.take_over(index);
                leaders.push(index);
            }
        }
        leaders
    }

    /// Begins with what others have computed of a prompt since.
    fn take_over(&mut self, index: usize) {
        let sequence = &mut self.live[index];
        let tokens = &sequence.tokens()[..sequence.tokens().len() - 1];
        let length = self.cells.advance(sequence.slot.expect("it is live"), tokens);
        sequence.set_computed(length);
    }

    /// Whether the leader is about to compute at least a block that this one could use.
    fn follows(&self, index: usize, leader: usize) -> bool {
        let (own, other) = (&self.live[index], &self.live[leader]);
        let divisible = self.divisible && self.config.prefix_cache;
        if !divisible || self.scope(own) != self.scope(other) {
            return false;
        }
        let most = own.tokens().len() - 1;
        let shared = common(&own.tokens()[..most], other.tokens()) / BLOCK * BLOCK;
        shared >= own.computed() + BLOCK && shared > other.computed() / BLOCK * BLOCK
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::{EngineConfig, Terms};

    /// Two prompts that begin alike, the first of which has a place and is computed.
    fn pair(config: EngineConfig) -> Scheduler {
        let mut scheduler = Scheduler::new(config, true, 0, None);
        for id in 0..2 {
            let tokens = (0..4 * BLOCK as i32).collect();
            scheduler.add(Sequence::new(id, tokens, 1, &Terms::default(), 0), 0);
        }
        scheduler.schedule(0);
        scheduler
    }

    /// To compare the scopes of two prompts allocates nothing: everybody's is one string, and
    /// without a cache nobody follows.
    #[test]
    fn scopes_cost_no_string() {
        let scheduler = pair(EngineConfig::default());
        assert!(scheduler.follows(1, 0));
        let before = Arc::strong_count(&scheduler.everybody);
        let (one, other) =
            (scheduler.scope(&scheduler.live[0]), scheduler.scope(&scheduler.live[1]));
        assert!(one == other && Arc::strong_count(&scheduler.everybody) == before + 2);
        drop((one, other));
        let alone = pair(EngineConfig { prefix_cache: false, ..EngineConfig::default() });
        assert!(!alone.follows(1, 0) && !alone.follows(0, 1));
    }
}
