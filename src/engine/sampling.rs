//! How an answer is drawn and when it ends, as a caller states it.
//!
//! Must not know: logits. What draws by these parameters is [`super::sampler`].

use crate::backend::{Dry, Mirostat, Token};
use crate::engine::gbnf::check_grammar;
use crate::error::{Error, Result};

/// The most stop strings that a request may name.
pub const MAX_STOPS: usize = 16;
/// The most bytes in a stop string.
pub const MAX_STOP_BYTES: usize = 1024;
/// The most tokens that a request may give a logit bias.
pub const MAX_LOGIT_BIASES: usize = 1024;
/// The most tokens whose log-probabilities a request may ask for beside the drawn one.
pub const MAX_LOGPROBS: usize = 20;
/// The most tokens that DRY looks back at.
pub const MAX_DRY_WINDOW: u32 = 65_536;
/// The most bytes in a string that bounds DRY's repetitions; llama.cpp reads no more.
pub const MAX_BREAKER_BYTES: usize = 40;

/// The parameters of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// The most tokens in the answer; default: an equal share of the context, or 256 if that is
    /// more. What the context cannot hold is cut off.
    pub max_tokens: Option<usize>,
    /// 0 always takes the likeliest token; larger is more random. Default 1.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0, the default, or −1 keeps all.
    pub top_k: i32,
    /// Keeps the likeliest tokens whose probabilities reach this sum; default 1, all.
    pub top_p: f32,
    /// Keeps tokens at least this likely relative to the likeliest; default 0, all.
    pub min_p: f32,
    /// Makes the draws repeatable; default: new ones each time.
    pub seed: Option<u64>,
    /// Strings that end the answer and are not part of it; at most [`MAX_STOPS`].
    pub stop: Vec<String>,
    /// Above 1 makes tokens of the last 64, of prompt and answer, less likely, as in llama.cpp;
    /// default 1.
    pub repetition_penalty: f32,
    /// Taken from the logit of each token that is in the answer, from −2 to 2, as in `OpenAI`'s
    /// API; default 0.
    pub presence_penalty: f32,
    /// Taken from a token's logit once for each time it is in the answer, from −2 to 2, as in
    /// `OpenAI`'s API; default 0.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens before all else, from −100 to 100; each token once, at
    /// most [`MAX_LOGIT_BIASES`].
    pub logit_bias: Vec<(Token, f32)>,
    /// How many of the likeliest tokens to report with each token, with the logarithms of their
    /// probabilities and its own; at most [`MAX_LOGPROBS`], default none of this. They are the
    /// model's own, before bias, penalties and temperature, as vLLM's are by default.
    pub logprobs: Option<usize>,
    /// What the answer's text must be, in llama.cpp's notation (GBNF), from its rule `root`;
    /// default anything. [`json_schema_grammar`](super::json_schema_grammar) makes one of a JSON
    /// schema. An answer that reaches `max_tokens` is cut off all the same.
    pub grammar: Option<String>,
    /// Draws by mirostat instead of top-k, top-p and min-p; at temperature 0 without effect.
    pub mirostat: Option<Mirostat>,
    /// Makes repetitions less likely.
    pub dry: Option<Dry>,
    /// Goes on after the model's own end.
    pub ignore_eos: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            max_tokens: None,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: None,
            stop: Vec::new(),
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            logprobs: None,
            grammar: None,
            mirostat: None,
            dry: None,
            ignore_eos: false,
        }
    }
}

impl SamplingParams {
    /// The likeliest token each time.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every field.
    ///
    /// ```
    /// use ryot_metrics::engine::SamplingParams;
    /// let error = SamplingParams { top_p: 1.5, ..Default::default() }.validate().unwrap_err();
    /// assert_eq!(error.to_string(), "top_p is 1.5; it must be above 0 and at most 1");
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with the field, its value and its range.
    pub fn validate(&self) -> Result<()> {
        let Self { temperature, top_k, top_p, min_p, .. } = *self;
        check(self.max_tokens != Some(0), "max_tokens", 0, "at least 1")?;
        check((0.0..=100.0).contains(&temperature), "temperature", temperature, "from 0 to 100")?;
        check(top_k >= -1, "top_k", top_k, "at least 1, or 0 or -1 for all")?;
        check(top_p > 0.0 && top_p <= 1.0, "top_p", top_p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&min_p), "min_p", min_p, "from 0 to 1")?;
        let logprobs = self.logprobs.unwrap_or(0);
        check(logprobs <= MAX_LOGPROBS, "logprobs", logprobs, "from 0 to 20")?;
        self.validate_penalties()?;
        self.validate_stages()?;
        self.validate_stops()
    }

    fn validate_penalties(&self) -> Result<()> {
        let repetition = self.repetition_penalty;
        let range = "above 0 and at most 100";
        check(repetition > 0.0 && repetition <= 100.0, "repetition_penalty", repetition, range)?;
        let penalties = [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ];
        for (field, penalty) in penalties {
            check((-2.0..=2.0).contains(&penalty), field, penalty, "from -2 to 2")?;
        }
        let count = self.logit_bias.len();
        check(count <= MAX_LOGIT_BIASES, "the number of logit biases", count, "at most 1024")?;
        for &(token, bias) in &self.logit_bias {
            let field = format!("the logit bias of token {token}");
            check((-100.0..=100.0).contains(&bias), &field, bias, "from -100 to 100")?;
        }
        Ok(())
    }

    fn validate_stages(&self) -> Result<()> {
        if let Some(Mirostat { version, tau, eta }) = self.mirostat {
            check((1..=2).contains(&version), "mirostat", version, "0, 1 or 2")?;
            check(tau > 0.0 && tau <= 100.0, "mirostat_tau", tau, "above 0 and at most 100")?;
            check((0.0..=1.0).contains(&eta), "mirostat_eta", eta, "from 0 to 1")?;
        }
        if let Some(Dry { multiplier, base, penalty_last_n, sequence_breakers, .. }) = &self.dry {
            check(
                *multiplier > 0.0 && *multiplier <= 100.0,
                "dry_multiplier",
                multiplier,
                "from 0 to 100",
            )?;
            check((1.0..=10.0).contains(base), "dry_base", base, "from 1 to 10")?;
            let most = MAX_DRY_WINDOW;
            let fits = (1..=most).contains(penalty_last_n);
            check(fits, "dry_penalty_last_n", penalty_last_n, &format!("from 1 to {most}"))?;
            let count = sequence_breakers.len();
            check(count <= MAX_STOPS, "the number of DRY sequence breakers", count, "at most 16")?;
            for length in sequence_breakers.iter().map(String::len) {
                let fits = (1..=MAX_BREAKER_BYTES).contains(&length);
                check(fits, "the length of a DRY sequence breaker", length, "from 1 to 40 bytes")?;
            }
        }
        let Some(grammar) = &self.grammar else { return Ok(()) };
        check_grammar(grammar)?;
        let both = self.ignore_eos;
        check(!both, "ignore_eos", true, "false with a grammar, which says where the answer ends")
    }

    fn validate_stops(&self) -> Result<()> {
        let count = self.stop.len();
        check(count <= MAX_STOPS, "the number of stop strings", count, "at most 16")?;
        for length in self.stop.iter().map(String::len) {
            let fits = (1..=MAX_STOP_BYTES).contains(&length);
            check(fits, "the length of a stop string", length, "from 1 to 1024 bytes")?;
        }
        Ok(())
    }

    /// Checks what depends on the vocabulary.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a logit bias of a token that is not in it.
    pub(super) fn validate_for(&self, vocab_size: usize) -> Result<()> {
        let known = 0..vocab_size as Token;
        let unknown = self.logit_bias.iter().find(|(token, _)| !known.contains(token));
        let range = format!("from 0 to {}", known.end - 1);
        unknown
            .map_or(Ok(()), |(token, _)| check(false, "the token of a logit bias", token, &range))
    }
}

fn check(ok: bool, field: &str, value: impl std::fmt::Display, range: &str) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("{field} is {value}; it must be {range}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut SamplingParams)) -> String {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate().map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn each_refusal_names_value_and_range() {
        let nan = f32::NAN;
        assert_eq!(refusal(|_| ()), "accepted");
        assert_eq!(refusal(|p| p.top_k = -1), "accepted");
        assert_eq!(refusal(|p| p.max_tokens = Some(0)), "max_tokens is 0; it must be at least 1");
        assert_eq!(
            refusal(|p| p.temperature = nan),
            "temperature is NaN; it must be from 0 to 100"
        );
        assert_eq!(
            refusal(|p| p.temperature = -0.5),
            "temperature is -0.5; it must be from 0 to 100"
        );
        assert_eq!(
            refusal(|p| p.top_k = -2),
            "top_k is -2; it must be at least 1, or 0 or -1 for all"
        );
        assert_eq!(refusal(|p| p.top_p = 0.0), "top_p is 0; it must be above 0 and at most 1");
        assert_eq!(refusal(|p| p.min_p = nan), "min_p is NaN; it must be from 0 to 1");
        assert_eq!(
            refusal(|p| p.repetition_penalty = 0.0),
            "repetition_penalty is 0; it must be above 0 and at most 100"
        );
        assert_eq!(
            refusal(|p| p.presence_penalty = 2.5),
            "presence_penalty is 2.5; it must be from -2 to 2"
        );
        assert_eq!(
            refusal(|p| p.frequency_penalty = nan),
            "frequency_penalty is NaN; it must be from -2 to 2"
        );
        assert_eq!(
            refusal(|p| p.logit_bias = vec![(7, -101.0)]),
            "the logit bias of token 7 is -101; it must be from -100 to 100"
        );
        assert_eq!(
            refusal(|p| p.logit_bias = vec![(7, 1.0); 1025]),
            "the number of logit biases is 1025; it must be at most 1024"
        );
        assert_eq!(refusal(|p| p.logprobs = Some(21)), "logprobs is 21; it must be from 0 to 20");
        assert_eq!(
            refusal(|p| p.stop = vec![String::new()]),
            "the length of a stop string is 0; it must be from 1 to 1024 bytes"
        );
        assert_eq!(
            refusal(|p| p.stop = vec!["x".to_owned(); 17]),
            "the number of stop strings is 17; it must be at most 16"
        );
    }
}
