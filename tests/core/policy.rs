//! The policies of a step over thousands of steps: promises kept, prompts never starved, tenants
//! treated alike.

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ryot_metrics::clock::Nanos;
use ryot_metrics::engine::{
    LONE_STEP, Load, MAX_SKIPS, MIN_PREFILL, Policy, PolicyKind, QUANTUM, STEP, TokenCounters, Work,
};

const MS: f64 = 1e6;
const BATCH: usize = 512;
/// Steps after which a policy is expected to know the machine.
const WARM_UP: usize = 200;

/// A CPU as it was measured, which is not quite linear: milliseconds per step by sequences.
const DECODE_MS: [(f64, f64); 7] =
    [(0.0, 6.0), (1.0, 12.5), (2.0, 22.0), (4.0, 42.0), (8.0, 60.0), (16.0, 97.0), (32.0, 180.0)];

/// How long the machine takes, without noise: sequences by the table, 4.5 ms per prompt token,
/// and 5 µs per KV cell.
fn nanos(work: &Work) -> f64 {
    let count = work.decodes as f64;
    let upper = DECODE_MS.iter().position(|&(n, _)| n >= count).unwrap_or(6).max(1);
    let ((n0, t0), (n1, t1)) = (DECODE_MS[upper - 1], DECODE_MS[upper]);
    let decodes = t0 + (t1 - t0) * (count - n0) / (n1 - n0);
    (decodes + 4.5 * work.prefill as f64 + 5e-3 * work.context as f64) * MS
}

/// Four streams with a promise beside prompts of which there is always another.
struct Simulation {
    policy: Policy,
    random: ChaCha8Rng,
    /// Tokens that each stream holds, and when its next one is due.
    streams: [(usize, Nanos); 4],
    /// Computed tokens and length of the prompts that wait.
    prompts: Vec<(usize, usize)>,
    promise: Nanos,
    now: Nanos,
    /// How many times as long as it did when it was measured the machine takes.
    pace: f64,
    /// One step of so many takes five times as long; 0 for none.
    disturbed: u32,
}

/// What one step did.
struct Step {
    prefill: usize,
    late: bool,
    skipped: bool,
}

/// What many steps did.
#[derive(Debug)]
struct Report {
    late: f64,
    skipped: f64,
    /// Prompt tokens per second.
    rate: f64,
}

impl Simulation {
    fn new(kind: PolicyKind, promise_ms: f64) -> Self {
        let promise = (promise_ms * MS) as Nanos;
        Self {
            policy: Policy::new(kind, (STEP, LONE_STEP), BATCH),
            random: ChaCha8Rng::seed_from_u64(7),
            streams: [20, 60, 100, 140].map(|past| (past, promise)),
            prompts: Vec::new(),
            promise,
            now: 0,
            pace: 1.0,
            disturbed: 0,
        }
    }

    fn load(&self) -> Load {
        let decode = |work: Work, &(past, _): &(usize, Nanos)| work.with_decode(past);
        let work = self.streams.iter().fold(Work::default(), decode);
        Load {
            work,
            slack: self.streams.iter().map(|&(_, due)| due.saturating_sub(self.now)).min(),
            wanted: self.prompts.iter().map(|&(done, length)| length - done).sum(),
            base_context: self.prompts[0].0,
            room: BATCH - work.decodes,
            ..Load::default()
        }
    }

    /// Gives the tokens to prompts, first come first served, in the policy's chunks.
    fn prefill(&mut self, mut tokens: usize, mut work: Work) -> Work {
        for (done, length) in &mut self.prompts {
            let chunk = tokens.min(*length - *done).min(self.policy.chunk(false));
            work = work.with_prefill(chunk, *done);
            *done += chunk;
            tokens -= chunk;
        }
        work
    }

    fn step(&mut self) -> Step {
        self.prompts.retain(|(done, length)| done < length);
        while self.prompts.len() < 3 {
            self.prompts.push((0, 20 + self.random.next_u32() as usize % 600));
        }
        let load = self.load();
        let allowance = self.policy.prefill(&load);
        let work = self.prefill(allowance.tokens, load.work);
        let noise = 0.9 + 0.2 * f64::from(self.random.next_u32()) / f64::from(u32::MAX);
        let disturbed = self.disturbed > 0 && self.random.next_u32().is_multiple_of(self.disturbed);
        let pace = if disturbed { 5.0 } else { self.pace };
        let took = (nanos(&work) * noise * pace) as Nanos;
        self.policy.observe(&work, took);
        self.now += took;
        let due = self.now + self.promise;
        // A stream that ends makes room for one that begins.
        self.streams = self.streams.map(|(past, _)| (if past < 400 { past + 1 } else { 20 }, due));
        let late = load.slack.is_some_and(|slack| took > slack);
        Step { prefill: work.prefill, late, skipped: allowance.skipped }
    }

    /// Runs it, and checks that no prompts starve.
    fn run(&mut self, count: usize) -> Report {
        let began = self.now;
        let steps: Vec<Step> = (0..count).map(|_| self.step()).collect();
        let given = |steps: &[Step]| steps.iter().map(|step| step.prefill).sum::<usize>();
        assert!(steps.windows(MAX_SKIPS + 1).all(|window| given(window) >= MIN_PREFILL));
        let share = |of: fn(&Step) -> bool| {
            steps.iter().filter(|step| of(step)).count() as f64 / count as f64
        };
        let seconds = (self.now - began) as f64 / 1e9;
        let rate = given(&steps) as f64 / seconds;
        Report { late: share(|step| step.late), skipped: share(|step| step.skipped), rate }
    }
}

/// What a policy does once it knows the machine.
fn settled(kind: PolicyKind, promise_ms: f64) -> Report {
    let mut simulation = Simulation::new(kind, promise_ms);
    simulation.run(WARM_UP);
    simulation.run(5000)
}

/// With ±10 % noise, at least 99 % of steps keep a promise that leaves half a step to prompts, and
/// prompts use that time.
#[test]
fn promises_are_kept_in_99_of_100_steps() {
    let Report { late, skipped, rate } = settled(PolicyKind::Slo, 100.0);
    assert!(late <= 0.01 && skipped <= 0.01 && rate > 60.0, "{late} {skipped} {rate}");
}

/// A promise that no step can keep delays prompts, and `run` has checked that it starves none.
#[test]
fn prompts_go_on_whatever_is_promised() {
    for kind in PolicyKind::ALL {
        let report = settled(kind, 5.0);
        assert!(report.late >= 1.0 && report.skipped > 0.5, "{kind:?} {report:?}");
    }
}

/// UMA Serve's policies know no promise: on a machine whose decodes alone exceed their tick, they
/// skip prefill for as long as the floor lets them and then break what the default keeps.
#[test]
fn uma_in_the_same_simulation() {
    let (slo, uma) = (settled(PolicyKind::Slo, 110.0), settled(PolicyKind::Uma, 110.0));
    assert!(uma.late > 0.1 && slo.late <= 0.01, "{slo:?} {uma:?}");
    assert!(uma.skipped > 0.5 && slo.rate > 1.2 * uma.rate, "{slo:?} {uma:?}");
}

/// A neighbour that takes the core in one step of 50 makes that step late and few others.
#[test]
fn a_neighbour_costs_the_steps_that_it_disturbs() {
    let quiet = settled(PolicyKind::Slo, 100.0);
    let mut simulation = Simulation::new(PolicyKind::Slo, 100.0);
    simulation.disturbed = 50;
    simulation.run(WARM_UP);
    let report = simulation.run(5000);
    assert!((0.015..0.035).contains(&report.late), "{report:?}");
    assert!(report.rate > 0.6 * quiet.rate, "{report:?} {quiet:?}");
}

/// A machine that becomes twice as slow, or as fast again, is known after 20 steps.
#[test]
fn a_change_of_pace_is_followed() {
    let mut simulation = Simulation::new(PolicyKind::Slo, 200.0);
    simulation.run(WARM_UP);
    let before = simulation.run(500);
    simulation.pace = 2.0;
    simulation.run(20);
    let slow = simulation.run(500);
    simulation.pace = 1.0;
    simulation.run(20);
    let after = simulation.run(500);
    assert!(slow.late <= 0.01 && after.late <= 0.01, "{slow:?} {after:?}");
    assert!(slow.rate < 0.6 * before.rate && after.rate > 0.9 * before.rate, "{after:?}");
}

fn any_load() -> impl Strategy<Value = (Load, Nanos)> {
    let slack = proptest::option::of(0..400_000_000_u64);
    let shape = (0..20_usize, slack, 0..600_usize, 0..2000_usize, MIN_PREFILL..BATCH);
    (shape, 0..500_000_000_u64).prop_map(|((decodes, slack, wanted, base, room), took)| {
        let work = (0..decodes).fold(Work::default(), |work, n| work.with_decode(37 * n));
        (
            Load {
                work,
                slack,
                wanted,
                base_context: base,
                room,
                lone: if work.decodes == 0 { wanted } else { 0 },
                crowded: base % 2 == 0,
                promised: base % 3 == 0,
            },
            took,
        )
    })
}

proptest! {
    /// Whatever steps bring: never more than is wanted and has room, never an empty step if nothing
    /// decodes, and in each window the floor.
    #[test]
    fn floor_holds(
        loads in proptest::collection::vec(any_load(), 1..80), uma in any::<bool>(), step in 0..STEP,
    ) {
        let kind = if uma { PolicyKind::Uma } else { PolicyKind::Slo };
        let mut policy = Policy::new(kind, (step, step), BATCH);
        let mut given = Vec::new();
        for (load, took) in &loads {
            let tokens = policy.prefill(load).tokens;
            policy.observe(&load.work.with_prefill(tokens, load.base_context), *took);
            prop_assert!(tokens <= load.wanted.min(load.room));
            prop_assert!(tokens > 0 || load.wanted == 0 || load.work.decodes > 0);
            // Who got all that was wanted waits no more.
            given.push(if tokens == load.wanted { MIN_PREFILL } else { tokens });
        }
        for window in given.windows(MAX_SKIPS + 1) {
            prop_assert!(window.iter().sum::<usize>() >= MIN_PREFILL, "{given:?}");
        }
    }

    /// From one step to the next the budget grows by a quarter and two quanta at most.
    #[test]
    fn budget_grows_slowly(loads in proptest::collection::vec(any_load(), 1..80)) {
        let mut policy = Policy::new(PolicyKind::Slo, (STEP, LONE_STEP), BATCH);
        let mut last = 0;
        for (load, took) in &loads {
            let target = policy.prefill(load).target;
            policy.observe(&load.work, *took);
            prop_assert!(load.lone > 0 || target <= last + last / 4 + 2 * QUANTUM);
            prop_assert!(target < QUANTUM || target.is_multiple_of(QUANTUM));
            last = if load.lone > 0 { last } else { target };
        }
    }

    /// Background decodes always have a share with which all have a turn in time.
    #[test]
    fn background_decodes_have_turns((load, _) in any_load(), count in 0..200_usize) {
        let background = (0..count).fold(Work::default(), Work::with_decode);
        for kind in PolicyKind::ALL {
            let joining = Policy::new(kind, (STEP, LONE_STEP), BATCH).background_decodes(&load, &background);
            prop_assert!(joining <= count && joining * (MAX_SKIPS + 1) >= count);
        }
    }

    /// Tenants come, go and are served by a scheduler that favours whom it may: over any time in
    /// which two of them wait, neither is served more than twice `limit + work` beyond the other,
    /// however long one of them was idle before.
    #[test]
    fn service_gap_is_bounded(
        moves in proptest::collection::vec((0..4_usize, any::<bool>(), 0..=300_usize), 1..400),
        limit in 0..2000_u64,
    ) {
        let most_work = 300 + 2; // a chunk and a token of an answer
        let mut counters = TokenCounters::new(limit);
        let mut served = [0_i64; 4];
        let mut waits = [false; 4];
        // By pair: the least and the greatest lead of the one since both wait.
        let mut leads = [[(0_i64, 0_i64); 4]; 4];
        for (tenant, toggle, tokens) in moves {
            if toggle {
                if waits[tenant] { counters.deactivate(&tenant) } else { counters.activate(&tenant) }
                waits[tenant] = !waits[tenant];
                for other in 0..4 {
                    let lead = served[tenant] - served[other];
                    (leads[tenant][other], leads[other][tenant]) = ((lead, lead), (-lead, -lead));
                }
            }
            // The favourite, or else the first of the others.
            let favourites = (0..4).map(|n| (tenant + n) % 4);
            let chosen = favourites.clone().find(|n| waits[*n] && counters.may_run(n));
            prop_assert!(chosen.is_some() || !waits.contains(&true), "nobody may run");
            let Some(chosen) = chosen else { continue };
            counters.charge(&chosen, tokens, 1);
            served[chosen] += tokens as i64 + 2;
            for (a, b) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))) {
                if waits[a] && waits[b] {
                    let (lead, range) = (served[a] - served[b], &mut leads[a][b]);
                    *range = (range.0.min(lead), range.1.max(lead));
                    prop_assert!((range.1 - range.0) as u64 <= 2 * (limit + most_work));
                    prop_assert!(counters.lag(&a) <= limit + most_work);
                }
            }
        }
    }
}
