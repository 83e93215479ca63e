//! Greedy answers must equal those of a plain llama.cpp loop, token for token, whoever shares the
//! batch and however prompts are cut.
//!
//! On a CPU, llama.cpp's flash attention takes one of three kernels: tiles for a step of 64 rows or
//! more, a split over the context for a lone row with more than 256 cells in use, and else one row
//! after the other. Each rounds in its own way, and a model with 4-bit weights amplifies that. So:
//! - where loop and engine take the same kernel, and a sequence's cells lie in the order of its
//!   tokens (no other has ended and left a gap before), nothing may differ but at a tie ([`TIE`]);
//! - where they do not, an answer may part from the reference where its two best logits are closer
//!   than [`AMPLIFIED`]. What comes after such a place is not compared.

use std::fmt::{self, Display, Formatter};
use std::num::NonZeroU32;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use ryot_metrics::backend::llama::{Llama, backend};
use ryot_metrics::backend::{Decoder, Model as _, Token};
use ryot_metrics::clock::ManualClock;
use ryot_metrics::engine::{
    Core, EngineConfig, Progress, Prompt, RequestHandle, SamplingParams, Terms,
};
use ryot_metrics::event::{Event, Ignore, Observer, Origin};

use crate::{finish, model, model_path, start, submit};

/// A margin that no kernel can be asked to keep.
const TIE: f32 = 0.05;
/// How far llama.cpp alone, without this engine, moves the distance between the two best logits of
/// this model when eight sequences share its batches and not its kernels: measured up to 0.46.
const AMPLIFIED: f32 = 0.5;
/// The most rows of a step that are not computed in tiles.
const UNTILED: usize = 63;

/// What a plain loop answers.
struct Reference {
    tokens: Vec<Token>,
    /// How far the best logit was ahead of the second, for each token.
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

/// The prompt in one batch, then one token at a time, with nobody else in the context; past the
/// model's own end, so that all answers have the same length.
fn reference(model: &LlamaModel, prompt: &[Token], answer: usize, ubatch: usize) -> Reference {
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(2048))
        .with_n_batch(2048)
        .with_n_ubatch(ubatch as u32)
        .with_n_threads(2)
        .with_n_threads_batch(2);
    let mut context = model.new_context(backend(), params).unwrap();
    let mut batch = LlamaBatch::new(2048, 1);
    for (position, &token) in prompt.iter().enumerate() {
        let last = position + 1 == prompt.len();
        batch.add(LlamaToken(token), position as i32, &[0], last).unwrap();
    }
    let mut reference = Reference { tokens: Vec::new(), margins: Vec::new() };
    for position in prompt.len()..prompt.len() + answer {
        context.decode(&mut batch).unwrap();
        let (token, margin) = best_two(context.get_logits_ith(batch.n_tokens() - 1));
        reference.margins.push(margin);
        reference.tokens.push(token);
        batch.clear();
        batch.add(LlamaToken(token), position as i32, &[0], true).unwrap();
    }
    reference
}

/// How many answers are the reference's as a whole, and how many of the tokens that both drew after
/// the same text: all up to the first that differs, with that.
#[derive(Clone, Copy, Debug, Default)]
struct Agreement {
    answers: usize,
    whole: usize,
    tokens: usize,
    equal: usize,
}

impl Agreement {
    /// Compares an answer. Panics if it parts where the reference was sure.
    fn add(&mut self, answer: &[Token], reference: &Reference, allowed: f32, what: &str) {
        assert_eq!(answer.len(), reference.tokens.len(), "{what}");
        let parts = answer.iter().zip(&reference.tokens).position(|(ours, theirs)| ours != theirs);
        if let Some(place) = parts {
            let margin = reference.margins[place];
            assert!(margin < allowed, "{what}: token {place} differs where the margin is {margin}");
        }
        let equal = parts.unwrap_or(answer.len());
        self.answers += 1;
        self.whole += usize::from(parts.is_none());
        self.tokens += equal + usize::from(parts.is_some());
        self.equal += equal;
    }

    /// Whether so many percent of the tokens are equal.
    fn reaches(self, percent: usize) -> bool {
        self.equal * 100 >= self.tokens * percent
    }
}

impl AddAssign for Agreement {
    fn add_assign(&mut self, other: Self) {
        self.answers += other.answers;
        self.whole += other.whole;
        self.tokens += other.tokens;
        self.equal += other.equal;
    }
}

impl Display for Agreement {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { answers, whole, tokens, equal } = self;
        let percent = *equal as f64 / *tokens as f64 * 100.0;
        write!(f, "{whole} of {answers} answers, {equal} of {tokens} tokens ({percent:.2} %)")
    }
}

/// Answers all prompts, step by step on this thread, so that each run forms the same batches. If
/// all prompts fit in the batch, no sequence ends (and leaves a gap) before the last has answered.
fn answers(
    model: &Arc<Llama>,
    prompts: &[Vec<Token>],
    answer: usize,
    config: EngineConfig,
) -> Vec<Vec<Token>> {
    let spare = if config.parallel < prompts.len() { 0 } else { 2 * answer };
    let params = SamplingParams {
        max_tokens: Some(answer + spare),
        ignore_eos: true,
        ..SamplingParams::greedy()
    };
    let decoder = config.decoder();
    // Time stands still, so the policy sees each run alike.
    let clock = Arc::new(ManualClock::default());
    let (mut core, client) = Core::new(model.clone(), config, Arc::new(Ignore), clock).unwrap();
    let submit = |prompt: &Vec<Token>| {
        let prompt = Prompt::Tokens(prompt.clone());
        client.submit(prompt, params.clone(), Terms::default(), Origin::default()).unwrap()
    };
    let requests: Vec<_> = prompts.iter().map(submit).collect();
    let mut answers = vec![Vec::new(); requests.len()];
    let mut work = |decoder: &mut dyn Decoder| {
        while answers.iter().any(|tokens| tokens.len() < answer) {
            assert_eq!(core.step(decoder), Progress::Worked);
            for (request, tokens) in requests.iter().zip(&mut answers) {
                tokens.extend(request.drain().unwrap().0.iter().map(|delta| delta.token));
            }
        }
    };
    model.run(&decoder, &mut work).unwrap();
    for tokens in &mut answers {
        tokens.truncate(answer);
    }
    answers
}

/// Answers all prompts with `parallel` sequences and such chunks; says how much is the reference's.
#[allow(clippy::print_stdout)]
fn compare(
    prompts: &[&str],
    answer: usize,
    allowed: f32,
    ubatch: usize,
    setups: &[(usize, usize)],
) -> Option<Agreement> {
    let (path, model) = (model_path()?, model()?);
    let plain = LlamaModel::load_from_file(backend(), path, &LlamaModelParams::default()).unwrap();
    let tokens: Vec<Vec<Token>> =
        prompts.iter().map(|text| model.tokenize(text, true, true).unwrap()).collect();
    let references: Vec<Reference> =
        tokens.iter().map(|prompt| reference(&plain, prompt, answer, ubatch)).collect();
    let mut all = Agreement::default();
    for &(parallel, chunk) in setups {
        let config = EngineConfig {
            ctx_size: 4096,
            parallel,
            batch_size: chunk.max(parallel),
            prefill_chunk: chunk,
            prefix_cache: false, // what others have left changes the kernel of a lone row
            ..EngineConfig::default()
        };
        let mut agreement = Agreement::default();
        let answers = answers(&model, &tokens, answer, config);
        for (index, (answer, reference)) in answers.iter().zip(&references).enumerate() {
            let what = format!("prompt {index}, {parallel} sequences, chunks of {chunk}");
            agreement.add(answer, reference, allowed, &what);
        }
        println!("{parallel} sequences, chunks of {chunk}: {agreement}");
        all += agreement;
    }
    Some(all)
}

const SHORT: [&str; 8] = [
    "The capital of France is",
    "Once upon a time there was a small town by the sea where",
    "def fibonacci(n):",
    "List three colours: red,",
    "Q: What is 2 + 2?\nA:",
    "The first man on the moon",
    "Water boils at",
    "My favourite book is",
];

/// Where the kernels are the same: 1, 4 and 8 sequences, any chunk, at most 256 cells in use.
#[test]
#[allow(clippy::print_stdout)]
fn batched_answers_equal_the_plain_loop() {
    let mut all = Agreement::default();
    for (parallel, answer) in [(1, 96), (4, 48), (8, 20)] {
        let setups = [7, 16, 32, UNTILED].map(|chunk| (parallel, chunk));
        let prompts = if parallel == 4 { &SHORT[..4] } else { &SHORT[..] };
        let Some(agreement) = compare(prompts, answer, TIE, UNTILED, &setups) else { return };
        all += agreement;
    }
    println!("same kernels, equal to the reference: {all}");
    assert!(all.whole * 100 >= all.answers * 95 && all.reaches(99), "{all}");
}

/// Where they are not: prompts of several chunks, tiles, and lone rows over long contexts.
#[test]
#[allow(clippy::print_stdout)]
fn batched_answers_part_from_the_plain_loop_only_near_ties() {
    let story = "The lighthouse keeper counted the ships that passed each night, and wrote down \
                 their names, their cargo, and the colour of their sails. ";
    let texts = [
        SHORT[0].to_owned(),
        format!("{}In the end, the keeper", story.repeat(12)),
        SHORT[2].to_owned(),
        SHORT[1].to_owned(),
        format!("{}One night", story.repeat(4)),
        SHORT[3].to_owned(),
        SHORT[4].to_owned(),
        format!("{}The last ship", story.repeat(2)),
    ];
    let prompts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let setups = [(1, 7), (1, 64), (1, 512), (4, 7), (4, 256), (8, 7), (8, 64), (8, 256)];
    let Some(all) = compare(&prompts, 48, AMPLIFIED, 2048, &setups) else { return };
    println!("other kernels, equal to the reference: {all}");
    assert!(all.whole * 10 >= all.answers * 6 && all.reaches(98), "{all}");
}

/// Counts what the cache and the scheduler did.
#[derive(Debug, Default)]
struct Tally {
    preempted: AtomicUsize,
    hits: AtomicUsize,
}

impl Observer for Tally {
    fn observe(&self, event: &Event) {
        match event {
            Event::Preempted { .. } => self.preempted.fetch_add(1, Ordering::Relaxed),
            Event::PrefixMatched { hit, .. } => self.hits.fetch_add(*hit, Ordering::Relaxed),
            _ => 0,
        };
    }
}

/// Answers all prompts to their end, so many times over, and gives the last answers.
fn repeated(
    model: &Arc<Llama>,
    prompts: &[Vec<Token>],
    answer: usize,
    config: EngineConfig,
    rounds: usize,
) -> (Vec<Vec<Token>>, Arc<Tally>) {
    let max_tokens = Some(answer);
    let params = SamplingParams { max_tokens, ignore_eos: true, ..SamplingParams::greedy() };
    let (decoder, tally) = (config.decoder(), Arc::new(Tally::default()));
    let clock = Arc::new(ManualClock::default());
    let (mut core, client) = Core::new(model.clone(), config, tally.clone(), clock).unwrap();
    let mut answers = Vec::new();
    let mut work = |decoder: &mut dyn Decoder| {
        for _ in 0..rounds {
            let submit = |prompt: &Vec<Token>| {
                let prompt = Prompt::Tokens(prompt.clone());
                client.submit(prompt, params.clone(), Terms::default(), Origin::default()).unwrap()
            };
            let requests: Vec<_> = prompts.iter().map(submit).collect();
            while core.step(decoder) == Progress::Worked {}
            let tokens = |request: &RequestHandle| {
                let (deltas, finish) = request.drain().unwrap();
                assert_eq!(finish.unwrap().error, None);
                deltas.iter().map(|delta| delta.token).collect()
            };
            answers = requests.iter().map(tokens).collect();
        }
    };
    model.run(&decoder, &mut work).unwrap();
    (answers, tally)
}

/// A cached prefix, a place that was given up, and a copy from the host's memory are as good as
/// what was computed in one go.
#[test]
#[allow(clippy::print_stdout)]
fn caches_and_preemption_change_no_answer() {
    let (Some(path), Some(model)) = (model_path(), model()) else { return };
    let plain = LlamaModel::load_from_file(backend(), path, &LlamaModelParams::default()).unwrap();
    let story = "The lighthouse keeper counted the ships that passed each night, and wrote down \
                 their names, their cargo, and the colour of their sails. ";
    let texts = SHORT.map(|text| format!("{story}{text}"));
    let prompts: Vec<Vec<Token>> =
        texts.iter().map(|text| model.tokenize(text, true, true).unwrap()).collect();
    let references: Vec<Reference> =
        prompts.iter().map(|prompt| reference(&plain, prompt, 48, UNTILED)).collect();
    let wide = EngineConfig { batch_size: UNTILED, ..EngineConfig::default() };
    let narrow = EngineConfig { ctx_size: 300, prefix_cache: false, ..wide.clone() };
    let forgetful = EngineConfig { host_cache_bytes: 0, ..narrow.clone() };
    let crowded = EngineConfig { ctx_size: 300, cache_sequences: 2, ..wide.clone() };
    let parts = EngineConfig { kv_unified: false, ..wide.clone() };
    let few = EngineConfig { parallel: 3, ..parts.clone() };
    let mut all = Agreement::default();
    for (what, config, rounds) in [
        ("shared in flight", wide.clone(), 1),
        ("cached", wide, 2),
        ("copied in flight", parts.clone(), 1),
        ("copied", parts, 2),
        ("cut and copied from the host", few, 2),
        ("preempted", narrow, 1),
        ("preempted and computed again", forgetful, 1),
        ("preempted and cached", crowded, 2),
    ] {
        let cached = config.prefix_cache;
        let (answers, tally) = repeated(&model, &prompts, 48, config, rounds);
        let (hits, preempted) =
            (tally.hits.load(Ordering::Relaxed), tally.preempted.load(Ordering::Relaxed));
        assert!(hits > 0 || !cached, "{what}");
        assert!(preempted > 0 || !what.contains("preempted"), "{what}");
        let mut agreement = Agreement::default();
        for (answer, reference) in answers.iter().zip(&references) {
            agreement.add(answer, reference, AMPLIFIED, what);
        }
        println!("{what}: {agreement}, {hits} tokens found, {preempted} preempted");
        all += agreement;
    }
    println!("caches and preemption, equal to the reference: {all}");
    assert!(all.whole * 10 >= all.answers * 6 && all.reaches(98), "{all}");
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
