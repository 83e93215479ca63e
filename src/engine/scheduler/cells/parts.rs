//! Where each slot has cells of its own: what another holds is copied, if it can be cut.
//!
//! A copy of hundreds of tokens takes as long as the computation of one or two, so it is made even of
//! a block. Must not know: requests, classes, time.

use super::{Cells, Op, Slot, State};
use crate::backend::{SeqId, Token};
use crate::engine::scheduler::cells::idle::LEAST_OWN;
use crate::engine::scheduler::host::common;
use crate::engine::scheduler::radix::{BLOCK, Scope};

impl Cells {
    /// Cells that one slot can have.
    pub(super) fn part(&self) -> usize {
        self.capacity / self.slots.len()
    }

    /// The slot that begins with the most of these tokens, at least a block of them, and how many;
    /// not `but`. None where slots share their cells or cannot be cut.
    pub(super) fn source(
        &self,
        scope: &Scope,
        tokens: &[Token],
        but: Option<SeqId>,
    ) -> Option<(SeqId, usize)> {
        let others = (0..).zip(&self.slots).filter(|(seq, slot)| {
            self.divisible
                && !self.unified
                && Some(*seq) != but
                && slot.state != State::Free
                && self.tree.scope(slot.path[0]) == scope
        });
        let hits = others.map(|(seq, slot)| (seq, common(&slot.tail, tokens)));
        hits.filter(|(_, hit)| *hit >= BLOCK).max_by_key(|(_, hit)| *hit)
    }

    /// Copies what another slot has of these tokens into a live one, if that is a block more than it
    /// has.
    pub(super) fn copy_from_others(&mut self, seq: SeqId, tokens: &[Token]) {
        let slot = &self.slots[seq as usize];
        let scope = self.tree.scope(slot.path[0]).clone();
        let Some((from, hit)) = self.source(&scope, tokens, Some(seq)) else { return };
        if hit >= slot.length() + BLOCK {
            self.slots[seq as usize].tail = tokens[..hit].to_vec();
            self.ops.push(Op::Share { from, to: seq, positions: 0..hit });
            self.touch(from);
        }
    }

    /// Where no slot is free and the idle one that would make room has the most of these tokens:
    /// makes it live, without what comes after them. That goes to the host's memory, unless it is
    /// less than [`LEAST_OWN`] of the slot.
    pub(super) fn cut_the_least(
        &mut self,
        scope: &Scope,
        tokens: &[Token],
    ) -> Option<(SeqId, usize)> {
        let (seq, hit) = self.source(scope, tokens, None)?;
        let is_free = |slot: &Slot| slot.state == State::Free;
        if self.slots.iter().any(is_free) || self.least_idle(|_, _| true) != Some(seq) {
            return None;
        }
        let State::Idle { seconds, parked, .. } = self.slots[seq as usize].state else {
            return None;
        };
        let length = self.slots[seq as usize].length();
        let worth_it = (length - hit) as f64 >= LEAST_OWN * length as f64;
        if !((parked || worth_it) && self.save(seq, seconds, parked)) {
            self.evicted += length - hit;
        }
        self.slots[seq as usize].tail.truncate(hit);
        self.ops.push(Op::Truncate { seq, length: hit });
        self.set_live(seq);
        Some((seq, hit))
    }
}
