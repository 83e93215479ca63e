//! The book of KV cells: which slot holds which tokens, what is shared, what is cached, what can go.
//!
//! A slot (a sequence of the decoder) is free, *live* (a request computes in it) or *idle* (it keeps
//! tokens for whoever begins with them). Full blocks stand in the [`Tree`] once, however many slots
//! hold them: a slot that computes what is there already takes it over. Every change is an [`Op`]
//! that the decoder must follow, in order. Where each slot has cells of its own, nothing stands in the
//! tree, and what others hold is [copied](parts). Must not know: requests, classes, time.

mod check;
mod idle;
mod op;
mod parts;

pub use self::op::Op;
use crate::backend::{SeqId, Token};
use crate::engine::EngineConfig;
use crate::engine::scheduler::host::{Host, SnapshotKey};
use crate::engine::scheduler::radix::{BLOCK, NodeId, Scope, Tree};

#[derive(Clone, Debug, PartialEq)]
enum State {
    Free,
    Live,
    Idle { worth: f64, seconds: f64, parked: bool },
}

#[derive(Clone, Debug)]
struct Slot {
    state: State,
    /// The root of its scope and its full blocks; empty if it is free.
    path: Vec<NodeId>,
    /// The tokens after these, in cells of its own.
    tail: Vec<Token>,
}

impl Slot {
    fn is_live(&self) -> bool {
        self.state == State::Live
    }

    fn blocks(&self) -> usize {
        self.path.len().saturating_sub(1)
    }

    fn length(&self) -> usize {
        self.blocks() * BLOCK + self.tail.len()
    }
}

/// The book.
#[derive(Clone, Debug)]
pub(super) struct Cells {
    capacity: usize,
    /// The most cells that idle slots keep while the host may have copies of them.
    idle_limit: usize,
    /// Whether sequences can be cut and shared.
    divisible: bool,
    /// Whether all slots use the same cells. Otherwise each has an equal part of them.
    unified: bool,
    slots: Vec<Slot>,
    tree: Tree,
    host: Host,
    ops: Vec<Op>,
    /// The worth of what was evicted last; see [`Host`].
    clock: f64,
    /// Tokens that left the cache for good since somebody asked.
    evicted: usize,
}

impl Cells {
    /// `cell_bytes`: what the decoder needs for a cell, if it is known.
    pub(super) fn new(config: &EngineConfig, divisible: bool, cell_bytes: Option<u64>) -> Self {
        let slot = Slot { state: State::Free, path: Vec::new(), tail: Vec::new() };
        Self {
            capacity: config.ctx_size,
            idle_limit: config.idle_limit(cell_bytes),
            divisible,
            unified: config.kv_unified,
            slots: vec![slot; config.decoder().sequences],
            tree: Tree::default(),
            host: Host::new(config.host_cache_bytes, divisible),
            ops: Vec::new(),
            clock: 0.0,
            evicted: 0,
        }
    }

    /// What the decoder must do, since the last call.
    pub(super) fn take_ops(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.ops)
    }

    /// Tokens that left the cache for good, since the last call.
    pub(super) fn take_evicted(&mut self) -> usize {
        std::mem::take(&mut self.evicted)
    }

    /// Cells that hold a token.
    pub(super) fn used(&self) -> usize {
        self.tree.blocks() * BLOCK + self.slots.iter().map(|slot| slot.tail.len()).sum::<usize>()
    }

    /// Cells that requests need now.
    pub(super) fn live(&self) -> usize {
        let live = self.slots.iter().filter(|slot| slot.is_live());
        self.tree.live_blocks() * BLOCK + live.map(|slot| slot.tail.len()).sum::<usize>()
    }

    /// Bytes of the copies in the host's memory.
    pub(super) fn host_bytes(&self) -> u64 {
        self.host.bytes()
    }

    /// How many of these tokens need not be computed: a look, without a promise.
    pub(super) fn matched(&self, scope: &Scope, tokens: &[Token]) -> usize {
        let tokens = &tokens[..tokens.len() - 1];
        let host = self.host.find(scope, tokens).map_or(0, |(_, _, hit)| hit);
        self.here(scope, tokens).max(host)
    }

    /// A live slot that begins with as many of these tokens as are there, and how many these are.
    /// At least the last token is left to compute. None if every slot is live.
    pub(super) fn take(&mut self, scope: &Scope, tokens: &[Token]) -> Option<(SeqId, usize)> {
        let tokens = &tokens[..tokens.len() - 1];
        let here = self.here(scope, tokens);
        let copy = self.host.find(scope, tokens);
        let usable = |&(_, length, hit): &(SnapshotKey, usize, usize)| {
            hit >= here + 2 * BLOCK && (self.divisible || hit == length)
        };
        if let Some((key, length, hit)) = copy.filter(usable)
            && let Some(seq) = self.restore(scope, key, length, &tokens[..hit])
        {
            return Some((seq, hit));
        }
        // To make room for a copy may have cost what was here.
        let here = self.here(scope, tokens);
        let whole = self.idle_prefix(scope, tokens).filter(|&(_, length)| length == here);
        if let Some((seq, length)) = whole {
            self.set_live(seq);
            return Some((seq, length));
        }
        if let Some(found) = self.cut_the_least(scope, tokens) {
            return Some(found);
        }
        let root = self.tree.root(scope);
        self.tree.hold(root, NOBODY, false); // so that making room for it does not remove it
        let seq = self.free_slot();
        if let Some(seq) = seq {
            self.slots[seq as usize].path.push(root);
            self.tree.hold(root, seq, true);
            self.slots[seq as usize].state = State::Live;
        }
        self.tree.release(root, NOBODY, false);
        let seq = seq?;
        Some((seq, self.advance(seq, tokens)))
    }

    /// How many of these tokens a slot can have without a copy in the host's memory.
    fn here(&self, scope: &Scope, tokens: &[Token]) -> usize {
        let blocks = self.tree.walk(scope, tokens).len().saturating_sub(1) * BLOCK;
        let whole = self.idle_prefix(scope, tokens).map_or(0, |(_, length)| length);
        let part = self.source(scope, tokens, None).map_or(0, |(_, hit)| hit);
        blocks.max(whole).max(part)
    }

    /// Whether blocks stand in the tree, for all slots that have them.
    fn has_tree(&self) -> bool {
        self.divisible && self.unified
    }

    /// Takes over what others have computed of these tokens since, and says how many the slot
    /// has then.
    pub(super) fn advance(&mut self, seq: SeqId, tokens: &[Token]) -> usize {
        let start = self.slots[seq as usize].blocks();
        self.copy_from_others(seq, tokens);
        if self.has_tree() {
            for block in tokens.as_chunks::<BLOCK>().0.iter().skip(start) {
                let slot = &self.slots[seq as usize];
                let Some(node) = self.tree.child(slot.path[slot.path.len() - 1], block) else {
                    break;
                };
                self.tree.hold(node, seq, true);
                self.slots[seq as usize].path.push(node);
            }
        }
        let slot = &mut self.slots[seq as usize];
        if slot.blocks() > start {
            slot.tail.clear();
            let node = slot.path[slot.path.len() - 1];
            let positions = start * BLOCK..slot.blocks() * BLOCK;
            let from = self.tree.holder(node); // the first, so somebody who was there before
            self.ops.push(Op::Share { from, to: seq, positions });
            self.touch(from);
        }
        self.slots[seq as usize].length()
    }

    /// The decoder has computed these tokens after those that the slot has.
    pub(super) fn write(&mut self, seq: SeqId, tokens: &[Token]) {
        let has_tree = self.has_tree();
        let Self { slots, tree, ops, .. } = self;
        let slot = &mut slots[seq as usize];
        slot.tail.extend_from_slice(tokens);
        while let Some(&block) = slot.tail.first_chunk::<BLOCK>().filter(|_| has_tree) {
            let parent = slot.path[slot.path.len() - 1];
            let node = tree.child(parent, &block);
            if let Some(node) = node {
                let start = slot.blocks() * BLOCK;
                let (from, positions) = (tree.holder(node), start..start + BLOCK);
                ops.push(Op::Share { from, to: seq, positions });
            }
            let node = node.unwrap_or_else(|| tree.insert(parent, block));
            tree.hold(node, seq, slot.state == State::Live);
            slot.path.push(node);
            slot.tail.drain(..BLOCK);
        }
    }

    /// The slot's tokens are worth nothing any more.
    pub(super) fn forget(&mut self, seq: SeqId) {
        let slot = &mut self.slots[seq as usize];
        let live = slot.is_live();
        slot.state = State::Free;
        slot.tail.clear();
        for node in std::mem::take(&mut slot.path).into_iter().rev() {
            self.tree.release(node, seq, live);
        }
        self.ops.push(Op::Forget(seq));
    }

    /// Forgets all slots and copies; whoever keeps the copies must throw them away.
    pub(super) fn reset(&mut self) {
        self.ops.clear();
        for seq in 0..self.slots.len() as SeqId {
            self.forget(seq);
        }
        self.host.reset();
    }

    /// How many of these tokens stand in cells that other requests need anyway.
    pub(super) fn live_matched(&self, scope: &Scope, tokens: &[Token]) -> usize {
        let path = self.tree.walk(scope, &tokens[..tokens.len() - 1]);
        path.iter().skip(1).take_while(|&&node| self.tree.is_live(node)).count() * BLOCK
    }

    fn begin(&mut self, seq: SeqId, scope: &Scope) {
        let root = self.tree.root(scope);
        self.tree.hold(root, seq, true);
        self.slots[seq as usize].path.push(root);
        self.slots[seq as usize].state = State::Live;
    }

    fn restore(
        &mut self,
        scope: &Scope,
        key: SnapshotKey,
        length: usize,
        wanted: &[Token],
    ) -> Option<SeqId> {
        self.host.touch(key);
        if !self.make_room(length) {
            return None;
        }
        let seq = self.free_slot()?;
        self.begin(seq, scope);
        self.ops.push(Op::Restore { seq, key, length: wanted.len() });
        self.write(seq, wanted);
        Some(seq)
    }

    /// The longest idle slot whose tokens are all at the beginning of these.
    fn idle_prefix(&self, scope: &Scope, tokens: &[Token]) -> Option<(SeqId, usize)> {
        let idle = |slot: &Slot| matches!(slot.state, State::Idle { .. });
        let idle = (0..).zip(&self.slots).filter(|(_, slot)| idle(slot));
        let idle = idle.filter(|(_, slot)| self.is_prefix(slot, scope, tokens));
        idle.map(|(seq, slot)| (seq, slot.length())).max_by_key(|(_, length)| *length)
    }

    fn is_prefix(&self, slot: &Slot, scope: &Scope, tokens: &[Token]) -> bool {
        let blocks = slot.path.iter().skip(1).zip(tokens.as_chunks::<BLOCK>().0);
        self.tree.scope(slot.path[0]) == scope
            && slot.length() <= tokens.len()
            && tokens[slot.blocks() * BLOCK..].starts_with(&slot.tail)
            && blocks.clone().all(|(&node, block)| self.tree.block(node) == block)
    }

    fn set_live(&mut self, seq: SeqId) {
        let slot = &mut self.slots[seq as usize];
        slot.state = State::Live;
        for &node in &slot.path {
            self.tree.revive(node);
        }
    }

    /// A free slot, if need be by evicting an idle one.
    fn free_slot(&mut self) -> Option<SeqId> {
        let free = self.slots.iter().position(|slot| slot.state == State::Free);
        if let Some(index) = free {
            return Some(index as SeqId);
        }
        let seq = self.least_idle(|_, _| true)?;
        self.evict(seq);
        Some(seq)
    }

    /// The tokens that a slot holds.
    pub(super) fn tokens(&self, seq: SeqId) -> Vec<Token> {
        let slot = &self.slots[seq as usize];
        let blocks = slot.path.iter().flat_map(|&node| self.tree.block(node));
        blocks.chain(&slot.tail).copied().collect()
    }
}

/// Holds a root while no slot does.
const NOBODY: SeqId = SeqId::MAX;
