//! One request, for Python's decorators and contexts: they say what happens, this records it.

use std::sync::Arc;

use pyo3::prelude::*;

use super::facts::Number;
use super::globals;
use crate::clock::Nanos;
use crate::error::{Error, ErrorKind};
use crate::event::Mode;
use crate::llm::{
    CATALOGUE, CostKind, CostModel, End, FLEET, Request, Row, Severity, Shape, Start, Status, Tier,
    VIEWS,
};

/// Characters that are shown of what was said instead of a number.
const MAX_SHOWN: usize = 100;

/// An open request; active from its construction until `finish`.
///
/// Args:
///     model: The label `model`.
///     endpoint: The label `endpoint`; empty for none.
///     mode: `standard`, `streaming` or `batch`.
///     batch_size: Sequences in the request's batch; 0 if unknown.
///
/// Raises:
///     ValueError: For another mode.
#[pyclass(frozen, name = "Request", module = "ryot_metrics")]
#[derive(Clone, Debug)]
pub(super) struct PyRequest {
    request: Arc<Request>,
    batch_size: usize,
}

type CatalogueRow = (String, &'static str, Vec<&'static str>, Vec<f64>, &'static str, Vec<String>);

/// Every family of the catalogue, views included: name as in the text format, type, labels,
/// buckets, help, and the names that its samples may have.
#[pyfunction]
pub(super) fn catalogue() -> Vec<CatalogueRow> {
    let stored = CATALOGUE.iter().chain(FLEET).map(|row| (*row, row.name));
    let views = VIEWS.iter().map(|view| {
        let labels = &["model"][..];
        (
            Row { name: view.name, help: view.help, labels, unshown: &[], shape: view.shape },
            view.name,
        )
    });
    let row = |(row, name): (Row, &str)| {
        let kind = row.shape.kind();
        let suffix = kind.page_suffix();
        let bounds =
            if let Shape::Histogram(bounds) = row.shape { bounds.to_vec() } else { vec![] };
        let suffixes = [""].into_iter().chain(kind.suffixes().iter().copied());
        let samples = suffixes.map(|suffix| format!("{name}{suffix}")).collect();
        let labels = row.labels.to_vec();
        (format!("{name}{suffix}"), kind.as_str(), labels, bounds, row.help, samples)
    };
    stored.chain(views).map(row).collect()
}

impl PyRequest {
    pub(super) fn open(model: &str, endpoint: &str, mode: Mode, batch_size: usize) -> Self {
        let request =
            globals::recorder().begin(Start { model, endpoint, mode, ..Start::default() });
        request.set_batch_size(batch_size);
        Self { request, batch_size }
    }

    /// A part of it; see `part`.
    pub(super) fn part_of(outer: &Self) -> Self {
        Self { request: outer.request.part(), batch_size: outer.batch_size }
    }

    /// The request, as the core shares it.
    pub(super) fn shared(&self) -> &Arc<Request> {
        &self.request
    }

    /// When it began, on its recorder's clock.
    pub(super) fn began(&self) -> Nanos {
        self.request.began()
    }

    /// The time on that clock.
    pub(super) fn now(&self) -> Nanos {
        self.request.now()
    }

    /// What was said as a number of tokens is none.
    pub(super) fn drop_count(&self, what: &str, value: &str) {
        let shown: String = value.chars().take(MAX_SHOWN).collect();
        self.request.drop_count(what, &shown);
    }

    pub(super) fn end(
        &self,
        status: Status,
        kind: Option<ErrorKind>,
        severity: Option<Severity>,
    ) -> Option<(u64, u64)> {
        let end = End { status, kind, severity, batch_size: self.batch_size };
        self.request.finish(self.request.now(), end).map(Into::into)
    }
}

/// The status with this name.
///
/// # Errors
/// `ValueError` for another one.
pub(super) fn status_of(name: &str) -> PyResult<Status> {
    Ok(Status::parse(name).ok_or_else(|| {
        let known = Status::ALL.map(Status::as_str).join(", ");
        Error::InvalidArgument(format!("status is {name:?}; it must be one of {known}"))
    })?)
}

/// The error type with this name; what has none of its own is an `inference_error`.
pub(super) fn kind_of(name: &str) -> ErrorKind {
    ErrorKind::parse(name).unwrap_or(ErrorKind::InferenceError)
}

#[pymethods]
impl PyRequest {
    #[new]
    #[pyo3(signature = (model, endpoint="", mode="standard", batch_size=0))]
    fn new(model: &str, endpoint: &str, mode: &str, batch_size: usize) -> PyResult<Self> {
        Ok(Self::open(model, endpoint, Mode::parse(mode)?, batch_size))
    }

    /// A part of it, as a request of its own would be: what it counts is counted in the whole, its
    /// time is that of the whole, and its end leaves no sample.
    fn part(&self) -> Self {
        Self::part_of(self)
    }

    /// The request that this one is part of, or None.
    #[getter]
    fn whole(&self) -> Option<Self> {
        let request = self.request.parent()?.clone();
        Some(Self { request, batch_size: self.batch_size })
    }

    /// The keys by which an engine's request names this one, and what it is part of, as its
    /// parents.
    #[getter]
    fn keys(&self) -> Vec<u64> {
        self.request.keys()
    }

    /// Whether it has ended.
    #[getter]
    fn finished(&self) -> bool {
        self.request.is_finished()
    }

    /// Tokens of the completion so far.
    #[getter]
    pub(super) fn token_count(&self) -> u64 {
        self.request.token_count()
    }

    /// It waits in a queue from now on.
    pub(super) fn queued(&self) {
        self.request.queued();
    }

    /// It left the queue.
    pub(super) fn scheduled(&self) {
        self.request.scheduled(self.request.now());
    }

    /// A token was produced now.
    pub(super) fn token(&self) {
        self.request.tokens(self.request.now(), 1);
    }

    /// Production goes on after the consumer's own time.
    pub(super) fn resumed(&self) {
        self.request.resumed(self.request.now());
    }

    /// Production gave an item, which is a token unless that was counted already.
    pub(super) fn item(&self) {
        self.request.produced(self.request.now(), 1);
    }

    /// Production gave an item of `count` tokens, unless they were counted already.
    fn produced(&self, count: u64) {
        self.request.produced(self.request.now(), count);
    }

    /// It turned out that the result is a stream.
    fn streams(&self) {
        self.request.streams();
    }

    /// Adds tokens without timing them.
    pub(super) fn add_tokens(&self, count: u64) {
        self.request.add_tokens(count);
    }

    /// The completion has this many tokens in all.
    pub(super) fn set_token_count(&self, count: u64) {
        self.request.set_token_count(count);
    }

    /// The prompt has this many tokens.
    pub(super) fn set_prompt_tokens(&self, count: usize) {
        self.request.set_prompt_tokens(count);
    }

    /// Whether the answer ended at its limit of tokens, and not by itself.
    pub(super) fn set_truncated(&self, truncated: bool) {
        self.request.set_truncated(truncated);
    }

    /// Records a time to first token that the caller measured.
    pub(super) fn set_ttft(&self, seconds: Number) {
        self.request.set_ttft(seconds.0);
    }

    /// Records an inter-token latency that the caller measured.
    pub(super) fn record_inter_token_latency(&self, seconds: Number) {
        self.request.record_inter_token_latency(seconds.0);
    }

    /// The label `model`.
    #[getter]
    fn model(&self) -> &str {
        self.request.model()
    }

    /// The end; a second call is ignored.
    ///
    /// Args:
    ///     status: `success`, `error`, `timeout`, `partial` or `cancelled`.
    ///     error_type: One of the catalogue's error types; others count as `inference_error`.
    ///     severity: `critical`, `warning` or `info`; as the error type has it by default.
    ///
    /// Returns:
    ///     None; or the tokens of prompt and completion, if only a callable of Python knows what
    ///     they cost (see `charge`).
    ///
    /// Raises:
    ///     ValueError: For another status.
    #[pyo3(signature = (status="success", error_type=None, severity=None))]
    fn finish(
        &self,
        status: &str,
        error_type: Option<&str>,
        severity: Option<&str>,
    ) -> PyResult<Option<(u64, u64)>> {
        let severity = severity.and_then(Severity::parse);
        Ok(self.end(status_of(status)?, error_type.map(kind_of), severity))
    }

    /// Adds to the cost of the model: amounts for prompt and completion in 10⁻¹² US dollars.
    fn charge(&self, prompt: u128, completion: u128) {
        self.request.charge([prompt, completion]);
    }
}

/// Counts a sample that could not be recorded as asked.
#[pyfunction]
pub(super) fn count_dropped(reason: &str) {
    globals::recorder().dropped(reason);
}

/// Sets what the tokens of a model cost, or that nobody knows.
///
/// Args:
///     model: The label `model`; `*` for every model that has no prices of its own.
///     kind: `fixed_rate`, `tiered` or `dynamic`; None for no prices.
///     prompt: Tiers by rising number of tokens: the last token of each (None: no last one), and
///         the price of a token in it in 10⁻¹² US dollars.
///     completion: The same for the completion.
///
/// Raises:
///     ValueError: For another kind.
#[pyfunction]
pub(super) fn set_prices(
    model: &str,
    kind: Option<&str>,
    prompt: Vec<(Option<u64>, u128)>,
    completion: Vec<(Option<u64>, u128)>,
) -> PyResult<()> {
    let tier = |(up_to, each): (Option<u64>, u128)| Tier { up_to: up_to.unwrap_or(u64::MAX), each };
    let tiers = |given: Vec<_>| given.into_iter().map(tier).collect();
    let parse = |kind: &str| {
        let known = CostKind::ALL.map(CostKind::as_str).join(", ");
        CostKind::parse(kind).ok_or_else(|| {
            Error::InvalidArgument(format!("kind is {kind:?}; it must be one of {known}"))
        })
    };
    let kind = kind.map(parse).transpose()?;
    let cost =
        kind.map(|kind| CostModel { kind, prompt: tiers(prompt), completion: tiers(completion) });
    globals::recorder().set_cost_model(model, cost);
    Ok(())
}
