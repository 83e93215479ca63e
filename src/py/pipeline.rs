//! Events of pipelines, from Python: into tables, or into a buffer that is sent to another process.

#![allow(clippy::needless_pass_by_value)] // arguments of Python are extracted by value

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::facts::Text;
use super::globals;
use crate::clock::{Clock, MonotonicClock, Nanos};
use crate::error::{Error, Result};
use crate::llm::Recorder;
use crate::llm::pipeline::{
    Ended, Event, Kind, Limits, NUMBER_LIMIT, OPEN_LIMIT, OUTBOX_LIMIT_MAX, Outbox, Outcome,
    Pipeline, PipelineObserver, RECENT_LIMIT, Refused, StageRow, TransferRow, Work, clock_of,
};

/// Characters that are shown of what was said instead of a number.
const MAX_SHOWN: usize = 100;

/// A whole number from 0, or what was said instead of one.
pub(super) enum Whole {
    Number(u64),
    Other(String),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Whole {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(object.extract().map_or_else(|_: PyErr| Self::Other(shown(&object)), Self::Number))
    }
}

fn shown(object: &Bound<'_, PyAny>) -> String {
    let text = object.repr().map_or_else(|_| "no number".into(), |text| text.to_string());
    text.chars().take(MAX_SHOWN).collect()
}

/// The number of an argument.
fn whole(name: &str, given: Option<Whole>, default: u64) -> std::result::Result<u64, Refused> {
    match given {
        None => Ok(default),
        Some(Whole::Number(number)) => Ok(number),
        Some(Whole::Other(said)) => {
            let why =
                format!("{name} is {said}; it must be a whole number from 0 to {NUMBER_LIMIT}");
            Err(Refused { reason: "invalid_value", why })
        }
    }
}

/// A limit without a sign; how great it may be is the core's to say.
fn limit(name: &str, value: Option<i64>, default: usize, most: usize) -> Result<usize> {
    let Some(value) = value else { return Ok(default) };
    usize::try_from(value)
        .map_err(|_| Error::InvalidArgument(format!("{name} is {value}; it must be 1 to {most}")))
}

/// This machine, as the number of its monotonic clock since its last start.
fn machine(py: Python<'_>) -> PyResult<u64> {
    static MACHINE: OnceLock<u64> = OnceLock::new();
    if let Some(machine) = MACHINE.get() {
        return Ok(*machine);
    }
    let name = match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(boot) => boot,
        Err(_) => py.import("platform")?.call_method0("node")?.extract()?,
    };
    Ok(*MACHINE.get_or_init(|| clock_of(name.trim())))
}

/// What the recorder's clock is behind Python's `time.monotonic_ns`, which is the machine's.
fn offset(py: Python<'_>) -> PyResult<Nanos> {
    static OFFSET: OnceLock<Nanos> = OnceLock::new();
    if let Some(offset) = OFFSET.get() {
        return Ok(*offset);
    }
    let theirs: Nanos = py.import("time")?.call_method0("monotonic_ns")?.extract()?;
    Ok(*OFFSET.get_or_init(|| theirs.saturating_sub(MonotonicClock.now())))
}

/// A number that no other process has.
fn source() -> u64 {
    ahash::RandomState::new().hash_one((std::process::id(), MonotonicClock.now())) >> 11
}

/// Where events go.
#[derive(Debug)]
enum Sink {
    Tables(Box<PipelineObserver>),
    Buffer(Mutex<(u32, Outbox)>),
}

type StageFigures = (String, u64, u64, u64, u64, u64, u64, u64);
type TransferFigures = (String, String, u128, u128, u128, u128);
type RequestFigures = (String, u64, u128, u128, u128, Vec<StageFigures>, Vec<TransferFigures>);
type OverallFigures = (u64, u64, u128, Vec<(String, u64)>);

/// What `ryot_metrics.pipeline`'s classes have in common.
///
/// Its calls never raise: an event that cannot be taken is dropped, counted in
/// `ryot_metrics_dropped_total`, and named in the log with the next page. Numbers are whole; times
/// are nanoseconds, instants those of `time.monotonic_ns`.
///
/// Args:
///     stages: The names of the stages; None for a buffer.
///     model: The label `model`.
///     recent: The most requests with tables; by default, that of the settings, as the next two.
///     max_open: The most open requests.
///     max_buffered: The most events in the buffer.
///     record: Whether the families `ryot_pipeline_*` are written.
///
/// Raises:
///     ValueError: With the value and its limit.
#[pyclass(frozen, subclass, name = "PipelineCalls", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyPipeline {
    recorder: Arc<Recorder>,
    sink: Sink,
    machine: u64,
    offset: Nanos,
}

impl PyPipeline {
    fn now(&self) -> Nanos {
        self.recorder.clock().now() + self.offset
    }

    /// Takes an event, or counts why there is none.
    fn tell(
        &self,
        request: &Text,
        at: Option<Whole>,
        kind: impl FnOnce() -> std::result::Result<Kind<'static>, Refused>,
    ) {
        let at = at.map_or_else(|| Ok(self.now()), |at| whole("at", Some(at), 0));
        match at.and_then(|at| Ok((at, kind()?))) {
            Ok((at, kind)) => self.take(request, at, kind),
            Err(refused) => self.recorder.drop_event(&refused),
        }
    }

    fn take(&self, request: &Text, at: Nanos, kind: Kind<'_>) {
        let request = Cow::Borrowed(request.as_str());
        let event = Event { request, at, clock: self.machine, origin: None, kind };
        match &self.sink {
            Sink::Tables(observer) => {
                observer.observe(&event);
            }
            Sink::Buffer(buffer) => self.buffer(buffer, event),
        }
    }

    fn buffer(&self, buffer: &Mutex<(u32, Outbox)>, event: Event<'_>) {
        if let Err(refused) = event.check() {
            return self.recorder.drop_event(&refused);
        }
        let mut buffer = buffer.lock();
        let process = std::process::id();
        if buffer.0 != process {
            buffer.0 = process;
            buffer.1.restart(source());
        }
        if let Some(request) = buffer.1.push(event.into_owned()) {
            let why = format!("an event of {request:?} was the oldest of max_buffered events");
            self.recorder.drop_event(&Refused { reason: "pipeline_full", why });
        }
    }

    fn observer(&self) -> Option<&PipelineObserver> {
        if let Sink::Tables(observer) = &self.sink { Some(observer) } else { None }
    }
}

#[pymethods]
impl PyPipeline {
    #[new]
    #[pyo3(signature = (
        stages=None, *, model="default".into(), recent=None, max_open=None, max_buffered=None,
        record=true
    ))]
    fn new(
        py: Python<'_>,
        stages: Option<Vec<String>>,
        model: Cow<'_, str>,
        recent: Option<i64>,
        max_open: Option<i64>,
        max_buffered: Option<i64>,
        record: bool,
    ) -> PyResult<Self> {
        let recorder = globals::recorder().clone();
        let settings = globals::usual().settings();
        let usual = Arc::ptr_eq(&recorder, globals::usual());
        let make = || -> Result<Sink> {
            let Some(stages) = stages else {
                let default = settings.pipeline_max_buffered;
                let limit = limit("max_buffered", max_buffered, default, OUTBOX_LIMIT_MAX)?;
                let outbox = Outbox::new(source(), limit)?;
                return Ok(Sink::Buffer(Mutex::new((std::process::id(), outbox))));
            };
            let pipeline = Pipeline::new(
                &stages,
                Limits {
                    recent: limit("recent", recent, settings.pipeline.recent, RECENT_LIMIT)?,
                    open: limit("max_open", max_open, settings.pipeline.open, OPEN_LIMIT)?,
                },
            )?;
            let observer = PipelineObserver::new(recorder.clone(), &model, pipeline, record);
            Ok(Sink::Tables(Box::new(observer)))
        };
        let sink = make()?;
        let offset = if usual { offset(py)? } else { 0 };
        Ok(Self { sink, recorder, machine: machine(py)?, offset })
    }

    /// A request came.
    ///
    /// Args:
    ///     request_id: Its name, which no other request of the pipeline has; 256 bytes at most.
    ///     at: When; now by default.
    #[pyo3(signature = (request_id, at=None))]
    fn request_started(&self, request_id: Text, at: Option<Whole>) {
        self.tell(&request_id, at, || Ok(Kind::RequestStarted));
    }

    /// A stage began to work on a request.
    ///
    /// Args:
    ///     request_id: The request.
    ///     stage: The stage.
    ///     visit: How often the stage worked on it before.
    ///     at: When; now by default.
    #[pyo3(signature = (request_id, stage, *, visit=None, at=None))]
    fn stage_started(
        &self,
        request_id: Text,
        stage: Text,
        visit: Option<Whole>,
        at: Option<Whole>,
    ) {
        self.tell(&request_id, at, || {
            let visit = whole("visit", visit, 0)?;
            Ok(Kind::StageStarted { stage: stage.into_cow(), visit })
        });
    }

    /// A stage has done its work on a request.
    ///
    /// Args:
    ///     request_id: The request.
    ///     stage: The stage.
    ///     num_tokens_in: Tokens that went in.
    ///     num_tokens_out: Tokens that came out.
    ///     batch_id: The number of the batch that it was part of.
    ///     batch_size: Requests in that batch.
    ///     preprocess_ns: The part of its time that was preparation.
    ///     visit: How often the stage worked on it before.
    ///     at: When; now by default.
    #[pyo3(signature = (
        request_id, stage, *, num_tokens_in=None, num_tokens_out=None, batch_id=None,
        batch_size=None, preprocess_ns=None, visit=None, at=None
    ))]
    #[allow(clippy::too_many_arguments)] // one for each field of the table
    fn stage_finished(
        &self,
        request_id: Text,
        stage: Text,
        num_tokens_in: Option<Whole>,
        num_tokens_out: Option<Whole>,
        batch_id: Option<Whole>,
        batch_size: Option<Whole>,
        preprocess_ns: Option<Whole>,
        visit: Option<Whole>,
        at: Option<Whole>,
    ) {
        self.tell(&request_id, at, || {
            let work = Work {
                batch_id: whole("batch_id", batch_id, 0)?,
                batch_size: whole("batch_size", batch_size, 1)?,
                num_tokens_in: whole("num_tokens_in", num_tokens_in, 0)?,
                num_tokens_out: whole("num_tokens_out", num_tokens_out, 0)?,
                preprocess_ns: whole("preprocess_ns", preprocess_ns, 0)?,
            };
            let visit = whole("visit", visit, 0)?;
            Ok(Kind::StageFinished { stage: stage.into_cow(), visit, work })
        });
    }

    /// A stage has sent something of a request, or a part of it, to another stage.
    ///
    /// Args:
    ///     request_id: The request.
    ///     from_stage: The stage that sent it.
    ///     to_stage: The stage that gets it.
    ///     size_bytes: Its size.
    ///     tx_ns: How long sending took.
    ///     at: When sending ended; now by default.
    #[pyo3(signature = (
        request_id, from_stage, to_stage, *, size_bytes=None, tx_ns=None, at=None
    ))]
    fn transfer_sent(
        &self,
        request_id: Text,
        from_stage: Text,
        to_stage: Text,
        size_bytes: Option<Whole>,
        tx_ns: Option<Whole>,
        at: Option<Whole>,
    ) {
        self.tell(&request_id, at, || {
            let size_bytes = whole("size_bytes", size_bytes, 0)?;
            let tx_ns = whole("tx_ns", tx_ns, 0)?;
            let (from_stage, to_stage) = (from_stage.into_cow(), to_stage.into_cow());
            Ok(Kind::TransferSent { from_stage, to_stage, size_bytes, tx_ns })
        });
    }

    /// A stage has received something of a request, or a part of it, and decoded it.
    ///
    /// Args:
    ///     request_id: The request.
    ///     from_stage: The stage that sent it.
    ///     to_stage: The stage that has it.
    ///     size_bytes: Its size; it counts if the sender said none.
    ///     rx_decode_ns: How long decoding took.
    ///     in_flight_ns: How long it was under way. By default, the time from `transfer_sent` to
    ///         the begin of decoding, if both were on one machine; else 0.
    ///     at: When decoding ended; now by default.
    #[pyo3(signature = (
        request_id, from_stage, to_stage, *, size_bytes=None, rx_decode_ns=None,
        in_flight_ns=None, at=None
    ))]
    #[allow(clippy::too_many_arguments)] // one for each field of the table
    fn transfer_received(
        &self,
        request_id: Text,
        from_stage: Text,
        to_stage: Text,
        size_bytes: Option<Whole>,
        rx_decode_ns: Option<Whole>,
        in_flight_ns: Option<Whole>,
        at: Option<Whole>,
    ) {
        self.tell(&request_id, at, || {
            let size_bytes = whole("size_bytes", size_bytes, 0)?;
            let rx_decode_ns = whole("rx_decode_ns", rx_decode_ns, 0)?;
            let in_flight_ns =
                in_flight_ns.map(|given| whole("in_flight_ns", Some(given), 0)).transpose()?;
            let (from_stage, to_stage) = (from_stage.into_cow(), to_stage.into_cow());
            Ok(Kind::TransferReceived {
                from_stage,
                to_stage,
                size_bytes,
                rx_decode_ns,
                in_flight_ns,
            })
        });
    }

    /// A request ended; what is said of it later is dropped.
    ///
    /// Args:
    ///     request_id: The request.
    ///     reason: `completed`, or why it failed: `client_abort`, `client_disconnect`,
    ///         `stage_error` or `unknown`, which stands for any other reason.
    ///     at: When; now by default.
    #[pyo3(signature = (request_id, reason=None, at=None))]
    fn request_finished(&self, request_id: Text, reason: Option<Text>, at: Option<Whole>) {
        let reason = reason.map_or(Outcome::Completed, |reason| Outcome::parse(reason.as_str()));
        self.tell(&request_id, at, || Ok(Kind::RequestFinished { reason }));
    }

    /// How many requests are open; 0 for a buffer.
    #[getter]
    fn open_requests(&self) -> usize {
        self.observer().map_or(0, |observer| observer.pipeline().open())
    }

    /// Takes lines of JSON; how many changed something.
    fn _feed(&self, lines: &str) -> usize {
        self.observer().map_or(0, |observer| observer.feed(lines))
    }

    /// Takes the events of one request, or all, out of the buffer.
    #[pyo3(signature = (request_id=None))]
    fn _lines(&self, request_id: Option<Text>) -> String {
        let Sink::Buffer(buffer) = &self.sink else { return String::new() };
        buffer.lock().1.take(request_id.as_ref().map(Text::as_str))
    }

    /// The overall figures and those of the last requests, in whole units; with `reset`, they begin
    /// anew.
    fn _figures(&self, reset: bool) -> (OverallFigures, Vec<RequestFigures>) {
        let Some(observer) = self.observer() else { return Default::default() };
        let mut pipeline = observer.pipeline();
        let overall = pipeline.overall();
        let walls = overall.stage_walls(pipeline.stages());
        let walls = walls.into_iter().map(|(stage, wall)| (stage.into(), wall)).collect();
        let overall = (overall.requests, overall.wall(), overall.tokens, walls);
        let requests = pipeline.recent().map(request_figures).collect();
        if reset {
            pipeline.reset();
        }
        (overall, requests)
    }
}

fn request_figures(ended: &Ended) -> RequestFigures {
    let stage = |row: &StageRow| {
        let StageRow { stage, visit, work, .. } = row;
        let Work { batch_id, batch_size, num_tokens_in, num_tokens_out, preprocess_ns } = *work;
        let (stage, time) = (stage.to_string(), row.time());
        (stage, *visit, batch_id, batch_size, num_tokens_in, num_tokens_out, preprocess_ns, time)
    };
    let transfer = |row: &TransferRow| {
        let (from, to) = (row.from_stage.to_string(), row.to_stage.to_string());
        (from, to, row.size_bytes, row.tx, row.rx_decode, row.in_flight)
    };
    (
        ended.request.to_string(),
        ended.time(),
        ended.tokens(),
        ended.transfer_time(),
        ended.transfer_bytes(),
        ended.stages.iter().map(stage).collect(),
        ended.transfers.iter().map(transfer).collect(),
    )
}
