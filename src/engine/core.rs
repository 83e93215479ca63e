//! The engine without its thread: one call of [`Core::step`] computes one step.
//!
//! It joins what the scheduler must not know (text, samplers, callers, time) to the plan. The
//! thread calls it in a loop; a simulation calls it under a clock of its own. Invariant: each
//! request accepted by the [`Client`] gets exactly one [`Finish`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::backend::{DecodeFailure, Decoder, Model, Snapshot};
use crate::clock::{Clock, Nanos, seconds_between};
use crate::engine::client::{Client, Command, Link, Stats, Submission};
use crate::engine::config::EngineConfig;
use crate::engine::output::{Delta, Finish, Mailbox};
use crate::engine::sampler::{Drawn, Sampler, Scratch};
use crate::engine::scheduler::{Op, Plan, Scheduler, SnapshotKey, Verdict};
use crate::engine::sequence::Sequence;
use crate::engine::terms::Terms;
use crate::engine::text::TextStream;
use crate::error::{Error, Result};
use crate::event::{Class, Event, Eviction, FinishReason, Observer, RequestId};

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
    cached_tokens: usize,
    completion_tokens: usize,
    /// Distinct sequences in the last step it was part of.
    batch_size: usize,
    queued_at: Nanos,
    scheduled_at: Option<Nanos>,
    first_token_at: Option<Nanos>,
    class: Class,
    deadline: Option<Nanos>,
}

impl Job {
    fn new(submission: Submission, terms: &Terms, prompt_tokens: usize) -> Self {
        Self {
            sampler: submission.sampler,
            text: TextStream::new(submission.params.stop),
            ignore_eos: submission.params.ignore_eos,
            mailbox: submission.mailbox,
            prompt_tokens,
            cached_tokens: 0,
            completion_tokens: 0,
            batch_size: 0,
            queued_at: submission.queued_at,
            scheduled_at: None,
            first_token_at: None,
            class: terms.class,
            deadline: terms.deadline.map(|after| submission.queued_at.saturating_add(after)),
        }
    }

    fn into_finish(mut self, reason: FinishReason, error: Option<Error>, at: Nanos) -> Finish {
        Finish {
            reason,
            tail_text: self.text.finish(),
            error,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
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
    /// Who has a deadline, the next first.
    deadlines: BTreeSet<(Nanos, RequestId)>,
    /// What left the decoder's memory for the host's.
    snapshots: HashMap<SnapshotKey, Snapshot>,
    scratch: Scratch,
    /// Mailboxes that got something in this step.
    touched: Vec<Arc<Mailbox>>,
    /// Requests that ended in this step.
    ended: usize,
    steps: u64,
    service_seconds: f64,
    /// Cells that requests used and bytes of the cache, device and host, when last told.
    shown: (usize, u64, u64),
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
        let (link, info) = (Arc::new(Link::new()), model.info());
        let core = Self {
            model: Arc::clone(&model),
            observer: Arc::clone(&observer),
            clock: Arc::clone(&clock),
            link: Arc::clone(&link),
            scheduler: Scheduler::new(config.clone(), info.divisible, info.adapters.len()),
            jobs: HashMap::new(),
            deadlines: BTreeSet::new(),
            snapshots: HashMap::new(),
            scratch: Scratch::default(),
            touched: Vec::new(),
            ended: 0,
            steps: 0,
            service_seconds: 0.0,
            shown: (0, 0, 0),
        };
        Ok((core, Client { model, config, observer, clock, link }))
    }

    /// The decoder exists, which took from `since` until now.
    pub(super) fn ready(&self, since: Nanos, context: usize) {
        let seconds = seconds_between(since, self.clock.now());
        let info = self.model.info();
        let (bytes_per_token, weight_bytes) = (info.kv_bytes_per_token, info.size_bytes);
        let slots = self.scheduler.slots();
        let ready = Event::Ready { seconds, slots, context, bytes_per_token, weight_bytes };
        self.observer.observe(&ready);
    }

    /// Takes note of what callers want, computes one step, and hands out its tokens.
    pub fn step(&mut self, decoder: &mut dyn Decoder) -> Progress {
        if self.drain_commands() {
            self.close(&Error::EngineClosed);
            return Progress::Closed;
        }
        let now = self.clock.now();
        self.expire(now);
        let plan = self.scheduler.schedule(now);
        self.announce_places(&plan, now);
        let ready = self.follow(&plan.ops, decoder);
        if ready && !plan.rows.is_empty() {
            self.compute(&plan, decoder);
        }
        let ops = self.scheduler.take_ops();
        self.follow(&ops, decoder);
        self.wake();
        let idle = self.jobs.is_empty() && plan.rows.is_empty();
        if idle { Progress::Idle } else { Progress::Worked }
    }

    fn compute(&mut self, plan: &Plan, decoder: &mut dyn Decoder) {
        let started = self.clock.now();
        self.announce(plan, started);
        match decoder.adapt(plan.adapter).and_then(|()| decoder.decode(&plan.rows)) {
            Ok(()) => {
                let tokens = self.sample(plan, decoder);
                let at = self.clock.now();
                self.scheduler.commit(plan, at.saturating_sub(started));
                self.deliver(plan, tokens, started, at);
            }
            Err(failure) => self.fail(plan, failure),
        }
    }

    /// Does what the books ask of the decoder; false if its memory turned out to be another than
    /// they say, and all begins again.
    fn follow(&mut self, ops: &[Op], decoder: &mut dyn Decoder) -> bool {
        for op in ops {
            match op {
                Op::Forget(seq) => decoder.forget(*seq),
                Op::Share { from, to, positions } => decoder.share(*from, *to, positions.clone()),
                Op::Save { seq, key } => {
                    let snapshot = decoder.save(*seq);
                    self.scheduler.saved(*key, snapshot.as_ref().map(|snapshot| snapshot.bytes));
                    self.snapshots.extend(snapshot.map(|snapshot| (*key, snapshot)));
                }
                Op::Restore { seq, key, length } => {
                    let snapshot = self.snapshots.get(key);
                    if !snapshot.is_some_and(|snapshot| decoder.restore(*seq, snapshot)) {
                        self.restart(decoder);
                        return false;
                    }
                    decoder.truncate(*seq, *length);
                }
                Op::Discard(key) => drop(self.snapshots.remove(key)),
            }
        }
        true
    }

    fn restart(&mut self, decoder: &mut dyn Decoder) {
        let at = self.clock.now();
        self.snapshots.clear();
        for id in self.scheduler.restart(at) {
            self.observer.observe(&Event::Preempted { id, at });
        }
        let ops = self.scheduler.take_ops();
        self.follow(&ops, decoder); // nothing is restored in these
    }

    /// Ends whoever's answer is of no use any more.
    fn expire(&mut self, now: Nanos) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.finish(id, FinishReason::Cancelled, None);
        }
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
            self.finish(id, reason, Some(error.clone()));
        }
        self.wake();
    }

    /// The scheduler, for tests that check its books.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Returns whether the engine was closed.
    fn drain_commands(&mut self) -> bool {
        let (commands, closed) = self.link.take();
        for command in commands {
            match command {
                Command::Submit(submission) => self.enqueue(*submission),
                Command::Cancel(id) => self.finish(id, FinishReason::Cancelled, None),
                Command::ClearCache => {
                    let tokens = self.scheduler.clear_cache();
                    self.note_evicted(Eviction::Manual, tokens);
                }
            }
        }
        closed
    }

    fn enqueue(&mut self, mut submission: Submission) {
        let Submission { id, max_answer, queued_at: at, .. } = submission;
        let prompt = std::mem::take(&mut submission.prompt);
        let origin = std::mem::take(&mut submission.origin);
        let terms = std::mem::take(&mut submission.terms);
        let (prompt_tokens, class) = (prompt.len(), terms.class);
        self.observer.observe(&Event::Queued { id, at, prompt_tokens, class, origin });
        let job = Job::new(submission, &terms, prompt_tokens);
        self.deadlines.extend(job.deadline.map(|deadline| (deadline, id)));
        self.jobs.insert(id, job);
        let sequence = Sequence::new(id, prompt, max_answer, &terms, at);
        let now = self.clock.now();
        match self.scheduler.add(sequence, now) {
            Verdict::Accepted => (),
            Verdict::Relegated => {
                self.job(id).class = Class::Background;
                self.observer.observe(&Event::Relegated { id, at: now });
            }
            Verdict::Refused { expected } => {
                let waited = seconds_between(at, now);
                let promised = seconds_between(0, terms.ttft.unwrap_or(0));
                let error = Error::Unattainable { promised, expected: waited + expected };
                self.finish(id, FinishReason::Error(error.kind()), Some(error));
            }
        }
    }

    fn announce_places(&mut self, plan: &Plan, at: Nanos) {
        for &id in &plan.parked {
            self.observer.observe(&Event::Preempted { id, at });
        }
        for admission in &plan.admitted {
            let (id, queried, hit) = (admission.id, admission.queried, admission.hit);
            if admission.resumed {
                self.observer.observe(&Event::Resumed { id, at });
            } else {
                self.job(id).cached_tokens = hit;
                self.observer.observe(&Event::PrefixMatched { id, queried, hit });
            }
        }
    }

    fn announce(&mut self, plan: &Plan, at: Nanos) {
        for span in &plan.spans {
            let job = self.jobs.get_mut(&span.id).expect("a planned sequence has a job");
            job.batch_size = plan.spans.len();
            if job.scheduled_at.is_none() {
                job.scheduled_at = Some(at);
                self.observer.observe(&Event::Scheduled { id: span.id, at });
            }
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
        at: Nanos,
    ) {
        let work = plan.work();
        self.steps += 1;
        self.observer.observe(&Event::Step {
            at,
            nanos: at.saturating_sub(started),
            prefill_tokens: work.prefill,
            decode_tokens: work.decodes,
            sequences: plan.spans.len(),
            logits: work.logits,
            context: work.context,
            budget: plan.budget,
            prefill_skipped: plan.prefill_skipped,
        });
        for (id, drawn) in tokens {
            let unusable = || Error::Decode("the model returned no usable logits".to_owned());
            let (reason, error) = match drawn {
                Some(drawn) => (self.deliver_token(id, drawn, at), None),
                None => (Some(FinishReason::Error(unusable().kind())), Some(unusable())),
            };
            if let Some(reason) = reason {
                self.finish(id, reason, error);
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
        let event = match job.first_token_at {
            None => Event::FirstToken { id, at },
            Some(_) => Event::Tokens { id, at, count: 1 },
        };
        job.first_token_at.get_or_insert(at);
        let (stopped, class) = (job.text.stopped(), job.class);
        // Told before it is handed out: a caller that counts what it takes finds it counted.
        self.observer.observe(&event);
        job.mailbox.push(Delta { token, text, at, logprobs });
        self.touched.push(Arc::clone(&job.mailbox));
        if let Some(slo) = self.scheduler.push(id, token, at) {
            self.observer.observe(&Event::SloMissed { id, at, slo, class });
        }
        let full = self.scheduler.sequence(id).is_some_and(Sequence::is_full);
        match (stopped, full) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        }
    }

    /// The step failed: ends as few requests as its cause allows; the others are planned again.
    fn fail(&mut self, plan: &Plan, failure: DecodeFailure) {
        let (victims, error) = match failure {
            DecodeFailure::NoSpace | DecodeFailure::Aborted => {
                let now = self.clock.now();
                let mut parked = Plan::default();
                let victim = self.scheduler.failed(plan, now, &mut parked);
                self.announce_places(&parked, now);
                let text = format!("the decoder failed again and again: {failure:?}");
                (victim.into_iter().collect(), Error::Decode(text))
            }
            DecodeFailure::Fatal(text) => {
                let ids: Vec<RequestId> = plan.spans.iter().map(|span| span.id).collect();
                (ids, Error::Decode(text))
            }
        };
        for id in victims {
            self.finish(id, FinishReason::Error(error.kind()), Some(error.clone()));
        }
    }

    /// Ends a request; without effect if it has ended.
    fn finish(&mut self, id: RequestId, reason: FinishReason, error: Option<Error>) {
        let Some(job) = self.jobs.remove(&id) else { return };
        // After an error, nobody knows what the decoder holds.
        self.scheduler.remove(id, error.is_none());
        let at = self.clock.now();
        if let Some(deadline) = job.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        if let Some(since) = job.scheduled_at {
            self.note_service(seconds_between(since, at));
        }
        self.ended += 1;
        self.observer.observe(&Event::Finished { id, at, reason, batch_size: job.batch_size });
        let mailbox = Arc::clone(&job.mailbox);
        mailbox.finish(job.into_finish(reason, error, at));
        self.touched.push(mailbox);
    }

    fn note_service(&mut self, seconds: f64) {
        let weight = if self.service_seconds == 0.0 { 1.0 } else { 0.1 };
        self.service_seconds += weight * (seconds - self.service_seconds);
    }

    /// Tells how full the memories are, if that has changed.
    fn note_memory(&mut self) {
        let live = self.scheduler.live_cells();
        let cached = (self.scheduler.used_cells() - live) as u64;
        let device_bytes = cached * self.model.info().kv_bytes_per_token.unwrap_or(0);
        let host_bytes = self.scheduler.host_bytes();
        let shown = std::mem::replace(&mut self.shown, (live, device_bytes, host_bytes));
        if shown.0 != live {
            self.observer.observe(&Event::Occupied { tokens: live });
        }
        if (shown.1, shown.2) != (device_bytes, host_bytes) {
            self.observer.observe(&Event::CacheResident { device_bytes, host_bytes });
        }
        let tokens = self.scheduler.take_evicted();
        self.note_evicted(Eviction::MemoryPressure, tokens);
    }

    fn note_evicted(&self, reason: Eviction, tokens: usize) {
        if tokens > 0 {
            self.observer.observe(&Event::CacheEvicted { reason, tokens });
        }
    }

    /// Wakes whoever waits for something that came in this step.
    fn wake(&mut self) {
        self.note_memory();
        let used_cells = self.scheduler.live_cells();
        let stats = Stats {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            used_cells,
            cached_cells: self.scheduler.used_cells() - used_cells,
            host_bytes: self.scheduler.host_bytes(),
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
