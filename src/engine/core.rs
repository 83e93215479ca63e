//! The engine without its thread: one call of [`Core::step`] computes one step.
//!
//! It joins what the scheduler must not know (text, samplers, callers, time) to the plan. The
//! thread calls it in a loop; a simulation calls it under a clock of its own. Invariant: each
//! request accepted by the [`Client`] gets exactly one [`Finish`].

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::{DecodeFailure, Decoder, Model};
use crate::clock::{Clock, Nanos, seconds_between};
use crate::engine::client::{Client, Command, Link, Stats, Submission};
use crate::engine::config::EngineConfig;
use crate::engine::output::{Delta, Finish, Mailbox};
use crate::engine::sampler::{Drawn, Sampler, Scratch};
use crate::engine::scheduler::{Plan, Scheduler};
use crate::engine::sequence::Sequence;
use crate::engine::text::TextStream;
use crate::error::{Error, Result};
use crate::event::{Event, FinishReason, Observer, RequestId};

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was computed.
    Worked,
    /// There is nothing to compute.
    Idle,
    /// The engine was closed; all requests have ended.
    Closed,
}

/// Everything about a request but its tokens.
#[derive(Debug)]
struct Job {
    sampler: Sampler,
    text: TextStream,
    ignore_eos: bool,
    mailbox: Arc<Mailbox>,
    prompt_tokens: usize,
    completion_tokens: usize,
    /// Distinct sequences in the last step it was part of.
    batch_size: usize,
    queued_at: Nanos,
    scheduled_at: Option<Nanos>,
    first_token_at: Option<Nanos>,
}

impl Job {
    fn new(submission: Submission, prompt_tokens: usize) -> Self {
        Self {
            sampler: submission.sampler,
            text: TextStream::new(submission.params.stop),
            ignore_eos: submission.params.ignore_eos,
            mailbox: submission.mailbox,
            prompt_tokens,
            completion_tokens: 0,
            batch_size: 0,
            queued_at: submission.queued_at,
            scheduled_at: None,
            first_token_at: None,
        }
    }

    fn into_finish(mut self, reason: FinishReason, error: Option<Error>, at: Nanos) -> Finish {
        Finish {
            reason,
            tail_text: self.text.finish(),
            error,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens,
            queued_at: self.queued_at,
            scheduled_at: self.scheduled_at,
            first_token_at: self.first_token_at,
            finished_at: at,
        }
    }
}

/// The engine's state. Belongs to one thread.
#[derive(Debug)]
pub struct Core {
    model: Arc<dyn Model>,
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
    link: Arc<Link>,
    scheduler: Scheduler,
    jobs: HashMap<RequestId, Job>,
    scratch: Scratch,
    /// Mailboxes that got something in this step.
    touched: Vec<Arc<Mailbox>>,
    /// Requests that ended in this step.
    ended: usize,
    steps: u64,
    service_seconds: f64,
    /// Cells in use at the end of the last step.
    used_cells: usize,
}

impl Core {
    /// An engine, and the way to submit requests to it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an invalid configuration.
    pub fn new(
        model: Arc<dyn Model>,
        config: EngineConfig,
        observer: Arc<dyn Observer>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Client)> {
        config.validate()?;
        let link = Arc::new(Link::new());
        let core = Self {
            model: Arc::clone(&model),
            observer: Arc::clone(&observer),
            clock: Arc::clone(&clock),
            link: Arc::clone(&link),
            scheduler: Scheduler::new(config.clone()),
            jobs: HashMap::new(),
            scratch: Scratch::default(),
            touched: Vec::new(),
            ended: 0,
            steps: 0,
            service_seconds: 0.0,
            used_cells: 0,
        };
        Ok((core, Client { model, config, observer, clock, link }))
    }

    /// The decoder exists, which took from `since` until now.
    pub(super) fn ready(&self, since: Nanos, context: usize) {
        let seconds = seconds_between(since, self.clock.now());
        let bytes_per_token = self.model.info().kv_bytes_per_token;
        self.observer.observe(&Event::Ready { seconds, context, bytes_per_token });
    }

    /// Takes note of what callers want, computes one step, and hands out its tokens.
    pub fn step(&mut self, decoder: &mut dyn Decoder) -> Progress {
        if self.drain_commands(decoder) {
            self.close(&Error::EngineClosed);
            return Progress::Closed;
        }
        let plan = self.scheduler.schedule();
        if let Some(plan) = &plan {
            let started = self.clock.now();
            self.announce(plan, started);
            match decoder.decode(&plan.rows) {
                Ok(()) => {
                    let tokens = self.sample(plan, decoder);
                    self.scheduler.commit(plan);
                    self.deliver(plan, tokens, started, decoder);
                }
                Err(failure) => self.fail(plan, failure, decoder),
            }
        }
        self.wake();
        if plan.is_some() { Progress::Worked } else { Progress::Idle }
    }

    /// Sleeps until a caller wants something.
    pub fn wait(&self) {
        self.link.wait();
    }

    /// Ends all requests, and refuses new ones.
    pub fn close(&mut self, error: &Error) {
        self.link.close();
        let (commands, _) = self.link.take();
        for command in commands {
            if let Command::Submit(submission) = command {
                self.enqueue(*submission);
            }
        }
        let reason = match error {
            Error::EngineClosed => FinishReason::Cancelled,
            error => FinishReason::Error(error.kind()),
        };
        let mut live: Vec<RequestId> = self.jobs.keys().copied().collect();
        live.sort_unstable();
        for id in live {
            self.end(id, reason, Some(error.clone()));
        }
        self.wake();
    }

    /// The scheduler, for tests that check its books.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Returns whether the engine was closed.
    fn drain_commands(&mut self, decoder: &mut dyn Decoder) -> bool {
        let (commands, closed) = self.link.take();
        for command in commands {
            match command {
                Command::Submit(submission) => self.enqueue(*submission),
                Command::Cancel(id) => self.finish(id, FinishReason::Cancelled, None, decoder),
            }
        }
        closed
    }

    fn enqueue(&mut self, mut submission: Submission) {
        let Submission { id, max_answer, queued_at: at, .. } = submission;
        let prompt = std::mem::take(&mut submission.prompt);
        let origin = std::mem::take(&mut submission.origin);
        let (prompt_tokens, class) = (prompt.len(), submission.terms.class);
        self.observer.observe(&Event::Queued { id, at, prompt_tokens, class, origin });
        self.jobs.insert(id, Job::new(submission, prompt_tokens));
        self.scheduler.add(Sequence::new(id, prompt, max_answer));
    }

    fn announce(&mut self, plan: &Plan, at: Nanos) {
        for &id in &plan.admitted {
            self.observer.observe(&Event::Scheduled { id, at });
            self.job(id).scheduled_at = Some(at);
        }
        for span in &plan.spans {
            self.job(span.id).batch_size = plan.spans.len();
        }
    }

    /// Draws a token for each span that asked for logits; none where they are unusable.
    fn sample(&mut self, plan: &Plan, decoder: &dyn Decoder) -> Vec<(RequestId, Option<Drawn>)> {
        let Self { scheduler, jobs, scratch, .. } = self;
        let spans = plan.spans.iter().filter_map(|span| Some((span.id, span.sample?)));
        spans
            .map(|(id, row)| {
                let job = jobs.get_mut(&id).expect("a planned sequence has a job");
                let history = scheduler.sequence(id).expect("a planned sequence runs").tokens();
                (id, job.sampler.sample(decoder.logits(row), history, scratch))
            })
            .collect()
    }

    fn deliver(
        &mut self,
        plan: &Plan,
        tokens: Vec<(RequestId, Option<Drawn>)>,
        started: Nanos,
        decoder: &mut dyn Decoder,
    ) {
        let at = self.clock.now();
        self.steps += 1;
        self.observer.observe(&Event::Step {
            at,
            nanos: at.saturating_sub(started),
            prefill_tokens: plan.rows.len() - plan.decode_tokens,
            decode_tokens: plan.decode_tokens,
            sequences: plan.spans.len(),
            logits: plan.rows.iter().filter(|row| row.wants_logits).count(),
            context: plan.rows.iter().map(|row| row.position + 1).sum(),
            budget: self.scheduler.batch_size(),
            prefill_skipped: false,
        });
        for (id, drawn) in tokens {
            let unusable = || Error::Decode("the model returned no usable logits".to_owned());
            let (reason, error) = match drawn {
                Some(drawn) => (self.deliver_token(id, drawn, at), None),
                None => (Some(FinishReason::Error(unusable().kind())), Some(unusable())),
            };
            if let Some(reason) = reason {
                self.finish(id, reason, error, decoder);
            }
        }
    }

    /// Hands out a token and says whether the request ends with it.
    fn deliver_token(&mut self, id: RequestId, drawn: Drawn, at: Nanos) -> Option<FinishReason> {
        let Drawn { token, logprobs } = drawn;
        let model = Arc::clone(&self.model);
        let job = self.jobs.get_mut(&id).expect("a sampled sequence has a job");
        if model.is_end(token) && !job.ignore_eos {
            return Some(FinishReason::Stop);
        }
        job.completion_tokens += 1;
        let text = job.text.push(&model.piece(token));
        job.mailbox.push(Delta { token, text, at, logprobs });
        self.touched.push(Arc::clone(&job.mailbox));
        let event = match job.first_token_at {
            None => Event::FirstToken { id, at },
            Some(_) => Event::Tokens { id, at, count: 1 },
        };
        job.first_token_at.get_or_insert(at);
        let stopped = job.text.stopped();
        self.observer.observe(&event);
        self.scheduler.push(id, token);
        let full = self.scheduler.sequence(id).is_some_and(Sequence::is_full);
        match (stopped, full) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        }
    }

    /// The step failed: ends as few requests as its cause allows; the others are planned again.
    fn fail(&mut self, plan: &Plan, failure: DecodeFailure, decoder: &mut dyn Decoder) {
        let (victims, error) = match failure {
            // Cannot happen while reservations hold. Nothing was written: without the newest
            // sequence, the rest may fit.
            DecodeFailure::NoSpace => (
                &plan.spans[plan.spans.len() - 1..],
                Error::OutOfMemory("the context (ctx_size) has no free KV cells".to_owned()),
            ),
            DecodeFailure::Fatal(text) => (&plan.spans[..], Error::Decode(text)),
        };
        for span in victims {
            let reason = FinishReason::Error(error.kind());
            self.finish(span.id, reason, Some(error.clone()), decoder);
        }
    }

    /// Ends a request and frees its cells; without effect if it has ended.
    fn finish(
        &mut self,
        id: RequestId,
        reason: FinishReason,
        error: Option<Error>,
        decoder: &mut dyn Decoder,
    ) {
        if let Some(slot) = self.end(id, reason, error) {
            decoder.forget(slot);
        }
    }

    /// Ends a request, and returns the slot that the decoder must forget.
    fn end(&mut self, id: RequestId, reason: FinishReason, error: Option<Error>) -> Option<u32> {
        let slot = self.scheduler.remove(id).and_then(|sequence| sequence.slot);
        let job = self.jobs.remove(&id)?;
        let at = self.clock.now();
        if let Some(since) = job.scheduled_at {
            self.note_service(seconds_between(since, at));
        }
        self.ended += 1;
        self.observer.observe(&Event::Finished { id, at, reason, batch_size: job.batch_size });
        let mailbox = Arc::clone(&job.mailbox);
        mailbox.finish(job.into_finish(reason, error, at));
        self.touched.push(mailbox);
        slot
    }

    fn note_service(&mut self, seconds: f64) {
        let weight = if self.service_seconds == 0.0 { 1.0 } else { 0.1 };
        self.service_seconds += weight * (seconds - self.service_seconds);
    }

    fn note_cells(&mut self) -> usize {
        let tokens = self.scheduler.used_cells();
        if tokens != std::mem::replace(&mut self.used_cells, tokens) {
            self.observer.observe(&Event::Occupied { tokens });
        }
        tokens
    }

    /// Wakes whoever waits for something that came in this step.
    fn wake(&mut self) {
        let stats = Stats {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            reserved_cells: self.scheduler.reserved_cells(),
            used_cells: self.note_cells(),
            steps: self.steps,
            service_seconds: self.service_seconds,
        };
        self.link.report(stats, std::mem::take(&mut self.ended));
        if self.touched.is_empty() {
            return;
        }
        for mailbox in self.touched.drain(..) {
            mailbox.wake();
        }
        self.link.gate.open();
    }

    fn job(&mut self, id: RequestId) -> &mut Job {
        self.jobs.get_mut(&id).expect("a planned sequence has a job")
    }
}
