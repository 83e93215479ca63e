//! The aggregator: its thread, what it knows, and where that can be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::board::{Board, Full};
use super::config::{FleetConfig, Output};
use super::families::Descs;
use super::journal::{Journal, Notice};
use super::load::ProcessedEndpoints;
use super::nats;
use super::thread::Looping;
use crate::clock::MonotonicClock;
use crate::error::Result;
use crate::llm::FleetName;
use crate::metrics::{Family, Format, Options, Registry, encode};
use crate::serve::{Address, ServeConfig, Server};

/// What the sources fill and the page shows.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: FleetConfig,
    pub(super) board: Arc<Board>,
    pub(super) journal: Arc<Journal>,
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
        Ok(Self { config, board, journal: Arc::default(), failures, full: AtomicBool::new(false) })
    }

    /// Counts an answer that is of no use.
    pub(super) fn failed(&self, source: &str, reason: &str) {
        self.failures.series(&[source, reason]).add(1.0);
    }

    /// Counts what found no place on the board; the first time, says so.
    pub(super) fn placed(&self, source: &str, placed: std::result::Result<(), Full>) {
        if placed == Err(Full) {
            self.failed(source, "max_workers");
            if !self.full.swap(true, Ordering::Relaxed) {
                let limit = self.config.max_workers;
                self.journal
                    .warn(format!("More than {limit} workers (max_workers): others are left out"));
            }
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
        let server = match &shared.config.output {
            Output::Serve(bind) => {
                let config = ServeConfig { bind: bind.clone(), ..ServeConfig::default() };
                Some(Server::start(Arc::clone(&registry), config)?)
            }
            Output::Nowhere => None,
        };
        let work = Arc::clone(&shared);
        let thread = Looping::start("ryot-fleet", move || collect(work))?;
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

/// All sources at once.
async fn collect(shared: Arc<Shared>) {
    if let Some(url) = shared.config.nats.clone() {
        nats::collect(shared, &url).await;
    }
    std::future::pending::<()>().await;
}
