//! A request's end, and the samples that it leaves.

use super::{End, Request, Severity, State, Status};
use crate::clock::{Nanos, seconds_between};
use crate::error::ErrorKind;
use crate::event::{FinishReason, Mode};
use crate::llm::catalogue::Name;
use crate::llm::classes::{BATCH_SIZES, batch_size_index};
use crate::llm::cost::{CostKind, Pico};
use crate::llm::scope::Lazy;

impl Request {
    /// The end, once; a second call is ignored. Gives the tokens of prompt and completion if
    /// only code of the service knows what they cost; see [`charge`](Self::charge).
    pub fn finish(&self, at: Nanos, end: End) -> Option<[u64; 2]> {
        self.finish_locked(&mut self.state.lock(), at, end)
    }

    fn finish_locked(&self, state: &mut State, at: Nanos, end: End) -> Option<[u64; 2]> {
        if std::mem::replace(&mut state.finished, true) {
            return None;
        }
        let status = end.status;
        self.leave_queue(state);
        if let Some(key) = state.key.take() {
            self.recorder.disown(key);
        }
        if let (true, Some(parent)) = (self.is_part, &self.parent) {
            parent.part_ended(state.all_prompt_tokens(), state.truncated);
            return None;
        }
        if let (Some(scheduled), Some(first)) = (state.scheduled_at, state.first_token_at) {
            self.record_phases(scheduled, first, at);
        }
        let processed = state.first_token_seen || status == Status::Success;
        let prompt_tokens = state.prompt_tokens.filter(|_| processed);
        if let Some(parent) = &self.parent {
            parent.part_ended(prompt_tokens.unwrap_or(0), state.truncated);
            return None;
        }
        let prompt_tokens = prompt_tokens.unwrap_or(0).max(state.parts_prompt_tokens);
        self.count_prompt_tokens(prompt_tokens);
        self.scope().active.add(-1.0);
        let streamed = state.first_token_seen && self.scope().key.mode == Mode::Streaming;
        let status = if status == Status::Error && streamed { Status::Partial } else { status };
        let kind = error_kind(status, end.kind);
        self.count_end(status, kind, end.severity, state.truncated);
        let seconds = seconds_between(self.began, at);
        self.record_latency(seconds, end.batch_size, kind);
        if status == Status::Success && state.tokens_known {
            self.record_throughput(state.tokens, seconds);
        }
        let tokens = [prompt_tokens as u64, state.tokens_counted];
        let recorder = &self.recorder;
        let unknown = recorder.costs.charge(&recorder.families, &self.scope().key.model, tokens);
        unknown.then_some(tokens)
    }

    /// Charges what code of the service says that prompt and completion cost.
    pub fn charge(&self, amounts: [Pico; 2]) {
        let recorder = &self.recorder;
        let model = &self.scope().key.model;
        recorder.costs.spend(&recorder.families, model, CostKind::Dynamic, amounts);
    }

    /// A part of it ended, with so many tokens of prompts.
    fn part_ended(&self, prompt_tokens: usize, truncated: bool) {
        let mut state = self.state.lock();
        state.parts_prompt_tokens += prompt_tokens;
        state.truncated |= truncated;
    }

    fn count_end(
        &self,
        status: Status,
        kind: Option<ErrorKind>,
        severity: Option<Severity>,
        truncated: bool,
    ) {
        let Some(kind) = kind else {
            let [stopped, cut_off] = &self.scope().succeeded;
            let ended = if truncated { cut_off } else { stopped };
            let ended = if status == Status::Success { ended } else { &self.scope().cancelled };
            return ended.add(1.0);
        };
        let key = &self.scope().key;
        let severity = severity.map_or(kind.severity(), Severity::as_str);
        self.recorder.count_error(&key.model, kind, severity);
        let reason = FinishReason::Error(kind).as_str();
        let labels = [&*key.model, status.as_str(), &key.endpoint, kind.as_str(), reason];
        self.recorder.family(Name::Requests).series(&labels).add(1.0);
    }

    fn record_latency(&self, seconds: f64, batch_size: usize, kind: Option<ErrorKind>) {
        let key = &self.scope().key;
        let index = batch_size_index(batch_size);
        let family = self.recorder.family(Name::Latency);
        // Native histograms of different resolutions do not add up: there is one for all outcomes.
        let kind = kind.filter(|_| family.desc().native.is_none());
        let error_type = kind.map_or("", ErrorKind::as_str);
        let labels = [&*key.model, BATCH_SIZES[index], key.mode.as_str(), error_type];
        let make = || family.series(&labels);
        if kind.is_none() {
            self.scope().latency[index].get(make).observe(seconds);
        } else {
            make().observe(seconds);
        }
    }

    fn record_throughput(&self, tokens: u64, seconds: f64) {
        let (scope, recorder) = (self.scope(), &self.recorder);
        let model = [&*scope.key.model];
        let make = || recorder.family(Name::TokensPerRequest).series(&model);
        scope.tokens_per_request.get(make).observe(tokens as f64);
        if tokens > 0 && seconds > 0.0 {
            let make = || recorder.family(Name::RequestTokensPerSecond).series(&model);
            scope.rate.get(make).observe(tokens as f64 / seconds);
        }
    }

    fn count_prompt_tokens(&self, tokens: usize) {
        if tokens > 0 {
            let make = || self.token_counter("prompt");
            self.scope().prompt_tokens.get(make).add(tokens as f64);
            let family = self.recorder.family(Name::PromptTokensPerRequest);
            let make = || family.series(&[&*self.scope().key.model]);
            self.scope().prompt_tokens_per_request.get(make).observe(tokens as f64);
        }
    }

    fn record_phases(&self, scheduled: Nanos, first_token: Nanos, finished: Nanos) {
        let scope = self.scope();
        let observe = |lazy: &Lazy, name, from, to| {
            let make = || self.recorder.family(name).series(&[&*scope.key.model]);
            lazy.get(make).observe(seconds_between(from, to));
        };
        observe(&scope.prefill, Name::Prefill, scheduled, first_token);
        observe(&scope.decode, Name::Decode, first_token, finished);
        observe(&scope.inference, Name::Inference, scheduled, finished);
    }
}

/// What went wrong, if anything did.
fn error_kind(status: Status, kind: Option<ErrorKind>) -> Option<ErrorKind> {
    match status {
        Status::Success | Status::Cancelled => None,
        Status::Timeout => Some(ErrorKind::Timeout),
        Status::Error | Status::Partial => Some(kind.unwrap_or(ErrorKind::InferenceError)),
    }
}

impl Drop for Request {
    /// A request that nobody finished was given up.
    fn drop(&mut self) {
        if !self.state.get_mut().finished {
            let end = End { status: Status::Cancelled, ..End::success(0) };
            self.finish(self.recorder.clock().now(), end);
        }
    }
}
