//! The requests that an engine holds: which of them wait, in which class, what they were promised,
//! and for how long there was one and nothing was computed.
//!
//! Each is handed the facts about it. Must not know: what a step is made of.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::catalogue::Name;
use super::recorder::ModelSeries;
use super::request::{End, Request, Status};
use crate::clock::{Nanos, seconds_between};
use crate::event::{Class, FinishReason, Mode, RequestId, Slo};
use crate::metrics::Series;

/// A request within the engine.
#[derive(Debug)]
struct Session {
    /// None if it is part of one that had ended before.
    request: Option<Arc<Request>>,
    class: Class,
    waits: bool,
}

#[derive(Debug, Default)]
struct Open {
    by_id: HashMap<RequestId, Session, ahash::RandomState>,
    /// Since then nothing was computed. It counts while there is a request.
    idle_since: Nanos,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Sessions {
    of: ModelSeries,
    /// Held while a fact is recorded: all of them come on one thread.
    open: Mutex<Open>,
    active: Arc<Series>,
    /// By class.
    queued: [Arc<Series>; Class::ALL.len()],
    tokens: Arc<Series>,
    preemptions: Arc<Series>,
    idle_seconds: Arc<Series>,
}

impl Sessions {
    pub(super) fn new(of: ModelSeries) -> Self {
        for (slo, class) in Slo::ALL.into_iter().flat_map(|slo| Class::ALL.map(|it| (slo, it))) {
            violations(&of, slo, class); // at 0, so that the first one is an increase
        }
        Self {
            open: Mutex::default(),
            active: of.series(Name::EngineActive),
            queued: Class::ALL.map(|class| of.labelled(Name::EngineQueued, class.as_str())),
            tokens: of.series(Name::EngineTokens),
            preemptions: of.series(Name::Preemptions),
            idle_seconds: of.series(Name::EngineIdle),
            of,
        }
    }

    pub(super) fn queued(
        &self,
        id: RequestId,
        at: Nanos,
        class: Class,
        request: Option<Arc<Request>>,
    ) {
        let mut open = self.open.lock();
        if open.by_id.is_empty() {
            open.idle_since = open.idle_since.max(at);
        }
        let mut session = Session { request, class, waits: false };
        self.wait(&mut session);
        open.by_id.insert(id, session);
        self.active.add(1.0);
    }

    fn wait(&self, session: &mut Session) {
        self.leave_queue(session);
        session.waits = true;
        self.queued[session.class as usize].add(1.0);
        if let Some(request) = &session.request {
            request.queued_as(session.class.into());
        }
    }

    fn leave_queue(&self, session: &mut Session) {
        if std::mem::take(&mut session.waits) {
            self.queued[session.class as usize].add(-1.0);
        }
    }

    fn with(&self, id: RequestId, record: impl FnOnce(&mut Session)) {
        if let Some(session) = self.open.lock().by_id.get_mut(&id) {
            record(session);
        }
    }

    pub(super) fn scheduled(&self, id: RequestId, at: Nanos) {
        self.with(id, |session| {
            self.leave_queue(session);
            if let Some(request) = &session.request {
                request.scheduled(at);
            }
        });
    }

    pub(super) fn preempted(&self, id: RequestId) {
        self.preemptions.add(1.0);
        self.with(id, |session| self.wait(session));
    }

    pub(super) fn relegated(&self, id: RequestId) {
        self.with(id, |session| {
            let waits = session.waits;
            self.leave_queue(session);
            session.class = Class::Background;
            if waits {
                self.wait(session);
            }
        });
    }

    pub(super) fn missed(&self, slo: Slo, class: Class) {
        violations(&self.of, slo, class).add(1.0);
    }

    /// How a request's result is taken.
    pub(super) fn mode(&self, id: RequestId) -> Option<Mode> {
        self.open.lock().by_id.get(&id)?.request.as_ref().map(|request| request.mode())
    }

    /// Tokens that came from a step of so many sequences.
    pub(super) fn tokens(&self, id: RequestId, at: Nanos, count: usize, sequences: usize) {
        self.tokens.add(count as f64);
        self.with(id, |session| {
            if let Some(request) = &session.request {
                request.set_batch_size(sequences);
                request.tokens(at, count as u64);
            }
        });
    }

    /// A step took from `began` to `ended`.
    pub(super) fn computed(&self, began: Nanos, ended: Nanos) {
        self.count_idle(&mut self.open.lock(), began, ended);
    }

    fn count_idle(&self, open: &mut Open, until: Nanos, idle_from: Nanos) {
        if !open.by_id.is_empty() {
            self.idle_seconds.add(seconds_between(open.idle_since, until));
        }
        open.idle_since = open.idle_since.max(idle_from);
    }

    /// Gives the tokens of prompt and completion if only code of the service knows their cost.
    pub(super) fn finished(
        &self,
        id: RequestId,
        at: Nanos,
        reason: FinishReason,
        batch_size: usize,
    ) -> Option<[u64; 2]> {
        let mut open = self.open.lock();
        if open.by_id.len() == 1 {
            self.count_idle(&mut open, at, at);
        }
        let mut session = open.by_id.remove(&id)?;
        drop(open);
        self.leave_queue(&mut session);
        self.active.add(-1.0);
        let (status, kind) = match reason {
            FinishReason::Stop | FinishReason::Length => (Status::Success, None),
            FinishReason::Cancelled => (Status::Cancelled, None),
            FinishReason::Error(kind) => (Status::Error, Some(kind)),
        };
        let request = session.request?;
        request.set_truncated(reason == FinishReason::Length);
        request.finish(at, End { status, kind, severity: None, batch_size })
    }
}

fn violations(of: &ModelSeries, slo: Slo, class: Class) -> Arc<Series> {
    of.with(Name::SloViolations, &[slo.as_str(), class.as_str()])
}
