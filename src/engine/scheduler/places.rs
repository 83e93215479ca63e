//! Who has a place, and who gives it up. Must not know: what a step computes.
//!
//! Nothing is reserved for the longest answer: a place is given when what is surely needed fits, and
//! taken back from the lowest tier when answers have outgrown the cells.
//!
//! An equal part of the cells for each place is its *share*. Who needs no more than that does not
//! wait for who holds more, as it would not if the cells were divided; and what others leave of
//! theirs is anybody's. Who holds more gives way for [`PASSED`] in all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Nanos;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::order::{BACKGROUND_PATIENCE, Rank, Tier};
use crate::engine::scheduler::plan::{Admission, Plan};
use crate::engine::sequence::Sequence;
use crate::event::Class;

/// Cells kept free for the growth of each answer when a place is given: a sequence that gets one is
/// not preempted at once.
const HEADROOM: usize = 32;

/// How long, in all, a request gives way to those that need no more than their share: as long as a
/// background request is less urgent.
const PASSED: Nanos = BACKGROUND_PATIENCE;

impl Scheduler {
    pub(super) fn make_room_for_answers(&mut self, now: Nanos, plan: &mut Plan) {
        let decodes = |live: &[Sequence]| live.iter().filter(|s| s.is_decoding()).count();
        while !self.cells.make_room(decodes(&self.live)) && self.live.len() > 1 {
            self.park_last(now, plan, |_, _| true);
        }
    }

    /// Gives places to the first in the order, as long as they fit; who needs no more than its share
    /// may pass others of its tier. Whoever waits is ranked once: within a step no rank changes.
    pub(super) fn give_places(&mut self, now: Nanos, plan: &mut Plan) {
        if self.all_places_stay() {
            return;
        }
        let rank = |sequence| Reverse(self.rank(sequence, now));
        let mut order: BinaryHeap<Reverse<Rank>> = self.waiting.iter().map(rank).collect();
        let mut passed = None;
        while let Some(Reverse(first)) = order.peek()
            && !self.all_places_stay()
            && !self.is_busy_with_earlier(first, now)
            && passed.is_none_or(|tier| first.tier == tier && !first.ahead)
        {
            let is_first = |sequence: &Sequence| sequence.id == first.id;
            let index = self.waiting.iter().position(is_first).expect("who is ranked waits");
            let (tier, sequence) = (first.tier, &self.waiting[index]);
            let (modest, stays) = (sequence.cells() <= self.share(), !may_be_passed(sequence, now));
            if passed.is_some() && !modest {
                order.pop();
            } else if self.fits(sequence) || self.live.is_empty() {
                if !self.give_place(index, now, plan) {
                    return;
                }
                order.pop();
            } else if self.park_last(now, plan, |own, other| own.rank(other, now).tier > tier) {
                let parked = self.waiting.last().expect("it waits now");
                order.push(Reverse(self.rank(parked, now)));
            } else if self.live.len() >= self.config.parallel {
                return;
            } else if modest {
                let may = |own: &Self, other: &Sequence| {
                    let begun = other.answer_len() > 0;
                    begun && own.gives_way(other) && own.rank(other, now).tier >= tier
                };
                if !self.park_last(now, plan, may) {
                    return;
                }
            } else if stays {
                return;
            } else {
                passed = Some(tier);
                order.pop();
            }
        }
    }

    /// Cells for each place, if all had as many.
    fn share(&self) -> usize {
        self.config.ctx_size / self.config.parallel
    }

    /// Whether a sequence with a place has more cells for itself than its share, and gives way for it.
    fn gives_way(&self, sequence: &Sequence) -> bool {
        let held = self.cells.exclusive(sequence.slot.expect("it is live"));
        held > self.share() && sequence.held_up < PASSED
    }

    /// Whether interactive requests wait for a place, as whoever comes will.
    pub(super) fn is_crowded(&self) -> bool {
        let is_interactive = |sequence| Tier::of(sequence) == Tier::Interactive;
        self.all_places_stay() && self.waiting.iter().any(is_interactive)
    }

    /// Whether all places are taken by requests that give them up to nobody who waits.
    fn all_places_stay(&self) -> bool {
        let full = self.live.len() >= self.config.parallel;
        full && self.live.iter().all(|sequence| sequence.class == Class::Interactive)
    }

    /// Whether prompts before this rank fill a step anyway: a further one would only hold a place.
    fn is_busy_with_earlier(&self, rank: &Rank, now: Nanos) -> bool {
        let mut prefills = self.live.iter().filter(|sequence| !sequence.is_decoding());
        let pending: usize = prefills.clone().map(Sequence::pending).sum();
        pending >= self.config.batch_size && prefills.all(|other| self.rank(other, now) < *rank)
    }

    fn give_place(&mut self, index: usize, now: Nanos, plan: &mut Plan) -> bool {
        let scope = self.scope(&self.waiting[index]);
        let Some((slot, hit)) = self.cells.take(&scope, self.waiting[index].tokens()) else {
            return false;
        };
        let mut sequence = self.waiting.swap_remove(index);
        sequence.slot = Some(slot);
        sequence.set_computed(hit);
        let resumed = sequence.resume(now);
        let (id, queried) = (sequence.id, sequence.tokens().len());
        plan.admitted.push(Admission { id, queried, hit, resumed });
        self.live.push(sequence);
        true
    }

    /// Whether a place and the cells are there for what this sequence and those with a place surely
    /// need.
    fn fits(&self, sequence: &Sequence) -> bool {
        if self.live.len() >= self.config.parallel {
            return false;
        }
        let growth: usize = self.live.iter().map(|other| other.growth(HEADROOM)).sum();
        // Without a cache each request has a scope of its own, in which nobody else is live.
        let shared = if self.config.prefix_cache {
            self.cells.live_matched(&self.scope(sequence), sequence.tokens())
        } else {
            0
        };
        let own = sequence.tokens().len() - shared + sequence.answer_left().min(HEADROOM);
        self.cells.live() + growth + own <= self.config.ctx_size
    }

    /// Takes the place from the lowest tier, of that rather from who gives way, and of those from the
    /// newest; only from whom it may be taken. Says whether there was one.
    pub(super) fn park_last(
        &mut self,
        now: Nanos,
        plan: &mut Plan,
        may: impl Fn(&Self, &Sequence) -> bool,
    ) -> bool {
        let candidates = self.live.iter().enumerate().filter(|(_, sequence)| may(self, sequence));
        let last =
            candidates.max_by_key(|(_, s)| (Tier::of(s), self.gives_way(s), s.queued_at, s.id));
        let Some((index, _)) = last else { return false };
        let mut sequence = self.live.remove(index);
        let (slot, seconds) = (sequence.slot.expect("it is live"), self.seconds_of(&sequence));
        sequence.park(now);
        // Who got its place in this very step never had it.
        match plan.admitted.iter().position(|admission| admission.id == sequence.id) {
            Some(index) if plan.admitted.remove(index).resumed => (),
            Some(_) => sequence.parked_at = None,
            None => plan.parked.push(sequence.id),
        }
        self.cells.keep(slot, seconds, sequence.parked_at.is_some());
        self.waiting.push(sequence);
        true
    }
}

/// Whether those who need no more than their share may go before this one, which waits for more: not
/// for ever, and not where its first token was promised.
fn may_be_passed(sequence: &Sequence, now: Nanos) -> bool {
    let since = sequence.parked_at.unwrap_or(sequence.queued_at);
    let promised = sequence.first_token_due.is_some() && sequence.answer_len() == 0;
    !promised && sequence.held_up + now.saturating_sub(since) < PASSED
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::scheduler::plan::Span;
    use crate::engine::{BLOCK, EngineConfig, Terms};

    const BLOCKS: [usize; 2] = [3, 6];

    fn scheduler() -> Scheduler {
        let config = EngineConfig { ctx_size: 100, parallel: 2, ..EngineConfig::default() };
        Scheduler::new(EngineConfig { host_cache_bytes: 0, ..config }, true, 0, None)
    }

    /// A prompt of so many blocks that begins like no other one.
    fn prompt(blocks: usize) -> Vec<i32> {
        (0..).map(|token| token + 1000 * blocks as i32).take(blocks * BLOCK).collect()
    }

    fn add(scheduler: &mut Scheduler, id: u64, tokens: Vec<i32>) {
        scheduler.add(Sequence::new(id, tokens, 1, &Terms::default(), 0), 0);
    }

    fn cached(scheduler: &Scheduler) -> [usize; 2] {
        BLOCKS.map(|blocks| {
            let tokens = [prompt(blocks), vec![0]].concat();
            scheduler.cells.matched(&(0, Arc::clone(&scheduler.everybody)), &tokens)
        })
    }

    /// Who loses its place in the step that gave it leaves what it took from the cache as it was:
    /// nobody's, which goes before what is worth more.
    #[test]
    fn a_place_for_no_step_keeps_nothing() {
        let mut scheduler = scheduler();
        for (id, blocks) in (0..).zip(BLOCKS) {
            add(&mut scheduler, id, prompt(blocks));
            while scheduler.sequence(id).is_none_or(|sequence| sequence.pending() > 0) {
                let plan = scheduler.schedule(0);
                scheduler.commit(&plan, 1_000_000);
            }
            scheduler.remove(id, true);
        }
        assert_eq!(cached(&scheduler), BLOCKS.map(|blocks| blocks * BLOCK));
        let mut plan = Plan::default();
        add(&mut scheduler, 2, [prompt(BLOCKS[0]), vec![1, 2, 3]].concat());
        scheduler.give_places(0, &mut plan);
        assert_eq!(plan.admitted[0].hit, BLOCKS[0] * BLOCK);
        assert!(scheduler.park_last(0, &mut plan, |_, _| true));
        assert!(plan.admitted.is_empty() && plan.parked.is_empty());
        let free = scheduler.config.ctx_size - scheduler.used_cells();
        scheduler.cells.make_room(free + 1);
        assert_eq!(cached(&scheduler), [0, BLOCKS[1] * BLOCK]);
    }

    /// Of many that wait, places go to the first in the order, and one that gives its place up for
    /// them stands in it behind them.
    #[test]
    fn places_follow_the_order() {
        let mut scheduler = scheduler();
        let low = Terms { class: Class::Background, ..Terms::default() };
        for id in 0..2 {
            scheduler.add(Sequence::new(id, prompt(1), 40, &low, 0), 0);
        }
        let plan = scheduler.schedule(0);
        assert_eq!(plan.admitted.len(), 2);
        for id in (2..50).rev() {
            add(&mut scheduler, id, prompt(1));
        }
        let mut plan = Plan::default();
        scheduler.give_places(0, &mut plan);
        let ids: Vec<u64> = plan.admitted.iter().map(|admission| admission.id).collect();
        assert_eq!((ids, plan.parked), (vec![2, 3], vec![1, 0]));
        assert_eq!((scheduler.waiting(), plan.spans), (48, Vec::<Span>::new()));
    }
}
