//! Slots in which nobody computes: how they stay, what they are worth, and how they go, to the host's
//! memory or for good.

use super::{Cells, Op, Slot, State};
use crate::backend::{SeqId, Token};
use crate::engine::scheduler::host::{MIN_TOKENS, Planned, SnapshotKey};
use crate::engine::scheduler::radix::{BLOCK, Scope};

/// The least part of a sequence that nobody else holds for which a copy is made of the whole.
pub(super) const LEAST_OWN: f64 = 0.125;

/// This part of all cells may idle slots keep of which a part would be lost.
const KEPT: f64 = 0.25;

impl Cells {
    /// No request computes in this slot any more; it keeps its tokens, which `seconds` of prefill
    /// have cost. What is parked goes last.
    pub(in crate::engine::scheduler) fn keep(&mut self, seq: SeqId, seconds: f64, parked: bool) {
        let slot = &mut self.slots[seq as usize];
        if slot.length() < BLOCK {
            return self.forget(seq);
        }
        let worth = self.clock + seconds / slot.length().max(1) as f64;
        slot.state = State::Idle { worth, seconds, parked };
        for &node in &slot.path {
            self.tree.retire(node);
        }
        self.drop_redundant(seq);
        self.thin();
    }

    /// Moves idle slots to the host until they keep no more cells than they may. What a slot has
    /// for itself is lost if it is less than [`LEAST_OWN`] of it, since the copy would repeat the rest:
    /// not while somebody computes with that, unless there is more than [`KEPT`] of it.
    pub(super) fn thin(&mut self) {
        let kept = self.idle_limit.max((self.capacity as f64 * KEPT) as usize);
        while self.has_tree() && self.used() - self.live() > self.idle_limit {
            let much = self.used() - self.live() > kept;
            let movable = |cells: &Self, seq| {
                let slot = &cells.slots[seq as usize];
                let waited_for = matches!(slot.state, State::Idle { parked: true, .. });
                let own = cells.exclusive(seq);
                let goes = much || cells.is_worth_it(seq) || !cells.shares_with_live(seq);
                !waited_for && slot.length() >= MIN_TOKENS && own > 0 && goes
            };
            let Some(seq) = self.least_idle(movable) else { return };
            if self.is_worth_it(seq) {
                self.evict(seq);
            } else {
                self.evicted += self.exclusive(seq);
                self.forget(seq);
            }
        }
    }

    /// Whether enough of a slot is its own for a copy of the whole.
    fn is_worth_it(&self, seq: SeqId) -> bool {
        self.exclusive(seq) as f64 >= LEAST_OWN * self.slots[seq as usize].length() as f64
    }

    /// Whether somebody computes with what a slot holds with others.
    fn shares_with_live(&self, seq: SeqId) -> bool {
        let shared = self.slots[seq as usize].path.iter().skip(1).rev();
        shared
            .copied()
            .find(|&node| !self.tree.is_exclusive(node))
            .is_some_and(|node| self.tree.is_live(node))
    }

    /// Evicts idle slots until so many cells are free; false if not all of them could be had.
    pub(in crate::engine::scheduler) fn make_room(&mut self, cells: usize) -> bool {
        while self.capacity - self.used() < cells {
            let Some(seq) = self.least_idle(|cells, seq| cells.exclusive(seq) > 0) else {
                return false;
            };
            self.evict(seq);
        }
        true
    }

    /// Drops all idle slots and copies, as far as no parked request needs them. Returns their
    /// tokens.
    pub(in crate::engine::scheduler) fn clear(&mut self) -> usize {
        let mut tokens = 0;
        for seq in 0..self.slots.len() as SeqId {
            if let State::Idle { parked: false, .. } = self.slots[seq as usize].state {
                tokens += self.exclusive(seq);
                self.forget(seq);
            }
        }
        tokens + self.discard(self.host.keys(|copy| !copy.parked))
    }

    /// Drops all idle slots and copies of a scope in which nobody asks any more.
    pub(in crate::engine::scheduler) fn forget_scope(&mut self, scope: &Scope) {
        for seq in 0..self.slots.len() as SeqId {
            let slot = &self.slots[seq as usize];
            let idle = matches!(slot.state, State::Idle { .. });
            if idle && self.tree.scope(slot.path[0]) == scope {
                self.forget(seq);
            }
        }
        self.discard(self.host.keys(|copy| copy.scope == *scope));
    }

    pub(super) fn discard(&mut self, keys: Vec<SnapshotKey>) -> usize {
        self.ops.extend(keys.iter().copied().map(Op::Discard));
        keys.into_iter().map(|key| self.host.lose(key)).sum()
    }

    /// A copy was made, of so many bytes, or could not be made.
    pub(in crate::engine::scheduler) fn saved(&mut self, key: SnapshotKey, bytes: Option<u64>) {
        for (key, tokens) in self.host.saved(key, bytes) {
            self.evicted += tokens;
            self.ops.push(Op::Discard(key));
        }
    }

    /// Nobody waits for these tokens any more: they are cached like others.
    pub(in crate::engine::scheduler) fn unpark(&mut self, scope: &Scope, tokens: &[Token]) {
        while let Some(seq) = self.parked_prefix(scope, tokens) {
            if let State::Idle { parked, .. } = &mut self.slots[seq as usize].state {
                *parked = false;
            }
        }
        self.host.unpark(scope, tokens);
    }

    pub(super) fn parked_prefix(&self, scope: &Scope, tokens: &[Token]) -> Option<SeqId> {
        let parked = |slot: &Slot| matches!(slot.state, State::Idle { parked: true, .. });
        let mut slots = (0..).zip(&self.slots);
        let found = slots.find(|(_, slot)| parked(slot) && self.is_prefix(slot, scope, tokens));
        found.map(|(seq, _)| seq)
    }

    /// The idle slot that is worth the least, of those that will do.
    pub(super) fn least_idle(&self, will_do: impl Fn(&Self, SeqId) -> bool) -> Option<SeqId> {
        let idle = (0..).zip(&self.slots).filter_map(|(seq, slot)| match slot.state {
            State::Idle { worth, parked, .. } if will_do(self, seq) => Some((parked, worth, seq)),
            _ => None,
        });
        idle.min_by(|a, b| a.partial_cmp(b).expect("no worth is NaN")).map(|(_, _, seq)| seq)
    }

    pub(super) fn evict(&mut self, seq: SeqId) {
        let State::Idle { worth, seconds, parked } = self.slots[seq as usize].state else { return };
        self.clock = self.clock.max(worth);
        if !self.save(seq, seconds, parked) {
            self.evicted += self.exclusive(seq);
        }
        self.forget(seq);
    }

    /// Has a slot's tokens, which `seconds` of prefill have cost, in the host's memory from now on;
    /// false if they do not go there.
    pub(super) fn save(&mut self, seq: SeqId, seconds: f64, parked: bool) -> bool {
        let scope = self.tree.scope(self.slots[seq as usize].path[0]).clone();
        let tokens = self.tokens(seq);
        let planned = self.host.plan(&scope, tokens, seconds, parked);
        if let Planned::Copy(key) = planned {
            self.ops.push(Op::Save { seq, key });
        }
        planned != Planned::Nothing
    }

    /// Cells that nobody but this slot holds.
    pub(in crate::engine::scheduler) fn exclusive(&self, seq: SeqId) -> usize {
        let slot = &self.slots[seq as usize];
        let own = slot.path.iter().skip(1).rev();
        own.take_while(|&&node| self.tree.is_exclusive(node)).count() * BLOCK + slot.tail.len()
    }

    pub(super) fn touch(&mut self, seq: SeqId) {
        let clock = self.clock;
        let slot = &mut self.slots[seq as usize];
        let length = slot.length().max(1) as f64;
        if let State::Idle { worth, seconds, .. } = &mut slot.state {
            *worth = clock + *seconds / length;
        }
    }

    /// Forgets idle slots whose blocks this one holds as well: they can save nobody anything. Where
    /// nothing can be cut, they can.
    pub(super) fn drop_redundant(&mut self, seq: SeqId) {
        let Slot { path, tail, .. } = &self.slots[seq as usize];
        let within = |slot: &Slot| match slot.state {
            State::Idle { parked: false, .. } if self.has_tree() => path.starts_with(&slot.path),
            State::Idle { parked: false, .. } if self.divisible => {
                *path == slot.path && tail.starts_with(&slot.tail)
            }
            _ => false,
        };
        let redundant: Vec<SeqId> = (0..)
            .zip(&self.slots)
            .filter(|(other, slot)| *other != seq && within(slot) && !slot.path.is_empty())
            .map(|(other, _)| other)
            .collect();
        for other in redundant {
            self.forget(other);
        }
    }
}
