//! The default policy: the largest prefill with which the step still keeps the tightest promise.
//!
//! Decodes come first and prompts fill what time is left, as in Sarathi-Serve (arXiv 2403.02310);
//! the chunk follows from the slack, as in Niyama (arXiv 2503.22562). A floor keeps prompts moving
//! whatever the slack: a bound is what suspended prefill needs most (arXiv 2602.16603).
//! Prompts alone, with nobody waiting, take long steps that are given up for whoever comes, where that
//! gets more done; other steps are given up for a cancellation, where answers can bear it. Both as far
//! as completed steps have earned it. Must not know: sequences, queues, metrics.

use crate::clock::Nanos;
use crate::engine::policy::lone::LoneSteps;
use crate::engine::policy::step_model::{StepModel, Work};
use crate::engine::policy::{Allowance, Load, Yields};

/// Chunks are multiples of it: few distinct shapes of a batch let a backend use its graph again.
pub const QUANTUM: usize = 4;

/// What a step may have more than the last one, beside a quarter: two quanta.
const GROWTH: usize = 2 * QUANTUM;

/// Unless not even one quantum fits: on a CPU it takes as long as several decodes do.
const SMALL: [usize; 1] = [2];

/// The least prefill, in tokens, of any [`MAX_SKIPS`]` + 1` steps: four quanta, about one decode
/// step of eight sequences on the CPU that the [`StepModel`] begins with.
pub const MIN_PREFILL: usize = 16;

/// So many steps in a row may hold no prefill although a prompt waits. At 100 ms a step, a prompt
/// then goes on twice a second.
pub const MAX_SKIPS: usize = 4;

/// The most time that prompts take of a step by default, 65 ms as predicted: a cancel and an arrival
/// wait for the step that runs. On the CPU that the [`StepModel`] begins with, that is 12 to 16
/// prompt tokens, at 0.8 of the rate of the largest chunks.
pub const STEP: Nanos = 65_000_000;

/// So many times as long may prompts make a step where each step's own cost weighs more than what
/// somebody who comes may wait for it. While interactive requests wait for a place, who comes would not
/// wait for the step anyway (conversations on that CPU at less than half its speed got done in 62 to
/// 66 s instead of 70 to 74, and with four times as long steps no sooner). Where all answers have
/// promises, these say how long is too long (a prompt of 1,500 tokens beside four answers, promised
/// 150 ms there, came after 21.6 s instead of 23.2).
const PATIENT: Nanos = 2;

/// The most time of a step that holds prompts alone, while no answer is under way: it is given up for
/// whoever comes. From 64 rows on, llama.cpp takes 0.7 to 0.8 of the time for each (a prompt of 1,500
/// tokens on that CPU: 9 ms a token in steps of 8 to 32, 7 from 64 on), and 500 ms have room for these.
pub const LONE_STEP: Nanos = 500_000_000;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct SloBudget {
    model: StepModel,
    step: Nanos,
    lone: LoneSteps,
    target: usize,
    floor: Floor,
}

impl SloBudget {
    /// `step` is the most time that prompts may take of a step, however loose the promises, and
    /// `lone_step` of one that is given up for whoever comes; not above `step`: no step is given up.
    pub fn new(step: Nanos, lone_step: Nanos) -> Self {
        Self {
            model: StepModel::default(),
            step,
            lone: LoneSteps::new(lone_step),
            target: 0,
            floor: Floor::default(),
        }
    }

    /// How many prompt tokens the next step takes: what fits in time, or all that is wanted if
    /// that fits; at most a quarter and two quanta more than the last time, so that neither a
    /// loose moment nor an untried prediction makes a step of a new size at once.
    pub fn prefill(&mut self, load: &Load) -> Allowance {
        let wanted = load.wanted.min(load.room);
        self.lone.planned(load.lone > 0 && wanted > 0);
        if wanted == 0 {
            self.floor.record(load, 0);
            return Allowance { target: self.target, ..Allowance::default() };
        }
        let (cap, slack) = (self.cap(load), load.slack.unwrap_or(Nanos::MAX));
        let fits = |tokens: usize| {
            let work = load.work.with_prefill(tokens, load.base_context);
            self.model.predict(&work) <= cap && self.model.predict_within(&work) <= slack
        };
        // What can be given up needs no care.
        let most = if load.lone > 0 { load.room } else { self.target + self.target / 4 + GROWTH };
        let sizes = SMALL.into_iter().chain((QUANTUM..).step_by(QUANTUM));
        let sizes = sizes.take_while(|&tokens| tokens <= most.min(load.room));
        // More rows may take less time: see `StepModel`.
        let target = sizes.filter(|&tokens| fits(tokens)).last().unwrap_or(0);
        let fitting = if wanted <= most && fits(wanted) { wanted } else { target };
        let tokens = fitting.max(self.floor.least(load)).min(wanted);
        self.floor.record(load, tokens);
        if load.lone == 0 {
            self.target = target;
        }
        let yields = match load.lone {
            1.. if cap > self.step => Yields::ToArrival,
            _ if tokens > 0 && self.can_do_again(load, tokens) => Yields::ToCancel,
            _ => Yields::ToNothing,
        };
        Allowance { tokens, target, skipped: tokens == 0, yields }
    }

    /// Whether this step, given up at its end, costs no more than was earned, and whether its
    /// decodes still keep their promises if they are then computed again.
    fn can_do_again(&self, load: &Load, tokens: usize) -> bool {
        let work = load.work.with_prefill(tokens, load.base_context);
        let again = self.model.predict_within(&work) + self.model.predict_within(&load.work);
        self.lone.longest() > self.step
            && self.model.predict(&work) <= self.lone.affordable()
            && load.slack.is_none_or(|slack| again <= slack)
    }

    /// How many decodes without a promise join those with one: as many as fit into the slack, and
    /// at least their share, with which each has a turn in [`MAX_SKIPS`]` + 1` steps. To let all of
    /// them run in one step now and then would cost the promises more.
    pub fn background_decodes(&self, load: &Load, background: &Work) -> usize {
        let (all, Some(slack)) = (background.decodes, load.slack) else {
            return background.decodes;
        };
        let joined = |count: usize| Work {
            decodes: load.work.decodes + count,
            logits: load.work.logits + count,
            context: load.work.context + (background.context * count).div_ceil(all),
            ..load.work
        };
        let fitting = (1..=all).take_while(|&n| self.model.predict_within(&joined(n)) <= slack);
        fitting.last().unwrap_or(0).max(all.div_ceil(MAX_SKIPS + 1))
    }

    /// A step was computed.
    pub fn observe(&mut self, work: &Work, nanos: Nanos) {
        self.model.observe(work, nanos);
        self.lone.completed(nanos);
    }

    /// The last step was given up after so many nanoseconds: prompts got nothing of it.
    pub fn interrupted(&mut self, nanos: Nanos) {
        self.lone.given_up(nanos);
        self.floor.take_back();
    }

    /// Whoever came since the last step was planned would have it given up.
    pub fn somebody_came(&mut self) {
        self.lone.somebody_came();
    }

    /// How long steps take.
    pub fn model(&self) -> &StepModel {
        &self.model
    }

    /// The longest step, whatever is promised: `step` beyond its decodes, or more where nobody is
    /// worse off.
    fn cap(&self, load: &Load) -> Nanos {
        if load.lone > 0 {
            return self.lone_cap(load).max(self.step);
        }
        let decodes = if load.work.decodes > 0 { self.model.predict(&load.work) } else { 0 };
        let patience = if load.crowded || load.promised { PATIENT } else { 1 };
        self.step.saturating_mul(patience).saturating_add(decodes)
    }

    /// The longest step that is given up for whoever comes: what was earned for it, what the first
    /// prompt needs, which others must not hold up, and what gets most done a second.
    fn lone_cap(&self, load: &Load) -> Nanos {
        let prompts = |tokens| load.work.with_prefill(tokens, load.base_context);
        let time = |tokens| self.model.predict(&prompts(tokens));
        let most = self.lone.affordable().min(time(load.lone));
        let sizes = (QUANTUM..).step_by(QUANTUM).take_while(|&tokens| tokens <= load.room);
        let sizes = sizes.chain([load.lone]).map(|tokens| (tokens, time(tokens)));
        let pace = |tokens: usize, nanos: Nanos| {
            // Rows are worth what they would take elsewhere: later ones read more cells anyway.
            let work = self.model.prefill_seconds(tokens, load.base_context);
            if nanos > self.step {
                self.lone.pace(work, nanos)
            } else {
                work / nanos.max(1) as f64 * 1e9 // nobody has it given up
            }
        };
        let paces = sizes.filter(|&(_, nanos)| nanos <= most);
        let paces = paces.map(|(tokens, nanos)| (pace(tokens, nanos), nanos));
        paces.max_by(|one, other| one.0.total_cmp(&other.0)).map_or(0, |(_, nanos)| nanos)
    }
}

/// The bound on starvation: in any [`MAX_SKIPS`]` + 1` steps with a prompt that waits, prefill gets
/// [`MIN_PREFILL`] tokens, or all that is wanted and has room. A step without decodes is never
/// empty.
#[derive(Clone, Debug)]
pub(super) struct Floor {
    /// What the last steps gave; a step that wanted no more counts as satisfied.
    recent: [usize; MAX_SKIPS],
}

impl Default for Floor {
    fn default() -> Self {
        Self { recent: [MIN_PREFILL; MAX_SKIPS] }
    }
}

impl Floor {
    /// The least that this step must give, before what is wanted and has room.
    pub(super) fn least(&self, load: &Load) -> usize {
        let given: usize = self.recent.iter().sum();
        let alone = if load.work.decodes == 0 { QUANTUM } else { 0 };
        MIN_PREFILL.saturating_sub(given).max(alone)
    }

    /// The step gave `tokens`.
    pub(super) fn record(&mut self, load: &Load, tokens: usize) {
        self.recent.rotate_left(1);
        self.recent[MAX_SKIPS - 1] = if tokens < load.wanted { tokens } else { MIN_PREFILL };
    }

    /// The last step gave nothing after all.
    pub(super) fn take_back(&mut self) {
        self.recent[MAX_SKIPS - 1] = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn decodes(count: usize, past: usize) -> Work {
        (0..count).fold(Work::default(), |work, _| work.with_decode(past))
    }

    fn load(count: usize, slack: Nanos) -> Load {
        let work = decodes(count, 50);
        Load { work, slack: Some(slack), wanted: 4000, room: 512 - count, ..Load::default() }
    }

    /// The budget after steps that took as long as it thought.
    fn settled(load: &Load) -> (SloBudget, Allowance) {
        let mut budget = SloBudget::new(STEP, LONE_STEP);
        let allowances: Vec<_> = (0..20).map(|_| budget.prefill(load)).collect();
        (budget, allowances[19])
    }

    #[test]
    fn the_largest_chunk_that_keeps_the_promise_is_taken() {
        let load = load(2, 75 * MS);
        let (budget, allowance) = settled(&load);
        assert_eq!((allowance.tokens, allowance.target % QUANTUM), (allowance.target, 0));
        let ends = |tokens| budget.model.predict_within(&load.work.with_prefill(tokens, 0));
        assert!(ends(allowance.tokens) <= 75 * MS && ends(allowance.tokens + QUANTUM) > 75 * MS);
    }

    #[test]
    fn without_a_promise_prompts_take_one_step_length() {
        let loose = Load { slack: None, ..load(8, 0) };
        let (budget, allowance) = settled(&loose);
        let added = budget.model.prefill_seconds(allowance.tokens, 0);
        assert!(allowance.tokens >= QUANTUM && added < 0.07, "{allowance:?}");
        let idle = Load { slack: None, wanted: 4000, room: 512, ..Load::default() };
        let (budget, allowance) = settled(&idle);
        assert!(budget.model.predict(&Work::default().with_prefill(allowance.tokens, 0)) <= STEP);
    }

    /// Where others wait for a place, or all answers have promises, steps are longer and break none.
    #[test]
    fn steps_are_longer_where_that_makes_nobody_wait() {
        let added = |load: &Load| {
            let (budget, Allowance { tokens, .. }) = settled(load);
            budget.model.prefill_seconds(tokens, 0)
        };
        let loose = load(8, 5000 * MS);
        let usual = added(&loose);
        for longer in [Load { crowded: true, ..loose }, Load { promised: true, ..loose }] {
            let added = added(&longer);
            assert!(added > 1.5 * usual && added < 0.14, "{usual} {added}");
            let tight = Load { slack: Some(100 * MS), ..longer };
            let (budget, Allowance { tokens, .. }) = settled(&tight);
            assert!(budget.model.predict_within(&tight.work.with_prefill(tokens, 0)) <= 100 * MS);
        }
    }

    #[test]
    fn it_grows_by_a_quarter_and_shrinks_at_once() {
        let mut budget = SloBudget::new(Nanos::MAX / 2, 0);
        let mut sizes = || budget.prefill(&load(1, 5000 * MS)).tokens;
        assert_eq!([sizes(), sizes(), sizes(), sizes(), sizes()], [8, 16, 28, 40, 56]);
        let tight = budget.prefill(&load(1, 60 * MS)).tokens;
        assert!((4..12).contains(&tight), "{tight}");
    }

    #[test]
    fn all_that_is_wanted_needs_no_quantum() {
        let load = Load { wanted: 5, ..load(1, 60 * MS) };
        assert_eq!(SloBudget::new(STEP, LONE_STEP).prefill(&load).tokens, 5);
    }

    #[test]
    fn a_promise_that_cannot_be_kept_delays_prefill_and_does_not_stop_it() {
        let mut budget = SloBudget::new(STEP, LONE_STEP);
        let steps: Vec<_> = (0..10).map(|_| budget.prefill(&load(16, MS))).collect();
        let tokens: Vec<_> = steps.iter().map(|step| step.tokens).collect();
        assert_eq!(tokens, [0, 0, 0, 0, 16, 0, 0, 0, 0, 16]);
        assert!(steps.iter().all(|step| step.skipped == (step.tokens == 0)));
    }

    #[test]
    fn a_step_without_decodes_is_never_empty() {
        let mut budget = SloBudget::new(1, 0); // not even one token fits
        let load = Load { wanted: 100, room: 64, ..Load::default() };
        assert_eq!(budget.prefill(&load).tokens, QUANTUM);
    }

    #[test]
    fn lone_steps_earn_their_length_and_lose_a_third_at_most() {
        let alone = Load { wanted: 4000, room: 512, lone: 4000, ..Load::default() };
        let mut budget = SloBudget::new(STEP, LONE_STEP);
        let mut steps = Vec::new();
        for _ in 0..9 {
            let Allowance { tokens, yields, .. } = budget.prefill(&alone);
            let work = Work::default().with_prefill(tokens, 0);
            let nanos = budget.model.predict(&work);
            steps.push((yields == Yields::ToArrival, nanos / MS));
            budget.observe(&work, nanos);
        }
        assert!(!steps[1].0 && steps[1].1 <= 65, "{steps:?}");
        assert!(steps[3].0 && (70..=100).contains(&steps[3].1), "{steps:?}");
        assert!(steps[8].0 && (450..=500).contains(&steps[8].1), "{steps:?}");
        let beside = Load { slack: None, ..load(2, 0) };
        let Allowance { tokens, yields, .. } = budget.prefill(&beside);
        assert!(tokens <= 16 && yields == Yields::ToCancel);

        let (mut done, mut lost) = (0, 0); // something comes near the end of each step that gives way
        for _ in 0..1000 {
            let Allowance { tokens, yields, .. } = budget.prefill(&alone);
            let work = Work::default().with_prefill(tokens, 0);
            let nanos = budget.model.predict(&work);
            if yields == Yields::ToNothing {
                budget.observe(&work, nanos);
                done += nanos;
            } else {
                budget.interrupted(nanos);
                lost += nanos;
            }
        }
        assert!(done > 0 && 2 * lost <= done + 2 * LONE_STEP, "{lost} of {done}");
    }

    /// Tokens that a machine computes in two minutes, where so many seconds pass between requests
    /// that a lone step is given up for; `time` in milliseconds of a step of so many rows at 700.
    fn done(lone_step: Nanos, every: f64, time: impl Fn(usize) -> f64) -> usize {
        let base_context = 700;
        let alone = Load { wanted: 4000, room: 512, lone: 4000, base_context, ..Load::default() };
        let mut budget = SloBudget::new(STEP, lone_step);
        let (mut now, mut next, mut done) = (0.0, every, 0);
        while now < 120.0 {
            let Allowance { tokens, yields, .. } = budget.prefill(&alone);
            let end = now + time(tokens) / 1e3;
            if yields == Yields::ToArrival && end > next {
                budget.interrupted(((next - now) * 1e9) as Nanos);
                now = next;
            } else {
                let work = Work::default().with_prefill(tokens, base_context);
                budget.observe(&work, ((end - now) * 1e9) as Nanos);
                (now, done) = (end, done + tokens);
            }
            if now >= next {
                budget.somebody_came();
                next += every;
            }
        }
        done
    }

    /// Long steps are taken where they get more done although some are lost, and only there.
    #[test]
    fn lone_steps_are_as_long_as_pays() {
        let even = |rows: usize| 3.0 + 9.0 * rows as f64;
        let steep = |rows: usize| 10.0 + if rows < 64 { 10.0 } else { 6.5 } * rows as f64;
        let gain = |every, time: fn(usize) -> f64| {
            done(LONE_STEP, every, time) as f64 / done(0, every, time) as f64
        };
        let quiet = [gain(1e9, even), gain(1e9, steep)];
        assert!(quiet[0] > 1.05 && quiet[1] > 1.5, "{quiet:?}");
        let busy = [gain(1.5, even), gain(1.5, steep)];
        assert!(busy[0] > 0.97 && busy[1] > 1.15, "{busy:?}");
        let crowded = [gain(0.3, even), gain(0.3, steep)];
        assert!(crowded.iter().all(|&gain| gain > 0.95), "{crowded:?}");
    }

    #[test]
    fn a_short_prompt_is_not_held_up_by_those_behind_it() {
        let alone = Load { wanted: 4000, room: 512, lone: 4000, ..Load::default() };
        let mut budget = SloBudget::new(STEP, LONE_STEP);
        for _ in 0..20 {
            let work = Work::default().with_prefill(budget.prefill(&alone).tokens, 0);
            budget.observe(&work, budget.model.predict(&work));
        }
        let time = |budget: &mut SloBudget, lone| {
            let tokens = budget.prefill(&Load { lone, ..alone }).tokens;
            budget.model.predict(&Work::default().with_prefill(tokens, 0))
        };
        assert!(time(&mut budget, 4000) > 400 * MS);
        assert!(time(&mut budget, 8) <= STEP);
        let own = budget.model.predict(&Work::default().with_prefill(40, 0));
        assert!((STEP..=own).contains(&time(&mut budget, 40)));
    }

    #[test]
    fn without_lone_steps_a_prompt_alone_takes_the_usual_ones() {
        let alone = Load { wanted: 4000, room: 512, lone: 4000, ..Load::default() };
        let mut budget = SloBudget::new(STEP, 0);
        for _ in 0..5 {
            let Allowance { tokens, yields, .. } = budget.prefill(&alone);
            let work = Work::default().with_prefill(tokens, 0);
            assert!(yields == Yields::ToNothing && budget.model.predict(&work) <= STEP);
            budget.observe(&work, STEP);
        }
    }

    /// Beside answers, a step is given up for a cancellation only where their promises bear that
    /// they are computed twice, and steps that were completed have paid for it.
    #[test]
    fn a_step_beside_answers_yields_to_a_cancellation() {
        let mut budget = SloBudget::new(STEP, LONE_STEP);
        assert_eq!(budget.prefill(&load(2, 5000 * MS)).yields, Yields::ToNothing, "nothing earned");
        budget.observe(&decodes(2, 50), 300 * MS);
        assert_eq!(budget.prefill(&load(2, 5000 * MS)).yields, Yields::ToCancel);
        let step = load(2, 0).work.with_prefill(QUANTUM, 0);
        let tight = budget.model.predict_within(&step) + MS;
        let allowance = budget.prefill(&load(2, tight));
        assert_eq!((allowance.tokens, allowance.yields), (QUANTUM, Yields::ToNothing));
        budget.interrupted(140 * MS);
        assert_eq!(budget.prefill(&load(2, 5000 * MS)).yields, Yields::ToNothing, "it is spent");
        let unpromised = Load { slack: None, ..load(2, 0) };
        budget.observe(&decodes(2, 50), 300 * MS);
        assert_eq!(budget.prefill(&unpromised).yields, Yields::ToCancel);
    }

    /// What was given up does not count for the bound on starvation.
    #[test]
    fn the_floor_takes_back_what_was_given_up() {
        let mut budget = SloBudget::new(STEP, LONE_STEP);
        let steps: Vec<_> = (0..6)
            .map(|step| {
                let tokens = budget.prefill(&load(16, MS)).tokens;
                if step == 4 {
                    budget.interrupted(0);
                }
                tokens
            })
            .collect();
        assert_eq!(steps, [0, 0, 0, 0, 16, 16]);
    }

    #[test]
    fn background_decodes_take_the_slack_and_never_less_than_a_fifth() {
        let budget = SloBudget::new(STEP, LONE_STEP);
        let background = decodes(10, 50);
        let joins = |slack| budget.background_decodes(&load(2, slack), &background);
        assert_eq!(joins(5000 * MS), 10);
        assert_eq!(joins(MS), 2);
        assert!((3..10).contains(&joins(60 * MS)), "{}", joins(60 * MS));
        let free = Load { slack: None, ..load(2, 0) };
        assert_eq!(budget.background_decodes(&free, &background), 10);
        assert_eq!(budget.background_decodes(&load(2, MS), &Work::default()), 0);
    }
}
