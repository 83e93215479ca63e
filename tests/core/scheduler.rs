//! What the scheduler plans, case by case: add, ask, compare.

use std::collections::HashSet;
use std::ops::Range;

use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ryot_metrics::backend::{Row, Token};
use ryot_metrics::clock::Nanos;
use ryot_metrics::engine::{
    BACKGROUND_PATIENCE, BLOCK, DECODE_WEIGHT, EngineConfig, MAX_SKIPS, Op, Overload,
    PREFILL_WEIGHT, Plan, PolicyKind, Scheduler, Sequence, Terms, Verdict,
};
use ryot_metrics::event::{Class, Slo};

const MS: Nanos = 1_000_000;
/// Beside the bare model.
const ADAPTERS: usize = 4;

fn config() -> EngineConfig {
    EngineConfig {
        ctx_size: 100,
        parallel: 3,
        batch_size: 8,
        prefill_chunk: 2,
        step: 1000 * MS,
        ..EngineConfig::default()
    }
}

fn background() -> Terms {
    Terms { class: Class::Background, ..Terms::default() }
}

fn prompt(id: u64, length: usize) -> Vec<Token> {
    let first = id as Token * 1000;
    (first..first + length as Token).collect()
}

/// A scheduler, its time, and what it has planned last.
struct Desk {
    scheduler: Scheduler,
    now: Nanos,
    /// Who has its whole answer.
    done: HashSet<u64>,
}

impl Desk {
    fn new(config: EngineConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config, true, ADAPTERS, None),
            now: 0,
            done: HashSet::new(),
        }
    }

    fn add(&mut self, id: u64, length: usize, max_answer: usize) {
        self.submit(id, prompt(id, length), max_answer, &Terms::default());
    }

    fn submit(&mut self, id: u64, prompt: Vec<Token>, max_answer: usize, terms: &Terms) -> Verdict {
        let sequence = Sequence::new(id, prompt, max_answer, terms, self.now);
        self.scheduler.add(sequence, self.now)
    }

    /// Plans a step of 5 ms a row and answers each sampled sequence with its own token 90 + id; whoever
    /// has its whole answer leaves.
    fn step(&mut self) -> Plan {
        let plan = self.scheduler.schedule(self.now);
        self.scheduler.check_integrity().unwrap();
        for op in &plan.ops {
            if let Op::Save { key, .. } = op {
                self.scheduler.saved(*key, Some(100));
            }
        }
        let nanos = 5 * MS * plan.rows.len().max(1) as Nanos;
        self.now += nanos;
        self.scheduler.commit(&plan, nanos);
        for span in plan.spans.iter().filter(|span| span.sample.is_some()) {
            self.scheduler.push(span.id, 90 + span.id as Token, self.now);
            if self.scheduler.sequence(span.id).unwrap().is_full() {
                self.scheduler.remove(span.id, true);
                self.done.insert(span.id);
            }
        }
        self.scheduler.check_integrity().unwrap();
        plan
    }

    /// Whether this request waits for its place or has tokens of its prompt to compute.
    fn waits(&self, id: u64) -> bool {
        self.scheduler.sequence(id).is_none_or(|one| one.answer_len() == 0)
            && !self.done.contains(&id)
    }

    /// The steps until this request's first token, and who had prompt tokens in them.
    fn first_token_of(&mut self, id: u64) -> Vec<Vec<u64>> {
        let mut steps = Vec::new();
        loop {
            let plan = self.step();
            steps.push(ids(&plan));
            if plan.spans.iter().any(|span| span.id == id && span.sample.is_some()) {
                return steps;
            }
            assert!(steps.len() < 500, "it starves: {steps:?}");
        }
    }
}

fn ids(plan: &Plan) -> Vec<u64> {
    plan.spans.iter().map(|span| span.id).collect()
}

fn admitted(plan: &Plan) -> Vec<u64> {
    plan.admitted.iter().map(|admission| admission.id).collect()
}

/// A plan in short: (slot, positions, wants logits), one entry per span.
fn spans(plan: &Plan) -> Vec<(u32, Range<usize>, bool)> {
    let mut rows = plan.rows.iter();
    let mut short = Vec::new();
    for span in &plan.spans {
        let own: Vec<&Row> = rows.by_ref().take(span.count).collect();
        let start = own[0].position;
        assert!(own.iter().enumerate().all(|(i, row)| row.position == start + i));
        assert!(own[..own.len() - 1].iter().all(|row| !row.wants_logits), "only the last asks");
        short.push((own[0].seq, start..start + own.len(), own[own.len() - 1].wants_logits));
    }
    short
}

/// Two short prompts share the first step, then both answers grow together.
#[test]
fn two_sequences_share_a_step() {
    let mut desk = Desk::new(config());
    assert!(desk.scheduler.schedule(0).rows.is_empty());
    desk.add(1, 3, 5);
    desk.add(2, 4, 5);
    let plan = desk.step();
    assert_eq!(spans(&plan), [(0, 0..3, true), (1, 0..4, true)]);
    assert_eq!((admitted(&plan), plan.decode_tokens), (vec![1, 2], 0));
    let plan = desk.step();
    assert_eq!(spans(&plan), [(0, 3..4, true), (1, 4..5, true)]);
    assert_eq!(plan.rows.iter().map(|row| row.token).collect::<Vec<_>>(), [91, 92]);
    assert_eq!((plan.admitted.len(), plan.decode_tokens), (0, 2));
}

/// A prompt longer than a step is cut into chunks, and only its very last token asks for logits.
#[test]
fn a_long_prompt_asks_for_logits_at_its_end_only() {
    let mut desk = Desk::new(config());
    desk.add(1, 20, 5);
    assert_eq!(spans(&desk.step()), [(0, 0..8, false)]);
    assert_eq!(spans(&desk.step()), [(0, 8..16, false)]);
    assert_eq!(spans(&desk.step()), [(0, 16..20, true)]);
    assert_eq!(spans(&desk.step()), [(0, 20..21, true)]);
}

/// Beside a growing answer, prompts get at most `prefill_chunk` tokens; the answer is never left
/// out.
#[test]
fn prompts_beside_an_answer_come_in_small_chunks() {
    let mut desk = Desk::new(config());
    desk.add(1, 2, 9);
    desk.step();
    desk.add(2, 5, 9);
    assert_eq!(spans(&desk.step()), [(0, 2..3, true), (1, 0..2, false)]);
    assert_eq!(spans(&desk.step()), [(0, 3..4, true), (1, 2..4, false)]);
    assert_eq!(spans(&desk.step()), [(0, 4..5, true), (1, 4..5, true)]);
}

/// An answer with a promise leaves to a prompt what its promise leaves; the floor is all that a
/// prompt gets beside a promise that cannot be kept.
#[test]
fn promises_bound_the_prompts_beside_them() {
    let wide = EngineConfig { ctx_size: 4000, batch_size: 256, prefill_chunk: 256, ..config() };
    let most = |tbt: Nanos| {
        let mut desk = Desk::new(wide.clone());
        let terms = Terms { tbt: Some(tbt), ..Terms::default() };
        desk.submit(1, prompt(1, 4), 200, &terms);
        desk.step();
        desk.add(2, 2000, 5);
        let rows: Vec<usize> = (0..40).map(|_| desk.step().rows.len() - 1).collect();
        rows.into_iter().max().unwrap()
    };
    assert_eq!(most(MS), 16);
    assert!(most(300 * MS) > 16 && most(300 * MS) < most(900 * MS));
}

/// Steps are longer while interactive requests wait for a place, since whoever comes will too; not if
/// background ones do, or if a place is free that somebody shorter would get.
#[test]
fn who_waits_for_a_place_makes_steps_longer() {
    let config = EngineConfig {
        ctx_size: 4000,
        batch_size: 512,
        prefill_chunk: 512,
        step: 65 * MS,
        ..config()
    };
    let longest = |parallel, class: Option<Class>| {
        let mut desk = Desk::new(EngineConfig { parallel, ..config.clone() });
        desk.add(1, 8, 200);
        desk.first_token_of(1);
        desk.add(2, 1000, 1);
        if let Some(class) = class {
            desk.submit(3, prompt(3, 2000), 1, &Terms { class, ..Terms::default() });
        }
        let of_prompt = |plan: &Plan| plan.rows.len() - plan.decode_tokens;
        (0..20).map(|_| of_prompt(&desk.step())).max().unwrap()
    };
    let usual = longest(2, None);
    assert!((8..=16).contains(&usual), "{usual}");
    assert_eq!(longest(2, Some(Class::Background)), usual);
    assert_eq!(longest(3, Some(Class::Interactive)), usual);
    let crowded = longest(2, Some(Class::Interactive));
    assert!((usual * 3 / 2..=32).contains(&crowded), "{usual} {crowded}");
}

/// Steps are longer for an interactive prompt where all answers have promises, which say how long is
/// too long; not for a background one, for which others that come would wait.
#[test]
fn promises_make_steps_longer_than_none() {
    let wide = EngineConfig { ctx_size: 4000, batch_size: 512, prefill_chunk: 512, ..config() };
    let longest = |promises: [Option<Nanos>; 2], class: Class| {
        let mut desk = Desk::new(EngineConfig { step: 65 * MS, ..wide.clone() });
        for (id, tbt) in (1..).zip(promises) {
            desk.submit(id, prompt(id, 8), 200, &Terms { tbt, ..Terms::default() });
            desk.first_token_of(id);
        }
        desk.submit(3, prompt(3, 1000), 1, &Terms { class, ..Terms::default() });
        let of_prompt = |plan: &Plan| plan.rows.len() - plan.decode_tokens;
        (0..20).map(|_| of_prompt(&desk.step())).max().unwrap()
    };
    let loose = Some(2000 * MS);
    let usual = longest([None, None], Class::Interactive);
    assert_eq!(longest([loose, None], Class::Interactive), usual);
    assert_eq!(longest([loose, loose], Class::Background), usual);
    let promised = longest([loose, loose], Class::Interactive);
    assert!(promised >= usual * 3 / 2, "{usual} {promised}");
    assert!(longest([loose, Some(100 * MS)], Class::Interactive) < promised);
}

/// Who comes while nothing is computed has no step given up, so steps of a prompt alone stay long.
#[test]
fn who_comes_to_an_idle_engine_disturbs_nobody() {
    let sizes = EngineConfig { ctx_size: 4000, batch_size: 512, ..config() };
    let mut desk = Desk::new(EngineConfig { step: 65 * MS, ..sizes });
    let mut first = 0;
    for id in 0..20 {
        desk.add(id, 96, 1);
        first = desk.step().rows.len();
        while desk.scheduler.running() > 0 {
            desk.step();
        }
        assert!(desk.scheduler.schedule(desk.now).rows.is_empty());
    }
    assert_eq!(first, 96);
}

/// A short prompt passes a long one that came before it, but not one that came long before.
#[test]
fn short_prompts_pass_long_ones_for_a_while() {
    let wide = EngineConfig { ctx_size: 2000, ..config() };
    let mut desk = Desk::new(wide.clone());
    desk.add(1, 1000, 2);
    desk.step();
    desk.add(2, 8, 2);
    assert_eq!(ids(&desk.step()), [2]);
    let mut desk = Desk::new(wide);
    desk.add(1, 1000, 2);
    desk.step();
    desk.now += 60_000 * MS;
    desk.add(2, 8, 2);
    assert_eq!(ids(&desk.step()), [1]);
}

/// Interactive requests come before background ones, which take what is left and a tenth more.
#[test]
fn background_waits_but_never_starves() {
    let mut desk = Desk::new(EngineConfig { ctx_size: 4000, ..config() });
    desk.submit(1, prompt(1, 24), 2, &background());
    for id in 2..200 {
        desk.add(id, 8, 1); // one after the other takes a whole step
    }
    let steps = desk.first_token_of(1);
    let alone = steps.iter().filter(|ids| ids.contains(&1)).count();
    assert!(steps.len() > 10 && steps[0] == [2], "{steps:?}");
    assert!(alone >= 2, "{steps:?}");
}

/// Whatever comes, a background request has a place after [`BACKGROUND_PATIENCE`].
#[test]
fn background_ages() {
    let mut desk = Desk::new(EngineConfig { parallel: 1, ..config() });
    desk.submit(1, prompt(1, 8), 2, &background());
    desk.add(2, 8, 9);
    desk.step();
    desk.now += BACKGROUND_PATIENCE;
    desk.add(3, 8, 9);
    let steps = desk.first_token_of(1);
    assert!(!steps.iter().flatten().any(|&id| id == 3), "{steps:?}");
}

/// An interactive request takes the place of a background one, which goes on later where it was.
#[test]
fn background_gives_up_its_place() {
    let mut desk = Desk::new(EngineConfig { parallel: 1, ..config() });
    desk.submit(1, prompt(1, 20), 5, &background());
    desk.step();
    desk.step();
    desk.add(2, 4, 1);
    let plan = desk.step();
    assert_eq!((plan.parked.clone(), admitted(&plan), ids(&plan)), (vec![1], vec![2], vec![2]));
    let plan = desk.step();
    assert!(plan.admitted[0].resumed && plan.admitted[0].hit == 16);
    assert_eq!(spans(&plan), [(0, 16..20, true)]);
}

/// Twice as many cells are wanted as there are: all complete, one after the other gives way.
#[test]
fn demand_beyond_the_context_completes() {
    let mut desk = Desk::new(config());
    for id in 1..=4 {
        desk.add(id, 10, 45); // 220 cells of 100
    }
    let (mut parked, mut tokens) = (0, 0);
    for _ in 0..1000 {
        let plan = desk.step();
        parked += plan.parked.len();
        tokens += plan.spans.iter().filter(|span| span.sample.is_some()).count();
    }
    assert_eq!((tokens, desk.scheduler.running() + desk.scheduler.waiting()), (4 * 45, 0));
    assert!(parked > 0);
}

/// Two answers that fill the cells, each beyond its share of 33.
fn full_desk() -> Desk {
    let mut desk = Desk::new(config());
    desk.add(1, 10, 70);
    desk.add(2, 10, 70);
    while desk.scheduler.live_cells() < 95 {
        desk.step();
    }
    desk
}

/// Who needs no more than its share of the cells gets it from the newest that holds more, and passes
/// those that wait for more: these go on where they were, as soon as there is room.
#[test]
fn nobody_waits_for_its_share() {
    let mut desk = full_desk();
    desk.add(3, 5, 9);
    let plan = desk.step();
    assert_eq!((admitted(&plan), plan.parked.clone()), (vec![3], vec![2]));
    desk.add(4, 5, 60);
    assert!(admitted(&desk.step()).is_empty(), "it needs more, and waits behind the second");
    desk.add(5, 5, 9);
    assert_eq!(admitted(&desk.step()), [5]);
    let mut resumed = 0;
    for _ in 0..300 {
        let plan = desk.step();
        resumed += plan.admitted.iter().filter(|one| one.id == 2 && one.resumed).count();
    }
    assert_eq!((resumed > 0, desk.done.len()), (true, 5));
}

/// Where answers have outgrown the cells, one that holds more than its share gives up its place, not
/// the newest that does not.
#[test]
fn who_keeps_to_its_share_keeps_its_place() {
    let mut desk = Desk::new(EngineConfig { ctx_size: 300, prefill_chunk: 8, ..config() });
    desk.add(1, 10, 200);
    desk.add(2, 10, 200);
    while desk.scheduler.live_cells() < 138 {
        desk.step();
    }
    desk.add(3, 60, 40);
    let parked = std::iter::from_fn(|| Some(desk.step().parked)).find(|parked| !parked.is_empty());
    assert_eq!((parked, desk.done.len()), (Some(vec![2]), 0));
}

/// A place is taken from nobody of a higher class, whose answer has not begun, or who holds no more
/// than its own share.
#[test]
fn a_share_is_not_had_at_any_price() {
    let mut desk = full_desk();
    let low = Sequence::new(3, prompt(3, 5), 9, &background(), desk.now);
    desk.scheduler.add(low, desk.now);
    let plan = desk.step();
    assert!(plan.admitted.is_empty() && plan.parked.is_empty());

    let mut desk = Desk::new(config());
    desk.add(1, 80, 9);
    (0..6).for_each(|_| assert!(desk.step().parked.is_empty()));
    let soon = Terms { ttft: Some(300 * MS), ..Terms::default() };
    assert_eq!(desk.submit(3, prompt(3, 20), 9, &soon), Verdict::Accepted);
    let plan = desk.step();
    assert!(desk.waits(1) && plan.admitted.is_empty() && plan.parked.is_empty());

    let mut desk = Desk::new(config());
    desk.add(1, 10, 85);
    while desk.scheduler.live_cells() < 25 {
        desk.step();
    }
    desk.add(2, 5, 28);
    desk.first_token_of(2);
    desk.add(3, 5, 28);
    let plan = desk.step();
    assert!(plan.admitted.is_empty() && plan.parked.is_empty());
}

/// Nobody is passed for ever, nor by other classes, nor by a tenant that had more, nor if its first
/// token was promised.
#[test]
fn who_waits_for_more_is_not_passed_for_ever() {
    let config =
        EngineConfig { ctx_size: 300, fairness_tokens: 16, overload: Overload::Accept, ..config() };
    let waits_for_more = |terms: &Terms| {
        let mut desk = Desk::new(config.clone());
        desk.add(1, 10, 285);
        while desk.scheduler.live_cells() < 190 {
            desk.step();
        }
        desk.submit(2, prompt(2, 90), 20, terms);
        assert!(admitted(&desk.step()).is_empty());
        desk.now += 1000 * MS; // who comes now is behind it in the order
        desk
    };
    let mut desk = waits_for_more(&Terms::default());
    desk.add(6, 5, 120);
    assert!(admitted(&desk.step()).is_empty(), "it would fit, but needs more than its share too");
    desk.add(3, 5, 1);
    assert_eq!(admitted(&desk.step()), [3]);
    desk.submit(4, prompt(4, 5), 1, &background());
    assert!(admitted(&desk.step()).is_empty());
    desk.scheduler.remove(4, false);
    desk.now += BACKGROUND_PATIENCE;
    desk.add(5, 5, 1);
    assert!(admitted(&desk.step()).is_empty());

    let promised = Terms { ttft: Some(300 * MS), ..Terms::default() };
    let other = Terms { tenant: "ann".into(), ..Terms::default() };
    for terms in [promised, other] {
        let mut desk = waits_for_more(&terms);
        (0..16).for_each(|_| drop(desk.step())); // while the first one's tenant has all of them
        desk.add(3, 5, 1);
        assert!(admitted(&desk.step()).is_empty(), "{terms:?}");
    }
}

/// More of those that need their share than there are places, all the time: who holds more comes to
/// its end nevertheless.
#[test]
fn who_holds_more_does_not_starve() {
    let mut desk = full_desk();
    let mut steps = 0;
    while !desk.done.is_superset(&HashSet::from([1, 2])) {
        steps += 1;
        if desk.scheduler.running() + desk.scheduler.waiting() < 2 + 4 {
            desk.add(2 + steps, 5, 9);
        }
        desk.step();
        assert!(steps < 5_000, "it starves: {:?}", desk.done);
    }
    assert!(desk.scheduler.waiting() > 0, "there were enough");
}

/// No more sequences run than there are places, and a free slot is used again.
#[test]
fn places_are_used_again() {
    let mut desk = Desk::new(config());
    (1..=4).for_each(|id| desk.add(id, 1, 2));
    assert_eq!(admitted(&desk.step()), [1, 2, 3]);
    assert_eq!(desk.scheduler.remove(2, false).unwrap().slot, Some(1));
    let plan = desk.step();
    assert_eq!(admitted(&plan), [4]);
    assert_eq!(spans(&plan), [(0, 1..2, true), (2, 1..2, true), (1, 0..1, true)]);
}

/// Who waits can be removed; who is not there cannot.
#[test]
fn remove_from_the_queue() {
    let mut desk = Desk::new(config());
    desk.add(1, 1, 1);
    assert_eq!(desk.scheduler.remove(1, true).unwrap().slot, None);
    assert_eq!(desk.scheduler.remove(1, true), None);
    assert!(desk.step().rows.is_empty());
}

/// A plan that could not be computed is planned again, with the same rows.
#[test]
fn an_uncommitted_plan_is_planned_again() {
    let mut desk = Desk::new(config());
    desk.add(1, 3, 5);
    let lost = desk.scheduler.schedule(0);
    let again = desk.scheduler.schedule(0);
    assert_eq!(lost.rows, again.rows);
    assert_eq!((admitted(&lost), admitted(&again)), (vec![1], vec![]));
}

/// A prompt begins with what an earlier one has left, down to the block.
#[test]
fn a_finished_prefix_is_used_again() {
    let mut desk = Desk::new(config());
    let shared = prompt(7, 20);
    desk.submit(1, [&shared[..], &[1, 2, 3]].concat(), 1, &Terms::default());
    desk.first_token_of(1);
    desk.submit(2, [&shared[..], &[4, 5, 6]].concat(), 1, &Terms::default());
    let plan = desk.step();
    assert_eq!((plan.admitted[0].hit, plan.admitted[0].queried), (20 / BLOCK * BLOCK, 23));
    assert_eq!(plan.rows.len(), 23 - 16);
    assert!(matches!(plan.ops[..], [Op::Share { from: 0, to: 1, .. }]), "{:?}", plan.ops);
}

/// The next turn of a conversation takes the slot of the last one, to the very token.
#[test]
fn a_continued_sequence_is_taken_over_whole() {
    let mut desk = Desk::new(config());
    desk.submit(1, prompt(1, 11), 2, &Terms::default());
    desk.first_token_of(1);
    desk.step();
    let next = [&prompt(1, 11)[..], &[91, 91, 5, 6]].concat();
    desk.submit(2, next, 1, &Terms::default());
    let plan = desk.step();
    assert_eq!(spans(&plan), [(0, 12..15, true)]); // the answer's last token was never computed
}

/// Those that share a prefix with one that is being computed wait for it: each block is computed
/// once.
#[test]
fn a_prefix_in_flight_is_shared() {
    let mut desk = Desk::new(EngineConfig { ctx_size: 400, ..config() });
    let shared = prompt(7, 40);
    for id in 1..=3 {
        let own = [&shared[..], &prompt(id, 4)].concat();
        desk.submit(id, own, 2, &Terms::default());
    }
    let mut computed = 0;
    while desk.scheduler.running() + desk.scheduler.waiting() > 0 {
        let plan = desk.step();
        computed += plan.rows.len() - plan.decode_tokens;
    }
    assert_eq!(computed, 40 + 3 * 4);
}

/// Another tenant's prompts are no hit where tenants are isolated.
#[test]
fn isolated_tenants_share_nothing() {
    for (isolate_tenants, hit) in [(false, 16), (true, 0)] {
        let mut desk = Desk::new(EngineConfig { isolate_tenants, ..config() });
        for (id, tenant) in [(1, "ann"), (2, "bob")] {
            let terms = Terms { tenant: tenant.into(), ..Terms::default() };
            desk.submit(id, prompt(7, 20), 1, &terms);
            let steps = desk.first_token_of(id);
            assert_eq!(steps.len(), if id == 2 && hit > 0 { 1 } else { 3 });
        }
    }
}

/// What leaves the cells is found again in the host's memory.
#[test]
fn evicted_prefixes_come_back_from_the_host() {
    let mut desk = Desk::new(config());
    desk.add(1, 60, 1);
    desk.first_token_of(1);
    desk.add(2, 60, 1);
    desk.first_token_of(2); // 120 cells of 100: the first prefix went
    let again = [&prompt(1, 60)[..], &[5]].concat();
    desk.submit(3, again, 1, &Terms::default());
    let plan = desk.step();
    let restored = |op: &Op| matches!(op, Op::Restore { length: 60, .. });
    assert!(plan.ops.iter().any(restored), "{:?}", plan.ops);
    assert_eq!((plan.admitted[0].hit, plan.rows.len()), (60, 1));
}

/// Cached prefixes past `idle_cells` go to the host's memory although nobody needs their cells, and
/// come back; they stay where that has no room for a whole context.
#[test]
fn idle_prefixes_leave_the_cells() {
    for (cell_bytes, cells) in [(None, 33), (Some(1 << 20), 33), (Some(100 << 20), 66)] {
        let config = EngineConfig { idle_cells: Some(40), ..config() };
        let scheduler = Scheduler::new(config, true, ADAPTERS, cell_bytes);
        let mut desk = Desk { scheduler, now: 0, done: HashSet::new() };
        for id in 1..=2 {
            desk.add(id, 33, 1);
            desk.first_token_of(id);
        }
        desk.step(); // in which the last one leaves
        assert_eq!(desk.scheduler.used_cells(), cells, "{cell_bytes:?}");
        assert_eq!(desk.scheduler.host_bytes() > 0, cells == 33);
        let again = [&prompt(1, 33)[..], &[5]].concat();
        desk.submit(3, again, 1, &Terms::default());
        assert_eq!(desk.step().admitted[0].hit, 33);
        assert_eq!(desk.scheduler.take_evicted(), 0);
    }
}

/// Of prefixes that are nearly the same, one leaves the cells as a copy, and serves for all.
#[test]
fn idle_prefixes_that_are_shared_leave_the_cells_once() {
    let mut desk = Desk::new(EngineConfig { idle_cells: Some(0), ctx_size: 400, ..config() });
    let like = |end| [&prompt(1, 72)[..], &[end; 9]].concat();
    for id in 1..=3 {
        desk.submit(id, like(id as Token), 1, &Terms::default());
    }
    while desk.done.len() < 3 {
        desk.step();
    }
    desk.step();
    assert_eq!((desk.scheduler.used_cells(), desk.scheduler.host_bytes()), (0, 100));
    assert_eq!(desk.scheduler.take_evicted(), 2 * 9, "the ends of two");
    desk.submit(4, like(4), 1, &Terms::default());
    assert_eq!(desk.step().admitted[0].hit, 72);
}

/// Their ends stay while a request computes with what they share, as long as there are few.
#[test]
fn idle_ends_stay_beside_a_live_prefix() {
    for (ctx_size, hit) in [(400, 81), (200, 72)] {
        let mut desk = Desk::new(EngineConfig { idle_cells: Some(0), ctx_size, ..config() });
        let like = |end| [&prompt(1, 72)[..], &[end; 9]].concat();
        desk.submit(1, like(1), 100, &Terms::default());
        desk.first_token_of(1);
        for id in 2..=7 {
            desk.submit(id, like(id as Token), 1, &Terms::default());
            desk.first_token_of(id);
            desk.step();
        }
        desk.submit(8, [&like(2)[..], &[5]].concat(), 1, &Terms::default());
        assert_eq!(desk.step().admitted[0].hit, hit, "{ctx_size} cells");
    }
}

/// A copy of a longer sequence takes the place of those of its beginnings.
#[test]
fn a_longer_copy_serves_for_the_shorter() {
    let mut desk = Desk::new(EngineConfig { idle_cells: Some(0), ..config() });
    let lengths = [40, 60, 80];
    for (id, length) in (1..).zip(lengths) {
        desk.submit(id, prompt(1, length), 1, &Terms::default());
        desk.first_token_of(id);
        desk.step();
    }
    assert_eq!((desk.scheduler.used_cells(), desk.scheduler.take_evicted()), (0, 0));
    assert_eq!(desk.scheduler.host_bytes(), 100); // a copy has so many, whatever its length
}

/// Without prefix cache, a preempted request that is cancelled, in the cells or in the host's
/// memory, leaves nothing there, nor does one that went on from its copy.
#[test]
fn a_request_without_a_cache_leaves_nothing() {
    for cells in [100, 40] {
        let mut desk = Desk::new(EngineConfig { prefix_cache: false, ctx_size: cells, ..config() });
        desk.submit(1, prompt(1, 33), 7, &background());
        desk.first_token_of(1);
        desk.add(2, cells - 2, 2); // it needs what the first has, in the small context also its cells
        while desk.scheduler.waiting() == 0 || desk.scheduler.sequence(2).is_none() {
            desk.step();
        }
        desk.step();
        let kept = desk.scheduler.used_cells() > desk.scheduler.live_cells();
        assert!(kept || desk.scheduler.host_bytes() > 0, "the first left its tokens");
        assert!(desk.scheduler.remove(1, true).is_some());
        desk.first_token_of(2);
        desk.scheduler.remove(2, true);
        assert_eq!((desk.scheduler.used_cells(), desk.scheduler.host_bytes()), (0, 0));
    }
}

/// Emptying the cache says how many tokens went, and what a preempted request waits for stays.
#[test]
fn emptying_the_cache_keeps_what_was_parked() {
    let mut desk = Desk::new(config());
    desk.submit(1, prompt(1, 40), 30, &background());
    desk.first_token_of(1);
    desk.add(2, 90, 1);
    while desk.scheduler.host_bytes() == 0 {
        desk.step();
    }
    assert_eq!((desk.scheduler.waiting(), desk.scheduler.clear_cache()), (1, 0));
    assert_eq!((desk.scheduler.take_evicted(), desk.scheduler.host_bytes()), (0, 100));
    desk.first_token_of(2);
    assert!(desk.step().admitted[0].hit >= 40, "the first goes on where it was");
    desk.scheduler.remove(1, true);
    let cached = desk.scheduler.used_cells();
    assert!(cached >= 40 && desk.scheduler.clear_cache() >= cached);
    assert_eq!((desk.scheduler.used_cells(), desk.scheduler.take_evicted()), (0, 0));
}

/// A tenant with many requests cannot keep another one from its share.
#[test]
fn tenants_share_fairly() {
    let fairness_tokens = 32;
    let mut desk = Desk::new(EngineConfig { ctx_size: 4000, fairness_tokens, ..config() });
    let terms = |tenant: &str| Terms { tenant: tenant.into(), ..Terms::default() };
    for id in 1..=20 {
        desk.submit(id, prompt(id, 16), 1, &terms("many"));
    }
    desk.now += 100 * MS;
    desk.submit(99, prompt(99, 16), 1, &terms("one"));
    let steps = desk.first_token_of(99);
    assert!(steps.len() <= 8, "{steps:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Of tenants that always have prompts waiting, whatever their lengths and their number, none
    /// is served more weighted tokens than another one by more than twice the limit and what is
    /// chosen before it is charged, from any step to any later one.
    #[test]
    fn tenants_are_served_within_the_bound(
        lengths in prop::collection::vec(prop::collection::vec(4_usize..60, 4), 2..4),
        answers in prop::collection::vec(1_usize..6, 2..4),
        fairness_tokens in 16_u64..200,
    ) {
        let config = EngineConfig { ctx_size: 2000, batch_size: 64, fairness_tokens, ..config() };
        let parallel = config.parallel as u64;
        let mut desk = Desk::new(EngineConfig { prefix_cache: false, ..config });
        let tenants = lengths.len();
        let (mut served, mut owner, mut history) = (vec![0_u64; tenants], vec![0; 1], Vec::new());
        for _ in 0..300 {
            for tenant in 0..tenants {
                let terms = Terms { tenant: tenant.to_string().into(), ..Terms::default() };
                let waits = |id: u64| owner[id as usize] == tenant && desk.waits(id);
                let backlog = (1..owner.len() as u64).filter(|&id| waits(id)).count();
                for _ in backlog..4 {
                    let (id, lengths) = (owner.len() as u64, &lengths[tenant]);
                    let length = lengths[owner.len() % lengths.len()];
                    owner.push(tenant);
                    desk.submit(id, prompt(id, length), answers[id as usize % answers.len()], &terms);
                }
            }
            let plan = desk.step();
            let mut decodes = plan.decode_tokens;
            for span in &plan.spans {
                let weight = if decodes > 0 { DECODE_WEIGHT } else { PREFILL_WEIGHT };
                decodes = decodes.saturating_sub(span.count);
                served[owner[span.id as usize]] += weight * span.count as u64;
            }
            history.push(served.clone());
        }
        // What has a place goes on to its end: a prompt and an answer of each, and a step.
        let held = parallel * (60 * PREFILL_WEIGHT + 6 * DECODE_WEIGHT) + 64;
        for (one, other) in (0..tenants).flat_map(|one| (0..tenants).map(move |two| (one, two))) {
            let lead: Vec<i64> =
                history.iter().map(|now| now[one] as i64 - now[other] as i64).collect();
            let spread = lead.iter().max().unwrap() - lead.iter().min().unwrap();
            prop_assert!(
                spread as u64 <= 2 * (fairness_tokens + held),
                "{spread} of {:?}", history.last()
            );
        }
    }
}

/// A first token that cannot come as promised is refused, relegated or awaited, as configured.
#[test]
fn promises_that_cannot_be_kept() {
    for overload in Overload::ALL {
        let mut desk = Desk::new(EngineConfig { ctx_size: 9000, overload, ..config() });
        let terms = Terms { ttft: Some(500 * MS), ..Terms::default() };
        assert_eq!(desk.submit(9, prompt(9, 2000), 2, &terms), Verdict::Accepted, "nothing known");
        desk.scheduler.remove(9, false);
        desk.add(1, 2000, 2); // about ten seconds
        (0..4).for_each(|_| drop(desk.step()));
        desk.now += 9000 * MS;
        let easy = Terms { ttft: Some(60_000 * MS), ..Terms::default() };
        assert_eq!(desk.submit(2, prompt(2, 50), 2, &easy), Verdict::Accepted);
        let verdict = desk.submit(3, prompt(3, 2000), 2, &terms);
        match overload {
            Overload::Accept => assert_eq!(verdict, Verdict::Accepted),
            Overload::Relegate => assert_eq!(verdict, Verdict::Relegated),
            Overload::Reject => {
                let Verdict::Refused { expected } = verdict else { panic!("{verdict:?}") };
                assert!((5.0..100.0).contains(&expected), "{expected}");
            }
        }
        desk.step();
    }
}

/// Who was relegated waits for what it missed its promise by, not for background prompts: it goes
/// before them, with the place of one, and behind interactive ones; they keep a tenth beside it.
#[test]
fn who_was_relegated_goes_before_background_prompts() {
    let busy = |parallel| {
        let mut desk = Desk::new(EngineConfig { ctx_size: 9000, parallel, ..config() });
        for id in 0..3 {
            desk.submit(id, prompt(id, 2000), 2, &background());
        }
        (0..8).for_each(|_| drop(desk.step()));
        desk.now += 20_000 * MS; // their deadlines are long gone
        let hasty = Terms { ttft: Some(MS), ..Terms::default() };
        assert_eq!(desk.submit(3, prompt(3, 400), 2, &hasty), Verdict::Relegated);
        desk
    };
    let plan = busy(1).step();
    assert_eq!((admitted(&plan), plan.parked, plan.spans[0].id), (vec![3], vec![0], 3));
    let mut desk = busy(3);
    desk.step();
    desk.add(4, 100, 2);
    let interactive = desk.first_token_of(4);
    assert!(interactive.len() <= 100 / 7 + 1, "{interactive:?}");
    let relegated = desk.first_token_of(3);
    assert!(relegated.len() <= 400 / 7 + 1, "{relegated:?}");
    let background = relegated.iter().filter(|ids| ids.iter().any(|&id| id < 3)).count();
    assert!(background > 0, "the background ones starve: {relegated:?}");
}

/// A token that comes late is told, with the promise that it broke.
#[test]
fn late_tokens_are_told() {
    let mut desk = Desk::new(config());
    let terms = Terms { ttft: Some(15 * MS), tbt: Some(15 * MS), ..Terms::default() };
    desk.submit(1, prompt(1, 2), 9, &terms);
    let plan = desk.scheduler.schedule(0);
    desk.scheduler.commit(&plan, MS);
    assert_eq!(desk.scheduler.push(1, 90, 16 * MS), Some(Slo::Ttft));
    let plan = desk.scheduler.schedule(16 * MS);
    desk.scheduler.commit(&plan, MS);
    assert_eq!(desk.scheduler.push(1, 90, 31 * MS), None);
    let plan = desk.scheduler.schedule(31 * MS);
    desk.scheduler.commit(&plan, MS);
    assert_eq!(desk.scheduler.push(1, 90, 47 * MS), Some(Slo::Tbt));
}

/// What one adapter has computed is no use to another, and they share no step.
#[test]
fn a_prefix_is_found_only_under_its_own_adapter() {
    let mut desk = Desk::new(EngineConfig { ctx_size: 400, ..config() });
    for (id, adapter, hit) in [(1, 0, 0), (2, 1, 0), (3, 2, 0), (4, 1, 24), (5, 0, 24)] {
        let terms = Terms { adapter, ..Terms::default() };
        desk.submit(id, prompt(9, 30), 1, &terms);
        let plan = desk.step();
        assert_eq!((plan.adapter, plan.admitted[0].hit), (adapter, hit), "request {id}");
        while desk.scheduler.running() > 0 {
            desk.step();
        }
    }
    desk.submit(6, prompt(8, 30), 1, &Terms::default());
    desk.submit(7, prompt(8, 30), 1, &Terms { adapter: 1, ..Terms::default() });
    let steps: Vec<usize> = (0..8).map(|_| desk.step().spans.len()).collect();
    assert!(steps.iter().all(|&spans| spans <= 1), "{steps:?}");
}

/// Whatever arrives, and whatever it was promised, a step is of one adapter, and none with a place
/// waits for longer than all others take a turn.
#[test]
fn adapters_take_turns() {
    for policy in PolicyKind::ALL {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut below = |limit: u32| random.next_u32() % limit;
        let config =
            EngineConfig { ctx_size: 4000, parallel: 12, batch_size: 32, policy, ..config() };
        let mut desk = Desk::new(config);
        let mut adapter_of = Vec::new();
        let mut live: Vec<u64> = Vec::new();
        let (mut waits, mut longest) = ([0; ADAPTERS + 1], 0);
        for _ in 0..1_500 {
            if below(4) == 0 {
                let terms = Terms {
                    adapter: below(ADAPTERS as u32 + 1) as usize,
                    class: Class::ALL[below(2) as usize],
                    tbt: (below(2) == 0).then_some(MS),
                    ..Terms::default()
                };
                let id = adapter_of.len() as u64;
                adapter_of.push(terms.adapter);
                let length = 1 + below(60) as usize;
                desk.submit(id, prompt(id, length), 1 + below(20) as usize, &terms);
            }
            let plan = desk.step();
            live.extend(admitted(&plan));
            live.retain(|id| !plan.parked.contains(id));
            assert!(plan.spans.iter().all(|span| adapter_of[span.id as usize] == plan.adapter));
            for (adapter, wait) in waits.iter_mut().enumerate() {
                let has_place = live.iter().any(|&id| adapter_of[id as usize] == adapter);
                *wait = if has_place && adapter != plan.adapter { *wait + 1 } else { 0 };
                longest = longest.max(*wait);
            }
            live.retain(|&id| desk.scheduler.sequence(id).is_some());
        }
        assert_eq!(longest, ADAPTERS, "{policy:?}");
        assert!(adapter_of.len() > 300);
    }
}

/// A promise of one adapter's answers that cannot be kept does not stop prompts of another.
#[test]
fn prefill_of_each_adapter_goes_on() {
    let config = EngineConfig { ctx_size: 900, prefill_chunk: 64, batch_size: 64, ..config() };
    let mut desk = Desk::new(config);
    let tight = Terms { tbt: Some(1), ..Terms::default() };
    desk.submit(1, prompt(1, 4), 400, &tight);
    desk.submit(2, prompt(2, 4), 400, &Terms { adapter: 1, ..tight.clone() });
    desk.step();
    desk.step();
    desk.submit(3, prompt(3, 40), 1, &Terms { adapter: 1, ..Terms::default() });
    let steps = desk.first_token_of(3);
    assert!(steps.len() <= 2 * 3 * (MAX_SKIPS + 1), "{} steps", steps.len());
}

/// Three sequences with cells of their own.
fn parts() -> EngineConfig {
    EngineConfig { kv_unified: false, ctx_size: 900, batch_size: 64, prefill_chunk: 64, ..config() }
}

/// The prompt of `common` tokens and then some that are nobody else's.
fn forked(common: usize, id: u64, own: usize) -> Vec<Token> {
    [prompt(9, common), prompt(id, own)].concat()
}

/// Where sequences have cells of their own, whoever shares a prefix with one that is computed waits
/// for it and gets a copy, of exactly what they share.
#[test]
fn in_parts_a_prefix_is_copied_once_it_is_computed() {
    let mut desk = Desk::new(parts());
    for id in 1..3 {
        desk.submit(id, forked(100, id, 20), 2, &Terms::default());
    }
    assert_eq!(spans(&desk.step()), [(0, 0..64, false)]);
    assert_eq!(spans(&desk.step()), [(0, 64..120, true)]);
    let plan = desk.step();
    assert_eq!(plan.ops, [Op::Share { from: 0, to: 1, positions: 0..100 }]);
    assert_eq!(spans(&plan)[1].1.start, 100);
    let own = spans(&plan)[1].1.end;
    assert_eq!(desk.scheduler.live_cells(), own, "none is shared, and the first has gone");
}

/// The next turn of a conversation goes on in its slot, whoever else has been there.
#[test]
fn in_parts_a_conversation_goes_on_in_its_slot() {
    let mut desk = Desk::new(parts());
    for id in 1..4 {
        desk.add(id, 40, 1);
    }
    while desk.done.len() < 3 {
        desk.step();
    }
    for id in 1..4 {
        let next = [prompt(id, 40), vec![90 + id as Token], prompt(20 + id, 10)].concat();
        desk.submit(10 + id, next, 1, &Terms::default());
    }
    let plan = desk.step();
    let hits: Vec<usize> = plan.admitted.iter().map(|admission| admission.hit).collect();
    assert_eq!((plan.ops, hits), (Vec::new(), vec![40, 40, 40]));
}

/// Where no slot is free, the idle one that is worth the least goes. If it begins as the prompt does,
/// it is cut instead, and the rest of it can be had from the host's memory.
#[test]
fn in_parts_the_least_slot_is_cut() {
    for (host_cache_bytes, kept) in [(1 << 20, true), (0, false)] {
        let mut desk = Desk::new(EngineConfig { parallel: 2, host_cache_bytes, ..parts() });
        for id in 1..3 {
            desk.submit(id, forked(100, id, 20), 1, &Terms::default());
        }
        while desk.done.len() < 2 {
            desk.step();
        }
        desk.submit(3, forked(100, 3, 20), 1, &Terms::default());
        let plan = desk.step();
        assert_eq!(plan.admitted[0].hit, 100);
        let Some(&Op::Truncate { seq, length: 100 }) = plan.ops.last() else { panic!("{plan:?}") };
        let saved = [Op::Save { seq, key: 1 }];
        assert_eq!(plan.ops[..plan.ops.len() - 1], saved[..usize::from(kept)]);
        assert_eq!(desk.scheduler.take_evicted(), if kept { 0 } else { 20 });
        while desk.done.len() < 3 {
            desk.step();
        }
        let cut = [forked(100, u64::from(seq) + 1, 20), prompt(4, 3)].concat();
        desk.submit(4, cut, 1, &Terms::default());
        assert_eq!(desk.step().admitted[0].hit, if kept { 120 } else { 100 });
    }
}

/// A sequence that cannot be cut is of use as a whole only, so shorter ones stay beside it.
#[test]
fn what_cannot_be_cut_stays_beside_others() {
    let mut desk = Desk::new(config());
    desk.scheduler = Scheduler::new(config(), false, ADAPTERS, None);
    for id in 1..3 {
        desk.add(id, 20, 1);
        while !desk.done.contains(&id) {
            desk.step();
        }
    }
    desk.submit(3, [prompt(1, 20), prompt(3, 5)].concat(), 1, &Terms::default());
    assert_eq!(desk.step().admitted[0].hit, 20);
}
