//! Steps of drawing a token that a model's backend does: they need its vocabulary, or are llama.cpp's
//! own.
//!
//! Must not know: requests, what else happens to logits.

use std::fmt::Debug;

use crate::backend::Token;

/// A token that may be drawn, with its logit or, later, its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: Token,
    /// Its logit.
    pub logit: f32,
}

/// One answer's state of such a step.
pub trait Stage: Debug + Send {
    /// Changes the candidates' logits, where −∞ forbids, or takes candidates out. Returns a token
    /// only if it is the step's business to draw one. There is at least one candidate.
    fn apply(&mut self, candidates: &mut Vec<Candidate>) -> Option<Token>;

    /// The text goes on with this token, which `apply`, if it was asked, did not forbid.
    fn accept(&mut self, token: Token);
}

/// Which step, with its parameters in their ranges.
#[derive(Clone, Debug, PartialEq)]
pub enum StageSpec {
    /// Forbids what a grammar in llama.cpp's notation (GBNF) does not allow, from its rule `root`,
    /// and an end before the grammar is complete.
    Grammar(String),
    /// Makes tokens less likely that would repeat what was said before ("don't repeat yourself").
    Dry(Dry),
    /// Draws so that the text is about equally surprising throughout; by this seed.
    Mirostat(Mirostat, u32),
}

/// How DRY works, in llama.cpp's terms: a token that would make a repetition of n tokens longer
/// loses `multiplier` × `base`^(n − `allowed_length`) of its logit.
#[derive(Clone, Debug, PartialEq)]
pub struct Dry {
    /// The strength; above 0.
    pub multiplier: f32,
    /// How much worse each further token is; default 1.75.
    pub base: f32,
    /// Tokens that may be repeated freely; default 2.
    pub allowed_length: u32,
    /// How many of the last tokens of prompt and answer count; default 1024.
    pub penalty_last_n: u32,
    /// Strings across which nothing counts as a repetition; default a newline, `:`, `"` and `*`.
    pub sequence_breakers: Vec<String>,
}

impl Default for Dry {
    fn default() -> Self {
        Self {
            multiplier: 0.8,
            base: 1.75,
            allowed_length: 2,
            penalty_last_n: 1024,
            sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).into(),
        }
    }
}

/// How mirostat works (Basu et al. 2021, <https://arxiv.org/abs/2007.14966>). It stands in for
/// top-k, top-p and min-p.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirostat {
    /// 1 or 2, the algorithm's version.
    pub version: u8,
    /// The surprise per token that it aims at, in bits; default 5.
    pub tau: f32,
    /// How fast it learns; default 0.1.
    pub eta: f32,
}

impl Default for Mirostat {
    fn default() -> Self {
        Self { version: 2, tau: 5.0, eta: 0.1 }
    }
}
