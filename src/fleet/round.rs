//! What is done once in an interval, whatever the sources: to forget who has gone, and to say who
//! is there.

use std::sync::Arc;

use tokio::time::{MissedTickBehavior, interval};

use super::running::Shared;
use super::service::Filter;

/// Sums up until it is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = interval(shared.config.poll_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await; // the first one is at once, when nobody can have answered
    loop {
        ticks.tick().await;
        sum_up(&shared);
    }
}

fn sum_up(shared: &Shared) {
    for name in shared.board.sweep() {
        shared.journal.info(format!("{name} has gone"));
    }
    let live = shared.board.live();
    if !live.endpoints.is_empty() {
        shared.journal.info(format!("Aggregated metrics: {live:?}"));
    } else if shared.merger.live() == 0 {
        shared.journal.warn(nobody(shared));
    }
}

/// Where nobody was found.
fn nobody(shared: &Shared) -> String {
    let config = &shared.config;
    if config.nats.is_some() {
        let filter = Filter::new(&config.service(), &config.component.endpoint);
        return format!("No endpoints found matching subject {}", filter.as_str());
    }
    let count = shared.targets.lock().len();
    format!("No endpoints found at {count} addresses")
}
