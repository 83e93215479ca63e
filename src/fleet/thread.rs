//! A thread with an event loop that runs until it is told to stop.
//!
//! After a fork the child has the handle and not the thread: there every method says so, and
//! nothing of the thread's is touched.

use std::future::Future;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// How long a stop waits for the thread.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// The handle of such a thread. Dropping it stops the thread.
#[derive(Debug)]
pub(super) struct Looping {
    owner: u32,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    /// Closes when the thread is about to end.
    ended: Receiver<()>,
    handle: JoinHandle<()>,
}

impl Looping {
    /// Starts a thread of this name that runs `work` until it is told to stop.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no thread or event loop to be had.
    pub(super) fn start<F: Future<Output = ()>>(
        name: &str,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self> {
        let action = || format!("start the thread {name}");
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(Error::io(action()))?;
        let (stop, stopped) = oneshot::channel();
        let (alive, ended) = mpsc::channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = work() => {}
                }
            });
            runtime.shutdown_background(); // a look-up of a name may be stuck
            drop(alive);
        };
        let thread = std::thread::Builder::new().name(name.to_owned());
        let handle = thread.spawn(run).map_err(Error::io(action()))?;
        let running = Mutex::new(Some(Running { stop, ended, handle }));
        Ok(Self { owner: std::process::id(), running })
    }

    /// # Errors
    /// [`Error::Forked`] in a child of the process that started it.
    pub(super) fn guard(&self, action: &'static str) -> Result<()> {
        let current = std::process::id();
        if current == self.owner {
            return Ok(());
        }
        Err(Error::Forked { action, owner: self.owner, current })
    }

    /// Stops the thread and waits for it, for a second at most. Idempotent.
    ///
    /// # Errors
    /// As [`Self::guard`].
    pub(super) fn stop(&self, action: &'static str) -> Result<()> {
        self.guard(action)?;
        let Some(running) = self.running.lock().take() else { return Ok(()) };
        let _ = running.stop.send(()); // it may have ended
        if running.ended.recv_timeout(STOP_LIMIT) != Err(RecvTimeoutError::Timeout) {
            let _ = running.handle.join();
        }
        Ok(())
    }
}

impl Drop for Looping {
    fn drop(&mut self) {
        if self.stop("stop a thread").is_err() {
            std::mem::forget(self.running.get_mut().take());
        }
    }
}
