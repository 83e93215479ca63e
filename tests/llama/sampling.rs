//! Our sampler against llama.cpp's own chain, on the same logits.

use std::collections::{HashMap, HashSet};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ryot_metrics::backend::llama::backend;
use ryot_metrics::backend::{Candidate, Dry, Mirostat, Model, StageSpec, Token};
use ryot_metrics::clock::{Clock, MonotonicClock, seconds_between};
use ryot_metrics::engine::{
    PENALTY_WINDOW, Sampler, SamplingParams, Scratch, argmax, json_schema_grammar,
};

use super::{model, model_path};

const VOCAB: usize = 49_152;

/// A bell curve, as logits have it; no two are equal.
fn logits(seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut unit = || random.next_u32() as f32 / u32::MAX as f32;
    (0..VOCAB).map(|_| ((0..6).map(|_| unit()).sum::<f32>() - 3.0) * 6.0).collect()
}

/// What llama.cpp keeps after these samplers.
fn theirs(logits: &[f32], chain: &mut LlamaSampler) -> LlamaTokenDataArray {
    let data =
        (0..).zip(logits).map(|(id, &logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0));
    let mut array = LlamaTokenDataArray::from_iter(data, false);
    array.apply_sampler(chain);
    array
}

/// Top-k, top-p and min-p, alone and together, keep the same tokens. llama.cpp adds up a nucleus in
/// single precision, so that ours may end a few tokens earlier or later among thousands.
#[test]
fn the_same_tokens_are_kept() {
    for seed in 0..3 {
        let logits = logits(seed);
        for (top_k, top_p, min_p) in [
            (40, 1.0, 0.0),
            (40, 0.9, 0.05),
            (0, 0.5, 0.0),
            (0, 0.95, 0.0),
            (0, 1.0, 0.05),
            (0, 0.9, 0.2),
            (1000, 0.99, 0.01),
        ] {
            let params = SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() };
            let mut chain = LlamaSampler::chain_simple([
                LlamaSampler::top_k(top_k),
                LlamaSampler::top_p(top_p, 1),
                LlamaSampler::min_p(min_p, 1),
            ]);
            let ours: HashSet<Token> = Sampler::new(&params)
                .candidates(&logits, &[], &mut Scratch::default())
                .iter()
                .map(|candidate| candidate.token)
                .collect();
            let theirs = theirs(&logits, &mut chain);
            let theirs: HashSet<Token> = theirs.data.iter().map(|data| data.id().0).collect();
            let differ = ours.symmetric_difference(&theirs).count();
            assert!(differ <= ours.len() / 500, "{params:?}: {differ} of {} differ", ours.len());
        }
    }
}

/// Greedy, with and without a repetition penalty over a long history, takes the same token.
#[test]
fn greedy_takes_the_same_token() {
    let mut scratch = Scratch::default();
    for seed in 0..20 {
        let logits = logits(seed);
        let mut order: Vec<Token> = (0..VOCAB as Token).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        // The best tokens are among the last 64, and some of the next best lie before them.
        let history: Vec<Token> =
            order[20..60].iter().chain(&order[..20]).copied().chain(90..120).collect();
        for penalty in [1.0, 1.3] {
            let params = SamplingParams { repetition_penalty: penalty, ..SamplingParams::greedy() };
            let mut chain = LlamaSampler::chain_simple([
                LlamaSampler::penalties(VOCAB as i32, 64, penalty, 0.0, 0.0),
                LlamaSampler::greedy(),
            ]);
            chain.accept_many(history.iter().map(|&token| LlamaToken(token)));
            let theirs = theirs(&logits, &mut chain).selected_token().unwrap().0;
            let ours = Sampler::new(&params).sample(&logits, &history, &mut scratch);
            assert_eq!(ours.unwrap().token, theirs, "seed {seed}, penalty {penalty}");
        }
    }
}

/// Bias and all three penalties leave the same logits, bit for bit, where both count the same
/// tokens: an answer without a prompt, no longer than the window.
#[test]
#[allow(clippy::float_cmp)] // bit for bit
fn bias_and_penalties_leave_the_same_logits() {
    let logits = logits(1);
    let bias: Vec<(Token, f32)> = (0..300).map(|token| (token * 7, token as f32 - 150.5)).collect();
    let bias: Vec<(Token, f32)> =
        bias.into_iter().map(|(t, b)| (t, b.clamp(-100.0, 100.0))).collect();
    for (repetition, presence, frequency) in
        [(1.0, 0.0, 0.0), (1.0, 1.5, 0.0), (1.0, 0.0, -0.7), (1.2, 0.5, 0.3), (0.8, -2.0, 2.0)]
    {
        let params = SamplingParams {
            temperature: 0.0,
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            logit_bias: bias.clone(),
            ..SamplingParams::default()
        };
        let theirs_bias: Vec<LlamaLogitBias> = bias
            .iter()
            .map(|&(token, bias)| LlamaLogitBias::new(LlamaToken(token), bias))
            .collect();
        let mut chain = LlamaSampler::chain_simple([
            LlamaSampler::logit_bias(VOCAB as i32, &theirs_bias),
            LlamaSampler::penalties(VOCAB as i32, 64, repetition, frequency, presence),
        ]);
        let (mut sampler, mut scratch) = (Sampler::new(&params), Scratch::default());
        let mut history = Vec::new();
        for _ in 0..PENALTY_WINDOW {
            let theirs = theirs(&logits, &mut chain);
            let mut expected = vec![0.0; VOCAB];
            for data in &theirs.data {
                expected[data.id().0 as usize] = data.logit();
            }
            let ours = sampler.candidates(&logits, &history, &mut scratch);
            assert!(ours.iter().all(|one| one.logit == expected[one.token as usize]));
            assert_eq!(ours.len(), VOCAB);
            let drawn = sampler.sample(&logits, &history, &mut scratch).unwrap().token;
            assert_eq!(Some(drawn as usize), argmax(&expected));
            history.push(drawn);
            chain.accept(LlamaToken(drawn));
        }
    }
}

/// Draws after bias, penalties, top-k, top-p, min-p and temperature follow the distribution that
/// llama.cpp's chain leaves (chi-square, 1 in 10,000 to fail by chance; the seed is fixed).
#[test]
fn draws_follow_the_same_distribution() {
    const DRAWS: usize = 30_000;
    let logits = logits(4);
    let params = SamplingParams {
        top_k: 12,
        top_p: 0.97,
        min_p: 0.02,
        temperature: 1.7,
        seed: Some(3),
        logit_bias: vec![(argmax(&logits).unwrap() as Token, -1.5)],
        ..SamplingParams::default()
    };
    let bias: Vec<LlamaLogitBias> = params
        .logit_bias
        .iter()
        .map(|&(token, bias)| LlamaLogitBias::new(LlamaToken(token), bias))
        .collect();
    let mut chain = LlamaSampler::chain_simple([
        LlamaSampler::logit_bias(VOCAB as i32, &bias),
        LlamaSampler::top_k(params.top_k),
        LlamaSampler::top_p(params.top_p, 1),
        LlamaSampler::min_p(params.min_p, 1),
        LlamaSampler::temp(params.temperature),
        LlamaSampler::dist(1),
    ]);
    let expected = theirs(&logits, &mut chain);
    let (mut sampler, mut scratch) = (Sampler::new(&params), Scratch::default());
    let mut counts: HashMap<Token, usize> = HashMap::new();
    for _ in 0..DRAWS {
        let drawn = sampler.sample(&logits, &[], &mut scratch).unwrap();
        *counts.entry(drawn.token).or_default() += 1;
    }
    let chi_square: f64 = expected
        .data
        .iter()
        .map(|data| {
            let expected = f64::from(data.p()) * DRAWS as f64;
            let seen = counts.remove(&data.id().0).unwrap_or(0);
            (seen as f64 - expected).powi(2) / expected
        })
        .sum();
    assert!(counts.is_empty(), "drawn although not kept: {counts:?}");
    let freedom = expected.data.len() - 1;
    assert!((5..12).contains(&freedom), "{freedom}");
    assert!(chi_square < 37.4, "{chi_square} at {freedom} degrees of freedom");
}

/// DRY leaves llama.cpp's own logits, over prompt and answer and with breakers of several tokens.
#[test]
#[allow(clippy::float_cmp)] // bit for bit
fn dry_leaves_the_same_logits() {
    let Some(model) = model() else { return };
    let vocab = model.info().vocab_size;
    let logits = &logits(6)[..vocab];
    let dry = Dry {
        multiplier: 0.9,
        sequence_breakers: vec!["\n".into(), "END".into()],
        ..Dry::default()
    };
    let params = SamplingParams { dry: Some(dry.clone()), ..SamplingParams::greedy() };
    let text = "one two three four\none two three five END two three four one two three";
    let prompt = model.tokenize(text, false, false).unwrap();
    let mut sampler = Sampler::for_answer(&params, &*model, &prompt).unwrap();
    let theirs_model =
        LlamaModel::load_from_file(backend(), model_path().unwrap(), &LlamaModelParams::default())
            .unwrap();
    let mut chain = LlamaSampler::dry(
        &theirs_model,
        dry.multiplier,
        dry.base,
        dry.allowed_length as i32,
        dry.penalty_last_n as i32,
        &dry.sequence_breakers,
    );
    chain.accept_many(prompt.iter().map(|&token| LlamaToken(token)));
    let theirs = theirs(logits, &mut chain);
    let mut scratch = Scratch::default();
    let ours = sampler.candidates(logits, &prompt, &mut scratch);
    assert_eq!(ours.len(), theirs.data.len());
    let pairs = || ours.iter().zip(&theirs.data);
    assert!(pairs().all(|(ours, theirs)| ours.logit == theirs.logit()));
    let changed = ours.iter().filter(|one| one.logit != logits[one.token as usize]).count();
    assert!((1..10).contains(&changed), "{changed} tokens would repeat something");
}

/// Mirostat 1 and 2 draw what llama.cpp draws by the same seed, token after token.
#[test]
fn mirostat_draws_the_same_tokens() {
    let Some(model) = model() else { return };
    let vocab = model.info().vocab_size;
    for version in [1, 2] {
        let mirostat = Mirostat { version, tau: 4.0, eta: 0.2 };
        let mut stage = model.stage(&StageSpec::Mirostat(mirostat, 11)).unwrap();
        let mut theirs_stage = match version {
            1 => LlamaSampler::mirostat(vocab as i32, 11, 4.0, 0.2, 100),
            _ => LlamaSampler::mirostat_v2(11, 4.0, 0.2),
        };
        let mut kept = HashSet::new();
        for seed in 0..30 {
            let logits = &logits(seed)[..vocab];
            let mut candidates: Vec<Candidate> =
                (0..).zip(logits).map(|(token, &logit)| Candidate { token, logit }).collect();
            let ours = stage.apply(&mut candidates).unwrap();
            let theirs = theirs(logits, &mut theirs_stage);
            assert_eq!(ours, theirs.selected_token().unwrap().0);
            kept.insert(candidates.len());
        }
        assert!(kept.len() > 5, "it adapts how many tokens it keeps: {kept:?}");
        let params =
            SamplingParams { mirostat: Some(mirostat), seed: Some(5), ..SamplingParams::default() };
        let draw = || {
            let mut sampler = Sampler::for_answer(&params, &*model, &[]).unwrap();
            let mut scratch = Scratch::default();
            let mut next = |seed| sampler.sample(&logits(seed)[..vocab], &[], &mut scratch);
            (0..10).map(|seed| next(seed).unwrap().token).collect::<Vec<Token>>()
        };
        assert_eq!(draw(), draw());
    }
}

/// Whatever the logits are, the text fits the grammar, ends where it may, and greedy and drawn
/// tokens are those that llama.cpp's mask leaves.
#[test]
fn a_grammar_holds_against_random_logits() {
    let Some(model) = model() else { return };
    let vocab = model.info().vocab_size;
    let schema = r#"{"properties": {
        "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "items": {"enum": ["é😀", "b"]}, "maxItems": 3},
        "parent": {"type": ["null", "boolean"]}}, "required": ["name", "age"]}"#;
    let grammar = json_schema_grammar(schema).unwrap();
    for (seed, temperature) in [(1, 0.0), (2, 0.0), (3, 0.8), (4, 2.0), (5, 1.0)] {
        let params = SamplingParams {
            temperature,
            seed: Some(seed),
            grammar: Some(grammar.clone()),
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::for_answer(&params, &*model, &[]).unwrap();
        let (mut scratch, mut bytes, mut ended) = (Scratch::default(), Vec::new(), false);
        for step in 0..200 {
            let logits = &logits(1000 * seed + step)[..vocab];
            let token = sampler.sample(logits, &[], &mut scratch).unwrap().token;
            ended = model.is_end(token);
            if ended {
                break;
            }
            bytes.extend(model.piece(token));
        }
        let text = String::from_utf8(bytes).unwrap();
        assert!(ended, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["name"].as_str().unwrap().chars().count() <= 12, "{text}");
        assert!(value["age"].is_u64(), "{text}");
    }
}

/// Where the model's own choice is refused, the token is the best, or one of the k best, of those
/// that llama.cpp's mask of the whole vocabulary leaves.
#[test]
fn a_refused_token_gives_way_to_the_likeliest_allowed_ones() {
    let Some(model) = model() else { return };
    let vocab = model.info().vocab_size;
    let grammar = "root ::= [0-9,]+";
    let mut mask = model.stage(&StageSpec::Grammar(grammar.to_owned())).unwrap();
    for seed in 0..10 {
        let logits = &logits(seed)[..vocab];
        let mut allowed: Vec<Candidate> =
            (0..).zip(logits).map(|(token, &logit)| Candidate { token, logit }).collect();
        mask.apply(&mut allowed);
        allowed.sort_by(|a, b| b.logit.total_cmp(&a.logit));
        let best: Vec<Token> = allowed.iter().map(|one| one.token).collect();
        for (temperature, top_k) in [(0.0, 0), (3.0, 1), (3.0, 4), (1e-3, 0)] {
            let grammar = Some(grammar.to_owned());
            let params =
                SamplingParams { temperature, top_k, grammar, ..SamplingParams::default() };
            let mut sampler = Sampler::for_answer(&params, &*model, &[]).unwrap();
            let drawn = sampler.sample(logits, &[], &mut Scratch::default()).unwrap().token;
            let among = &best[..top_k.max(1) as usize];
            assert!(among.contains(&drawn), "{drawn} of {among:?} at {temperature}, {top_k}");
        }
    }
}

/// How long a token takes with a grammar that the model wants to leave each time, and with one that
/// it does not.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn the_cost_of_a_grammar() {
    let Some(model) = model() else { return };
    let vocab = model.info().vocab_size;
    let logits = &logits(1)[..vocab];
    for (name, grammar) in [
        ("none", None),
        ("all allowed", Some("root ::= [^\\x00]*")),
        ("most refused", Some("root ::= [0-9]*")),
    ] {
        for temperature in [0.0, 1.0] {
            let params = SamplingParams {
                temperature,
                top_k: 40,
                seed: Some(1),
                grammar: grammar.map(str::to_owned),
                ..SamplingParams::default()
            };
            let mut sampler = Sampler::for_answer(&params, &*model, &[]).unwrap();
            let mut scratch = Scratch::default();
            let started = MonotonicClock.now();
            for _ in 0..50 {
                let _ = sampler.sample(logits, &[], &mut scratch);
            }
            let micros = seconds_between(started, MonotonicClock.now()) * 1e6 / 50.0;
            println!("{name}, temperature {temperature}: {micros:.0} µs per token");
        }
    }
}
