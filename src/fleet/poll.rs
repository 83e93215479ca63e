//! Reads the workers' pages over HTTP: each on its own, so that one that is slow costs nobody else
//! anything.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::discover::Places;
use super::engines::load_of;
use super::exposition::parse;
use super::http::{Failure, Http};
use super::load::{Endpoint, WorkerId};
use super::merge::Refused;
use super::running::Shared;
use super::targets::Target;

pub(super) const SOURCE: &str = "http";
/// What is best for adding up comes first.
const ACCEPT: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                      encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// Follows the workers that are named until it is dropped.
pub(super) async fn collect(shared: Arc<Shared>, http: Http, mut places: Places) {
    let mut followed = Followed(HashMap::new());
    let mut said: Vec<String> = Vec::new();
    let mut ticks = interval(shared.config.refresh_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (mut targets, errors) = places.targets(&http).await;
        errors
            .iter()
            .filter(|it| !said.contains(it))
            .for_each(|it| shared.journal.warn(it.clone()));
        said = errors;
        let limit = shared.config.max_workers;
        if targets.len() > limit {
            shared.left_out(SOURCE);
            targets.truncate(limit);
        }
        followed.follow(&shared, &http, &targets);
        *shared.targets.lock() = targets;
        shared.merger.sweep();
    }
}

/// The tasks that read a page, by their targets. Dropping it ends them.
struct Followed(HashMap<Target, AbortHandle>);

impl Followed {
    fn follow(&mut self, shared: &Arc<Shared>, http: &Http, targets: &[Target]) {
        self.0.retain(|target, task| {
            let stays = targets.contains(target);
            if !stays {
                task.abort();
                shared.journal.info(format!("{} is named no more", target.name));
            }
            stays
        });
        for target in targets {
            self.0.entry(target.clone()).or_insert_with(|| {
                let task = follow(Arc::clone(shared), http.clone(), target.clone());
                tokio::spawn(task).abort_handle()
            });
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.0.values().for_each(AbortHandle::abort);
    }
}

/// Reads one worker's page again and again.
async fn follow(shared: Arc<Shared>, http: Http, target: Target) {
    sleep(offset(&target, shared.config.poll_interval)).await;
    let mut ticks = interval(shared.config.poll_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing: Option<&'static str> = None;
    let mut refused = Refused::new();
    loop {
        ticks.tick().await;
        match read(&shared, &http, &target).await {
            Ok(now) => {
                if failing.take().is_some() {
                    shared.journal.info(format!("{} is read again", target.name));
                }
                for reason in now.difference(&refused) {
                    shared.failed(SOURCE, "refused");
                    shared
                        .journal
                        .warn(format!("Leaving a family of {} out: {reason}", target.name));
                }
                refused = now;
            }
            Err(Failure { reason, text }) => {
                shared.failed(SOURCE, reason);
                if failing.replace(reason) != Some(reason) {
                    shared.journal.warn(format!("Skipping {}: {text}", target.name));
                }
            }
        }
    }
}

async fn read(shared: &Shared, http: &Http, target: &Target) -> Result<Refused, Failure> {
    let page = http.get(&target.uri, ACCEPT).await?;
    let families = parse(&page.content_type, &page.body).map_err(Failure::nonsense)?;
    if let Some((load, hits)) = load_of(&families) {
        let (name, subject) = (target.name.to_string(), target.uri.to_string());
        let endpoint = Endpoint { name, subject, data: load };
        let id = WorkerId(Arc::clone(&target.name));
        shared.placed(SOURCE, &shared.board.report(&id, SOURCE, endpoint, hits));
    }
    Ok(shared.merger.update(&target.name, families))
}

/// When within an interval this worker is read: they are spread over it.
fn offset(target: &Target, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    target.name.hash(&mut hasher);
    interval.mul_f64((hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64)
}
