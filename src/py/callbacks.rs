//! Python's part of a page on the scrape server's thread, which must not wait for the interpreter.
//!
//! A worker thread asks the interpreter; the scrape waits for it for [`PATIENCE`], and goes on
//! with what was said last if the interpreter is stuck. While the worker waits itself, it is given
//! nothing more, so a stuck interpreter costs a page one such wait, however many callbacks it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::boundary::attached;
use crate::clock::{Clock, MonotonicClock, seconds_between};
use crate::metrics::{Desc, Family, Kind, Options, Registry};
use crate::serve::on_scrape_thread;

/// The gauge that tells which part of a page is old.
const AGE: &str = "ryot_metrics_callback_age_seconds";
const AGE_HELP: &str =
    "Seconds since Python last said this part of the page, as the scrape server knows it.";

/// How long a page waits for the interpreter.
const PATIENCE: Duration = Duration::from_millis(100);

/// Something that Python says.
pub(super) trait Callback: Send + Sync {
    /// Asks, and keeps the answer.
    fn call(&self, py: Python<'_>);
}

type Job = (Arc<dyn Callback>, SyncSender<()>);

/// The worker has a job.
static BUSY: AtomicBool = AtomicBool::new(false);

/// The worker, and the process that it runs in: a forked child starts its own.
static WORKER: Mutex<Option<(u32, SyncSender<Job>)>> = Mutex::new(None);

/// Gives the worker a job; false if it cannot take one.
fn give(job: Job) -> bool {
    let process = std::process::id();
    let mut worker = WORKER.lock();
    if worker.as_ref().is_none_or(|(home, _)| *home != process) {
        std::mem::forget(worker.take()); // in a forked child, its lock may be held for ever
        let (sender, jobs) = sync_channel(1);
        let thread = std::thread::Builder::new().name("ryot-callbacks".to_owned());
        *worker = thread.spawn(move || work(&jobs)).ok().map(|_| (process, sender));
        BUSY.store(false, Ordering::Release);
    }
    if BUSY.swap(true, Ordering::Acquire) {
        return false;
    }
    worker.as_ref().is_some_and(|(_, worker)| worker.try_send(job).is_ok())
}

fn work(jobs: &Receiver<Job>) {
    while let Ok((callback, done)) = jobs.recv() {
        attached(|py| callback.call(py));
        drop(callback);
        BUSY.store(false, Ordering::Release);
        let _ = done.send(()); // the scrape may have given up
    }
}

/// Calls on the worker, if it has nothing else to do, and does not wait.
pub(super) fn tell(callback: Arc<dyn Callback>) {
    give((callback, sync_channel(1).0));
}

/// Calls on the worker; whether the answer came in time.
fn ask(callback: Arc<dyn Callback>) -> bool {
    let (done, answered) = sync_channel(1);
    give((callback, done)) && answered.recv_timeout(PATIENCE).is_ok()
}

/// How old the last answer of one callback is, as a gauge of its registry.
#[derive(Debug)]
pub(super) struct Age {
    /// None where the registry has another family of that name.
    family: Option<Arc<Family>>,
    name: String,
    answered_at: AtomicU64,
}

impl Age {
    pub(super) fn new(registry: &Registry, name: &str) -> Self {
        let options = Options { absent_if_empty: true, ..Options::default() };
        let desc = Desc::new(Kind::Gauge, AGE, AGE_HELP, &["callback"]);
        let family = desc.and_then(|desc| registry.register_or_get(desc, options)).ok();
        let answered_at = AtomicU64::new(MonotonicClock.now());
        Self { family, name: name.to_owned(), answered_at }
    }

    /// On the scrape server's thread, asks on the worker and sets the gauge; elsewhere, nothing.
    pub(super) fn ask<C: Callback + 'static>(&self, callback: &Arc<C>) {
        if !on_scrape_thread() {
            return;
        }
        let now = MonotonicClock.now();
        if ask(callback.clone()) {
            self.answered_at.store(now, Ordering::Relaxed);
        }
        let age = seconds_between(self.answered_at.load(Ordering::Relaxed), now);
        if let Some(family) = &self.family {
            family.series(&[&self.name]).set(age);
        }
    }
}
