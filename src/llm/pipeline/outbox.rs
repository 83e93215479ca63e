//! Events of a process that has no tables: they wait until they are sent along with its output.

use std::collections::VecDeque;

use super::event::Event;
use crate::error::Result;

/// The events that wait by default.
pub const OUTBOX_LIMIT: usize = 100_000;
/// The most that may wait.
pub const OUTBOX_LIMIT_MAX: usize = 10_000_000;

/// Events that wait, each numbered for whoever takes it twice.
#[derive(Debug)]
pub struct Outbox {
    source: u64,
    next: u64,
    limit: usize,
    events: VecDeque<Event<'static>>,
}

impl Outbox {
    /// Of a source, which no other process has; the oldest event goes when there are too many.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::error::Error::InvalidArgument) for a limit out of its
    /// range.
    pub fn new(source: u64, limit: usize) -> Result<Self> {
        super::check_limit("max_buffered", limit, OUTBOX_LIMIT_MAX)?;
        Ok(Self { source, next: 0, limit, events: VecDeque::new() })
    }

    /// The source.
    pub fn source(&self) -> u64 {
        self.source
    }

    /// It is a copy in another process from now on: what waits is the first one's to send.
    pub fn restart(&mut self, source: u64) {
        (self.source, self.next) = (source, 0);
        self.events.clear();
    }

    /// Adds an event; the request of the one that went for it, if there were too many.
    pub fn push(&mut self, mut event: Event<'static>) -> Option<Box<str>> {
        event.origin = Some((self.source, self.next));
        self.next += 1;
        let full = self.events.len() == self.limit;
        let oldest = if full { self.events.pop_front() } else { None };
        self.events.push_back(event);
        oldest.map(|event| (&*event.request).into())
    }

    /// Takes the events of one request, or all, as lines of JSON.
    pub fn take(&mut self, request: Option<&str>) -> String {
        let mut lines = String::new();
        let mut write = |event: &Event<'_>| {
            lines.push_str(&event.to_line());
            lines.push('\n');
        };
        if let Some(request) = request {
            self.events.retain(|event| {
                let other = event.request != request;
                if !other {
                    write(event);
                }
                other
            });
        } else {
            for event in self.events.drain(..) {
                write(&event);
            }
        }
        lines
    }
}
