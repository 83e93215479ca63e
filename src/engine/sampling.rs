//! How an answer is drawn and when it ends, as a caller states it.
//!
//! Must not know: logits. What draws by these parameters is [`super::sampler`].

use crate::error::{Error, Result};

/// The most stop strings that a request may name.
pub const MAX_STOPS: usize = 16;
/// The most bytes in a stop string.
pub const MAX_STOP_BYTES: usize = 1024;

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
    /// Above 1 makes tokens of the last 64 less likely; default 1.
    pub repetition_penalty: f32,
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
        let Self { temperature, top_k, top_p, min_p, repetition_penalty, .. } = *self;
        check(self.max_tokens != Some(0), "max_tokens", 0, "at least 1")?;
        check((0.0..=100.0).contains(&temperature), "temperature", temperature, "from 0 to 100")?;
        check(top_k >= -1, "top_k", top_k, "at least 1, or 0 or -1 for all")?;
        check(top_p > 0.0 && top_p <= 1.0, "top_p", top_p, "above 0 and at most 1")?;
        check((0.0..=1.0).contains(&min_p), "min_p", min_p, "from 0 to 1")?;
        check(
            repetition_penalty > 0.0 && repetition_penalty <= 100.0,
            "repetition_penalty",
            repetition_penalty,
            "above 0 and at most 100",
        )?;
        let count = self.stop.len();
        check(count <= MAX_STOPS, "the number of stop strings", count, "at most 16")?;
        let fits = |stop: &&String| !(1..=MAX_STOP_BYTES).contains(&stop.len());
        match self.stop.iter().find(fits) {
            Some(stop) => {
                check(false, "the length of a stop string", stop.len(), "from 1 to 1024 bytes")
            }
            None => Ok(()),
        }
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
            refusal(|p| p.stop = vec![String::new()]),
            "the length of a stop string is 0; it must be from 1 to 1024 bytes"
        );
        assert_eq!(
            refusal(|p| p.stop = vec!["x".to_owned(); 17]),
            "the number of stop strings is 17; it must be at most 16"
        );
    }
}
