//! From a pipeline's facts to samples of the families `ryot_pipeline_*`.
//!
//! Requests and stages at work are counted as they come and go; what a request took is recorded
//! once, when it ends, so that the page agrees with the tables whatever came in which order.

use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};

use super::event::{Event, Outcome};
use super::refused::Refused;
use super::tables::{Ended, StageRow, TransferRow};
use super::{Fact, Pipeline};
use crate::clock::{Nanos, seconds_between};
use crate::llm::catalogue::Name;
use crate::llm::recorder::{ModelSeries, Recorder};
use crate::metrics::Series;

/// A pipeline whose events are also recorded.
#[derive(Debug)]
pub struct PipelineObserver {
    pipeline: Mutex<Pipeline>,
    of: ModelSeries,
    /// False if only what was dropped is recorded.
    records: bool,
    /// By outcome.
    requests: OnceLock<[Arc<Series>; Outcome::ALL.len()]>,
}

impl PipelineObserver {
    /// A pipeline under the label `model`; with `records`, its families are written.
    pub fn new(recorder: Arc<Recorder>, model: &str, pipeline: Pipeline, records: bool) -> Self {
        let of = ModelSeries { recorder, model: model.into() };
        Self { pipeline: Mutex::new(pipeline), of, records, requests: OnceLock::new() }
    }

    /// Its figures.
    pub fn pipeline(&self) -> MutexGuard<'_, Pipeline> {
        self.pipeline.lock()
    }

    /// Takes an event; whether it changed something.
    pub fn observe(&self, event: &Event<'_>) -> bool {
        let fact = self.pipeline.lock().take(event);
        match fact {
            Ok(fact) => {
                self.record(event, fact);
                true
            }
            Err(refused) => {
                self.drop(&refused);
                false
            }
        }
    }

    /// Takes events as lines of JSON; how many changed something.
    pub fn feed(&self, lines: &str) -> usize {
        let events = lines.lines().filter(|line| !line.trim().is_empty());
        let taken = events.filter(|line| match Event::from_line(line) {
            Ok(event) => self.observe(&event),
            Err(refused) => {
                self.drop(&refused);
                false
            }
        });
        taken.count()
    }

    /// Counts an event that changed nothing.
    pub fn drop(&self, refused: &Refused) {
        self.of.recorder.drop_event(refused);
    }

    fn record(&self, event: &Event<'_>, fact: Fact) {
        match fact {
            Fact::Opened(dropped) => self.opened(dropped),
            Fact::Began => self.stage_at_work(event, 1.0),
            Fact::Done => self.stage_at_work(event, -1.0),
            Fact::Noted => {}
            Fact::Ended { ended, running, incomplete } => {
                for refused in &incomplete {
                    self.drop(refused);
                }
                self.left(&running);
                if self.records {
                    self.ended(&ended);
                }
            }
        }
    }

    fn opened(&self, dropped: Option<(Arc<str>, Vec<Box<str>>)>) {
        if self.records {
            self.requests(); // all outcomes at 0, so that the first one is an increase
            self.of.series(Name::PipelineActive).add(1.0);
        }
        if let Some((request, running)) = dropped {
            let why = format!("{request:?} was the oldest of max_open requests");
            self.drop(&Refused::full(why));
            self.left(&running);
        }
    }

    fn requests(&self) -> &[Arc<Series>; Outcome::ALL.len()] {
        let series = |outcome: Outcome| self.of.labelled(Name::PipelineRequests, outcome.as_str());
        self.requests.get_or_init(|| Outcome::ALL.map(series))
    }

    fn stage_at_work(&self, event: &Event<'_>, step: f64) {
        use super::Kind::{StageFinished, StageStarted};
        if let (true, StageStarted { stage, .. } | StageFinished { stage, .. }) =
            (self.records, &event.kind)
        {
            self.of.labelled(Name::PipelineStageActive, stage).add(step);
        }
    }

    /// A request is open no more.
    fn left(&self, running: &[Box<str>]) {
        if !self.records {
            return;
        }
        self.of.series(Name::PipelineActive).add(-1.0);
        for stage in running {
            self.of.labelled(Name::PipelineStageActive, stage).add(-1.0);
        }
    }

    fn ended(&self, ended: &Ended) {
        self.requests()[ended.outcome as usize].add(1.0);
        if ended.outcome == Outcome::Completed {
            let latency = seconds_between(ended.started, ended.finished);
            self.of.series(Name::PipelineLatency).observe(latency);
            self.of.series(Name::PipelineTokens).add(ended.tokens() as f64);
        }
        for row in &ended.stages {
            self.stage(row);
        }
        for row in &ended.transfers {
            self.transfer(row);
        }
    }

    fn stage(&self, row: &StageRow) {
        let (of, stage, work) = (&self.of, &*row.stage, &row.work);
        let tokens = |kind| of.with(Name::PipelineStageTokens, &[stage, kind]);
        tokens("prompt").add(work.num_tokens_in as f64);
        tokens("completion").add(work.num_tokens_out as f64);
        of.labelled(Name::PipelineStage, stage).observe(seconds(row.time()));
        let preprocess = seconds(work.preprocess_ns);
        of.labelled(Name::PipelinePreprocess, stage).observe(preprocess);
        of.labelled(Name::PipelineBatchSize, stage).observe(work.batch_size as f64);
    }

    fn transfer(&self, row: &TransferRow) {
        let labels = [&*row.from_stage, &*row.to_stage];
        let observe = |name, value: f64| self.of.with(name, &labels).observe(value);
        observe(Name::PipelineTransferSize, row.size_bytes as f64);
        observe(Name::PipelineTransferTx, row.tx as f64 / 1e9);
        observe(Name::PipelineTransferRx, row.rx_decode as f64 / 1e9);
        observe(Name::PipelineTransferInFlight, row.in_flight as f64 / 1e9);
    }
}

impl Recorder {
    /// Counts an event of a pipeline that changed nothing.
    pub fn drop_event(&self, refused: &Refused) {
        self.drop_sample(Name::PipelineRequests, refused.reason, format_args!("{}", refused.why));
    }
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}
