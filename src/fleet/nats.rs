//! The source on NATS: asks a service for its statistics, and listens to its events.
//!
//! An answer counts when it comes: a worker that is slow costs nobody else anything. While the
//! server is away, the client looks for it; nothing is asked meanwhile.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, Event, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::access::NatsServer;
use super::journal::Journal;
use super::load::KvHitRateEvent;
use super::running::Shared;
use super::service::{Filter, excerpt};

/// The longest pause between two tries to reach the server.
pub(super) const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// How long another aggregator may take to say that it is there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const SOURCE: &str = "nats";

/// A client that keeps looking for the server.
///
/// # Errors
/// What is wrong with the URL, or with what it is let in by.
pub(super) async fn connect(
    server: &NatsServer,
    name: &str,
    journal: Arc<Journal>,
) -> Result<Client, String> {
    let (address, options) = server.open().map_err(|error| error.to_string())?;
    let at = server.shown();
    let told = move |event: Event| {
        let (journal, at) = (Arc::clone(&journal), at.clone());
        async move {
            match event {
                Event::Connected => journal.info(format!("Connected to {at}")),
                Event::Disconnected => journal.warn(format!("Lost the connection to {at}")),
                Event::SlowConsumer(_) => journal.warn(format!("Messages of {at} were dropped")),
                Event::ServerError(error) => journal.warn(format!("{at} says: {error}")),
                Event::ClientError(error) => journal.debug(format!("Cannot reach {at}: {error}")),
                Event::LameDuckMode | Event::Draining | Event::Closed => {}
            }
        }
    };
    options
        .name(name)
        .retry_on_initial_connect()
        .reconnect_delay_callback(|tries| {
            RECONNECT_PAUSE.min(Duration::from_millis(50) * u32::try_from(tries).unwrap_or(100))
        })
        .request_timeout(Some(ANSWER_TIMEOUT))
        .event_callback(told)
        .connect(address)
        .await
        .map_err(|error| format!("nats is {:?}: {error}", server.shown()))
}

/// Collects until it is dropped. A client gives up where it is not let in; what lets it in may
/// change.
pub(super) async fn collect(shared: Arc<Shared>, server: &NatsServer) {
    loop {
        if let Err(error) = try_collect(&shared, server).await {
            shared.journal.warn(error);
        }
        sleep(RECONNECT_PAUSE).await;
    }
}

async fn try_collect(shared: &Arc<Shared>, server: &NatsServer) -> Result<(), String> {
    let config = &shared.config;
    let client = connect(server, "ryot-metrics fleet", Arc::clone(&shared.journal)).await?;
    tokio::spawn(be_known(client.clone(), Arc::clone(shared)));
    let service = config.service();
    let filter = Filter::new(&service, &config.component.endpoint);
    shared
        .journal
        .info(format!("Scraping service {service} and filtering on subject {}", filter.as_str()));
    let inbox = client.new_inbox();
    let text = |error: async_nats::SubscribeError| error.to_string();
    let mut replies = client.subscribe(inbox.clone()).await.map_err(text)?;
    let mut events = client.subscribe(config.component.hit_rate_subject()).await.map_err(text)?;
    let mut ticks = interval(config.poll_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let stats = format!("$SRV.STATS.{service}");
    loop {
        ask(&client, &stats, &inbox).await;
        loop {
            tokio::select! {
                _ = ticks.tick() => break,
                Some(message) = replies.next() => reply(shared, &filter, &message),
                Some(message) = events.next() => event(shared, &message),
                else => return Err("The connection to NATS was closed".to_owned()),
            }
        }
    }
}

/// Asks all workers for their statistics.
async fn ask(client: &Client, subject: &str, inbox: &str) {
    if client.connection_state() == State::Connected {
        let sent = client.publish_with_reply(subject.to_owned(), inbox.to_owned(), Bytes::new());
        let _ = sent.await; // the connection may be lost just now
    }
}

fn reply(shared: &Shared, filter: &Filter, message: &Message) {
    if message.payload.is_empty() {
        return; // nobody has such a service
    }
    let bad = |reason: String| {
        shared.failed(SOURCE, "nonsense");
        shared.journal.warn(reason);
    };
    match filter.workers(&message.payload) {
        Err(error) => {
            let start = excerpt(&String::from_utf8_lossy(&message.payload));
            bad(format!("Skipping a reply that is no service's statistics: {error}: {start}"));
        }
        Ok(workers) => {
            for (id, endpoint) in workers {
                match endpoint {
                    Ok(endpoint) => {
                        let placed = shared.board.report(&id, SOURCE, endpoint, None);
                        shared.placed(SOURCE, &placed);
                    }
                    Err(reason) => bad(format!("Skipping worker-{id:?}: {reason}")),
                }
            }
        }
    }
}

fn event(shared: &Shared, message: &Message) {
    match serde_json::from_slice::<KvHitRateEvent>(&message.payload) {
        Ok(event) => {
            shared.journal.debug(format!("Received {event:?}"));
            shared.placed(SOURCE, &shared.board.hit(event));
        }
        Err(error) => {
            shared.failed(SOURCE, "nonsense");
            let start = excerpt(&String::from_utf8_lossy(&message.payload));
            shared
                .journal
                .warn(format!("Skipping an event on {}: {error}: {start}", message.subject));
        }
    }
}

/// Tells other aggregators of this namespace that this one is there, and hears of them.
async fn be_known(client: Client, shared: Arc<Shared>) {
    let namespace = &shared.config.component.namespace;
    let place = format!("{namespace}/components/metrics/instance");
    let subject = format!("{namespace}.components.metrics.instance");
    shared.journal.info(format!("Creating unique instance of Metrics at {place}"));
    if client.request(subject.clone(), Bytes::new()).await.is_ok() {
        shared.journal.warn(format!("Another instance of Metrics is at {place}"));
    }
    let Ok(mut questions) = client.subscribe(subject).await else { return };
    while let Some(question) = questions.next().await {
        if let Some(inbox) = question.reply {
            let _ = client.publish(inbox, Bytes::from_static(b"here")).await;
        }
    }
}
