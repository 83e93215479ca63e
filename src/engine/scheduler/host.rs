//! Which sequences have a copy in the host's memory: the second level of the prefix cache.
//!
//! A copy survives its use, and goes when the bytes are needed for what saves more time per byte.
//! Must not know: the copies themselves (the engine keeps them by [`SnapshotKey`]), requests.

use crate::backend::Token;
use crate::engine::scheduler::radix::Scope;

/// A copy's number.
pub type SnapshotKey = u64;

/// Copies of fewer tokens save too little time to be made.
pub(super) const MIN_TOKENS: usize = 32;

/// A copy as the book knows it.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    key: SnapshotKey,
    pub(super) scope: Scope,
    tokens: Vec<Token>,
    /// None until it was made.
    bytes: Option<u64>,
    /// When it goes: the lowest goes first.
    worth: f64,
    /// Seconds of prefill that it saves.
    seconds: f64,
    /// A preempted request waits for it.
    pub(super) parked: bool,
}

/// What becomes of tokens that leave the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planned {
    /// They are to be saved under this key.
    Copy(SnapshotKey),
    /// A copy of them is there already.
    There,
    /// They are gone.
    Nothing,
}

/// The copies, by what they begin with.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    copies: Vec<Copy>,
    /// Whether a copy serves as one of what it begins with.
    divisible: bool,
    limit: u64,
    bytes: u64,
    /// The worth of what went last. What is used later is worth that much more, so that time
    /// passes without a clock (Greedy-Dual-Size-Frequency).
    clock: f64,
    last: SnapshotKey,
}

impl Host {
    pub(super) fn new(limit: u64, divisible: bool) -> Self {
        Self { divisible, limit, ..Self::default() }
    }

    /// Forgets all copies. Their keys are never used again.
    pub(super) fn reset(&mut self) {
        self.copies.clear();
        self.bytes = 0;
    }

    /// Bytes of all copies.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The copies of which this holds.
    pub(super) fn keys(&self, holds: impl Fn(&Copy) -> bool) -> Vec<SnapshotKey> {
        self.copies.iter().filter(|copy| holds(copy)).map(|copy| copy.key).collect()
    }

    /// Nobody waits for these tokens any more.
    pub(super) fn unpark(&mut self, scope: &Scope, tokens: &[Token]) {
        let copies = self.copies.iter_mut();
        for copy in copies.filter(|c| c.scope == *scope && tokens.starts_with(&c.tokens)) {
            copy.parked = false;
        }
    }

    /// What to do with these tokens, which `seconds` of prefill have cost.
    pub(super) fn plan(
        &mut self,
        scope: &Scope,
        tokens: Vec<Token>,
        seconds: f64,
        parked: bool,
    ) -> Planned {
        if self.limit == 0 || tokens.len() < MIN_TOKENS {
            return Planned::Nothing;
        }
        let there = |copy: &&mut Copy| copy.scope == *scope && copy.tokens.starts_with(&tokens);
        if let Some(copy) = self.copies.iter_mut().find(there) {
            copy.parked |= parked;
            return Planned::There;
        }
        self.last += 1;
        let (key, scope) = (self.last, scope.clone());
        self.copies.push(Copy { key, scope, tokens, bytes: None, worth: 0.0, seconds, parked });
        Planned::Copy(key)
    }

    /// The copy was made, with so many bytes, or could not be. Returns which copies go, with
    /// their tokens.
    pub(super) fn saved(
        &mut self,
        key: SnapshotKey,
        bytes: Option<u64>,
    ) -> Vec<(SnapshotKey, usize)> {
        let Some(index) = self.copies.iter().position(|copy| copy.key == key) else {
            return vec![(key, 0)];
        };
        let Some(bytes) = bytes else {
            self.copies.remove(index);
            return Vec::new();
        };
        let clock = self.clock;
        let copy = &mut self.copies[index];
        copy.bytes = Some(bytes);
        copy.worth = clock + copy.seconds / bytes.max(1) as f64;
        self.bytes += bytes;
        let mut gone = self.supersede(key);
        while self.bytes > self.limit {
            let Some(least) = self.least() else { break };
            gone.push(self.remove(least));
        }
        gone
    }

    /// Drops the copies of which this one can do the work. Their tokens are not lost.
    fn supersede(&mut self, key: SnapshotKey) -> Vec<(SnapshotKey, usize)> {
        let Some(new) = self.copies.iter().find(|copy| copy.key == key && self.divisible) else {
            return Vec::new();
        };
        let within = |copy: &Copy| {
            let shorter = copy.tokens.len() < new.tokens.len() && copy.bytes.is_some();
            let begins = || new.scope == copy.scope && new.tokens.starts_with(&copy.tokens);
            shorter && !copy.parked && begins()
        };
        let keys = self.keys(within);
        for &key in &keys {
            self.lose(key);
        }
        keys.into_iter().map(|key| (key, 0)).collect()
    }

    /// The copy that begins with the most of these tokens: its key, its length, and how many.
    pub(super) fn find(
        &self,
        scope: &Scope,
        tokens: &[Token],
    ) -> Option<(SnapshotKey, usize, usize)> {
        let made = self.copies.iter().filter(|copy| copy.scope == *scope && copy.bytes.is_some());
        let matched = made.map(|copy| (copy, common(&copy.tokens, tokens)));
        let (copy, hit) = matched.max_by_key(|(_, hit)| *hit)?;
        (hit > 0).then_some((copy.key, copy.tokens.len(), hit))
    }

    /// The copy was used.
    pub(super) fn touch(&mut self, key: SnapshotKey) {
        let clock = self.clock;
        if let Some(copy) = self.copies.iter_mut().find(|copy| copy.key == key) {
            copy.parked = false;
            copy.worth = clock + copy.seconds / copy.bytes.unwrap_or(1).max(1) as f64;
        }
    }

    /// The copy turned out to be unusable. Returns its tokens.
    pub(super) fn lose(&mut self, key: SnapshotKey) -> usize {
        let index = self.copies.iter().position(|copy| copy.key == key);
        index.map_or(0, |index| self.remove(index).1)
    }

    fn least(&mut self) -> Option<usize> {
        let made = self.copies.iter().enumerate().filter(|(_, copy)| copy.bytes.is_some());
        let order = |copy: &Copy| (copy.parked, copy.worth);
        let (index, copy) =
            made.min_by(|(_, a), (_, b)| order(a).partial_cmp(&order(b)).unwrap())?;
        self.clock = self.clock.max(copy.worth);
        Some(index)
    }

    fn remove(&mut self, index: usize) -> (SnapshotKey, usize) {
        let copy = self.copies.remove(index);
        self.bytes -= copy.bytes.unwrap_or(0);
        (copy.key, copy.tokens.len())
    }
}

/// How many tokens both begin with.
pub(super) fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
