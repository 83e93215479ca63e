//! One request, for Python's decorators and contexts: they say what happens, this records it.

use std::sync::Arc;

use pyo3::prelude::*;

use super::globals;
use crate::error::{Error, ErrorKind};
use crate::event::Mode;
use crate::llm::{CATALOGUE, Request, Row, Shape, Start, Status, VIEWS};

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
#[derive(Debug)]
pub(super) struct PyRequest {
    request: Arc<Request>,
    batch_size: usize,
}

type CatalogueRow = (String, &'static str, Vec<&'static str>, Vec<f64>, &'static str, Vec<String>);

/// Every family of the catalogue, views included: name as in the text format, type, labels,
/// buckets, help, and the names that its samples may have.
#[pyfunction]
pub(super) fn catalogue() -> Vec<CatalogueRow> {
    let stored = CATALOGUE.iter().map(|row| (*row, row.name));
    let views = VIEWS.iter().map(|view| {
        let labels = &["model"][..];
        (Row { name: view.name, help: view.help, labels, shape: view.shape }, view.name)
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

#[pymethods]
impl PyRequest {
    #[new]
    #[pyo3(signature = (model, endpoint="", mode="standard", batch_size=0))]
    fn new(model: &str, endpoint: &str, mode: &str, batch_size: usize) -> PyResult<Self> {
        let mode = Mode::parse(mode)?;
        let start =
            Start { model: model.into(), endpoint: endpoint.into(), mode, ..Start::default() };
        Ok(Self { request: globals::recorder().begin(start), batch_size })
    }

    /// The key by which an engine's request names this one as its parent.
    #[getter]
    fn key(&self) -> u64 {
        self.request.key()
    }

    /// Tokens of the completion so far.
    #[getter]
    fn token_count(&self) -> u64 {
        self.request.token_count()
    }

    /// It waits in a queue from now on.
    fn queued(&self) {
        self.request.queued();
    }

    /// It left the queue.
    fn scheduled(&self) {
        self.request.scheduled(self.request.now());
    }

    /// A token was produced now.
    fn token(&self) {
        self.request.tokens(self.request.now(), 1);
    }

    /// Production goes on after the consumer's own time.
    fn resumed(&self) {
        self.request.resumed(self.request.now());
    }

    /// Adds tokens without timing them.
    fn add_tokens(&self, count: u64) {
        self.request.add_tokens(count);
    }

    /// The completion has this many tokens in all.
    fn set_token_count(&self, count: u64) {
        self.request.set_token_count(count);
    }

    /// The prompt has this many tokens.
    fn set_prompt_tokens(&self, count: usize) {
        self.request.set_prompt_tokens(count);
    }

    /// Records a time to first token that the caller measured.
    fn set_ttft(&self, seconds: f64) {
        self.request.set_ttft(seconds);
    }

    /// Records an inter-token latency that the caller measured.
    fn record_inter_token_latency(&self, seconds: f64) {
        self.request.record_inter_token_latency(seconds);
    }

    /// The end; a second call is ignored.
    ///
    /// Args:
    ///     status: `success`, `error`, `timeout`, `partial` or `cancelled`.
    ///     error_type: One of the catalogue's error types; others count as `inference_error`.
    ///
    /// Raises:
    ///     ValueError: For another status.
    #[pyo3(signature = (status, error_type=None))]
    fn finish(&self, status: &str, error_type: Option<&str>) -> PyResult<()> {
        let status = Status::parse(status).ok_or_else(|| {
            let known = Status::ALL.map(Status::as_str).join(", ");
            Error::InvalidArgument(format!("status is {status:?}; it must be one of {known}"))
        })?;
        let kind =
            error_type.map(|name| ErrorKind::parse(name).unwrap_or(ErrorKind::InferenceError));
        self.request.finish(self.request.now(), status, kind, self.batch_size);
        Ok(())
    }
}
