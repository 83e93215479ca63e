//! The engine without its thread: one call of [`Core::step`] computes one step.
//!
//! It joins what the scheduler must not know (text, samplers, callers, time) to the plan. The
//! thread calls it in a loop; a simulation calls it under a clock of its own. Invariant: each
//! request accepted by the [`Client`] gets exactly one [`Finish`](crate::engine::Finish).

mod deliver;
mod job;
mod report;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::job::Job;
use crate::backend::{DecodeFailure, Decoder, Model, Snapshot};
use crate::clock::{Clock, Nanos, seconds_between};
use crate::engine::client::{Client, Command, Heed, Link, Submission};
use crate::engine::config::EngineConfig;
use crate::engine::output::Mailbox;
use crate::engine::policy::Yields;
use crate::engine::sampler::Scratch;
use crate::engine::scheduler::{Op, Plan, Scheduler, SnapshotKey, Verdict};
use crate::engine::sequence::Sequence;
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
        mut config: EngineConfig,
        observer: Arc<dyn Observer>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Client)> {
        config.validate()?;
        let (link, info) = (Arc::new(Link::new()), model.info());
        if !info.interruptible {
            config.lone_step = config.step;
        }
        if info.device == "cpu" {
            config.idle_cells.get_or_insert(0);
        }
        let core = Self {
            model: Arc::clone(&model),
            observer: Arc::clone(&observer),
            clock: Arc::clone(&clock),
            link: Arc::clone(&link),
            scheduler: Scheduler::new(
                config.clone(),
                info.divisible,
                info.adapters.len(),
                info.kv_bytes_per_token,
            ),
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
        let halt = &self.link.halt;
        let outcome = decoder.adapt(plan.adapter).and_then(|()| match plan.yields {
            Yields::ToNothing => decoder.decode(&plan.rows),
            yields => {
                let arrivals = yields == Yields::ToArrival;
                self.link.heed(Heed { arrivals, cancels: plan.prompts().collect() });
                decoder.decode_unless(&plan.rows, halt)
            }
        });
        match outcome {
            Ok(()) => {
                let tokens = self.sample(plan, decoder);
                let at = self.clock.now();
                self.scheduler.commit(plan, at.saturating_sub(started));
                self.deliver(plan, tokens, started, at);
            }
            Err(DecodeFailure::Aborted)
                if plan.yields != Yields::ToNothing && halt.load(Ordering::Relaxed) =>
            {
                self.give_up(plan, started);
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
                Op::Share { from, to, positions } => {
                    if !decoder.share(*from, *to, positions.clone()) {
                        self.restart(decoder);
                        return false;
                    }
                }
                Op::Truncate { seq, length } => decoder.truncate(*seq, *length),
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

    fn job(&mut self, id: RequestId) -> &mut Job {
        self.jobs.get_mut(&id).expect("a planned sequence has a job")
    }
}
