//! One request on its way through the engine, and its answer as events.
//!
//! Dropping it cancels the request. Must not know: sockets, frames of the client.

use bytes::BytesMut;
use tokio::task::{JoinHandle, spawn_blocking};

use super::event::{Code, Event, Fault};
use super::request::{Ask, Id};
use super::turnstile::Pass;
use crate::engine::{Client, Delta, Finish, RequestHandle, Terms};
use crate::error::Result;
use crate::event::{Mode, Origin};

/// The label `endpoint` of requests by this way.
const ENDPOINT: &str = "uds";

/// Text of an answer without `stream` that is kept for its end; more is sent before, so that no
/// event gets larger than a frame may be, however its characters are escaped.
const MAX_HELD_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Job {
    id: Id,
    stream: bool,
    /// Text that no event has had.
    held: String,
    stage: Stage,
    cancelled: bool,
    _pass: Pass,
}

#[derive(Debug)]
enum Stage {
    /// The prompt becomes tokens, on another thread.
    Submitting(JoinHandle<Result<RequestHandle>>),
    Running(RequestHandle),
}

/// How a job ended.
#[derive(Debug)]
pub(super) struct End {
    /// Whether it failed.
    pub(super) failed: bool,
}

impl Job {
    pub(super) fn start(ask: Ask, client: &Client, pass: Pass) -> Self {
        let Ask { id, prompt, params, terms, adapter, stream } = ask;
        let mode = if stream { Mode::Streaming } else { Mode::Standard };
        let origin = Origin { endpoint: ENDPOINT.into(), mode, ..Origin::default() };
        let client = client.clone();
        let submit = move || {
            let adapter = client.model().info().adapter(adapter.as_deref())?;
            client.submit(prompt.as_str().into(), params, Terms { adapter, ..terms }, origin)
        };
        let stage = Stage::Submitting(spawn_blocking(submit));
        Self { id, stream, held: String::new(), stage, cancelled: false, _pass: pass }
    }

    pub(super) fn id(&self) -> &Id {
        &self.id
    }

    /// Ends it at the next step.
    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
        if let Stage::Running(request) = &self.stage {
            let _ = request.cancel(); // it fails in a forked child alone
        }
    }

    /// Waits until there may be something to write. Can be given up and called again.
    ///
    /// # Errors
    ///
    /// The engine's refusal.
    pub(super) async fn wait(&mut self) -> std::result::Result<(), Fault> {
        let submitted = match &mut self.stage {
            Stage::Submitting(submitted) => submitted.await,
            Stage::Running(request) => {
                return request.ready().await.map_err(|error| self.fault(error.into()));
            }
        };
        let request = match submitted {
            Ok(request) => request.map_err(|error| self.fault(error.into()))?,
            Err(panic) => return Err(self.fault(Fault::new(Code::Decode, panic.to_string()))),
        };
        self.stage = Stage::Running(request);
        if self.cancelled {
            self.cancel();
        }
        Ok(())
    }

    /// Writes what has come since the last time.
    pub(super) fn write(&mut self, out: &mut BytesMut) -> std::result::Result<Option<End>, Fault> {
        let Stage::Running(request) = &self.stage else { return Ok(None) };
        let (deltas, finish) = request.drain().map_err(|error| self.fault(error.into()))?;
        for delta in &deltas {
            self.piece(delta, out);
        }
        let Some(finish) = finish else { return Ok(None) };
        let fault = finish.error.clone().map(|error| self.fault(error.into()));
        match fault {
            Some(refusal) if !refusal.closes() => Err(refusal), // it never ran, so nothing ends
            fault => Ok(Some(self.end(&finish, fault.as_ref(), out))),
        }
    }

    fn piece(&mut self, delta: &Delta, out: &mut BytesMut) {
        if self.stream {
            let (text, token_id) = (&*delta.text, Some(delta.token));
            return Event::Token { id: &self.id, text, token_id }.frame(out);
        }
        self.held.push_str(&delta.text);
        if self.held.len() >= MAX_HELD_BYTES {
            Event::Token { id: &self.id, text: &self.held, token_id: None }.frame(out);
            self.held.clear();
        }
    }

    fn end(&mut self, finish: &Finish, fault: Option<&Fault>, out: &mut BytesMut) -> End {
        self.held.push_str(&finish.tail_text);
        if let Some(fault) = fault {
            fault.event().frame(out);
        }
        Event::Eos {
            id: &self.id,
            reason: finish.reason.as_str(),
            text: &self.held,
            prompt_tokens: finish.prompt_tokens,
            completion_tokens: finish.completion_tokens,
        }
        .frame(out);
        End { failed: fault.is_some() }
    }

    fn fault(&self, fault: Fault) -> Fault {
        fault.about(Some(self.id.clone()))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Stage::Submitting(submitted) = &self.stage {
            submitted.abort(); // as long as it waits for the thread, that spares the work
        }
    }
}
