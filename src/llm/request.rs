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

mod end;
mod finish;
mod gaps;
mod queue;
mod severity;
mod start;
mod state;
mod status;
mod tokens;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

pub use self::end::End;
pub use self::severity::Severity;
pub use self::start::Start;
use self::state::State;
pub use self::status::Status;
use super::recorder::Recorder;
use super::scope::{Scope, ScopeKey};
use crate::clock::Nanos;
use crate::event::Mode;

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

    /// How its result is taken.
    pub fn mode(&self) -> Mode {
        self.scope().key.mode
    }

    /// The label `model`.
    pub fn model(&self) -> &str {
        &self.scope().key.model
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
}

#[cfg(test)]
mod tests;
