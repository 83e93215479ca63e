//! The way of an answer from the engine's thread to whoever waits for it.
//!
//! Each request has a [`Mailbox`]; the engine puts tokens into it and wakes its readers *once per
//! step*, not once per token: threads through one [`Gate`], tasks of Rust through their [`Waker`],
//! other event loops through a [`Wakeup`] each.
//! The engine never blocks here. Lock order: a reader may hold the gate while it looks into its
//! mailbox; the engine never holds both.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::backend::Token;
use crate::clock::Nanos;
use crate::engine::logits::Logprobs;
use crate::error::Error;
use crate::event::FinishReason;

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// The token.
    pub token: Token,
    /// The text that is certain now; may be empty, or more than this token's own.
    pub text: String,
    /// When the step that computed it ended.
    pub at: Nanos,
    /// How likely the model held it, if the request asked for that.
    pub logprobs: Option<Box<Logprobs>>,
}

/// The end of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// Text that was held back until now; comes after that of all deltas.
    pub tail_text: String,
    /// What went wrong, if anything did.
    pub error: Option<Error>,
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// How many of these were not computed, because they were when it first got a place.
    pub cached_tokens: usize,
    /// Tokens in the answer, without the one that ends it.
    pub completion_tokens: usize,
    /// When it was submitted.
    pub queued_at: Nanos,
    /// When its first prompt token was about to be computed.
    pub scheduled_at: Option<Nanos>,
    /// When the first token of the answer existed.
    pub first_token_at: Option<Nanos>,
    /// When it ended.
    pub finished_at: Nanos,
}

/// What a reader finds.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// A token.
    Delta(Delta),
    /// The end, after all tokens; the same again each time.
    Finished(Finish),
    /// Nothing yet.
    Pending,
}

/// Where one request's tokens wait for their reader.
#[derive(Debug, Default)]
pub(super) struct Mailbox(Mutex<Letters>);

#[derive(Debug, Default)]
struct Letters {
    deltas: VecDeque<Delta>,
    finish: Option<Finish>,
    waker: Option<Waker>,
}

impl Mailbox {
    pub(super) fn push(&self, delta: Delta) {
        self.0.lock().deltas.push_back(delta);
    }

    pub(super) fn finish(&self, finish: Finish) {
        self.0.lock().finish = Some(finish);
    }

    /// Takes the next thing out.
    pub(super) fn next(&self) -> Next {
        let mut letters = self.0.lock();
        match letters.deltas.pop_front() {
            Some(delta) => Next::Delta(delta),
            None => letters.finish.clone().map_or(Next::Pending, Next::Finished),
        }
    }

    /// Takes all tokens out that are there, and the end if it is.
    pub(super) fn drain(&self) -> (Vec<Delta>, Option<Finish>) {
        let mut letters = self.0.lock();
        (letters.deltas.drain(..).collect(), letters.finish.clone())
    }

    pub(super) fn is_finished(&self) -> bool {
        self.0.lock().finish.is_some()
    }

    fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// From now on, wakes this task or event loop; at once if something is there.
    pub(super) fn attach(&self, waker: Waker) {
        self.0.lock().waker = Some(waker);
        if !self.is_empty() {
            self.wake();
        }
    }

    /// Ready if something is there; otherwise wakes the task when something comes.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut letters = self.0.lock();
        if !letters.is_empty() {
            return Poll::Ready(());
        }
        letters.waker = Some(context.waker().clone());
        Poll::Pending
    }

    pub(super) fn wake(&self) {
        let waker = self.0.lock().waker.clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Letters {
    fn is_empty(&self) -> bool {
        self.deltas.is_empty() && self.finish.is_none()
    }
}

/// Where threads wait for the end of a step.
#[derive(Debug, Default)]
pub(super) struct Gate {
    lock: Mutex<()>,
    step: Condvar,
}

impl Gate {
    /// Waits until the mailbox holds something, or for this long.
    pub(super) fn wait(&self, mailbox: &Mailbox, timeout: Duration) {
        self.wait_while(timeout, || mailbox.is_empty());
    }

    /// Waits until the request has ended, or for this long.
    pub(super) fn wait_finished(&self, mailbox: &Mailbox, timeout: Duration) {
        self.wait_while(timeout, || !mailbox.is_finished());
    }

    /// Wakes all that wait. A reader looks into its mailbox with the lock held, so taking the
    /// lock here means that none can look before a token came and sleep after this call.
    pub(super) fn open(&self) {
        drop(self.lock.lock());
        self.step.notify_all();
    }

    fn wait_while(&self, timeout: Duration, condition: impl Fn() -> bool) {
        let mut guard = self.lock.lock();
        self.step.wait_while_for(&mut guard, |()| condition(), timeout);
    }
}

/// Wakes an event loop through a pipe: the loop watches [`Wakeup::reader`], and calls
/// [`Wakeup::acknowledge`] before it looks into its mailboxes.
///
/// At most one byte is in the pipe, so writing never blocks the engine, and a slow loop is woken
/// once for all that has come meanwhile.
#[derive(Debug)]
pub struct Wakeup {
    reader: PipeReader,
    writer: PipeWriter,
    pending: AtomicBool,
}

impl Wakeup {
    /// A new pipe.
    ///
    /// # Errors
    ///
    /// If the process may open no more files.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self { reader, writer, pending: AtomicBool::new(false) })
    }

    /// The end to watch: readable when something has come. Take its descriptor, do not read it.
    pub fn reader(&self) -> &PipeReader {
        &self.reader
    }

    /// Takes the byte out of the pipe, if there is one. What comes after this call wakes the loop
    /// again.
    pub fn acknowledge(&self) {
        // `pending` is set before the byte is written, so the byte is there or about to be.
        if self.pending.load(Ordering::Acquire) {
            self.wait();
        }
    }

    /// Sleeps until something has come. For a thread that follows many requests.
    pub fn wait(&self) {
        let _ = (&self.reader).read(&mut [0]);
        // After the read, so that the pipe never holds a second byte.
        self.pending.store(false, Ordering::Release);
    }
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // It can fail only if the reader is closed, and both ends are ours.
            let _ = (&self.writer).write(&[1]);
        }
    }
}
