//! The aggregator: its thread, what it knows, and where that can be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::board::{Board, Full};
use super::config::{FleetConfig, Output};
use super::discover::Places;
use super::families::Descs;
use super::http::Http;
use super::journal::{Journal, Notice};
use super::load::ProcessedEndpoints;
use super::merge::Merger;
use super::targets::{Target, list};
use super::thread::Looping;
use super::{nats, poll, push, round};
use crate::clock::MonotonicClock;
use crate::error::Result;
use crate::llm::FleetName;
use crate::metrics::{
    Desc, Family, Format, LabelSet, Options, Registry, Sink, Source, Value, encode,
};
use crate::serve::{Address, LivePage, ServeConfig, Server};

/// Where Prometheus is told of the workers.
const SD_PATH: &str = "/sd";

/// What the sources fill and the page shows.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: FleetConfig,
    pub(super) board: Arc<Board>,
    pub(super) journal: Arc<Journal>,
    pub(super) merger: Arc<Merger>,
    /// The workers that are named to be read over HTTP.
    pub(super) targets: Mutex<Vec<Target>>,
    failures: Arc<Family>,
    /// Whether it was said that there is no place left.
    full: AtomicBool,
}

impl Shared {
    fn new(config: FleetConfig, registry: &Registry) -> Result<Self> {
        let component = &config.component;
        let board = Arc::new(Board::new(
            &component.component,
            &component.endpoint,
            config.board_limits(),
            Arc::new(MonotonicClock),
        ));
        registry.register(board.clone())?;
        let options = Options { absent_if_empty: true, created: false, ..Options::default() };
        let desc = Descs::new().get(FleetName::Failures).clone();
        let failures = Family::new(desc, options);
        registry.register(failures.clone())?;
        let clock = Arc::new(MonotonicClock);
        let merger = Arc::new(Merger::new(config.rules()?, config.stale_after, clock));
        registry.register(merger.clone())?;
        registry.ask_unnamed(true);
        let (journal, targets, full) = Default::default();
        Ok(Self { config, board, journal, merger, targets, failures, full })
    }

    /// Counts an answer that is of no use.
    pub(super) fn failed(&self, source: &str, reason: &str) {
        self.failures.series(&[source, reason]).add(1.0);
    }

    /// Counts what found no place on the board; the first time, says so.
    pub(super) fn placed(&self, source: &str, placed: &std::result::Result<(), Full>) {
        if placed.is_err() {
            self.left_out(source);
        }
    }

    /// Counts workers that are left out; the first time, says so.
    pub(super) fn left_out(&self, source: &str) {
        self.failed(source, "max_workers");
        if !self.full.swap(true, Ordering::Relaxed) {
            let limit = self.config.max_workers;
            let text = format!("More than {limit} workers (max_workers): others are left out");
            self.journal.warn(text);
        }
    }
}

/// How many workers there are, and how many of them are read.
struct Count(Arc<Shared>, Descs);

impl Source for Count {
    fn describe(&self) -> Vec<&Desc> {
        vec![self.1.get(FleetName::Workers)]
    }

    fn collect(&self, sink: &mut dyn Sink) {
        let Self(shared, descs) = self;
        let mut rows = Vec::new();
        if shared.config.nats.is_some() {
            rows.push(([nats::SOURCE, "up"], shared.board.count(nats::SOURCE)));
        }
        if !shared.config.discovery.is_empty() {
            let (named, up) = (shared.targets.lock().len(), shared.merger.live());
            rows.push(([poll::SOURCE, "up"], up.min(named)));
            rows.push(([poll::SOURCE, "down"], named.saturating_sub(up)));
        }
        let desc = descs.get(FleetName::Workers);
        if !rows.is_empty() {
            sink.family(desc);
        }
        for (labels, count) in rows {
            let labels = LabelSet::new(FleetName::Workers.row().labels, &labels, false);
            sink.sample(desc, &labels, &Value::Gauge(count as f64).into());
        }
    }
}

/// An aggregator of a fleet's metrics. Dropping it shuts it down.
///
/// ```
/// use ryot_metrics::fleet::{Component, Fleet, FleetConfig};
/// let [namespace, component, endpoint] = ["dynemo", "backend", "generate"].map(str::to_owned);
/// let config = FleetConfig::of(Component { namespace, component, endpoint });
/// let fleet = Fleet::start(config)?;
/// assert!(fleet.workers()?.endpoints.is_empty());
/// fleet.shutdown()?;
/// # Ok::<(), ryot_metrics::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Fleet {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    server: Option<Server>,
    thread: Looping,
}

impl Fleet {
    /// Starts to collect, and to serve if it shall.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a value outside its range, [`Error::Io`] for an address that
    /// cannot be had.
    ///
    /// [`Error::InvalidArgument`]: crate::error::Error::InvalidArgument
    /// [`Error::Io`]: crate::error::Error::Io
    pub fn start(config: FleetConfig) -> Result<Self> {
        config.validate()?;
        let registry = Arc::new(Registry::default());
        let shared = Arc::new(Shared::new(config, &registry)?);
        registry.register(Arc::new(Count(Arc::clone(&shared), Descs::new())))?;
        let http = Http::new(shared.config.timeout, shared.config.max_page_bytes)?;
        let server = serve(&shared, &registry)?;
        let work = (Arc::clone(&shared), Arc::clone(&registry), http);
        let places = shared.config.discovery.places()?;
        let collect = move || collect(work.0, work.1, work.2, places);
        let thread = Looping::start("ryot-fleet", collect)?;
        Ok(Self { shared, registry, server, thread })
    }

    /// Where the page is; None if it is not served.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::error::Error::Forked), as all methods.
    pub fn address(&self) -> Result<Option<&Address>> {
        self.thread.guard("read a fleet's address")?;
        self.server.as_ref().map(Server::address).transpose()
    }

    /// The page, in Prometheus' text format.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn page(&self) -> Result<String> {
        self.thread.guard("read a fleet's page")?;
        Ok(encode(&self.registry, Format::Text004))
    }

    /// The workers that are there, and the figures over them.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn workers(&self) -> Result<ProcessedEndpoints> {
        self.thread.guard("read a fleet's workers")?;
        Ok(self.shared.board.live())
    }

    /// Lines for the log that nobody has taken, and whether more may come. Waits for one, so long
    /// at most.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn notices(&self, patience: Duration) -> Result<(Vec<Notice>, bool)> {
        self.thread.guard("read a fleet's notices")?;
        Ok(self.shared.journal.take(patience))
    }

    /// Stops to collect and to serve. Idempotent.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn shutdown(&self) -> Result<()> {
        self.thread.stop("shut a fleet down")?;
        self.server.as_ref().map_or(Ok(()), Server::shutdown)?;
        self.shared.journal.close();
        Ok(())
    }
}

/// The server of the page, if there shall be one.
fn serve(shared: &Arc<Shared>, registry: &Arc<Registry>) -> Result<Option<Server>> {
    let Output::Serve { bind, sd } = &shared.config.output else { return Ok(None) };
    let told = Arc::clone(shared);
    let page = LivePage {
        path: SD_PATH.to_owned(),
        content_type: "application/json",
        body: Arc::new(move || list(&told.targets.lock()).into()),
    };
    let live_pages = if *sd { vec![page] } else { Vec::new() };
    let config = ServeConfig { bind: bind.clone(), live_pages, ..ServeConfig::default() };
    Server::start(Arc::clone(registry), config).map(Some)
}

/// All sources at once, and the pushing.
async fn collect(shared: Arc<Shared>, registry: Arc<Registry>, http: Http, places: Places) {
    let over_http = !shared.config.discovery.is_empty();
    if over_http || shared.config.nats.is_some() {
        tokio::spawn(round::run(Arc::clone(&shared)));
    }
    if over_http {
        tokio::spawn(poll::collect(Arc::clone(&shared), http.clone(), places));
    }
    if let Output::Push(to) = &shared.config.output {
        let uri = to.uri().expect("the configuration was checked");
        tokio::spawn(push::run(Arc::clone(&shared), registry, http, uri, to.interval));
    }
    if let Some(server) = shared.config.nats.clone() {
        nats::collect(shared, &server).await;
    }
    std::future::pending::<()>().await;
}
