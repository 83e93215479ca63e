//! `ryot_metrics.SamplingParams`.

use std::collections::BTreeMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::engine_config::size;
use crate::backend::{Dry, Mirostat, Token};
use crate::engine::{SamplingParams, json_schema_grammar};
use crate::error::Result;

/// How an answer is drawn and when it ends. All arguments are keywords.
///
/// Args:
///     max_tokens: The most tokens in the answer. Default 16; None for as many as fit: an equal
///         share of the context, or 256 if that is more.
///     temperature: 0 always takes the likeliest token. Default 1.0.
///     top_k: Keeps the k likeliest tokens; 0, the default, or -1 keeps all.
///     top_p: Keeps the likeliest tokens whose probabilities reach this sum. Default 1.0.
///     min_p: Keeps tokens at least this likely relative to the likeliest. Default 0.0.
///     seed: Makes the draws repeatable. Default None.
///     stop: A string, or up to 16, that end the answer and are not part of it. Default None.
///     repetition_penalty: Above 1 makes tokens of the last 64, of prompt and answer, less likely,
///         as in llama.cpp. Default 1.0.
///     ignore_eos: Goes on after the model's own end. Default False.
///     presence_penalty: Taken from the logit of each token that is in the answer, -2 to 2, as in
///         OpenAI's API and vLLM. Default 0.0.
///     frequency_penalty: Taken from a token's logit for each time it is in the answer, -2 to 2.
///         Default 0.0.
///     logit_bias: What is added to the logits of which tokens, -100 to 100, up to 1024 tokens;
///         -100 practically forbids. Default None.
///     logprobs: Reports the log-probability of each token, and this many of the likeliest, 0 to
///         20. They are the model's own, before bias, penalties and temperature, as vLLM's are.
///         Default None, off.
///     grammar: What the answer must be, in llama.cpp's notation (GBNF), from its rule `root`.
///         Default None, anything. An answer that reaches `max_tokens` is cut off all the same.
///     json_schema: A JSON schema, as a dict or as text, that the answer's JSON must fit, instead
///         of a grammar; `{"type": "object"}` for any object. Understood are `type`, `enum`,
///         `const`, `properties`, `required`, `additionalProperties`, `items`, `prefixItems`,
///         `minItems`, `maxItems`, `minLength`, `maxLength`, `minimum` 0, `exclusiveMinimum` 0 of
///         integers, `format` (date, time, date-time, uuid), `anyOf`, `oneOf` (read as `anyOf`),
///         `allOf` of one schema, and `$ref` within the schema; another keyword that asks for
///         something is refused by name. Default None.
///     mirostat: 1 or 2, the version of mirostat that draws instead of `top_k`, `top_p` and
///         `min_p`; 0, the default, for none. At temperature 0 without effect.
///     mirostat_tau: The surprise per token that mirostat aims at, in bits. Default 5.0.
///     mirostat_eta: How fast mirostat learns. Default 0.1.
///     dry_multiplier: The strength of DRY: a token that makes a repetition of n tokens longer
///         loses `dry_multiplier * dry_base ** (n - dry_allowed_length)` of its logit. Default
///         0.0, off; 0.8 is usual.
///     dry_base: How much worse each further token of a repetition is. Default 1.75.
///     dry_allowed_length: Tokens that may be repeated freely. Default 2.
///     dry_penalty_last_n: How many of the last tokens, of prompt and answer, DRY looks at. Default
///         1024.
///     dry_sequence_breakers: Strings across which DRY sees no repetition. Default a newline,
///         `:`, `"` and `*`.
///
/// Raises:
///     ValueError: If a value is outside its range; the text names value and range.
///
/// Example:
///     >>> from ryot_metrics import SamplingParams
///     >>> SamplingParams(max_tokens=5, temperature=0.0).max_tokens
///     5
#[pyclass(frozen, name = "SamplingParams", module = "ryot_metrics")]
#[derive(Clone, Debug)]
pub(super) struct PySamplingParams(pub(super) SamplingParams);

#[derive(FromPyObject)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

impl From<Stop> for Vec<String> {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::One(text) => vec![text],
            Stop::Many(texts) => texts,
        }
    }
}

fn count(field: &str, value: Option<i64>) -> Result<Option<usize>> {
    value.map(|count| size(field, Some(count), 0)).transpose()
}

/// A grammar as it is, or that of a JSON schema: a dict, or its text.
fn either(
    grammar: Option<String>,
    json_schema: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<String>> {
    let Some(schema) = json_schema else { return Ok(grammar) };
    if grammar.is_some() {
        return Err(PyValueError::new_err("grammar and json_schema are given; it must be one"));
    }
    let text: String = match schema.extract() {
        Ok(text) => text,
        Err(_) => schema.py().import("json")?.call_method1("dumps", (schema,))?.extract()?,
    };
    Ok(Some(json_schema_grammar(&text)?))
}

#[pymethods]
impl PySamplingParams {
    #[new]
    #[pyo3(signature = (
        *, max_tokens=Some(16), temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=None,
        stop=None, repetition_penalty=1.0, ignore_eos=false, presence_penalty=0.0,
        frequency_penalty=0.0, logit_bias=None, logprobs=None, grammar=None, json_schema=None, mirostat=0,
        mirostat_tau=5.0, mirostat_eta=0.1, dry_multiplier=0.0, dry_base=1.75,
        dry_allowed_length=2, dry_penalty_last_n=1024, dry_sequence_breakers=None
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn new(
        max_tokens: Option<i64>,
        temperature: f32,
        top_k: i32,
        top_p: f32,
        min_p: f32,
        seed: Option<i64>,
        stop: Option<Stop>,
        repetition_penalty: f32,
        ignore_eos: bool,
        presence_penalty: f32,
        frequency_penalty: f32,
        logit_bias: Option<BTreeMap<Token, f32>>,
        logprobs: Option<i64>,
        grammar: Option<String>,
        json_schema: Option<&Bound<'_, PyAny>>,
        mirostat: u8,
        mirostat_tau: f32,
        mirostat_eta: f32,
        dry_multiplier: f32,
        dry_base: f32,
        dry_allowed_length: u32,
        dry_penalty_last_n: u32,
        dry_sequence_breakers: Option<Vec<String>>,
    ) -> PyResult<Self> {
        let dry = Dry {
            multiplier: dry_multiplier,
            base: dry_base,
            allowed_length: dry_allowed_length,
            penalty_last_n: dry_penalty_last_n,
            sequence_breakers: dry_sequence_breakers
                .unwrap_or_else(|| Dry::default().sequence_breakers),
        };
        let mirostat = Mirostat { version: mirostat, tau: mirostat_tau, eta: mirostat_eta };
        let params = SamplingParams {
            max_tokens: count("max_tokens", max_tokens)?,
            temperature,
            top_k,
            top_p,
            min_p,
            seed: seed.map(i64::cast_unsigned),
            stop: stop.map(Vec::from).unwrap_or_default(),
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            logit_bias: logit_bias.into_iter().flatten().collect(),
            logprobs: count("logprobs", logprobs)?,
            grammar: either(grammar, json_schema)?,
            mirostat: (mirostat.version != 0).then_some(mirostat),
            dry: (dry.multiplier != 0.0).then_some(dry),
            ignore_eos,
        };
        params.validate()?;
        Ok(Self(params))
    }

    /// The parameters of one of several answers to a prompt.
    ///
    /// Args:
    ///     index: Which answer, from 0.
    ///
    /// Returns:
    ///     The same, with `index` added to the seed if there is one, so that the answers differ.
    fn for_answer(&self, index: u32) -> Self {
        let seed = self.0.seed.map(|seed| seed.wrapping_add(u64::from(index)));
        Self(SamplingParams { seed, ..self.0.clone() })
    }

    #[getter]
    fn max_tokens(&self) -> Option<usize> {
        self.0.max_tokens
    }

    #[getter]
    fn temperature(&self) -> f32 {
        self.0.temperature
    }

    #[getter]
    fn top_k(&self) -> i32 {
        self.0.top_k
    }

    #[getter]
    fn top_p(&self) -> f32 {
        self.0.top_p
    }

    #[getter]
    fn min_p(&self) -> f32 {
        self.0.min_p
    }

    #[getter]
    fn seed(&self) -> Option<i64> {
        self.0.seed.map(u64::cast_signed)
    }

    #[getter]
    fn stop(&self) -> Vec<String> {
        self.0.stop.clone()
    }

    #[getter]
    fn repetition_penalty(&self) -> f32 {
        self.0.repetition_penalty
    }

    #[getter]
    fn ignore_eos(&self) -> bool {
        self.0.ignore_eos
    }

    #[getter]
    fn presence_penalty(&self) -> f32 {
        self.0.presence_penalty
    }

    #[getter]
    fn frequency_penalty(&self) -> f32 {
        self.0.frequency_penalty
    }

    #[getter]
    fn logit_bias(&self) -> BTreeMap<Token, f32> {
        self.0.logit_bias.iter().copied().collect()
    }

    #[getter]
    fn logprobs(&self) -> Option<usize> {
        self.0.logprobs
    }

    #[getter]
    fn grammar(&self) -> Option<&str> {
        self.0.grammar.as_deref()
    }

    #[getter]
    fn mirostat(&self) -> u8 {
        self.0.mirostat.map_or(0, |mirostat| mirostat.version)
    }

    #[getter]
    fn dry_multiplier(&self) -> f32 {
        self.0.dry.as_ref().map_or(0.0, |dry| dry.multiplier)
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}
