//! A request's latencies while it produces: to its first token, and between two.

use super::{Request, State};
use crate::clock::{Nanos, seconds_between};
use crate::llm::catalogue::Name;
use crate::llm::classes::{PROMPT_SIZES, prompt_size_index};
use crate::llm::dropped::Limit;

impl Request {
    /// Records a time to first token that the caller measured; only the first one counts.
    pub fn set_ttft(&self, seconds: f64) {
        let checked = self.recorder.checked(Name::Ttft, self.model(), seconds, Limit::Number);
        let Some(seconds) = checked else { return };
        let whole = self.whole();
        let mut state = whole.state.lock();
        if !state.finished && !std::mem::replace(&mut state.first_token_seen, true) {
            whole.record_ttft(&state, seconds);
        }
    }

    /// Records an inter-token latency that the caller measured.
    pub fn record_inter_token_latency(&self, seconds: f64) {
        let checked = self.recorder.checked(Name::InterToken, self.model(), seconds, Limit::Number);
        if let Some(seconds) = checked {
            self.observe_inter_token(seconds, 1);
        }
    }

    pub(super) fn first_token(&self, state: &State, at: Nanos) {
        if self.parent.is_some() {
            let counted = self.counted();
            let mut outer = counted.state.lock();
            outer.since = at;
            if !std::mem::replace(&mut outer.first_token_seen, true) {
                outer.first_prompt_tokens = state.prompt_tokens;
                counted.record_ttft(&outer, seconds_between(counted.began, at));
            }
        } else {
            self.record_ttft(state, seconds_between(self.began, at));
        }
    }

    pub(super) fn record_ttft(&self, state: &State, seconds: f64) {
        let index = prompt_size_index(state.prompt_tokens.or(state.first_prompt_tokens));
        let device = self.device.as_deref().unwrap_or_default();
        let labels = [&*self.scope().key.model, PROMPT_SIZES[index], device];
        let make = || self.recorder.family(Name::Ttft).series(&labels);
        if device.is_empty() {
            self.scope().ttft[index].get(make).observe(seconds);
        } else {
            make().observe(seconds);
        }
    }

    pub(super) fn observe_inter_token(&self, seconds: f64, n: u64) {
        let counted = self.counted();
        let make =
            || counted.recorder.family(Name::InterToken).series(&[&*counted.scope().key.model]);
        counted.scope().inter_token.get(make).observe_n(seconds, n);
    }
}
