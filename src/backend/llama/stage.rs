//! llama.cpp's own samplers, for one answer each.
//!
//! A grammar aborts the process if it is told of a token that it does not allow: whoever calls
//! `accept` has asked `apply`, as [`Stage`] says.

use std::sync::Arc;

use llama_cpp_2::GrammarError;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::backend::{Candidate, Mirostat, Stage, StageSpec, Token};
use crate::error::{Error, Result};

/// How many of the likeliest tokens mirostat 1 estimates its distribution by; the paper's.
const MIROSTAT_TOKENS: i32 = 100;

/// A sampler and what it works on.
#[derive(Debug)]
pub(super) struct LlamaStage {
    sampler: LlamaSampler,
    array: LlamaTokenDataArray,
    /// The sampler points into its vocabulary, so it is dropped after it.
    _model: Arc<LlamaModel>,
}

impl LlamaStage {
    pub(super) fn new(model: &Arc<LlamaModel>, spec: &StageSpec) -> Result<Self> {
        let vocab_size = model.vocab().n_tokens();
        let sampler = match spec {
            StageSpec::Grammar(text) => {
                LlamaSampler::grammar(model, text, "root").map_err(|error| refused(&error))?
            }
            StageSpec::Dry(dry) => LlamaSampler::dry(
                model,
                dry.multiplier,
                dry.base,
                dry.allowed_length as i32,
                dry.penalty_last_n as i32,
                &dry.sequence_breakers,
            ),
            StageSpec::Mirostat(Mirostat { version: 1, tau, eta }, seed) => {
                LlamaSampler::mirostat(vocab_size, *seed, *tau, *eta, MIROSTAT_TOKENS)
            }
            StageSpec::Mirostat(Mirostat { tau, eta, .. }, seed) => {
                LlamaSampler::mirostat_v2(*seed, *tau, *eta)
            }
        };
        let array = LlamaTokenDataArray::new(Vec::new(), false);
        Ok(Self { sampler, array, _model: Arc::clone(model) })
    }
}

fn refused(error: &GrammarError) -> Error {
    Error::InvalidArgument(format!("llama.cpp refuses the grammar: {error}"))
}

impl Stage for LlamaStage {
    fn apply(&mut self, candidates: &mut Vec<Candidate>) -> Option<Token> {
        let Self { sampler, array, .. } = self;
        (array.selected, array.sorted) = (None, false);
        array.data.clear();
        array.data.extend(
            candidates.iter().map(|one| LlamaTokenData::new(LlamaToken(one.token), one.logit, 0.0)),
        );
        array.apply_sampler(sampler);
        candidates.clear();
        candidates.extend(
            array.data.iter().map(|data| Candidate { token: data.id().0, logit: data.logit() }),
        );
        array.selected_token().map(|token| token.0)
    }

    fn accept(&mut self, token: Token) {
        self.sampler.accept(LlamaToken(token));
    }
}
