//! Embeddings must be those of llama.cpp's own pooling, whoever shares the batch and however a
//! prompt is cut.

use std::num::NonZeroU32;

use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use ryot_metrics::backend::llama::backend;
use ryot_metrics::backend::{Model as _, Token};
use ryot_metrics::engine::{EmbedParams, EngineConfig, Pooling, Prompt};
use ryot_metrics::event::Origin;

use crate::{model, model_path, start};

const TEXTS: [&str; 4] = [
    "A cat sleeps on the sofa.",
    "On the couch, a kitten takes a nap.",
    "The central bank raised its interest rate by half a percent on Tuesday, which surprised those \
     who had expected it to wait for the figures of the next quarter before it would move again.",
    "x",
];

/// The prompt alone in a context that pools.
fn reference(model: &LlamaModel, prompt: &[Token], pooling: LlamaPoolingType) -> Vec<f32> {
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(256))
        .with_n_threads(2)
        .with_n_threads_batch(2)
        .with_embeddings(true)
        .with_pooling_type(pooling);
    let mut context = model.new_context(backend(), params).unwrap();
    let mut batch = LlamaBatch::new(256, 1);
    for (position, &token) in (0..).zip(prompt) {
        batch.add(LlamaToken(token), position, &[0], true).unwrap();
    }
    context.decode(&mut batch).unwrap();
    context.embeddings_seq_ith(0).unwrap().to_vec()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Each vector has a cosine of at least 0.999 with llama.cpp's, in one batch with the others and
/// cut into pieces of 8 tokens; texts that mean the same are nearer than others.
#[test]
#[allow(clippy::print_stdout)]
fn vectors_are_those_of_llama_cpp_s_pooling() {
    let (Some(path), Some(model)) = (model_path(), model()) else { return };
    let plain = LlamaModel::load_from_file(backend(), path, &LlamaModelParams::default()).unwrap();
    let poolings = [
        (Pooling::Mean, LlamaPoolingType::Mean),
        (Pooling::Last, LlamaPoolingType::Last),
        (Pooling::Cls, LlamaPoolingType::Cls),
    ];
    for batch_size in [512, 8] {
        let config = EngineConfig { batch_size, ..EngineConfig::default() };
        let engine = start(model.clone(), config);
        for (pooling, theirs) in poolings {
            let params = EmbedParams { pooling: Some(pooling), ..EmbedParams::default() };
            let prompts: Vec<Prompt> = TEXTS.map(Prompt::from).to_vec();
            let ours = engine.embed(prompts, params, &Origin::default()).unwrap();
            let rows: Vec<&[f32]> = ours.values.chunks(ours.width).collect();
            for (text, row) in TEXTS.iter().zip(&rows) {
                let prompt = model.tokenize(text, true, true).unwrap();
                let near = cosine(row, &reference(&plain, &prompt, theirs));
                println!("{} in batches of {batch_size}: cosine {near}", pooling.as_str());
                assert!(near >= 0.999, "{text:?}: {near}");
            }
            if pooling == Pooling::Mean {
                assert!(cosine(rows[0], rows[1]) > cosine(rows[0], rows[2]));
            }
        }
    }
}
