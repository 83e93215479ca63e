//! One HTTP request and its response, as a request of the metrics, from its arrival to the last
//! byte of its response.
//!
//! It is told what goes by and counts what nobody else has counted: the events of a stream as
//! tokens, `OpenAI`'s `usage`, the time to the first byte. What no HTTP status tells: a client that
//! hung up is `cancelled`, unless the stream had said that it was done, where clients of `OpenAI`'s
//! protocol hang up; an exception that leaves the app has the outcome that it has everywhere, and
//! is `partial` after the first byte of a good response; a response that the app leaves unfinished
//! is an `inference_error`.
//!
//! Knows bytes and HTTP statuses; nothing of servers, sockets or Python.

mod events;
mod outcome;

use std::sync::Arc;

use parking_lot::Mutex;

use self::events::{Events, Usage, says_done};
use self::outcome::{Outcome, outcome_of};
use super::request::{End, Request, Status};
use crate::clock::seconds_between;
use crate::error::ErrorKind;

/// Why an app left a request without having answered it.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    /// The status that an error like it has everywhere.
    pub status: Status,
    /// Its kind.
    pub kind: Option<ErrorKind>,
    /// The HTTP status that it stands for, if it says so.
    pub http_status: Option<u16>,
}

/// What is looked at in a response.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// The largest JSON document that is searched for its `usage`; 0 for no usage at all.
    pub max_bytes: usize,
    /// Whether events count as tokens where nothing else counts.
    pub count_events: bool,
    /// Whether a response may turn out to be a stream that nobody asked for.
    pub may_stream: bool,
}

/// A request that is open until its response has left.
#[derive(Debug)]
pub struct Exchange {
    request: Arc<Request>,
    /// Whether a route of the app takes it, as far as that is known.
    known_route: bool,
    body: Body,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // facts that come in any order
struct State {
    http_status: u16,
    announced: Option<u64>,
    sent: u64,
    content: Content,
    /// Tokens that were counted here, as events.
    counted: u64,
    /// Whether something inside of the app counts them.
    counted_inside: bool,
    /// Whether the stream said that nothing else comes.
    done: bool,
    hung_up: bool,
    complete: bool,
    finished: bool,
}

/// What a response turned out to be.
#[derive(Debug, Default)]
enum Content {
    /// Nothing to look into.
    #[default]
    Opaque,
    /// A stream of which nothing is known but its first byte.
    Stream,
    Events(Events),
    Document(Vec<u8>),
}

impl Exchange {
    /// The response to a request that has begun.
    pub fn new(request: Arc<Request>, known_route: bool, body: Body) -> Self {
        Self { request, known_route, body, state: Mutex::default() }
    }

    /// The request.
    pub fn request(&self) -> &Arc<Request> {
        &self.request
    }

    /// The head of the response; without a length it is a stream, unless it is JSON.
    pub fn responds(&self, http_status: u16, content_type: &[u8], length: Option<u64>) {
        let mut state = self.state.lock();
        (state.http_status, state.announced) = (http_status, length);
        if http_status >= 400 {
            return;
        }
        if content_type.starts_with(b"text/event-stream") {
            state.content = Content::Events(Events::default());
        } else if content_type.starts_with(b"application/json") {
            state.content = Content::Document(Vec::new()); // Django announces no length
            return;
        } else if length.is_none() {
            state.content = Content::Stream;
        } else {
            return;
        }
        if self.body.may_stream {
            self.request.streams();
        }
    }

    /// A piece of the body is about to be handed over.
    pub fn produces(&self, piece: &[u8]) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let first = state.sent == 0;
        state.sent += piece.len() as u64;
        if piece.is_empty() {
            return;
        }
        match &mut state.content {
            Content::Stream if first => self.first_byte(),
            Content::Opaque | Content::Stream => {}
            Content::Events(events) => {
                state.done = says_done(piece);
                if state.counted_inside {
                    return;
                }
                if !self.body.count_events || self.request.token_count() != state.counted {
                    state.counted_inside = true;
                    if first {
                        self.first_byte(); // ignored if who counts has seen its first token
                    }
                    return;
                }
                state.counted += self.count(events.feed(piece));
            }
            Content::Document(document) => {
                document.extend_from_slice(piece);
                if state.sent.max(state.announced.unwrap_or(0)) > self.body.max_bytes as u64 {
                    state.content = Content::Opaque;
                }
            }
        }
    }

    fn first_byte(&self) {
        self.request.set_ttft(seconds_between(self.request.began(), self.request.now()));
    }

    /// Counts tokens of one piece, of which the first is timed.
    fn count(&self, tokens: u64) -> u64 {
        if tokens > 0 {
            self.request.tokens(self.request.now(), 1);
        }
        if tokens > 1 {
            self.request.add_tokens(tokens - 1);
        }
        tokens
    }

    /// Whether its consumer's own time matters: tokens are timed here.
    pub fn is_timed(&self) -> bool {
        self.state.lock().counted > 0
    }

    /// The consumer has taken its time over a piece; the next one's begins.
    pub fn resumes(&self) {
        if self.is_timed() {
            self.request.resumed(self.request.now());
        }
    }

    /// Whether the body is as long as it was announced.
    pub fn all_sent(&self) -> bool {
        let state = self.state.lock();
        state.announced.is_some_and(|announced| state.sent >= announced)
    }

    /// The client is known to have gone, unless it has its whole answer.
    pub fn hangs_up(&self) {
        let mut state = self.state.lock();
        state.hung_up |= !state.complete;
    }
    /// Whether it has left its sample.
    pub fn is_finished(&self) -> bool {
        self.state.lock().finished
    }

    /// Whether an exception that the app answered itself would explain how this ends.
    pub fn has_failed(&self) -> bool {
        self.state.lock().http_status >= 500
    }

    /// The last byte was handed over; an error of the app may still explain a 5xx.
    ///
    /// Returns as [`Request::finish`] does, and so does [`leaves`](Self::leaves).
    pub fn completes(&self) -> Option<[u64; 2]> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.complete, true) {
            return None;
        }
        self.take_usage(&state);
        if state.http_status >= 500 { None } else { self.finish(&mut state, None) }
    }

    /// The app is done with the request, for this cause if it failed.
    pub fn leaves(&self, cause: Option<Cause>) -> Option<[u64; 2]> {
        self.finish(&mut self.state.lock(), cause)
    }

    /// What the response says of its tokens, unless something inside has counted them.
    fn take_usage(&self, state: &State) {
        let usage = match &state.content {
            Content::Document(document) => Usage::of(document),
            Content::Events(events) if self.body.max_bytes > 0 => events.usage,
            _ => None,
        };
        let Some(usage) = usage.filter(|_| self.request.token_count() == state.counted) else {
            return;
        };
        if let Some(tokens) = usage.prompt_tokens {
            self.request.set_prompt_tokens(tokens as usize);
        }
        if let Some(tokens) = usage.completion_tokens {
            self.request.set_token_count(u64::from(tokens));
        }
    }

    fn finish(&self, state: &mut State, cause: Option<Cause>) -> Option<[u64; 2]> {
        if std::mem::replace(&mut state.finished, true) {
            return None;
        }
        let (status, kind) = self.outcome(state, cause);
        state.content = Content::Opaque; // a task that was begun inside may live on
        let end = End { status, kind, severity: None, batch_size: 0 };
        self.request.finish(self.request.now(), end)
    }

    fn outcome(&self, state: &State, cause: Option<Cause>) -> Outcome {
        if state.hung_up && !state.done {
            return (Status::Cancelled, None);
        }
        let Some(cause) = cause else {
            let whole = state.complete || state.done;
            return if whole {
                outcome_of(state.http_status, self.known_route)
            } else {
                broken(state, Status::Error, Some(ErrorKind::InferenceError))
            };
        };
        match cause.http_status {
            Some(code) if state.http_status == 0 => outcome_of(code, self.known_route),
            _ => broken(state, cause.status, cause.kind),
        }
    }
}

/// The outcome of a response that was left unfinished.
fn broken(state: &State, status: Status, kind: Option<ErrorKind>) -> Outcome {
    let begun = state.sent > 0 && state.http_status < 400;
    (if status == Status::Error && begun { Status::Partial } else { status }, kind)
}
