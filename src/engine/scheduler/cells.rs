//! The book of KV cells: which slot holds which tokens, what is shared, what is cached, what can go.
//!
//! A slot (a sequence of the decoder) is free, *live* (a request computes in it) or *idle* (it keeps
//! tokens for whoever begins with them). Full blocks stand in the [`Tree`] once, however many slots
//! hold them: a slot that computes what is there already takes it over. Every change is an [`Op`]
//! that the decoder must follow, in order. Must not know: requests, classes, time.

use std::ops::Range;

use crate::backend::{SeqId, Token};
use crate::engine::EngineConfig;
use crate::engine::scheduler::host::{Host, MIN_TOKENS, Planned, SnapshotKey};
use crate::engine::scheduler::radix::{BLOCK, NodeId, Scope, Tree};

/// What the decoder must do before it computes on.
///
/// ```
/// use ryot_metrics::engine::{EngineConfig, Op, Scheduler, Sequence, Terms};
/// let mut scheduler = Scheduler::new(EngineConfig::default(), true, 0, None);
/// scheduler.add(Sequence::new(1, vec![5, 6, 7], 10, &Terms::default(), 0), 0);
/// let plan = scheduler.schedule(0);
/// scheduler.commit(&plan, 12_000_000);
/// scheduler.remove(1, true); // too few tokens to be kept
/// assert_eq!(scheduler.take_ops(), [Op::Forget(0)]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Free a sequence.
    Forget(SeqId),
    /// Let `to` use the cells of `from` at these positions.
    Share {
        /// Who has them.
        from: SeqId,
        /// Who gets them; its own there go.
        to: SeqId,
        /// Which.
        positions: Range<usize>,
    },
    /// Copy a sequence to the host. May fail.
    Save {
        /// The sequence.
        seq: SeqId,
        /// Where.
        key: SnapshotKey,
    },
    /// Make an empty sequence what the copy says, and cut it off. May fail.
    Restore {
        /// The sequence.
        seq: SeqId,
        /// Which copy.
        key: SnapshotKey,
        /// How many of its tokens are wanted.
        length: usize,
    },
    /// Throw a copy away.
    Discard(SnapshotKey),
}

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
        let blocks = self.tree.walk(scope, tokens).len().saturating_sub(1);
        let host = self.host.find(scope, tokens).map_or(0, |(_, _, hit)| hit);
        (blocks * BLOCK).max(host)
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

    /// How many of these tokens a slot can have without a copy.
    fn here(&self, scope: &Scope, tokens: &[Token]) -> usize {
        let blocks = self.tree.walk(scope, tokens).len().saturating_sub(1) * BLOCK;
        self.idle_prefix(scope, tokens).map_or(blocks, |(_, length)| length.max(blocks))
    }

    /// Takes over what others have computed of these tokens since, and says how many the slot
    /// has then.
    pub(super) fn advance(&mut self, seq: SeqId, tokens: &[Token]) -> usize {
        let start = self.slots[seq as usize].blocks();
        if self.divisible {
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
        let Self { slots, tree, ops, .. } = self;
        let slot = &mut slots[seq as usize];
        slot.tail.extend_from_slice(tokens);
        while let Some(&block) = slot.tail.first_chunk::<BLOCK>().filter(|_| self.divisible) {
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

    /// No request computes in this slot any more; it keeps its tokens, which `seconds` of prefill
    /// have cost. What is parked goes last.
    pub(super) fn keep(&mut self, seq: SeqId, seconds: f64, parked: bool) {
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

    /// Moves idle slots to the host until they keep no more cells than they may. A copy that would
    /// mostly repeat what stays is not made.
    fn thin(&mut self) {
        let movable = |cells: &Self, seq| {
            let slot = &cells.slots[seq as usize];
            let waited_for = matches!(slot.state, State::Idle { parked: true, .. });
            !waited_for && slot.length() >= MIN_TOKENS && 2 * cells.exclusive(seq) >= slot.length()
        };
        while self.divisible && self.used() - self.live() > self.idle_limit {
            let Some(seq) = self.least_idle(movable) else { return };
            self.evict(seq);
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

    /// Evicts idle slots until so many cells are free; false if not all of them could be had.
    pub(super) fn make_room(&mut self, cells: usize) -> bool {
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
    pub(super) fn clear(&mut self) -> usize {
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
    pub(super) fn forget_scope(&mut self, scope: &Scope) {
        for seq in 0..self.slots.len() as SeqId {
            let slot = &self.slots[seq as usize];
            let idle = matches!(slot.state, State::Idle { .. });
            if idle && self.tree.scope(slot.path[0]) == scope {
                self.forget(seq);
            }
        }
        self.discard(self.host.keys(|copy| copy.scope == *scope));
    }

    fn discard(&mut self, keys: Vec<SnapshotKey>) -> usize {
        self.ops.extend(keys.iter().copied().map(Op::Discard));
        keys.into_iter().map(|key| self.host.lose(key)).sum()
    }

    /// A copy was made, of so many bytes, or could not be made.
    pub(super) fn saved(&mut self, key: SnapshotKey, bytes: Option<u64>) {
        for (key, tokens) in self.host.saved(key, bytes) {
            self.evicted += tokens;
            self.ops.push(Op::Discard(key));
        }
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

    /// Nobody waits for these tokens any more: they are cached like others.
    pub(super) fn unpark(&mut self, scope: &Scope, tokens: &[Token]) {
        while let Some(seq) = self.parked_prefix(scope, tokens) {
            if let State::Idle { parked, .. } = &mut self.slots[seq as usize].state {
                *parked = false;
            }
        }
        self.host.unpark(scope, tokens);
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

    fn parked_prefix(&self, scope: &Scope, tokens: &[Token]) -> Option<SeqId> {
        let parked = |slot: &Slot| matches!(slot.state, State::Idle { parked: true, .. });
        let mut slots = (0..).zip(&self.slots);
        let found = slots.find(|(_, slot)| parked(slot) && self.is_prefix(slot, scope, tokens));
        found.map(|(seq, _)| seq)
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

    /// The idle slot that is worth the least, of those that will do.
    fn least_idle(&self, will_do: impl Fn(&Self, SeqId) -> bool) -> Option<SeqId> {
        let idle = (0..).zip(&self.slots).filter_map(|(seq, slot)| match slot.state {
            State::Idle { worth, parked, .. } if will_do(self, seq) => Some((parked, worth, seq)),
            _ => None,
        });
        idle.min_by(|a, b| a.partial_cmp(b).expect("no worth is NaN")).map(|(_, _, seq)| seq)
    }

    fn evict(&mut self, seq: SeqId) {
        let State::Idle { worth, seconds, parked } = self.slots[seq as usize].state else { return };
        self.clock = self.clock.max(worth);
        let scope = self.tree.scope(self.slots[seq as usize].path[0]).clone();
        let tokens = self.tokens(seq);
        match self.host.plan(&scope, tokens, seconds, parked) {
            Planned::Copy(key) => self.ops.push(Op::Save { seq, key }),
            Planned::There => (),
            Planned::Nothing => self.evicted += self.exclusive(seq),
        }
        self.forget(seq);
    }

    /// Cells that nobody but this slot holds.
    fn exclusive(&self, seq: SeqId) -> usize {
        let slot = &self.slots[seq as usize];
        let own = slot.path.iter().skip(1).rev();
        own.take_while(|&&node| self.tree.is_exclusive(node)).count() * BLOCK + slot.tail.len()
    }

    fn touch(&mut self, seq: SeqId) {
        let clock = self.clock;
        let slot = &mut self.slots[seq as usize];
        let length = slot.length().max(1) as f64;
        if let State::Idle { worth, seconds, .. } = &mut slot.state {
            *worth = clock + *seconds / length;
        }
    }

    /// Forgets idle slots whose blocks this one holds as well: they can save nobody anything.
    fn drop_redundant(&mut self, seq: SeqId) {
        let path = &self.slots[seq as usize].path;
        let within = |slot: &Slot| match slot.state {
            State::Idle { parked: false, .. } => path.starts_with(&slot.path),
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

    /// The tokens that a slot holds.
    pub(super) fn tokens(&self, seq: SeqId) -> Vec<Token> {
        let slot = &self.slots[seq as usize];
        let blocks = slot.path.iter().flat_map(|&node| self.tree.block(node));
        blocks.chain(&slot.tail).copied().collect()
    }

    /// Checks what must hold between any two calls.
    pub(super) fn check_integrity(&self) -> Result<(), String> {
        let ensure =
            |ok: bool, what: &str| if ok { Ok(()) } else { Err(format!("{what}: {self:?}")) };
        ensure(self.used() <= self.capacity, "no more cells are used than there are")?;
        ensure(self.live() <= self.used(), "live cells are used")?;
        let mut holds = self.tree.holds();
        for (seq, slot) in (0..).zip(&self.slots) {
            let free = slot.state == State::Free;
            ensure(free == slot.path.is_empty(), "who is not free has a path")?;
            ensure(!free || slot.tail.is_empty(), "who is free holds nothing")?;
            ensure(slot.tail.len() < BLOCK || !self.divisible, "full blocks are in the tree")?;
            ensure(self.tokens(seq).len() == slot.length(), "lengths agree")?;
            for node in &slot.path {
                let Some((held, live)) = holds.get_mut(node) else {
                    return ensure(false, "who is held is there");
                };
                *held = held.wrapping_sub(1);
                *live = live.wrapping_sub(usize::from(slot.is_live()));
            }
        }
        let balanced = holds.values().all(|&counts| counts == (0, 0));
        ensure(balanced, "each node is held as often as slots hold it")
    }
}

/// Holds a root while no slot does.
const NOBODY: SeqId = SeqId::MAX;
