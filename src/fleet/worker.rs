//! The worker's side: a micro-service on NATS that tells the load of whoever it speaks for, and
//! publishes what the cache found.
//!
//! A worker answers on a thread of its own. Who cannot tell their load says so in `last_error`.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::access::NatsServer;
use super::config::check_time;
use super::journal::{Journal, Notice};
use super::load::{ForwardPassMetrics, KvHitRateEvent};
use super::nats::{RECONNECT_PAUSE, connect};
use super::service::{Component, Filter, check_token};
use super::thread::Looping;
use crate::clock::unix_seconds;
use crate::error::Result;

const LEAST_INTERVAL: Duration = Duration::from_millis(10);
const VERSION: &str = "0.0.1";

/// Who has a load to tell.
pub trait Member: Send {
    /// Its load now.
    ///
    /// # Errors
    /// Why it cannot tell.
    fn load(&mut self) -> std::result::Result<ForwardPassMetrics, String>;

    /// Prompt blocks that were looked up in its KV cache since the last call, and those found.
    fn hits(&mut self) -> Option<(u64, u64)>;
}

/// How a worker is set up.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Of which component's endpoint it is.
    pub component: Component,
    /// The name of its service. Default: made of namespace and component.
    pub service: Option<String>,
    /// The NATS server.
    pub nats: NatsServer,
    /// The time between two events about the cache. Default 1 s.
    pub event_interval: Duration,
}

/// A worker, or several, on one connection. Dropping it stops it.
#[derive(Debug)]
pub struct Worker {
    ids: Vec<i64>,
    journal: Arc<Journal>,
    thread: Looping,
}

/// A number that no other worker has.
pub fn random_worker_id() -> i64 {
    (RandomState::new().hash_one(()) >> 1) as i64
}

impl Worker {
    /// Starts to answer for members, by their numbers.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::error::Error::InvalidArgument) for a value out of range.
    pub fn start(config: WorkerConfig, members: Vec<(i64, Box<dyn Member>)>) -> Result<Self> {
        config.component.check()?;
        config.service.as_deref().map_or(Ok(()), |service| check_token("service", service))?;
        config.nats.open()?;
        check_time("event_interval", config.event_interval, LEAST_INTERVAL)?;
        let ids = members.iter().map(|(id, _)| *id).collect();
        let journal: Arc<Journal> = Arc::default();
        let told = Arc::clone(&journal);
        let work = move || async move {
            let mut members = members;
            loop {
                if let Err(error) = answer(&config, &mut members, &told).await {
                    told.warn(error);
                }
                sleep(RECONNECT_PAUSE).await;
            }
        };
        let thread = Looping::start("ryot-worker", work)?;
        Ok(Self { ids, journal, thread })
    }

    /// The numbers of those it speaks for.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// Lines for the log; see [`Fleet::notices`](super::Fleet::notices).
    ///
    /// # Errors
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn notices(&self, patience: Duration) -> Result<(Vec<Notice>, bool)> {
        self.thread.guard("read a worker's notices")?;
        Ok(self.journal.take(patience))
    }

    /// Stops to answer. Idempotent.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn shutdown(&self) -> Result<()> {
        self.thread.stop("stop a worker")?;
        self.journal.close();
        Ok(())
    }
}

/// Answers questions and publishes events.
async fn answer(
    config: &WorkerConfig,
    members: &mut [(i64, Box<dyn Member>)],
    journal: &Arc<Journal>,
) -> std::result::Result<(), String> {
    let client = connect(&config.nats, "ryot-metrics worker", Arc::clone(journal)).await?;
    let service = config.service.clone().unwrap_or_else(|| config.component.service());
    let filter = Filter::new(&service, &config.component.endpoint);
    let text = |error: async_nats::SubscribeError| error.to_string();
    let mut all = client.subscribe("$SRV.*").await.map_err(text)?;
    let mut ours = client.subscribe(format!("$SRV.*.{service}")).await.map_err(text)?;
    let mut one = client.subscribe(format!("$SRV.*.{service}.*")).await.map_err(text)?;
    journal.info(format!("Serving {} as {}", members.len(), filter.as_str()));
    let mut service = Service { name: service, started: rfc3339(unix_seconds()), filter, members };
    let hit_rate = config.component.hit_rate_subject();
    let mut ticks = interval(config.event_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(message) = all.next() => service.answer(&client, &message).await,
            Some(message) = ours.next() => service.answer(&client, &message).await,
            Some(message) = one.next() => service.answer(&client, &message).await,
            _ = ticks.tick() => service.publish(&client, &hit_rate).await,
            else => return Err("The connection to NATS was closed".to_owned()),
        }
    }
}

/// What is told about the service and its members.
struct Service<'a> {
    name: String,
    started: String,
    filter: Filter,
    members: &'a mut [(i64, Box<dyn Member>)],
}

impl Service<'_> {
    /// Answers for all members, or for the one whose identity ends the subject.
    async fn answer(&mut self, client: &Client, message: &Message) {
        let Some(inbox) = &message.reply else { return };
        let mut parts = message.subject.split('.').skip(1);
        let (verb, asked) = (parts.next().unwrap_or_default(), parts.nth(1));
        for index in 0..self.members.len() {
            let identity = format!("{:x}", self.members[index].0);
            if asked.is_some_and(|asked| asked != identity) {
                continue;
            }
            let Some(reply) = self.reply(verb, index, &identity) else { return };
            let _ = client.publish(inbox.clone(), Bytes::from(reply.to_string())).await;
        }
    }

    fn reply(&mut self, verb: &str, index: usize, identity: &str) -> Option<Value> {
        let kind = match verb {
            "PING" => "ping",
            "INFO" => "info",
            "STATS" => "stats",
            _ => return None,
        };
        let mut reply = json!({
            "type": format!("io.nats.micro.v1.{kind}_response"),
            "name": self.name,
            "id": identity,
            "version": VERSION,
            "metadata": {},
        });
        let (id, member) = &mut self.members[index];
        let mut endpoint = json!({
            "name": format!("{}-{identity}", self.filter.endpoint()),
            "subject": self.filter.of(*id),
            "queue_group": "q",
        });
        match verb {
            "INFO" => {
                endpoint["metadata"] = json!({});
                reply["description"] = json!("");
                reply["endpoints"] = json!([endpoint]);
            }
            "STATS" => {
                add_statistics(&mut endpoint, member.load());
                reply["started"] = json!(self.started);
                reply["endpoints"] = json!([endpoint]);
            }
            _ => {}
        }
        Some(reply)
    }

    /// Publishes what the caches found since the last time.
    async fn publish(&mut self, client: &Client, subject: &str) {
        for (worker_id, member) in &mut *self.members {
            let Some((isl_blocks, overlap_blocks)) = member.hits().filter(|hits| hits.0 > 0) else {
                continue;
            };
            let event = KvHitRateEvent { worker_id: *worker_id, isl_blocks, overlap_blocks };
            let event = serde_json::to_vec(&event).expect("numbers are JSON");
            let _ = client.publish(subject.to_owned(), event.into()).await;
        }
    }
}

/// The statistics that NATS wants of an endpoint: it serves nothing through NATS, and tells a load.
fn add_statistics(endpoint: &mut Value, load: std::result::Result<ForwardPassMetrics, String>) {
    let (data, error) = match load {
        Ok(load) => (json!(load), String::new()),
        Err(error) => (Value::Null, error),
    };
    endpoint["num_requests"] = json!(0);
    endpoint["num_errors"] = json!(u8::from(!error.is_empty()));
    endpoint["last_error"] = json!(error);
    endpoint["processing_time"] = json!(0);
    endpoint["average_processing_time"] = json!(0);
    endpoint["data"] = data;
}

/// A time as text: `2025-02-26T18:45:05.000000Z`.
fn rfc3339(unix: f64) -> String {
    let seconds = unix as u64;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The days of 400 years, counted from a March, so that leap days come last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let micros = (unix.fract() * 1e6) as u64;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(std::result::Result<ForwardPassMetrics, String>);

    impl Member for Fixed {
        fn load(&mut self) -> std::result::Result<ForwardPassMetrics, String> {
            self.0.clone()
        }

        fn hits(&mut self) -> Option<(u64, u64)> {
            None
        }
    }

    type Members = [(i64, Box<dyn Member>); 1];

    fn members(load: std::result::Result<ForwardPassMetrics, String>) -> Members {
        [(31, Box::new(Fixed(load)))]
    }

    fn service(members: &mut Members) -> Service<'_> {
        let (name, filter) = ("s".into(), Filter::new("s", "generate"));
        Service { name, started: rfc3339(0.0), filter, members }
    }

    #[test]
    fn statistics_are_what_an_aggregator_reads() {
        let load = ForwardPassMetrics { kv_active_blocks: 5, ..Default::default() };
        let mut members = members(Ok(load));
        let mut service = service(&mut members);
        let reply = service.reply("STATS", 0, "1f").unwrap();
        assert_eq!(reply["started"], "1970-01-01T00:00:00.000000Z");
        let workers = service.filter.workers(reply.to_string().as_bytes()).unwrap();
        assert_eq!(workers[0].1.as_ref().unwrap().data, load.into());
        assert_eq!(service.reply("PING", 0, "1f").unwrap()["id"], "1f");
        assert_eq!(service.reply("INFO", 0, "1f").unwrap()["endpoints"][0]["name"], "generate-1f");
        assert_eq!(service.reply("SCHEMA", 0, "1f"), None);
    }

    #[test]
    fn who_cannot_tell_its_load_says_why() {
        let mut members = members(Err("the engine was shut down".into()));
        let mut service = service(&mut members);
        let reply = service.reply("STATS", 0, "1f").unwrap().to_string();
        let workers = service.filter.workers(reply.as_bytes()).unwrap();
        let error = workers[0].1.as_ref().unwrap_err();
        assert_eq!(error, "it could not tell its load: \"the engine was shut down\"");
    }

    #[test]
    fn times_are_written_as_nats_wants_them() {
        let table = [
            (951_782_399.0, "2000-02-28T23:59:59.000000Z"),
            (951_782_400.0, "2000-02-29T00:00:00.000000Z"),
            (1_740_595_505.5, "2025-02-26T18:45:05.500000Z"),
            (1_767_225_600.0, "2026-01-01T00:00:00.000000Z"),
        ];
        for (seconds, text) in table {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
