//! A request between its start and its end: what its events say, whatever their order.
//!
//! Every event but the two ends is added to sums and to fields that are set once, so that any
//! order of the same events gives the same rows.

use std::collections::HashSet;
use std::sync::Arc;

use super::event::{Event, Kind, Outcome, Work};
use super::refused::Refused;
use super::tables::{Ended, StageRow, TransferRow};
use crate::clock::Nanos;

/// The most stages that a request may have, each visit counted.
pub const VISITS_LIMIT: usize = 64;
/// The most pairs of stages between which a request may have transfers.
pub const EDGES_LIMIT: usize = 256;
/// The most events of other processes that a request may have.
pub const EVENTS_LIMIT: usize = 10_000;

/// What an event changed about the stages that work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Began,
    Done,
    None,
}

#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Nanos,
    clock: u64,
}

#[derive(Debug)]
struct Visit {
    stage: Box<str>,
    number: u64,
    began: Option<Moment>,
    done: Option<(Moment, Work)>,
}

/// Instants of one kind, added up.
#[derive(Debug, Default)]
struct Instants {
    count: u64,
    sum: u128,
    clock: u64,
    /// They are of several clocks.
    mixed: bool,
}

impl Instants {
    fn add(&mut self, at: Nanos, clock: u64) {
        self.mixed |= self.count > 0 && self.clock != clock;
        (self.count, self.clock) = (self.count + 1, clock);
        self.sum += u128::from(at);
    }

    /// The time from each of these to its fellow among `later`, added up: whichever belong
    /// together, it is the difference of the sums. Nothing if one is missing or the clocks differ.
    fn until(&self, later: &Self) -> u128 {
        let mixed = self.mixed || later.mixed || self.clock != later.clock;
        if mixed || self.count != later.count { 0 } else { later.sum.saturating_sub(self.sum) }
    }
}

#[derive(Debug, Default)]
struct Edge {
    from: Box<str>,
    to: Box<str>,
    sent_bytes: u128,
    received_bytes: u128,
    tx: u128,
    rx_decode: u128,
    given_in_flight: Option<u128>,
    sent: Instants,
    received: Instants,
}

impl Edge {
    fn row(self) -> TransferRow {
        let between = self.sent.until(&self.received);
        TransferRow {
            from_stage: self.from,
            to_stage: self.to,
            size_bytes: if self.sent_bytes > 0 { self.sent_bytes } else { self.received_bytes },
            tx: self.tx,
            rx_decode: self.rx_decode,
            in_flight: self.given_in_flight.unwrap_or(between),
        }
    }
}

#[derive(Debug)]
pub(super) struct Open {
    request: Arc<str>,
    started: Nanos,
    /// When it came among all requests.
    pub(super) number: u64,
    visits: Vec<Visit>,
    edges: Vec<Edge>,
    seen: HashSet<(u64, u64), ahash::RandomState>,
}

impl Open {
    pub(super) fn new(request: Arc<str>, started: Nanos, number: u64) -> Self {
        let seen = HashSet::default();
        Self { request, started, number, visits: Vec::new(), edges: Vec::new(), seen }
    }

    /// The stages that work on it.
    pub(super) fn running(&self) -> Vec<Box<str>> {
        let running = self.visits.iter().filter(|it| it.began.is_some() && it.done.is_none());
        running.map(|visit| visit.stage.clone()).collect()
    }

    /// Takes note of what happened between its start and its end.
    pub(super) fn note(&mut self, event: &Event<'_>) -> Result<Change, Refused> {
        if let Some(origin) = event.origin {
            if self.seen.contains(&origin) {
                return Err(Refused::duplicate(&self.request, "an event"));
            }
            if self.seen.len() >= EVENTS_LIMIT {
                return Err(self.full("events", EVENTS_LIMIT));
            }
        }
        let moment = Moment { at: event.at, clock: event.clock };
        let change = match &event.kind {
            Kind::RequestStarted | Kind::RequestFinished { .. } => Change::None,
            Kind::StageStarted { stage, visit } => self.began(stage, *visit, moment)?,
            Kind::StageFinished { stage, visit, work } => {
                self.done(stage, *visit, moment, *work)?
            }
            Kind::TransferSent { from_stage, to_stage, size_bytes, tx_ns } => {
                let edge = self.edge(from_stage, to_stage)?;
                edge.sent_bytes += u128::from(*size_bytes);
                edge.tx += u128::from(*tx_ns);
                edge.sent.add(moment.at, moment.clock);
                Change::None
            }
            Kind::TransferReceived {
                from_stage,
                to_stage,
                size_bytes,
                rx_decode_ns: rx,
                in_flight_ns,
            } => {
                let edge = self.edge(from_stage, to_stage)?;
                edge.received_bytes += u128::from(*size_bytes);
                edge.rx_decode += u128::from(*rx);
                edge.received.add(moment.at.saturating_sub(*rx), moment.clock);
                if let Some(given) = in_flight_ns {
                    *edge.given_in_flight.get_or_insert(0) += u128::from(*given);
                }
                Change::None
            }
        };
        self.seen.extend(event.origin);
        Ok(change)
    }

    fn began(&mut self, stage: &str, visit: u64, moment: Moment) -> Result<Change, Refused> {
        let found = self.visit(stage, visit)?;
        if found.began.is_some() {
            return Err(Refused::duplicate(&self.request, "a stage's start"));
        }
        found.began = Some(moment);
        Ok(if found.done.is_some() { Change::None } else { Change::Began })
    }

    fn done(
        &mut self,
        stage: &str,
        visit: u64,
        moment: Moment,
        work: Work,
    ) -> Result<Change, Refused> {
        let found = self.visit(stage, visit)?;
        if found.done.is_some() {
            return Err(Refused::duplicate(&self.request, "a stage's end"));
        }
        found.done = Some((moment, work));
        Ok(if found.began.is_some() { Change::Done } else { Change::None })
    }

    fn visit(&mut self, stage: &str, visit: u64) -> Result<&mut Visit, Refused> {
        let same = |it: &Visit| it.number == visit && *it.stage == *stage;
        let index = self.visits.iter().position(same).unwrap_or(self.visits.len());
        if index == VISITS_LIMIT {
            return Err(self.full("visits of stages", VISITS_LIMIT));
        }
        if index == self.visits.len() {
            self.visits.push(Visit { stage: stage.into(), number: visit, began: None, done: None });
        }
        Ok(&mut self.visits[index])
    }

    fn edge(&mut self, from: &str, to: &str) -> Result<&mut Edge, Refused> {
        let same = |it: &Edge| *it.from == *from && *it.to == *to;
        let index = self.edges.iter().position(same).unwrap_or(self.edges.len());
        if index == EDGES_LIMIT {
            return Err(self.full("pairs of stages", EDGES_LIMIT));
        }
        if index == self.edges.len() {
            self.edges.push(Edge { from: from.into(), to: to.into(), ..Edge::default() });
        }
        Ok(&mut self.edges[index])
    }

    fn full(&self, what: &str, limit: usize) -> Refused {
        Refused::full(format!("{:?} has {limit} {what}, which is the limit", self.request))
    }

    /// Its figures, and the stages that lack their start or their end.
    pub(super) fn end(
        self,
        finished: Nanos,
        outcome: Outcome,
        rank: impl Fn(&str) -> usize,
    ) -> (Ended, Vec<Box<str>>) {
        let (mut stages, mut incomplete) = (Vec::new(), Vec::new());
        for Visit { stage, number: visit, began, done } in self.visits {
            let (Some(began), Some((done, work))) = (began, done) else {
                incomplete.push(stage);
                continue;
            };
            let start = if began.clock == done.clock { began.at } else { done.at };
            let (rank, clock, ended) = (rank(&stage), done.clock, done.at);
            stages.push(StageRow { rank, stage, visit, work, began: start, ended, clock });
        }
        stages
            .sort_unstable_by(|a, b| (a.rank, &a.stage, a.visit).cmp(&(b.rank, &b.stage, b.visit)));
        let mut transfers: Vec<_> = self.edges.into_iter().map(Edge::row).collect();
        transfers.sort_by_cached_key(|row| {
            let (from, to) = (&row.from_stage, &row.to_stage);
            (rank(from), from.clone(), rank(to), to.clone())
        });
        incomplete.sort_unstable();
        let (request, started) = ((&*self.request).into(), self.started);
        (Ended { request, outcome, started, finished, stages, transfers }, incomplete)
    }
}
