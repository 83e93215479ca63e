//! What becomes of a step: tokens are drawn and handed out, and requests end.

use std::sync::Arc;

use super::Core;
use crate::backend::{DecodeFailure, Decoder};
use crate::clock::{Nanos, seconds_between};
use crate::engine::output::Delta;
use crate::engine::sampler::Drawn;
use crate::engine::scheduler::Plan;
use crate::engine::sequence::Sequence;
use crate::error::Error;
use crate::event::{Event, FinishReason, RequestId};

impl Core {
    /// Draws a token for each span that asked for logits; none where they are unusable.
    pub(super) fn sample(
        &mut self,
        plan: &Plan,
        decoder: &dyn Decoder,
    ) -> Vec<(RequestId, Option<Drawn>)> {
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

    pub(super) fn deliver(
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
    pub(super) fn deliver_token(
        &mut self,
        id: RequestId,
        drawn: Drawn,
        at: Nanos,
    ) -> Option<FinishReason> {
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

    /// The step was given up for something that came; what came is looked at before the next one.
    pub(super) fn give_up(&mut self, plan: &Plan, started: Nanos) {
        let nanos = self.clock.now().saturating_sub(started);
        self.scheduler.interrupted(plan, nanos);
        self.observer.observe(&Event::StepInterrupted { nanos });
    }

    /// The step failed: ends as few requests as its cause allows; the others are planned again.
    pub(super) fn fail(&mut self, plan: &Plan, failure: DecodeFailure) {
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
    pub(super) fn finish(&mut self, id: RequestId, reason: FinishReason, error: Option<Error>) {
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

    pub(super) fn note_service(&mut self, seconds: f64) {
        let weight = if self.service_seconds == 0.0 { 1.0 } else { 0.1 };
        self.service_seconds += weight * (seconds - self.service_seconds);
    }
}
