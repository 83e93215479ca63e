//! Aggregators of fleets and their workers, in Python.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use pyo3::prelude::*;

use super::boundary::{detached, try_attached};
use super::engine::PyEngine;
use super::serve::{port_of, seconds};
use crate::engine::Client;
use crate::error::{Error, Result};
use crate::fleet::{
    Component, Discovery, Fleet, FleetConfig, ForwardPassMetrics, Member, Mock, NatsServer, Notice,
    Output, Push, Worker, WorkerConfig, random_worker_id,
};
use crate::llm::EngineObserver;
use crate::serve::Bind;

/// Where a DNS server listens, if nothing else is said.
const DNS_PORT: u16 = 53;
/// The most mock workers of one process.
const MAX_MOCK_WORKERS: usize = 100_000;

/// When, in seconds since 1970; the level, as `logging` names it; and the line.
type Line = (f64, &'static str, String);

/// Name, subject, active and total slots, active and total blocks.
type Row = (String, String, Option<u64>, Option<u64>, Option<u64>, Option<u64>);

/// A `ryot_metrics.fleet.NatsServer`.
#[derive(FromPyObject)]
struct PyNatsServer {
    url: String,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    credentials: Option<PathBuf>,
    tls: bool,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl From<PyNatsServer> for NatsServer {
    fn from(server: PyNatsServer) -> Self {
        let PyNatsServer { url, user, password, token, credentials, tls, ca, certificate, key } =
            server;
        Self { url, user, password, token, credentials, tls, ca, certificate, key }
    }
}

fn lines(taken: (Vec<Notice>, bool)) -> (Vec<Line>, bool) {
    let line = |notice: Notice| (notice.at, notice.level.as_str(), notice.text);
    (taken.0.into_iter().map(line).collect(), taken.1)
}

/// An aggregator. `ryot_metrics.fleet.Fleet` makes it and says what the arguments mean.
#[pyclass(frozen, name = "NativeFleet", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyFleet(Fleet);

#[pymethods]
impl PyFleet {
    #[new]
    #[pyo3(signature = (
        namespace, component, endpoint, *, service=None, nats=None, host=None, port=0,
        serve_sd=false, push=None, push_interval=2.0, push_job="", poll_interval=None,
        stale_after=None, events_ttl=None, max_workers=None, targets=Vec::new(),
        file_sd=Vec::new(), http_sd=Vec::new(), dns=Vec::new(), dns_server=None,
        refresh_interval=None,
        timeout=None, max_page_bytes=None, families=None, gauges=Vec::new(), series_limit=None
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn new(
        py: Python<'_>,
        namespace: String,
        component: String,
        endpoint: String,
        service: Option<String>,
        nats: Option<PyNatsServer>,
        host: Option<String>,
        port: i64,
        serve_sd: bool,
        push: Option<String>,
        push_interval: f64,
        push_job: &str,
        poll_interval: Option<f64>,
        stale_after: Option<f64>,
        events_ttl: Option<f64>,
        max_workers: Option<usize>,
        targets: Vec<String>,
        file_sd: Vec<PathBuf>,
        http_sd: Vec<String>,
        dns: Vec<String>,
        dns_server: Option<&str>,
        refresh_interval: Option<f64>,
        timeout: Option<f64>,
        max_page_bytes: Option<usize>,
        families: Option<Vec<String>>,
        gauges: Vec<String>,
        series_limit: Option<usize>,
    ) -> PyResult<Self> {
        let default = FleetConfig::of(Component { namespace, component, endpoint });
        let poll_interval = seconds("poll_interval", poll_interval, default.poll_interval)?;
        let stale = default.stale_after.max(3 * poll_interval);
        let dns_server = dns_server.map(dns_server_of).transpose()?;
        let output = match (push, host) {
            (Some(url), _) => {
                let interval = seconds("push_interval", Some(push_interval), Duration::ZERO)?;
                Output::Push(Push { url, job: push_job.to_owned(), interval })
            }
            (None, Some(host)) => {
                Output::Serve { bind: Bind::Tcp { host, port: port_of(port)? }, sd: serve_sd }
            }
            (None, None) => Output::Nowhere,
        };
        let config = FleetConfig {
            service,
            nats: nats.map(Into::into),
            discovery: Discovery { targets, file_sd, http_sd, dns, dns_server },
            refresh_interval: seconds(
                "refresh_interval",
                refresh_interval,
                default.refresh_interval,
            )?,
            timeout: seconds("timeout", timeout, default.timeout)?,
            max_page_bytes: max_page_bytes.unwrap_or(default.max_page_bytes),
            families: families.unwrap_or(default.families),
            gauges,
            series_limit: series_limit.unwrap_or(default.series_limit),
            stale_after: seconds("stale_after", stale_after, stale)?,
            events_ttl: seconds("events_ttl", events_ttl, default.events_ttl.max(stale))?,
            max_workers: max_workers.unwrap_or(default.max_workers),
            poll_interval,
            output,
            component: default.component,
        };
        Ok(Self(detached(py, || Fleet::start(config))?))
    }

    /// Where the page is: `127.0.0.1:9091`; None if it is not served.
    #[getter]
    fn address(&self) -> PyResult<Option<String>> {
        Ok(self.0.address()?.map(ToString::to_string))
    }

    /// The page, in Prometheus' text format.
    fn page(&self, py: Python<'_>) -> PyResult<String> {
        Ok(detached(py, || self.0.page())?)
    }

    /// The workers that are there, the mean of their load and its deviation.
    fn workers(&self, py: Python<'_>) -> PyResult<(Vec<Row>, Option<f64>, Option<f64>)> {
        let all = detached(py, || self.0.workers())?;
        let rows = all.endpoints.into_iter().map(|endpoint| {
            let load = endpoint.data;
            (
                endpoint.name,
                endpoint.subject,
                load.request_active_slots,
                load.request_total_slots,
                load.kv_active_blocks,
                load.kv_total_blocks,
            )
        });
        let known = |figure: f64| (!figure.is_nan()).then_some(figure);
        Ok((rows.collect(), known(all.load_avg), known(all.load_std)))
    }

    /// Lines for the log, and whether more may come. Waits for one, so many seconds at most.
    fn notices(&self, py: Python<'_>, patience: f64) -> PyResult<(Vec<Line>, bool)> {
        let patience = seconds("patience", Some(patience), Duration::ZERO)?;
        Ok(lines(detached(py, || self.0.notices(patience))?))
    }

    /// Stops to collect and to serve. Without effect the second time.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        Ok(detached(py, || self.0.shutdown())?)
    }
}

/// An engine's load. A block of its KV cache is a cell, which holds a token.
struct OfEngine {
    client: Client,
    observer: std::sync::Arc<EngineObserver>,
    told: (u64, u64),
}

impl Member for OfEngine {
    fn load(&mut self) -> std::result::Result<ForwardPassMetrics, String> {
        let stats = self.client.stats().map_err(|error| error.to_string())?;
        let config = self.client.config();
        Ok(ForwardPassMetrics {
            request_active_slots: stats.running as u64,
            request_total_slots: config.parallel as u64,
            kv_active_blocks: stats.used_cells as u64,
            kv_total_blocks: config.ctx_size as u64,
        })
    }

    fn hits(&mut self) -> Option<(u64, u64)> {
        let now = self.observer.prefix_cache();
        let new = (now.0.saturating_sub(self.told.0), now.1.saturating_sub(self.told.1));
        self.told = now;
        Some(new)
    }
}

/// Four figures of the load, and the totals of blocks looked up and found.
type Told = (u64, u64, u64, u64, u64, u64);

/// What a callable says.
struct OfCallable {
    callable: Py<PyAny>,
    hits: (u64, u64),
    told: (u64, u64),
}

impl OfCallable {
    fn call(&self) -> std::result::Result<Told, String> {
        let mut told = Err("the interpreter is at its end".to_owned());
        try_attached(|py| {
            let answer = self.callable.call0(py).and_then(|answer| answer.extract::<Told>(py));
            told = answer.map_err(|error| error.to_string());
        });
        told
    }
}

impl Member for OfCallable {
    fn load(&mut self) -> std::result::Result<ForwardPassMetrics, String> {
        let told = self.call()?;
        self.hits = (told.4, told.5);
        Ok(ForwardPassMetrics {
            request_active_slots: told.0,
            request_total_slots: told.1,
            kv_active_blocks: told.2,
            kv_total_blocks: told.3,
        })
    }

    fn hits(&mut self) -> Option<(u64, u64)> {
        let (now, told) = (self.hits, self.told);
        self.told = now;
        Some((now.0.saturating_sub(told.0), now.1.saturating_sub(told.1)))
    }
}

/// A worker on NATS. `ryot_metrics.fleet.publish` makes it and says what the arguments mean.
#[pyclass(frozen, name = "NativeWorker", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyWorker(Worker);

#[pymethods]
impl PyWorker {
    /// Speaks for an engine or a callable.
    #[staticmethod]
    #[pyo3(signature = (
        source, nats, namespace, component, endpoint, *, service=None, worker_id=None,
        event_interval=1.0
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn of(
        py: Python<'_>,
        source: &Bound<'_, PyAny>,
        nats: PyNatsServer,
        namespace: String,
        component: String,
        endpoint: String,
        service: Option<String>,
        worker_id: Option<i64>,
        event_interval: f64,
    ) -> PyResult<Self> {
        let member: Box<dyn Member> = match source.cast::<PyEngine>() {
            Ok(engine) => {
                let (client, observer) = engine.get().parts();
                let told = observer.prefix_cache();
                Box::new(OfEngine { client, observer, told })
            }
            Err(_) => Box::new(OfCallable {
                callable: source.clone().unbind(),
                hits: (0, 0),
                told: (0, 0),
            }),
        };
        let id = worker_id.unwrap_or_else(random_worker_id);
        let component = Component { namespace, component, endpoint };
        Ok(start(py, component, service, nats, event_interval, vec![(id, member)])?)
    }

    /// So many mock workers.
    #[staticmethod]
    #[pyo3(signature = (
        count, seed, nats, namespace, component, endpoint, *, service=None, event_interval=1.0
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn mock(
        py: Python<'_>,
        count: usize,
        seed: Option<u64>,
        nats: PyNatsServer,
        namespace: String,
        component: String,
        endpoint: String,
        service: Option<String>,
        event_interval: f64,
    ) -> PyResult<Self> {
        if !(1..=MAX_MOCK_WORKERS).contains(&count) {
            let text = format!("workers is {count}; it must be 1 to {MAX_MOCK_WORKERS}");
            return Err(Error::InvalidArgument(text).into());
        }
        let boxed = |(id, mock): (i64, Mock)| (id, Box::new(mock) as Box<dyn Member>);
        let members = Mock::several(count, seed).into_iter().map(boxed).collect();
        let component = Component { namespace, component, endpoint };
        Ok(start(py, component, service, nats, event_interval, members)?)
    }

    /// The numbers of those it speaks for.
    #[getter]
    fn ids(&self) -> Vec<i64> {
        self.0.ids().to_vec()
    }

    /// Lines for the log, and whether more may come. Waits for one, so many seconds at most.
    fn notices(&self, py: Python<'_>, patience: f64) -> PyResult<(Vec<Line>, bool)> {
        let patience = seconds("patience", Some(patience), Duration::ZERO)?;
        Ok(lines(detached(py, || self.0.notices(patience))?))
    }

    /// Stops to answer. Without effect the second time.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        Ok(detached(py, || self.0.shutdown())?)
    }
}

fn dns_server_of(text: &str) -> Result<SocketAddr> {
    let server = text
        .parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, DNS_PORT).into()));
    server.map_err(|_: std::net::AddrParseError| {
        let text = format!("dns_server is {text:?}; it must be an address, or ADDRESS:PORT");
        Error::InvalidArgument(text)
    })
}

fn start(
    py: Python<'_>,
    component: Component,
    service: Option<String>,
    nats: PyNatsServer,
    event_interval: f64,
    members: Vec<(i64, Box<dyn Member>)>,
) -> Result<PyWorker> {
    let event_interval = seconds("event_interval", Some(event_interval), Duration::ZERO)?;
    let config = WorkerConfig { component, service, nats: nats.into(), event_interval };
    detached(py, || Worker::start(config, members)).map(PyWorker)
}
