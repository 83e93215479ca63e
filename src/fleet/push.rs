//! Pushes the page to a Pushgateway, again and again.

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use tokio::time::{MissedTickBehavior, interval};

use super::discover::is_http;
use super::http::Http;
use super::running::Shared;
use crate::error::{Error, Result};
use crate::metrics::{Exposition, Format, Registry, encode};

/// A Pushgateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// Its URL: `http://127.0.0.1:9091`.
    pub url: String,
    /// The label `job` of what is pushed.
    pub job: String,
    /// The time between two pushes.
    pub interval: Duration,
}

impl Push {
    /// The group that is pushed to.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the URL is none, or the job cannot stand in one.
    pub(super) fn uri(&self) -> Result<Uri> {
        let Self { url, job, .. } = self;
        let group = format!("{}/metrics/job/{job}", url.trim_end_matches('/'));
        let valid = !job.is_empty() && !job.contains(['/', '?', '#']);
        let uri = group.parse::<Uri>().ok().filter(|uri| valid && is_http(uri));
        let text = || format!("push is {url:?} for job {job:?}; it must be a URL and a word");
        uri.ok_or_else(|| Error::InvalidArgument(text()))
    }
}

/// Replaces the group's metrics with those of the page until it is dropped: what has gone from the
/// page goes from the gateway too.
pub(super) async fn run(
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    http: Http,
    uri: Uri,
    every: Duration,
) {
    let content_type = Exposition::from(Format::Text004).content_type();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let page = encode(&registry, Format::Text004).into_bytes();
        match http.put(&uri, &content_type, page).await {
            Ok(_) if std::mem::take(&mut failing) => {
                shared.journal.info(format!("Pushing to {uri} again"));
            }
            Ok(_) => {}
            Err(error) => {
                shared.failed("push", error.reason);
                if !std::mem::replace(&mut failing, true) {
                    shared.journal.warn(format!("Cannot push to {uri}: {}", error.text));
                }
            }
        }
    }
}
