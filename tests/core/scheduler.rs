//! What the scheduler plans, case by case: add, ask, compare.

use ryot_metrics::backend::{Row, Token};
use ryot_metrics::engine::{EngineConfig, Plan, Scheduler, Sequence};

fn config() -> EngineConfig {
    EngineConfig {
        ctx_size: 100,
        parallel: 3,
        batch_size: 8,
        prefill_chunk: 2,
        ..EngineConfig::default()
    }
}

fn sequence(id: u64, prompt: usize, max_answer: usize) -> Sequence {
    let first = id as Token * 10;
    Sequence::new(id, (first..first + prompt as Token).collect(), max_answer)
}

/// Plans a step, answers each sampled sequence with its own token 90 + id, and returns the plan.
fn step(scheduler: &mut Scheduler) -> Plan {
    let plan = scheduler.schedule().expect("something to compute");
    scheduler.commit(&plan);
    for span in plan.spans.iter().filter(|span| span.sample.is_some()) {
        scheduler.push(span.id, 90 + span.id as Token);
    }
    scheduler.check_integrity().unwrap();
    plan
}

/// A plan in short: (slot, positions, wants logits), one entry per span.
fn spans(plan: &Plan) -> Vec<(u32, std::ops::Range<usize>, bool)> {
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
    let mut scheduler = Scheduler::new(config());
    assert_eq!(scheduler.schedule(), None);
    scheduler.add(sequence(1, 3, 5));
    scheduler.add(sequence(2, 4, 5));
    let plan = step(&mut scheduler);
    assert_eq!(spans(&plan), [(0, 0..3, true), (1, 0..4, true)]);
    assert_eq!((plan.admitted, plan.decode_tokens), (vec![1, 2], 0));
    let plan = step(&mut scheduler);
    assert_eq!(spans(&plan), [(0, 3..4, true), (1, 4..5, true)]);
    assert_eq!(plan.rows.iter().map(|row| row.token).collect::<Vec<_>>(), [91, 92]);
    assert_eq!((plan.admitted.len(), plan.decode_tokens), (0, 2));
}

/// A prompt longer than a step is cut into chunks, and only its very last token asks for logits.
#[test]
fn a_long_prompt_asks_for_logits_at_its_end_only() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(sequence(1, 20, 5));
    assert_eq!(spans(&step(&mut scheduler)), [(0, 0..8, false)]);
    assert_eq!(spans(&step(&mut scheduler)), [(0, 8..16, false)]);
    assert_eq!(spans(&step(&mut scheduler)), [(0, 16..20, true)]);
    assert_eq!(spans(&step(&mut scheduler)), [(0, 20..21, true)]);
}

/// Beside a growing answer, prompts get `prefill_chunk` tokens; the answer is never left out.
#[test]
fn prompts_beside_an_answer_come_in_small_chunks() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(sequence(1, 2, 9));
    step(&mut scheduler);
    scheduler.add(sequence(2, 5, 9));
    assert_eq!(spans(&step(&mut scheduler)), [(0, 2..3, true), (1, 0..2, false)]);
    assert_eq!(spans(&step(&mut scheduler)), [(0, 3..4, true), (1, 2..4, false)]);
    assert_eq!(spans(&step(&mut scheduler)), [(0, 4..5, true), (1, 4..5, true)]);
}

/// The head of the queue waits for cells, and nobody overtakes it.
#[test]
fn who_does_not_fit_waits_and_is_not_overtaken() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(sequence(1, 2, 58));
    scheduler.add(sequence(2, 2, 39)); // 60 + 41 cells are more than 100
    scheduler.add(sequence(3, 1, 1));
    step(&mut scheduler);
    assert_eq!((scheduler.running(), scheduler.waiting()), (1, 2));
    assert_eq!(scheduler.reserved_cells(), 60);
    assert_eq!(scheduler.remove(1).unwrap().slot, Some(0));
    let plan = step(&mut scheduler);
    assert_eq!(plan.admitted, [2, 3]);
    assert_eq!(scheduler.reserved_cells(), 43);
}

/// No more sequences run than there are slots, and a free slot is used again.
#[test]
fn slots_are_used_again() {
    let mut scheduler = Scheduler::new(config());
    (1..=4).for_each(|id| scheduler.add(sequence(id, 1, 2)));
    assert_eq!(step(&mut scheduler).admitted, [1, 2, 3]);
    assert_eq!(scheduler.remove(2).unwrap().slot, Some(1));
    let plan = step(&mut scheduler);
    assert_eq!(plan.admitted, [4]);
    assert_eq!(spans(&plan), [(0, 1..2, true), (2, 1..2, true), (1, 0..1, true)]);
}

/// Who waits can be removed; who is not there cannot.
#[test]
fn remove_from_the_queue() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(sequence(1, 1, 1));
    assert_eq!(scheduler.remove(1).unwrap().slot, None);
    assert_eq!(scheduler.remove(1), None);
    assert_eq!(scheduler.schedule(), None);
    scheduler.check_integrity().unwrap();
}

/// A plan that could not be computed is planned again, with the same rows.
#[test]
fn an_uncommitted_plan_is_planned_again() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(sequence(1, 3, 5));
    let lost = scheduler.schedule().unwrap();
    let again = scheduler.schedule().unwrap();
    assert_eq!(lost.rows, again.rows);
    assert_eq!((lost.admitted, again.admitted), (vec![1], vec![]));
}
