//! The callers' side: submit, follow, cancel. Any thread may use it.
//!
//! A [`Client`] and the engine's [`Core`](super::Core) share one [`Link`]. Must not know: how a
//! step is computed. After a fork, the child has the memory and not the engine's thread, and any
//! lock may be held for ever by a thread that is not there: so every way in checks the process
//! before it takes a lock.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::backend::{Model, Token};
use crate::clock::Clock;
use crate::engine::config::EngineConfig;
use crate::engine::output::{Delta, Finish, Gate, Mailbox, Next, Wakeup};
use crate::engine::sampler::Sampler;
use crate::engine::sampling::SamplingParams;
use crate::engine::sequence::answer_room;
use crate::engine::terms::Terms;
use crate::error::{Error, Result};
use crate::event::{Class, Event, Observer, Origin, RequestId};

/// What to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, in which the names of control tokens are read as these tokens.
    Text {
        /// The text.
        text: String,
        /// Whether the model's own tokens for the beginning and the end are added.
        add_special: bool,
    },
    /// Tokens as they are.
    Tokens(Vec<Token>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text { text: text.to_owned(), add_special: true }
    }
}

/// The engine's load at the end of the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// KV cells that running requests use.
    pub used_cells: usize,
    /// KV cells that hold prefixes for requests to come.
    pub cached_cells: usize,
    /// Bytes of the host's memory that hold such prefixes, and preempted requests.
    pub host_bytes: u64,
    /// Steps computed so far.
    pub steps: u64,
    /// How long a request takes from its first step to its end, in seconds, as a moving mean over
    /// about ten requests; 0 before the first.
    pub service_seconds: f64,
}

/// A request on its way to the engine.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) id: RequestId,
    pub(super) prompt: Vec<Token>,
    pub(super) max_answer: usize,
    pub(super) params: SamplingParams,
    pub(super) terms: Terms,
    pub(super) sampler: Sampler,
    pub(super) origin: Origin,
    pub(super) queued_at: u64,
    pub(super) mailbox: Arc<Mailbox>,
}

/// What callers tell the engine.
#[derive(Debug)]
pub(super) enum Command {
    Submit(Box<Submission>),
    Cancel(RequestId),
    ClearCache,
}

/// For what the step that is under way is given up.
#[derive(Debug, Default)]
pub(super) struct Heed {
    /// An interactive request.
    pub(super) arrivals: bool,
    /// The cancellation of one of these.
    pub(super) cancels: Vec<RequestId>,
}

impl Heed {
    fn is_for(&self, command: &Command) -> bool {
        match command {
            Command::Submit(new) => self.arrivals && new.terms.class == Class::Interactive,
            Command::Cancel(id) => self.cancels.contains(id),
            Command::ClearCache => false,
        }
    }
}

#[derive(Debug, Default)]
struct Inbox {
    commands: VecDeque<Command>,
    heed: Heed,
    closed: bool,
    last_id: RequestId,
    /// Requests submitted and not ended.
    live: usize,
    stats: Stats,
}

/// What callers and engine share.
#[derive(Debug)]
pub(super) struct Link {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    /// Something came for which the step is given up, if it heeds anything.
    pub(super) halt: AtomicBool,
    pub(super) gate: Gate,
    /// Held by whoever computes embeddings: one at a time, so that there is one such decoder.
    pub(super) embedding: Mutex<()>,
    owner: u32,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            halt: AtomicBool::new(false),
            gate: Gate::default(),
            embedding: Mutex::default(),
            owner: std::process::id(),
        }
    }

    /// Refuses whoever is not the process that made this.
    pub(super) fn guard(&self, action: &'static str) -> Result<()> {
        let current = std::process::id();
        if current == self.owner {
            return Ok(());
        }
        Err(Error::Forked { action, owner: self.owner, current })
    }

    /// For the engine: what has come, and whether the engine is closed.
    pub(super) fn take(&self) -> (VecDeque<Command>, bool) {
        let mut inbox = self.inbox.lock();
        (std::mem::take(&mut inbox.commands), inbox.closed)
    }

    /// For the engine: the next step is given up for this, also if it has come already.
    pub(super) fn heed(&self, heed: Heed) {
        let mut inbox = self.inbox.lock();
        let come = inbox.closed || inbox.commands.iter().any(|command| heed.is_for(command));
        self.halt.store(come, Ordering::Relaxed);
        inbox.heed = heed;
    }

    /// For the engine: sleeps until something comes.
    pub(super) fn wait(&self) {
        let idle = |inbox: &mut Inbox| inbox.commands.is_empty() && !inbox.closed;
        self.arrived.wait_while(&mut self.inbox.lock(), idle);
    }

    /// For the engine: how it stands after a step in which so many requests ended.
    pub(super) fn report(&self, stats: Stats, ended: usize) {
        let mut inbox = self.inbox.lock();
        inbox.stats = stats;
        inbox.live -= ended;
    }

    /// From now on nothing is accepted; the engine ends what is live.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        self.halt.store(true, Ordering::Relaxed);
        drop(inbox);
        self.arrived.notify_one();
    }

    /// Numbers for so many requests that do not go through the queue, from this one on.
    ///
    /// # Errors
    ///
    /// [`Error::EngineClosed`].
    pub(super) fn number(&self, count: usize) -> Result<RequestId> {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Err(Error::EngineClosed);
        }
        inbox.last_id += count as RequestId;
        Ok(inbox.last_id - count as RequestId + 1)
    }

    fn cancel(&self, id: RequestId) {
        self.tell(Command::Cancel(id));
    }

    fn tell(&self, command: Command) {
        let mut inbox = self.inbox.lock();
        self.put(&mut inbox, command);
        drop(inbox);
        self.arrived.notify_one();
    }

    fn put(&self, inbox: &mut Inbox, command: Command) {
        if inbox.heed.is_for(&command) {
            self.halt.store(true, Ordering::Relaxed);
        }
        inbox.commands.push_back(command);
    }
}

/// Submits requests to an engine. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) model: Arc<dyn Model>,
    pub(super) config: EngineConfig,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) link: Arc<Link>,
}

impl Client {
    /// Puts a request into the queue. Tokenises on the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`], [`Error::EmptyPrompt`], [`Error::PromptTooLong`],
    /// [`Error::QueueFull`], [`Error::EngineClosed`] or [`Error::Forked`]; all but the last are
    /// reported to the observer.
    pub fn submit(
        &self,
        prompt: Prompt,
        params: SamplingParams,
        terms: Terms,
        origin: Origin,
    ) -> Result<RequestHandle> {
        self.link.guard("submit a request")?;
        let submitted = self
            .prepare(prompt, params, terms, &origin)
            .and_then(|submission| self.enqueue(submission));
        if let Err(error) = &submitted {
            self.observer.observe(&Event::Rejected { kind: error.kind(), origin });
        }
        submitted
    }

    /// The model.
    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    /// The configuration.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The load at the end of the last step; `waiting` is exact.
    ///
    /// # Errors
    ///
    /// [`Error::EngineClosed`] or [`Error::Forked`].
    pub fn stats(&self) -> Result<Stats> {
        self.link.guard("read the engine's load")?;
        let inbox = self.link.inbox.lock();
        if inbox.closed {
            return Err(Error::EngineClosed);
        }
        let waiting = inbox.live.saturating_sub(inbox.stats.running);
        Ok(Stats { waiting, ..inbox.stats })
    }

    /// Empties the prefix cache at the next step.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn clear_cache(&self) -> Result<()> {
        self.link.guard("clear the prefix cache")?;
        self.link.tell(Command::ClearCache);
        Ok(())
    }

    fn prepare(
        &self,
        prompt: Prompt,
        params: SamplingParams,
        terms: Terms,
        origin: &Origin,
    ) -> Result<Submission> {
        let queued_at = self.clock.now();
        params.validate()?;
        let terms = self.config.promise(terms);
        let adapters = self.model.info().adapters.len();
        if terms.adapter > adapters {
            return Err(Error::InvalidArgument(format!(
                "adapter is {}; it must be from 0 to {adapters}",
                terms.adapter
            )));
        }
        let info = self.model.info();
        params.validate_for(info.vocab_size)?;
        let prompt = self.tokens(prompt)?;
        let max_answer =
            answer_room(&self.config, info.context_train, prompt.len(), params.max_tokens)?;
        let sampler = Sampler::for_answer(&params, &*self.model, &prompt)?;
        let origin = origin.clone();
        let mailbox = Arc::default();
        Ok(Submission {
            id: 0,
            prompt,
            max_answer,
            params,
            sampler,
            terms,
            origin,
            queued_at,
            mailbox,
        })
    }

    /// The tokens of a prompt, all of them known.
    pub(super) fn tokens(&self, prompt: Prompt) -> Result<Vec<Token>> {
        let tokens = match prompt {
            Prompt::Text { text, add_special } => self.model.tokenize(&text, add_special, true)?,
            Prompt::Tokens(tokens) => tokens,
        };
        let known = 0..self.model.info().vocab_size as Token;
        match tokens.iter().find(|token| !known.contains(token)) {
            None => Ok(tokens),
            Some(token) => Err(Error::InvalidArgument(format!(
                "the prompt holds token {token}; it must be from 0 to {}",
                known.end - 1
            ))),
        }
    }

    fn enqueue(&self, mut submission: Submission) -> Result<RequestHandle> {
        let mut inbox = self.link.inbox.lock();
        if inbox.closed {
            return Err(Error::EngineClosed);
        }
        let EngineConfig { max_queue, parallel, .. } = self.config;
        if inbox.live >= max_queue + parallel {
            let turns = (inbox.live - inbox.stats.running) as f64 / parallel as f64;
            let retry_after = match inbox.stats.service_seconds {
                0.0 => 1.0, // nothing has ended yet: a guess
                seconds => (seconds * turns).max(0.1),
            };
            return Err(Error::QueueFull { limit: max_queue, retry_after });
        }
        inbox.live += 1;
        inbox.last_id += 1;
        submission.id = inbox.last_id;
        let handle = RequestHandle {
            id: submission.id,
            prompt_tokens: submission.prompt.len(),
            mailbox: Arc::clone(&submission.mailbox),
            link: Arc::clone(&self.link),
        };
        self.link.put(&mut inbox, Command::Submit(Box::new(submission)));
        drop(inbox);
        self.link.arrived.notify_one();
        Ok(handle)
    }
}

/// Follows one request. Dropping it cancels the request.
#[derive(Debug)]
pub struct RequestHandle {
    id: RequestId,
    prompt_tokens: usize,
    mailbox: Arc<Mailbox>,
    link: Arc<Link>,
}

impl RequestHandle {
    /// The request.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Tokens in its prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// What is there, without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn try_next(&self) -> Result<Next> {
        self.link.guard("read an answer")?;
        Ok(self.mailbox.next())
    }

    /// All tokens that are there, without waiting, and the end if it is.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn drain(&self) -> Result<(Vec<Delta>, Option<Finish>)> {
        self.link.guard("read an answer")?;
        Ok(self.mailbox.drain())
    }

    /// What comes next; [`Next::Pending`] if nothing does for this long.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn next_timeout(&self, timeout: Duration) -> Result<Next> {
        self.link.guard("wait for an answer")?;
        self.link.gate.wait(&self.mailbox, timeout);
        Ok(self.mailbox.next())
    }

    /// Waits until the request has ended, or for this long, and says whether it has. Takes
    /// nothing out.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn wait_finished(&self, timeout: Duration) -> Result<bool> {
        self.link.guard("wait for an answer")?;
        self.link.gate.wait_finished(&self.mailbox, timeout);
        Ok(self.mailbox.is_finished())
    }

    /// Wakes this event loop from now on; at once if something is there.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn attach(&self, wakeup: Arc<Wakeup>) -> Result<()> {
        self.link.guard("wait for an answer")?;
        self.mailbox.attach(wakeup.into());
        Ok(())
    }

    /// For a task: waits until there is something to take out. Takes the place of an attached
    /// event loop.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub async fn ready(&self) -> Result<()> {
        self.link.guard("wait for an answer")?;
        poll_fn(|context| self.mailbox.poll(context)).await;
        Ok(())
    }

    /// Ends the request at the next step, as [`FinishReason::Cancelled`]; without effect if it has
    /// ended.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    ///
    /// [`FinishReason::Cancelled`]: crate::event::FinishReason::Cancelled
    pub fn cancel(&self) -> Result<()> {
        self.link.guard("cancel a request")?;
        if !self.mailbox.is_finished() {
            self.link.cancel(self.id);
        }
        Ok(())
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        let _ = self.cancel(); // in a forked child there is nothing to cancel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step is given up for what it heeds and nothing else, also for what came before it began.
    #[test]
    fn a_step_heeds_what_it_is_told_to() {
        let link = Link::new();
        let halted = || link.halt.load(Ordering::Relaxed);
        let heed = |arrivals, cancels: &[RequestId]| {
            link.heed(Heed { arrivals, cancels: cancels.to_vec() });
        };
        heed(true, &[4, 5]);
        link.cancel(6);
        link.tell(Command::ClearCache);
        assert!(!halted());
        link.cancel(5);
        assert!(halted());
        heed(true, &[4]);
        assert!(!halted());
        heed(false, &[6]);
        assert!(halted(), "6 was cancelled before");
        link.take();
        heed(false, &[6]);
        assert!(!halted());
        link.close();
        assert!(halted());
    }
}
