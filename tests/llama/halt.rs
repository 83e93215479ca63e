//! A step that is given up while llama.cpp computes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use ryot_metrics::backend::{DecodeFailure, Decoder, Model, Row};
use ryot_metrics::engine::{EngineConfig, argmax};

use super::model;

/// Rows of a prompt, from this position on.
fn rows(seq: u32, start: usize, count: usize) -> Vec<Row> {
    let row = |position| Row {
        token: (1_000 + position * 7 % 500) as i32,
        position,
        seq,
        wants_logits: position + 1 == start + count,
    };
    (start..start + count).map(row).collect()
}

/// Nothing of a step that was given up is remembered, and everything that was there before is.
#[test]
fn a_step_is_given_up_without_a_trace() {
    give_up(true);
}

/// The same where each sequence has cells of its own, so that a step is several graphs.
#[test]
fn a_step_in_parts_is_given_up_without_a_trace() {
    give_up(false);
}

fn give_up(kv_unified: bool) {
    let Some(model) = model() else { return };
    let config =
        EngineConfig { kv_unified, ctx_size: 2_048, parallel: 2, ..EngineConfig::default() };
    let idle = AtomicBool::new(false);
    model
        .run(&config.decoder(), &mut |decoder| {
            let logits = |decoder: &mut dyn Decoder| {
                decoder.decode_unless(&rows(1, 40, 400), &idle).unwrap();
                decoder.logits(399).to_vec()
            };
            decoder.decode(&rows(0, 0, 40)).unwrap(); // somebody else
            decoder.decode(&rows(1, 0, 40)).unwrap();
            let undisturbed = logits(decoder);
            decoder.forget(1);

            decoder.decode(&rows(1, 0, 40)).unwrap();
            let both = [rows(0, 40, 1), rows(1, 40, 400)].concat(); // beside an answer's token
            let halt = AtomicBool::new(true);
            let outcome = decoder.decode_unless(&both, &halt);
            assert_eq!(outcome, Err(DecodeFailure::Aborted), "it was set from the start");
            halt.store(false, Ordering::Relaxed);
            let outcome = thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(30));
                    halt.store(true, Ordering::Relaxed);
                });
                decoder.decode_unless(&both, &halt)
            });
            assert_eq!(outcome, Err(DecodeFailure::Aborted), "400 rows take longer than 30 ms");

            let again = logits(decoder);
            assert_eq!(argmax(&again), argmax(&undisturbed));
            let apart = undisturbed.iter().zip(&again).map(|(a, b)| (a - b).abs());
            let apart = apart.fold(0.0, f32::max);
            assert!(apart < 1e-3, "{apart}");

            decoder.decode(&rows(0, 40, 1)).unwrap();
            decoder.decode(&rows(1, 440, 1)).unwrap(); // nobody asks any more
        })
        .unwrap();
}
