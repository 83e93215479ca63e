//! How an aggregator is set up. Every limit has a name and a default here, and its error text names
//! both.

use std::time::Duration;

use super::access::NatsServer;
use super::board::BoardLimits;
use super::discover::Discovery;
use super::push::Push;
use super::rules::Rules;
use super::service::{Component, check_token};
use crate::error::{Error, Result};
use crate::metrics::SERIES_LIMIT;
use crate::serve::Bind;

/// The least time between two polls.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);
/// The least time for an answer.
const LEAST_TIMEOUT: Duration = Duration::from_millis(10);
/// The most that any time may be: a day.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Where the figures go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A page that Prometheus scrapes, at `/metrics` and every other path.
    Serve {
        /// Where to listen.
        bind: Bind,
        /// Whether `/sd` tells Prometheus of the workers that are read over HTTP.
        sd: bool,
    },
    /// A Pushgateway.
    Push(Push),
    /// Nowhere but to the caller's own page.
    Nowhere,
}

/// How an aggregator is set up.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Whose workers: their namespace, component and endpoint.
    pub component: Component,
    /// The name of their service on NATS. Default: made of namespace and component.
    pub service: Option<String>,
    /// The NATS server; None for none, which is the default.
    pub nats: Option<NatsServer>,
    /// The workers whose pages are read over HTTP. Default: none.
    pub discovery: Discovery,
    /// The time between two looks at where they are named. Default 5 s, at least 100 ms.
    pub refresh_interval: Duration,
    /// How long an answer over HTTP may take. Default 1 s.
    pub timeout: Duration,
    /// The most bytes of a page or list. Default 16 MiB.
    pub max_page_bytes: usize,
    /// Which families of those pages are added up: names, in which `*` stands for any text.
    /// Default: all.
    pub families: Vec<String>,
    /// What becomes of gauges: `NAME=MODE`, with a [`Mode`](super::Mode) in small letters; the
    /// first that fits counts. Default: sums.
    pub gauges: Vec<String>,
    /// The most series of a family that is added up. Default 10,000.
    pub series_limit: usize,
    /// The time between two polls. Default 1 s, at least 100 ms.
    pub poll_interval: Duration,
    /// How long a worker stays after its last answer. Default 3 s, more than `poll_interval`.
    pub stale_after: Duration,
    /// How long a worker stays that is known from its events alone. Default 60 s.
    pub events_ttl: Duration,
    /// The most workers. Default 10,000.
    pub max_workers: usize,
    /// Where the figures go. Default: nowhere.
    pub output: Output,
}

impl FleetConfig {
    /// The defaults for these workers.
    pub fn of(component: Component) -> Self {
        Self {
            component,
            service: None,
            nats: None,
            discovery: Discovery::default(),
            refresh_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            max_page_bytes: 16 * 1024 * 1024,
            families: vec!["*".into()],
            gauges: Vec::new(),
            series_limit: SERIES_LIMIT,
            poll_interval: Duration::from_secs(1),
            stale_after: Duration::from_secs(3),
            events_ttl: Duration::from_secs(60),
            max_workers: 10_000,
            output: Output::Nowhere,
        }
    }

    /// Whether all values are within their ranges.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`], with name, value and range.
    pub fn validate(&self) -> Result<()> {
        self.component.check()?;
        self.nats.as_ref().map_or(Ok(()), |nats| nats.open().map(|_| ()))?;
        self.service.as_deref().map_or(Ok(()), |service| check_token("service", service))?;
        check_time("poll_interval", self.poll_interval, LEAST_INTERVAL)?;
        check_time("stale_after", self.stale_after, self.poll_interval)?;
        check_time("events_ttl", self.events_ttl, self.poll_interval)?;
        check_time("refresh_interval", self.refresh_interval, LEAST_INTERVAL)?;
        check_time("timeout", self.timeout, LEAST_TIMEOUT)?;
        check_least("max_workers", self.max_workers)?;
        check_least("max_page_bytes", self.max_page_bytes)?;
        check_least("series_limit", self.series_limit)?;
        if let Output::Push(push) = &self.output {
            check_time("push_interval", push.interval, LEAST_INTERVAL)?;
            push.uri()?;
        }
        self.rules()?;
        self.discovery.places().map(|_| ())
    }

    /// The name of the workers' service.
    pub(super) fn service(&self) -> String {
        self.service.clone().unwrap_or_else(|| self.component.service())
    }

    pub(super) fn rules(&self) -> Result<Rules> {
        Rules::new(&self.families, &self.gauges, self.series_limit)
    }

    pub(super) fn board_limits(&self) -> BoardLimits {
        BoardLimits {
            stale_after: self.stale_after,
            events_ttl: self.events_ttl,
            max_workers: self.max_workers,
        }
    }
}

fn check_least(name: &str, value: usize) -> Result<()> {
    if value > 0 {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("{name} is 0; it must be at least 1")))
}

/// Whether a time is within its range.
pub(super) fn check_time(name: &str, value: Duration, least: Duration) -> Result<()> {
    if (least..=LONGEST).contains(&value) {
        return Ok(());
    }
    let (value, least, most) = (value.as_secs_f64(), least.as_secs_f64(), LONGEST.as_secs());
    let text = format!("{name} is {value} s; it must be at least {least} s and at most {most} s");
    Err(Error::InvalidArgument(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FleetConfig {
        let [namespace, component, endpoint] = ["a", "b", "c"].map(str::to_owned);
        FleetConfig::of(Component { namespace, component, endpoint })
    }

    #[test]
    fn a_value_out_of_range_is_named_with_the_range() {
        assert!(config().validate().is_ok());
        let ms = Duration::from_millis;
        let table = [
            (
                FleetConfig { poll_interval: ms(99), ..config() },
                "poll_interval is 0.099 s; it must be at least 0.1 s and at most 86400 s",
            ),
            (
                FleetConfig { poll_interval: ms(5000), ..config() },
                "stale_after is 3 s; it must be at least 5 s and at most 86400 s",
            ),
            (
                FleetConfig { events_ttl: ms(1), ..config() },
                "events_ttl is 0.001 s; it must be at least 1 s and at most 86400 s",
            ),
            (FleetConfig { max_workers: 0, ..config() }, "max_workers is 0; it must be at least 1"),
            (
                FleetConfig { service: Some("a.b".into()), ..config() },
                "service is \"a.b\"; it must be of one letter at least, without space . * >",
            ),
        ];
        for (config, expected) in table {
            assert_eq!(config.validate().unwrap_err().to_string(), expected);
        }
    }
}
