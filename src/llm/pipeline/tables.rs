//! The figures of requests that have ended, in whole nanoseconds, tokens and bytes, so that their
//! sums are exact: what a table shows of them is divided last.
//!
//! The sum rules: a request's tokens are those that went into the first stage and those that came
//! out of every stage; the time of its transfers is that of sending, decoding and being under way.

use super::event::{Outcome, Work};
use crate::clock::Nanos;

/// The most pairs of a stage and a machine whose wall time is kept.
pub const SPANS_LIMIT: usize = 256;

/// A request in a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageRow {
    /// The place of the stage in the pipeline; the greatest number if it was not named there.
    pub rank: usize,
    /// The stage.
    pub stage: Box<str>,
    /// How often the stage worked on the request before.
    pub visit: u64,
    /// What was done.
    pub work: Work,
    /// When it began, on the stage's clock.
    pub began: Nanos,
    /// When it was done.
    pub ended: Nanos,
    /// The stage's clock.
    pub clock: u64,
}

impl StageRow {
    /// How long it took, preparation included.
    pub fn time(&self) -> Nanos {
        self.ended.saturating_sub(self.began).max(self.work.preprocess_ns)
    }

    /// What it adds to the request's tokens.
    pub fn tokens(&self) -> u128 {
        let entering = if self.rank == 0 { self.work.num_tokens_in } else { 0 };
        u128::from(entering) + u128::from(self.work.num_tokens_out)
    }
}

/// What a request had transferred from one stage to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferRow {
    /// From this stage.
    pub from_stage: Box<str>,
    /// To this one.
    pub to_stage: Box<str>,
    /// Its size.
    pub size_bytes: u128,
    /// Time of sending.
    pub tx: u128,
    /// Time of decoding.
    pub rx_decode: u128,
    /// Time between the two.
    pub in_flight: u128,
}

impl TransferRow {
    /// All its time.
    pub fn time(&self) -> u128 {
        self.tx + self.rx_decode + self.in_flight
    }
}

/// A request that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The request.
    pub request: Box<str>,
    /// How.
    pub outcome: Outcome,
    /// When it came.
    pub started: Nanos,
    /// When it ended.
    pub finished: Nanos,
    /// Its stages, in the pipeline's order.
    pub stages: Vec<StageRow>,
    /// Its transfers, in that order too.
    pub transfers: Vec<TransferRow>,
}

impl Ended {
    /// From its start to its end.
    pub fn time(&self) -> Nanos {
        self.finished.saturating_sub(self.started)
    }

    /// What went into the first stage and came out of every stage.
    pub fn tokens(&self) -> u128 {
        self.stages.iter().map(StageRow::tokens).sum()
    }

    /// The time of all its transfers.
    pub fn transfer_time(&self) -> u128 {
        self.transfers.iter().map(TransferRow::time).sum()
    }

    /// The size of all its transfers.
    pub fn transfer_bytes(&self) -> u128 {
        self.transfers.iter().map(|row| row.size_bytes).sum()
    }
}

/// From the first begin to the last end of a stage, on one machine's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    rank: usize,
    stage: Box<str>,
    clock: u64,
    first: Nanos,
    last: Nanos,
}

/// All requests that completed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overall {
    /// How many.
    pub requests: u64,
    /// Their tokens.
    pub tokens: u128,
    /// The first start and the last end.
    whole: Option<(Nanos, Nanos)>,
    spans: Vec<Span>,
}

impl Overall {
    /// From the first start to the last end.
    pub fn wall(&self) -> Nanos {
        self.whole.map_or(0, |(first, last)| last.saturating_sub(first))
    }

    /// The same for each stage: those of the pipeline in its order, then others by name. Of a
    /// stage that runs on several machines, the longest counts, since their clocks do not compare.
    pub fn stage_walls(&self, stages: &[Box<str>]) -> Vec<(Box<str>, Nanos)> {
        let mut rows: Vec<(usize, &str, Nanos)> =
            stages.iter().enumerate().map(|(rank, stage)| (rank, &**stage, 0)).collect();
        rows.extend(
            self.spans
                .iter()
                .map(|span| (span.rank, &*span.stage, span.last.saturating_sub(span.first))),
        );
        rows.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(b.2.cmp(&a.2)));
        rows.dedup_by_key(|row| row.1);
        rows.into_iter().map(|(_, stage, wall)| (stage.into(), wall)).collect()
    }

    pub(super) fn add(&mut self, ended: &Ended) {
        self.requests += 1;
        self.tokens += ended.tokens();
        let (first, last) = self.whole.unwrap_or((ended.started, ended.finished));
        self.whole = Some((first.min(ended.started), last.max(ended.finished)));
        for row in &ended.stages {
            self.extend(row);
        }
    }

    fn extend(&mut self, row: &StageRow) {
        let same = |span: &&mut Span| span.clock == row.clock && span.stage == row.stage;
        if let Some(span) = self.spans.iter_mut().find(same) {
            span.first = span.first.min(row.began);
            span.last = span.last.max(row.ended);
        } else if self.spans.len() < SPANS_LIMIT {
            let (rank, stage, clock) = (row.rank, row.stage.clone(), row.clock);
            self.spans.push(Span { rank, stage, clock, first: row.began, last: row.ended });
        }
    }
}
