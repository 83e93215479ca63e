//! Who has a place, and who gives it up. Must not know: what a step computes.
//!
//! Nothing is reserved for the longest answer: a place is given when what is surely needed fits, and
//! taken back from the lowest class when answers have outgrown the cells.

use crate::clock::Nanos;
use crate::engine::scheduler::Scheduler;
use crate::engine::scheduler::order::Rank;
use crate::engine::scheduler::plan::{Admission, Plan};
use crate::engine::sequence::Sequence;
use crate::event::Class;

/// Cells kept free for the growth of each answer when a place is given: a sequence that gets one is
/// not preempted at once.
const HEADROOM: usize = 32;

impl Scheduler {
    pub(super) fn make_room_for_answers(&mut self, now: Nanos, plan: &mut Plan) {
        let decodes = |live: &[Sequence]| live.iter().filter(|s| s.is_decoding()).count();
        while !self.cells.make_room(decodes(&self.live)) && self.live.len() > 1 {
            self.park_last(now, plan, None);
        }
    }

    /// Gives places to the first in the order, as long as they fit.
    pub(super) fn give_places(&mut self, now: Nanos, plan: &mut Plan) {
        while let Some((index, rank)) = self.first_waiting(now) {
            if self.is_busy_with_earlier(&rank, now) {
                return;
            }
            let fits = self.live.len() < self.config.parallel && self.fits(&self.waiting[index]);
            let done = if fits || self.live.is_empty() {
                self.give_place(index, plan)
            } else {
                self.park_last(now, plan, Some(rank.class))
            };
            if !done {
                return;
            }
        }
    }

    /// Whether prompts before this rank fill a step anyway: a further one would only hold a place.
    fn is_busy_with_earlier(&self, rank: &Rank, now: Nanos) -> bool {
        let mut prefills = self.live.iter().filter(|sequence| !sequence.is_decoding());
        let pending: usize = prefills.clone().map(Sequence::pending).sum();
        pending >= self.config.batch_size && prefills.all(|other| self.rank(other, now) < *rank)
    }

    fn first_waiting(&self, now: Nanos) -> Option<(usize, Rank)> {
        let full = self.live.len() >= self.config.parallel;
        if full && self.live.iter().all(|sequence| sequence.class == Class::Interactive) {
            return None;
        }
        let ranks = self.waiting.iter().map(|sequence| self.rank(sequence, now)).enumerate();
        ranks.min_by(|(_, a), (_, b)| a.cmp(b))
    }

    fn give_place(&mut self, index: usize, plan: &mut Plan) -> bool {
        let scope = self.scope(&self.waiting[index]);
        let Some((slot, hit)) = self.cells.take(&scope, self.waiting[index].tokens()) else {
            return false;
        };
        let mut sequence = self.waiting.swap_remove(index);
        sequence.slot = Some(slot);
        sequence.set_computed(hit);
        let resumed = sequence.parked_at.take().is_some();
        let (id, queried) = (sequence.id, sequence.tokens().len());
        plan.admitted.push(Admission { id, queried, hit, resumed });
        self.live.push(sequence);
        true
    }

    /// Whether the cells are there for what this sequence and those with a place surely need.
    fn fits(&self, sequence: &Sequence) -> bool {
        let growth: usize = self.live.iter().map(|other| other.growth(HEADROOM)).sum();
        let shared = self.cells.live_matched(&self.scope(sequence), sequence.tokens());
        let own = sequence.tokens().len() - shared + sequence.answer_left().min(HEADROOM);
        self.cells.live() + growth + own <= self.config.ctx_size
    }

    /// Takes the place from the lowest class, and of that from the newest; only from classes below
    /// this one, if one is given. Says whether there was one.
    pub(super) fn park_last(&mut self, now: Nanos, plan: &mut Plan, above: Option<Class>) -> bool {
        let may = |s: &Sequence| above.is_none_or(|class| self.rank(s, now).class > class);
        let candidates = self.live.iter().enumerate().filter(|(_, sequence)| may(sequence));
        let last = candidates.max_by_key(|(_, s)| (s.class, s.queued_at, s.id));
        let Some((index, _)) = last else { return false };
        let mut sequence = self.live.remove(index);
        let seconds = self.seconds_of(&sequence);
        self.cells.keep(sequence.slot.expect("it is live"), seconds, true);
        sequence.park(now);
        // Who got its place in this very step never had it.
        match plan.admitted.iter().position(|admission| admission.id == sequence.id) {
            Some(index) if plan.admitted.remove(index).resumed => (),
            Some(_) => sequence.parked_at = None,
            None => plan.parked.push(sequence.id),
        }
        self.waiting.push(sequence);
        true
    }
}
