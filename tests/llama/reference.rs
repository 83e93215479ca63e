//! Greedy answers must equal those of a plain llama.cpp loop, token for token, whoever shares the
//! batch and however prompts are cut.
//!
//! Batched and single rows take different kernels, whose rounding a quantised model amplifies; so an
//! answer may part from the reference where the reference's two best logits are closer than
//! [`MARGIN`]. What comes after such a place is not compared.

use std::num::NonZeroU32;

use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use ryot_metrics::backend::llama::backend;
use ryot_metrics::backend::{Model, Token};
use ryot_metrics::engine::{EngineConfig, Prompt};

use crate::{finish, model, model_path, start, submit};

/// llama.cpp alone, without this engine, moves the distance between the two best logits of a small
/// model with 4-bit weights by up to 0.46 when eight sequences share a batch.
const MARGIN: f32 = 0.5;
const ANSWER: usize = 48;

/// What a plain loop answers.
struct Reference {
    tokens: Vec<Token>,
    /// How far the best logit was ahead of the second, for each token and for the end.
    margins: Vec<f32>,
}

fn best_two(logits: &[f32]) -> (Token, f32) {
    let (mut best, mut second) = ((0, f32::NEG_INFINITY), f32::NEG_INFINITY);
    for (token, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            (second, best) = (best.1, (token, logit));
        } else if logit > second {
            second = logit;
        }
    }
    (best.0, best.1 - second)
}

/// The prompt in one batch, then one token at a time, with nobody else in the context.
fn reference(model: &LlamaModel, prompt: &[Token]) -> Reference {
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(2048))
        .with_n_batch(2048)
        .with_n_ubatch(2048)
        .with_n_threads(2)
        .with_n_threads_batch(2);
    let mut context = model.new_context(backend(), params).unwrap();
    let mut batch = LlamaBatch::new(2048, 1);
    for (position, &token) in prompt.iter().enumerate() {
        let last = position + 1 == prompt.len();
        batch.add(LlamaToken(token), position as i32, &[0], last).unwrap();
    }
    let mut reference = Reference { tokens: Vec::new(), margins: Vec::new() };
    for position in prompt.len()..prompt.len() + ANSWER {
        context.decode(&mut batch).unwrap();
        let (token, margin) = best_two(context.get_logits_ith(batch.n_tokens() - 1));
        reference.margins.push(margin);
        if model.vocab().is_eog(LlamaToken(token)) {
            break;
        }
        reference.tokens.push(token);
        batch.clear();
        batch.add(LlamaToken(token), position as i32, &[0], true).unwrap();
    }
    reference
}

/// Prompts of very different lengths: the longest takes several chunks of every size tried.
fn prompts(model: &dyn Model) -> Vec<Vec<Token>> {
    let story = "The lighthouse keeper counted the ships that passed each night, and wrote down \
                 their names, their cargo, and the colour of their sails. ";
    let texts = [
        "The capital of France is".to_owned(),
        format!("{}In the end, the keeper", story.repeat(12)),
        "def fibonacci(n):\n".to_owned(),
        "Once upon a time there was a small town by the sea where".to_owned(),
        format!("{}One night", story.repeat(4)),
        "List three colours: red,".to_owned(),
        "Q: What is 2 + 2?\nA:".to_owned(),
        format!("{}The last ship", story.repeat(2)),
    ];
    texts.iter().map(|text| model.tokenize(text, true, true).unwrap()).collect()
}

/// Whether an answer is the reference's, token for token. Panics if it parts where the reference was
/// sure.
fn agree(answer: &[Token], reference: &Reference, what: &str) -> bool {
    let longest = answer.len().max(reference.tokens.len());
    let parts = (0..longest).find(|&place| answer.get(place) != reference.tokens.get(place));
    let Some(place) = parts else { return true };
    let margin = reference.margins[place];
    assert!(margin < MARGIN, "{what}: token {place} differs where the margin is {margin}");
    false
}

/// 1, 4 and 8 sequences, chunks of 7, 64 and 256 tokens.
#[test]
#[allow(clippy::print_stdout)]
fn batched_answers_equal_the_plain_loop() {
    let (Some(path), Some(model)) = (model_path(), model()) else { return };
    let plain = LlamaModel::load_from_file(backend(), path, &LlamaModelParams::default()).unwrap();
    let prompts = prompts(&*model);
    let references: Vec<Reference> =
        prompts.iter().map(|prompt| reference(&plain, prompt)).collect();
    let (mut exact, mut all) = (0, 0);
    for (parallel, chunk) in
        [(1, 7), (1, 64), (1, 512), (4, 7), (4, 256), (8, 7), (8, 64), (8, 256)]
    {
        let config = EngineConfig {
            ctx_size: 4096,
            parallel,
            batch_size: chunk.max(parallel),
            prefill_chunk: chunk,
            ..EngineConfig::default()
        };
        let engine = start(model.clone(), config);
        let requests: Vec<_> = prompts
            .iter()
            .map(|prompt| submit(&engine, Prompt::Tokens(prompt.clone()), ANSWER))
            .collect();
        let mut equal = 0;
        for (index, (request, reference)) in requests.iter().zip(&references).enumerate() {
            let answer: Vec<Token> = finish(request).0.iter().map(|delta| delta.token).collect();
            let what = format!("prompt {index}, {parallel} sequences, chunks of {chunk}");
            equal += usize::from(agree(&answer, reference, &what));
        }
        println!("{parallel} sequences, chunks of {chunk}: {equal} of {} equal", prompts.len());
        exact += equal;
        all += prompts.len();
    }
    println!("{exact} of {all} answers are the reference's, token for token");
    assert!(exact * 10 >= all * 6, "{exact} of {all}");
}

/// An answer to a long prompt depends on its first words, not on its last chunk only.
#[test]
fn a_long_prompt_is_read_from_its_beginning() {
    let Some(model) = model() else { return };
    let config = EngineConfig { batch_size: 16, prefill_chunk: 16, ..EngineConfig::default() };
    let engine = start(model, config);
    let answer = |name: &str| {
        let prompt = format!(
            "My name is {name}. I live near the river, and every morning I walk along the bank to \
             the old mill, where I work until noon. In the evening I read by the fire. Hello! My \
             name is"
        );
        let (deltas, _) = finish(&submit(&engine, prompt.as_str().into(), 2));
        deltas.iter().map(|delta| delta.text.as_str()).collect::<String>()
    };
    for name in ["Peter", "Alice"] {
        let answer = answer(name);
        assert!(answer.contains(name), "{answer:?} lacks {name}");
    }
}
