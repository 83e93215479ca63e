//! The thread that reads a probe.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Probe, Reading};
use crate::error::{Error, Result};

/// How often devices are read by default; NVIDIA's own period of utilisation is up to a second.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Who wants the readings. Called on the sampler's thread, which it must not stop there.
pub trait Watcher: Send + 'static {
    /// The devices as they are now; one that is missing is gone.
    fn readings(&self, readings: &[Reading]);

    /// There is nothing to read, now and later.
    fn nothing(&self, reason: &Error);
}

#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// A thread that reads a probe until this is dropped.
#[derive(Debug)]
pub struct Sampler {
    /// The process that has the thread. In a forked child the lock may be held for ever.
    home: u32,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts the thread. It opens the probe itself, since that may take seconds; the first
    /// reading comes at once, the others every `interval`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an interval of 0, [`Error::OutOfMemory`] if the system
    /// gives no thread.
    pub fn start(
        open: impl FnOnce() -> Result<Box<dyn Probe>> + Send + 'static,
        interval: Duration,
        watcher: impl Watcher,
    ) -> Result<Self> {
        if interval.is_zero() {
            return Err(Error::InvalidArgument("interval is 0 s; it must be above 0".to_owned()));
        }
        let stop = Arc::new(Stop::default());
        let thread = std::thread::Builder::new()
            .name("ryot-gpu".to_owned())
            .spawn({
                let stop = Arc::clone(&stop);
                move || watch(open, interval, &watcher, &stop)
            })
            .map_err(|error| Error::OutOfMemory(format!("cannot start a thread: {error}")))?;
        Ok(Self { home: std::process::id(), stop, thread: Some(thread) })
    }

    /// Lets the thread end, without waiting for it: a driver may hang. No reading is passed on
    /// after this; one that is being passed on is waited for. Does nothing in a forked child.
    pub fn stop(&self) {
        if self.home != std::process::id() {
            return;
        }
        *self.stop.stopped.lock() = true;
        self.stop.changed.notify_all();
    }

    /// Waits for the end of the thread after [`stop`](Self::stop).
    pub fn join(mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a watcher's panic is the watcher's
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop();
    }
}

fn watch(
    open: impl FnOnce() -> Result<Box<dyn Probe>>,
    interval: Duration,
    watcher: &impl Watcher,
    stop: &Stop,
) {
    let mut probe = match open() {
        Ok(probe) => probe,
        Err(error) => return watcher.nothing(&error),
    };
    loop {
        // A driver that fails as a whole is asked again: it may be restarted.
        let readings = probe.read().unwrap_or_default();
        let mut stopped = stop.stopped.lock();
        if !*stopped {
            watcher.readings(&readings);
            stop.changed.wait_while_for(&mut stopped, |stopped| !*stopped, interval);
        }
        if *stopped {
            return;
        }
    }
}
