//! One request from queued to finished, and what each fact about it records.
//!
//! A request that is part of another one (its *parent*) is measured and not counted: its tokens
//! and its first token are its parent's, and its end leaves no sample. There are two kinds: what an
//! engine computes for a request has a queue and a time of its own; a [part](Request::part) of the
//! service's code shares the time of the whole, and keeps its own account of tokens, so that what
//! several parts say adds up, one after the other or at once. Locks are taken from a part to its
//! parent, never the other way.
//!
//! Recording never fails: a fact that comes too late or makes no sense is ignored or counted as
//! dropped.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::catalogue::Name;
use super::classes::{BATCH_SIZES, PROMPT_SIZES, batch_size_index, prompt_size_index};
use super::cost::{CostKind, Pico};
use super::dropped::Limit;
use super::labels::Priority;
use super::recorder::Recorder;
use super::scope::{Lazy, Scope, ScopeKey};
use crate::clock::{Nanos, seconds_between};
use crate::error::ErrorKind;
use crate::event::{FinishReason, Mode};
use crate::metrics::Series;

/// How a request ended, as the label `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It returned, or its stream ran to its end.
    Success,
    /// It raised before the first token.
    Error,
    /// It ran into a time limit.
    Timeout,
    /// Its stream raised after the first token.
    Partial,
    /// The caller gave up.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Success, Self::Error, Self::Timeout, Self::Partial, Self::Cancelled];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Partial => "partial",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status with this label value, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "success" => Some(Self::Success),
            "error" => Some(Self::Error),
            "timeout" => Some(Self::Timeout),
            "partial" => Some(Self::Partial),
            "cancelled" => Some(Self::Cancelled),
            _ => None,
        }
    }
}

/// How bad an error is, as the label `severity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The service is at fault.
    Critical,
    /// The request is at fault, or the load.
    Warning,
    /// Nothing is.
    Info,
}

impl Severity {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Critical, Self::Warning, Self::Info];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }

    /// The severity with this label value, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == text)
    }
}

/// What is known when a request ends.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// How it ended. An error after the first token of a stream is [`Status::Partial`].
    pub status: Status,
    /// What went wrong; None for what has no name of its own.
    pub kind: Option<ErrorKind>,
    /// How bad that is; None: as bad as its kind.
    pub severity: Option<Severity>,
    /// The sequences that it shared its batch with, itself included; 0 if unknown.
    pub batch_size: usize,
}

impl End {
    /// An end that went well.
    pub const fn success(batch_size: usize) -> Self {
        Self { status: Status::Success, kind: None, severity: None, batch_size }
    }
}

/// What is known when a request begins.
#[derive(Clone, Debug, Default)]
pub struct Start<'a> {
    /// The label `model`.
    pub model: &'a str,
    /// The label `endpoint`; empty if there is none.
    pub endpoint: &'a str,
    /// How the result is taken.
    pub mode: Mode,
    /// The label `device`, if it is known.
    pub device: Option<Arc<str>>,
    /// Tokens in the prompt, if known.
    pub prompt_tokens: Option<usize>,
    /// When it began; None: now.
    pub at: Option<Nanos>,
    /// The request that this one is part of.
    pub parent: Option<Arc<Request>>,
}

/// An open request.
#[derive(Debug)]
pub struct Request {
    recorder: Arc<Recorder>,
    /// The scope that it began in.
    first_scope: Arc<Scope>,
    /// The scope of a request that turned out to be a stream.
    stream_scope: OnceLock<Arc<Scope>>,
    device: Option<Arc<str>>,
    parent: Option<Arc<Request>>,
    /// It has the time of its parent.
    is_part: bool,
    began: Nanos,
    /// Sequences in the batch that its tokens come from; 0 if unknown.
    batch_size: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // each may be so without the others
struct State {
    /// When the production of the next token began: the last token, or the last resumption.
    since: Nanos,
    first_token_seen: bool,
    /// It waits in the queue (and is part of the depth of this priority's).
    queued: Option<Priority>,
    /// When it first left the queue.
    scheduled_at: Option<Nanos>,
    /// When its first token came, if it was queued before.
    first_token_at: Option<Nanos>,
    tokens: u64,
    /// The tokens that there were when production last went on.
    tokens_before: u64,
    /// Tokens that an engine streamed into this request, and that no item has brought yet.
    ahead: u64,
    /// Tokens that the counter has; `tokens` can be set back, a counter cannot.
    tokens_counted: u64,
    /// The tokens of the completion are known, be it 0.
    tokens_known: bool,
    /// Of `tokens`, those of its parts.
    parts_tokens: u64,
    prompt_tokens: Option<usize>,
    /// Prompt tokens of the finished parts of this request.
    parts_prompt_tokens: usize,
    /// Tokens of the prompt that the first token answered.
    first_prompt_tokens: Option<usize>,
    /// The answer, or a part of it, ended at its limit of tokens.
    truncated: bool,
    /// The key under which parts find this request.
    key: Option<u64>,
    finished: bool,
}

impl State {
    fn add(&mut self, tokens: u64) {
        self.tokens += tokens;
        self.tokens_known = true;
    }

    /// Production goes on.
    fn goes_on(&mut self, at: Nanos) {
        if self.first_token_seen {
            self.since = self.since.max(at);
        }
    }

    /// Prompt tokens that were said, or of the parts.
    fn all_prompt_tokens(&self) -> usize {
        self.prompt_tokens.unwrap_or(0).max(self.parts_prompt_tokens)
    }
}

impl Request {
    pub(super) fn open(recorder: Arc<Recorder>, start: Start<'_>) -> Arc<Self> {
        let at = start.at.unwrap_or_else(|| recorder.clock().now());
        let scope = recorder.scope(&ScopeKey {
            model: start.model,
            endpoint: start.endpoint,
            mode: start.mode,
        });
        if start.parent.is_none() {
            scope.active.add(1.0);
        }
        let state = State { since: at, prompt_tokens: start.prompt_tokens, ..State::default() };
        let state = Mutex::new(state);
        Arc::new(Self {
            recorder,
            first_scope: scope,
            stream_scope: OnceLock::new(),
            device: start.device,
            parent: start.parent,
            is_part: false,
            began: at,
            batch_size: AtomicUsize::default(),
            state,
        })
    }

    /// A part of this request: code that would be a request of its own elsewhere.
    pub fn part(self: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            recorder: self.recorder.clone(),
            first_scope: self.first_scope.clone(),
            stream_scope: OnceLock::new(),
            device: None,
            parent: Some(self.clone()),
            is_part: true,
            began: self.now(),
            batch_size: AtomicUsize::default(),
            state: Mutex::default(),
        })
    }

    /// The request that this one is part of.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// The one whose time and queue this one has: itself, unless it is a part.
    fn whole(&self) -> &Self {
        let mut whole = self;
        while let (true, Some(parent)) = (whole.is_part, &whole.parent) {
            whole = parent;
        }
        whole
    }

    /// The one that is counted: no part of another.
    fn counted(&self) -> &Self {
        let mut counted = self;
        while let Some(parent) = &counted.parent {
            counted = parent;
        }
        counted
    }

    fn scope(&self) -> &Scope {
        self.stream_scope.get().unwrap_or(&self.first_scope)
    }

    /// It turned out that the result is a stream. A part's is not that of the whole.
    pub fn streams(&self) {
        let state = self.state.lock();
        let key = &self.scope().key;
        if self.parent.is_some() || state.finished || key.mode == Mode::Streaming {
            return;
        }
        let (model, endpoint) = (&*key.model, &*key.endpoint);
        let scope = self.recorder.scope(&ScopeKey { model, endpoint, mode: Mode::Streaming });
        self.first_scope.active.add(-1.0);
        scope.active.add(1.0);
        let _ = self.stream_scope.set(scope); // the state is locked: nobody was faster
    }

    /// When it began, on its recorder's clock.
    pub fn began(&self) -> Nanos {
        self.began
    }

    /// The time on its recorder's clock.
    pub fn now(&self) -> Nanos {
        self.recorder.clock().now()
    }

    /// It waits in a queue.
    pub fn queued(&self) {
        self.queued_as(Priority::Normal);
    }

    /// It waits in a queue; if it does already, it does so with this priority from now on.
    pub fn queued_as(&self, priority: Priority) {
        let whole = self.whole();
        let mut state = whole.state.lock();
        if !state.finished {
            whole.leave_queue(&mut state);
            state.queued = Some(priority);
            whole.queue_depth(priority, 1.0);
        }
    }

    /// Whether it was in the queue, which it is no more.
    fn leave_queue(&self, state: &mut State) -> bool {
        let left = state.queued.take();
        left.inspect(|priority| self.queue_depth(*priority, -1.0)).is_some()
    }

    /// It left the queue; records the time since it began, if it had waited for the first time.
    pub fn scheduled(&self, at: Nanos) {
        let whole = self.whole();
        let mut state = whole.state.lock();
        if whole.leave_queue(&mut state) && state.scheduled_at.is_none() {
            state.scheduled_at = Some(at);
            whole.record_queue_wait(seconds_between(whole.began, at));
        }
    }

    /// From now on its tokens come from batches of so many sequences.
    pub fn set_batch_size(&self, sequences: usize) {
        self.batch_size.store(sequences, Ordering::Relaxed);
    }

    /// Tokens in the prompt.
    pub fn set_prompt_tokens(&self, tokens: usize) {
        self.state.lock().prompt_tokens = Some(tokens);
    }

    /// Whether the answer ended at its limit of tokens, and not by itself. Of a request with parts
    /// it is said as soon as one of them did.
    pub fn set_truncated(&self, truncated: bool) {
        self.state.lock().truncated = truncated;
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

    /// A number of tokens that is none is dropped.
    pub fn drop_count(&self, what: &str, value: &str) {
        let model = self.model();
        let why = format_args!("{what} of {model:?} is {value}, which is no number of tokens");
        self.recorder.drop_value(Name::TokensGenerated, why);
    }

    /// Whether it has ended, or what it is a part of.
    pub fn is_finished(&self) -> bool {
        let whole = self.parent.as_ref().filter(|_| self.is_part);
        self.state.lock().finished || whole.is_some_and(|whole| whole.is_finished())
    }

    /// The keys by which an engine's request can name this one, and what it is part of, as its
    /// [parents](crate::event::Origin::parents): a part may end before the engine takes what it
    /// submitted.
    pub fn keys(self: &Arc<Self>) -> Vec<u64> {
        std::iter::successors(Some(self), |request| request.parent.as_ref())
            .map(Self::key)
            .collect()
    }

    fn key(self: &Arc<Self>) -> u64 {
        let mut state = self.state.lock();
        *state.key.get_or_insert_with(|| self.recorder.adopt(Arc::downgrade(self)))
    }

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

    /// How its result is taken.
    pub fn mode(&self) -> Mode {
        self.scope().key.mode
    }

    /// The label `model`.
    pub fn model(&self) -> &str {
        &self.scope().key.model
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

    fn first_token(&self, state: &State, at: Nanos) {
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

    fn batch_size(&self) -> usize {
        self.batch_size.load(Ordering::Relaxed)
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

    fn count_prompt_tokens(&self, tokens: usize) {
        if tokens > 0 {
            let make = || self.token_counter("prompt");
            self.scope().prompt_tokens.get(make).add(tokens as f64);
            let family = self.recorder.family(Name::PromptTokensPerRequest);
            let make = || family.series(&[&*self.scope().key.model]);
            self.scope().prompt_tokens_per_request.get(make).observe(tokens as f64);
        }
    }

    fn token_counter(&self, token_type: &str) -> Arc<Series> {
        let key = &self.scope().key;
        let tokens = self.recorder.family(Name::TokensGenerated);
        tokens.series(&[&*key.model, token_type, key.mode.as_str()])
    }

    fn record_ttft(&self, state: &State, seconds: f64) {
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

    fn observe_inter_token(&self, seconds: f64, n: u64) {
        let counted = self.counted();
        let make =
            || counted.recorder.family(Name::InterToken).series(&[&*counted.scope().key.model]);
        counted.scope().inter_token.get(make).observe_n(seconds, n);
    }

    fn record_queue_wait(&self, seconds: f64) {
        let make = || self.recorder.family(Name::QueueWait).series(&[&*self.scope().key.model]);
        self.scope().queue_wait.get(make).observe(seconds);
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

    fn queue_depth(&self, priority: Priority, change: f64) {
        let labels = [&*self.scope().key.model, priority.as_str()];
        let make = || self.recorder.family(Name::QueueDepth).series(&labels);
        self.scope().queue_depth[priority as usize].get(make).add(change);
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

#[cfg(test)]
mod tests;
