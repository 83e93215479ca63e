//! What a fleet's threads have to say, until somebody writes it into a log.
//!
//! Bounded: what nobody takes is forgotten, the oldest first.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::unix_seconds;

/// How many bytes of text are kept for whoever takes them; one notice may be longer.
const LIMIT_BYTES: usize = 1024 * 1024;
/// What a notice takes beside its text.
const OVERHEAD_BYTES: usize = 64;

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Of use when something is wrong.
    Debug,
    /// The course of things.
    Info,
    /// Somebody should know.
    Warn,
}

impl Level {
    /// The name in Python's `logging`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warning",
        }
    }
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// When, in seconds since 1970.
    pub at: f64,
    /// How much it matters.
    pub level: Level,
    /// The line.
    pub text: String,
}

/// Where notices wait.
#[derive(Debug, Default)]
pub(super) struct Journal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    notices: VecDeque<Notice>,
    bytes: usize,
    closed: bool,
}

impl Journal {
    pub(super) fn debug(&self, text: impl Into<String>) {
        self.push(Level::Debug, text.into());
    }

    pub(super) fn info(&self, text: impl Into<String>) {
        self.push(Level::Info, text.into());
    }

    pub(super) fn warn(&self, text: impl Into<String>) {
        self.push(Level::Warn, text.into());
    }

    fn push(&self, level: Level, text: String) {
        let mut state = self.state.lock();
        state.bytes += text.len() + OVERHEAD_BYTES;
        while state.bytes > LIMIT_BYTES {
            let Some(oldest) = state.notices.pop_front() else { break };
            state.bytes -= oldest.text.len() + OVERHEAD_BYTES;
        }
        state.notices.push_back(Notice { at: unix_seconds(), level, text });
        self.changed.notify_all();
    }

    /// Nothing more will come: who waits need not.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// What has come, and whether more may. Waits for something to come, so long at most.
    pub(super) fn take(&self, patience: Duration) -> (Vec<Notice>, bool) {
        let mut state = self.state.lock();
        if state.notices.is_empty() && !state.closed {
            self.changed.wait_for(&mut state, patience);
        }
        state.bytes = 0;
        (state.notices.drain(..).collect(), !state.closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_is_forgotten_the_oldest_first() {
        let journal = Journal::default();
        let length = 1024 - OVERHEAD_BYTES;
        (0..1026).for_each(|index| journal.info(format!("{index:length$}")));
        let (notices, open) = journal.take(Duration::ZERO);
        assert_eq!((notices.len(), notices[0].text.trim(), open), (1024, "2", true));
        journal.info("x".repeat(2 * LIMIT_BYTES));
        assert_eq!(journal.take(Duration::ZERO).0.len(), 1);
        journal.close();
        assert_eq!(journal.take(Duration::from_secs(60)), (vec![], false));
    }
}
