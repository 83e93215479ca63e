//! Pipelines: services whose requests pass several models, one after the other or beside each
//! other. A [`Pipeline`] is a value that takes events and has the figures of requests that ended.
//!
//! A request's start must come before its other events and its end after them; between, any order
//! gives the same figures. Must not know: clocks (time is in the events), threads, the page.

mod event;
mod open;
mod outbox;
mod record;
mod refused;
mod tables;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

pub use event::{Event, Kind, NAME_LIMIT, NUMBER_LIMIT, Outcome, Work, clock_of};
pub use open::{EDGES_LIMIT, EVENTS_LIMIT, VISITS_LIMIT};
pub use outbox::{OUTBOX_LIMIT, OUTBOX_LIMIT_MAX, Outbox};
pub use record::PipelineObserver;
pub use refused::Refused;
pub use tables::{Ended, Overall, SPANS_LIMIT, StageRow, TransferRow};

use crate::error::{self, Error};
use open::{Change, Open};

/// The most stages that a pipeline may name.
pub const STAGES_LIMIT: usize = 64;
/// The most requests whose tables may be kept.
pub const RECENT_LIMIT: usize = 100_000;
/// The most requests that may be open.
pub const OPEN_LIMIT: usize = 1_000_000;

/// What a pipeline keeps at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests that completed last and have tables; default 256, at most [`RECENT_LIMIT`].
    pub recent: usize,
    /// Requests that are open, of which the oldest is dropped for one more; default 10,000, at
    /// most [`OPEN_LIMIT`]. As many that ended are remembered by name.
    pub open: usize,
}

impl Limits {
    /// Whether each is within its range.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with its name, which begins so.
    pub fn check(&self, prefix: &str) -> error::Result<()> {
        check_limit(&format!("{prefix}recent"), self.recent, RECENT_LIMIT)?;
        check_limit(&format!("{prefix}max_open"), self.open, OPEN_LIMIT)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { recent: 256, open: 10_000 }
    }
}

/// What an event did.
#[derive(Debug)]
pub enum Fact {
    /// A request is open, and the oldest one is so no more if there were too many; it had these
    /// stages at work.
    Opened(Option<(Arc<str>, Vec<Box<str>>)>),
    /// A stage works on a request.
    Began,
    /// A stage has done its work.
    Done,
    /// Something was noted.
    Noted,
    /// A request ended.
    Ended {
        /// Its figures.
        ended: Box<Ended>,
        /// Stages that still worked on it.
        running: Vec<Box<str>>,
        /// Stages that lack their start or their end, of a request that completed.
        incomplete: Vec<Refused>,
    },
}

/// The requests of a pipeline.
#[derive(Debug)]
pub struct Pipeline {
    stages: Vec<Box<str>>,
    limits: Limits,
    open: HashMap<Arc<str>, Open, ahash::RandomState>,
    /// The open requests, the oldest first.
    order: BTreeMap<u64, Arc<str>>,
    started: u64,
    /// Requests that ended, the first first: what comes late does not open them again.
    gone: VecDeque<Arc<str>>,
    gone_names: HashSet<Arc<str>, ahash::RandomState>,
    recent: VecDeque<Ended>,
    overall: Overall,
}

impl Pipeline {
    /// A pipeline with these stages, the first one first; events may name others too.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no or too many stages, a name that is none or comes twice,
    /// or a limit out of its range.
    pub fn new(stages: &[impl AsRef<str>], limits: Limits) -> error::Result<Self> {
        let stages: Vec<Box<str>> = stages.iter().map(|stage| stage.as_ref().into()).collect();
        check_stages(&stages)?;
        limits.check("")?;
        Ok(Self {
            stages,
            limits,
            open: HashMap::default(),
            order: BTreeMap::new(),
            started: 0,
            gone: VecDeque::new(),
            gone_names: HashSet::default(),
            recent: VecDeque::new(),
            overall: Overall::default(),
        })
    }

    /// Takes an event.
    ///
    /// # Errors
    /// Why it changes nothing.
    pub fn take(&mut self, event: &Event<'_>) -> Result<Fact, Refused> {
        event.check()?;
        match event.kind {
            Kind::RequestStarted => self.start(event),
            Kind::RequestFinished { reason } => self.finish(event, reason),
            _ => {
                let open = self.open.get_mut(&*event.request);
                match open.ok_or_else(|| Refused::unknown(&event.request))?.note(event)? {
                    Change::Began => Ok(Fact::Began),
                    Change::Done => Ok(Fact::Done),
                    Change::None => Ok(Fact::Noted),
                }
            }
        }
    }

    /// All requests that completed since `reset`.
    pub fn overall(&self) -> &Overall {
        &self.overall
    }

    /// Those of them that completed last, the first first.
    pub fn recent(&self) -> impl ExactSizeIterator<Item = &Ended> {
        self.recent.iter()
    }

    /// The stages that it was made with.
    pub fn stages(&self) -> &[Box<str>] {
        &self.stages
    }

    /// How many requests are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Forgets the requests that completed; those that are open stay so.
    pub fn reset(&mut self) {
        self.recent.clear();
        self.overall = Overall::default();
    }

    fn start(&mut self, event: &Event<'_>) -> Result<Fact, Refused> {
        let request: Arc<str> = (&*event.request).into();
        if self.open.contains_key(&request) || self.gone_names.contains(&request) {
            return Err(Refused::duplicate(&request, "the start"));
        }
        let full = self.open.len() >= self.limits.open;
        let oldest = if full { self.order.pop_first() } else { None };
        let oldest = oldest.and_then(|(_, name)| self.open.remove_entry(&name));
        let number = self.started;
        self.started += 1;
        self.order.insert(number, request.clone());
        self.open.insert(request.clone(), Open::new(request, event.at, number));
        Ok(Fact::Opened(oldest.map(|(name, open)| {
            self.remember(name.clone());
            (name, open.running())
        })))
    }

    fn finish(&mut self, event: &Event<'_>, outcome: Outcome) -> Result<Fact, Refused> {
        let found = self.open.remove_entry(&*event.request);
        let (name, open) = found.ok_or_else(|| Refused::unknown(&event.request))?;
        self.order.remove(&open.number);
        let running = open.running();
        let rank = |stage: &str| self.stages.iter().position(|it| **it == *stage);
        let rank = |stage: &str| rank(stage).unwrap_or(usize::MAX);
        let (ended, incomplete) = open.end(event.at, outcome, rank);
        self.remember(name);
        let mut lacking = Vec::new();
        if outcome == Outcome::Completed {
            lacking =
                incomplete.iter().map(|stage| Refused::incomplete(&ended.request, stage)).collect();
            self.overall.add(&ended);
            if self.recent.len() == self.limits.recent {
                self.recent.pop_front();
            }
            self.recent.push_back(ended.clone());
        }
        Ok(Fact::Ended { ended: Box::new(ended), running, incomplete: lacking })
    }

    fn remember(&mut self, name: Arc<str>) {
        if self.gone.len() == self.limits.open
            && let Some(first) = self.gone.pop_front()
        {
            self.gone_names.remove(&first);
        }
        self.gone_names.insert(name.clone());
        self.gone.push_back(name);
    }
}

fn check_stages(stages: &[Box<str>]) -> error::Result<()> {
    check_limit("the number of stages", stages.len(), STAGES_LIMIT)?;
    for (index, stage) in stages.iter().enumerate() {
        check_limit(&format!("the length of stage {stage:?}"), stage.len(), NAME_LIMIT)?;
        if stages[..index].contains(stage) {
            let text = format!("stages has {stage:?} twice; each must have a name of its own");
            return Err(Error::InvalidArgument(text));
        }
    }
    Ok(())
}

/// Whether a limit is within its range, from 1 on.
pub(super) fn check_limit(what: &str, value: usize, most: usize) -> error::Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("{what} is {value}; it must be 1 to {most}")))
}
