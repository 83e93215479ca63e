//! A request's tokens: how many there are, and which of them came when.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Request, State};
use crate::clock::{Nanos, seconds_between};
use crate::event::Mode;
use crate::llm::catalogue::Name;
use crate::metrics::Series;

impl Request {
    /// From now on its tokens come from batches of so many sequences.
    pub fn set_batch_size(&self, sequences: usize) {
        self.batch_size.store(sequences, Ordering::Relaxed);
    }

    pub(super) fn batch_size(&self) -> usize {
        self.batch_size.load(Ordering::Relaxed)
    }

    /// Production goes on after a time that is not part of it: the consumer's own.
    pub fn resumed(&self, at: Nanos) {
        let mut state = self.state.lock();
        state.tokens_before = state.tokens;
        if self.is_part {
            self.whole().state.lock().goes_on(at);
        } else {
            state.goes_on(at);
        }
    }

    /// Production has given an item of `count` tokens and pauses: it is timed as such, unless
    /// its tokens were counted since production went on. An engine may have counted them long
    /// before: it does not wait for who takes its stream.
    pub fn produced(&self, at: Nanos, count: u64) {
        let mut state = self.state.lock();
        if state.ahead > 0 {
            state.ahead = state.ahead.saturating_sub(count);
        } else if state.tokens == state.tokens_before {
            self.add_timed(&mut state, at, count);
        }
    }

    /// `count` tokens were produced by `at`: time to first token for the first one, inter-token
    /// latency for the others, shared evenly if several came at once.
    pub fn tokens(&self, at: Nanos, count: u64) {
        self.add_timed(&mut self.state.lock(), at, count);
    }

    fn add_timed(&self, state: &mut State, at: Nanos, count: u64) {
        if count == 0 || state.finished {
            return;
        }
        if let (true, Some(parent)) = (self.is_part, &self.parent) {
            state.add(count);
            let mut outer = parent.state.lock();
            outer.parts_tokens += count;
            return parent.add_timed(&mut outer, at, count);
        }
        let gap = seconds_between(state.since, at);
        let first = !std::mem::replace(&mut state.first_token_seen, true);
        state.since = at;
        if first {
            state.first_token_at = state.scheduled_at.and(Some(at));
            self.first_token(state, at);
        }
        let gaps = count - u64::from(first);
        if gaps > 0 {
            let gap = if first { 0.0 } else { gap / gaps as f64 };
            self.observe_inter_token(gap, gaps);
        }
        let streamed = self.mode() == Mode::Streaming;
        self.add_to(state, Some(at), count, self.batch_size(), streamed);
    }

    /// Adds tokens without timing them.
    pub fn add_tokens(&self, count: u64) {
        self.add_to(&mut self.state.lock(), None, count, self.whole().batch_size(), false);
    }

    /// The completion has this many tokens in all; saying it twice counts it once. Those of its
    /// parts it has at least.
    pub fn set_token_count(&self, count: u64) {
        let mut state = self.state.lock();
        let count = count.max(state.parts_tokens);
        let change = count.wrapping_sub(state.tokens) as i64;
        self.shift_tokens(&mut state, change);
    }

    fn shift_tokens(&self, state: &mut State, change: i64) {
        state.tokens = state.tokens.saturating_add_signed(change);
        state.tokens_known = true;
        if let Some(parent) = &self.parent {
            let mut outer = parent.state.lock();
            outer.parts_tokens = outer.parts_tokens.saturating_add_signed(change);
            parent.shift_tokens(&mut outer, change);
        } else {
            self.count_new_tokens(state, None, self.batch_size());
        }
    }

    /// Tokens of the completion so far.
    pub fn token_count(&self) -> u64 {
        self.state.lock().tokens
    }

    /// A number of tokens that is none is dropped.
    pub fn drop_count(&self, what: &str, value: &str) {
        let model = self.model();
        let why = format_args!("{what} of {model:?} is {value}, which is no number of tokens");
        self.recorder.drop_value(Name::TokensGenerated, why);
    }

    /// Counts tokens that were produced `at`; None: now. Those of a stream are ahead of the items
    /// of what it is part of.
    fn add_to(
        &self,
        state: &mut State,
        at: Option<Nanos>,
        count: u64,
        batch_size: usize,
        streamed: bool,
    ) {
        state.add(count);
        if let Some(parent) = &self.parent {
            let mut outer = parent.state.lock();
            outer.parts_tokens += count;
            outer.ahead += if streamed { count } else { 0 };
            parent.add_to(&mut outer, at, count, batch_size, streamed);
        } else {
            self.count_new_tokens(state, at, batch_size);
        }
    }

    fn count_new_tokens(&self, state: &mut State, at: Option<Nanos>, batch_size: usize) {
        if state.tokens > state.tokens_counted {
            let new = state.tokens - state.tokens_counted;
            state.tokens_counted = state.tokens;
            let make = || self.token_counter("completion");
            self.scope().completion_tokens.get(make).add(new as f64);
            let at = at.unwrap_or_else(|| self.now());
            self.scope().rates.add(at, batch_size, new);
        }
    }

    pub(super) fn token_counter(&self, token_type: &str) -> Arc<Series> {
        let key = &self.scope().key;
        let tokens = self.recorder.family(Name::TokensGenerated);
        tokens.series(&[&*key.model, token_type, key.mode.as_str()])
    }
}
