//! The engine's facts, one arm each, handed to the requests that they are about.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::recorder::Recorder;
use super::request::{End, Request, Start, Status};
use crate::event::{Event, FinishReason, Observer, RequestId};
use crate::fork;

/// Feeds one engine's events to a recorder.
#[derive(Debug)]
pub struct EngineObserver {
    recorder: Arc<Recorder>,
    model: Arc<str>,
    device: Arc<str>,
    open: Mutex<HashMap<RequestId, Arc<Request>>>,
}

impl EngineObserver {
    /// An observer of the engine that runs `model` on `device` (the labels' values).
    pub fn new(recorder: Arc<Recorder>, model: &str, device: &str) -> Self {
        Self { recorder, model: model.into(), device: device.into(), open: Mutex::default() }
    }

    fn with(&self, id: RequestId, record: impl FnOnce(&Request)) {
        // Cloned out: no lock is held while a request records.
        let request = self.open.lock().get(&id).cloned();
        if let Some(request) = request {
            record(&request);
        }
    }
}

impl Observer for EngineObserver {
    fn observe(&self, event: &Event) {
        let _pass = fork::pass();
        match event {
            Event::ModelLoaded { seconds, error, again } => {
                let ok = error.is_none();
                self.recorder.model_load(&self.model, &self.device, *seconds, ok, *again);
            }
            Event::Rejected { kind, origin } => {
                // The part of a request is no request: its error reaches the parent by itself.
                if origin.parent.is_none() {
                    self.recorder.reject(&self.model, &origin.endpoint, *kind);
                }
            }
            Event::Queued { id, at, prompt_tokens, origin } => {
                let request = self.recorder.begin(Start {
                    model: &self.model,
                    endpoint: &origin.endpoint,
                    mode: origin.mode,
                    device: self.device.clone(),
                    prompt_tokens: Some(*prompt_tokens),
                    at: Some(*at),
                    parent: origin.parent.and_then(|key| self.recorder.parent(key)),
                });
                request.queued();
                self.open.lock().insert(*id, request);
            }
            Event::Scheduled { id, at } => self.with(*id, |request| request.scheduled(*at)),
            Event::Preempted { id, .. } => self.with(*id, Request::queued),
            Event::FirstToken { id, at } => self.with(*id, |request| request.tokens(*at, 1)),
            Event::Tokens { id, at, count } => {
                self.with(*id, |request| request.tokens(*at, *count as u64));
            }
            Event::Step { sequences, .. } => self.recorder.batch(&self.model, "", *sequences),
            Event::Finished { id, at, reason, batch_size } => {
                let request = self.open.lock().remove(id);
                let (status, kind) = match reason {
                    FinishReason::Stop | FinishReason::Length => (Status::Success, None),
                    FinishReason::Cancelled => (Status::Cancelled, None),
                    FinishReason::Error(kind) => (Status::Error, Some(*kind)),
                };
                let end = End { status, kind, severity: None, batch_size: *batch_size };
                let unpriced = request.and_then(|request| request.finish(*at, end));
                if unpriced.is_some() {
                    self.recorder.dropped("unpriced"); // the engine's thread calls no Python
                }
            }
        }
    }
}
