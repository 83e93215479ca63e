//! The handle of a server's thread: its address and its end.
//!
//! After a fork the child has the handle and not the thread: there every method says so, and
//! nothing of what belongs to the parent is touched, neither the socket's file nor any lock that
//! the thread may have held.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::config::Bind;
use super::listen::{Address, Listener, SocketFile, listen};
use crate::error::{Error, Result};

/// How long a shutdown waits for the thread.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// A thread that serves. Dropping it shuts it down.
#[derive(Debug)]
pub(super) struct Running {
    address: Address,
    owner: u32,
    thread: Mutex<Option<Thread>>,
}

#[derive(Debug)]
struct Thread {
    stop: oneshot::Sender<()>,
    handle: JoinHandle<()>,
    /// Closes when the thread is about to end.
    ended: Receiver<()>,
    file: Option<SocketFile>,
}

/// What `serve` gets: who listens, and what ends when it shall stop.
pub(super) type Given = (Listener, oneshot::Receiver<()>);

impl Running {
    /// Listens, and has `serve` answer on a thread of this name. When it returns, clients can
    /// connect.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the address or the thread cannot be had.
    pub(super) fn start<F: Future<Output = ()>>(
        name: &str,
        bind: &Bind,
        serve: impl FnOnce(Given) -> F + Send + 'static,
    ) -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .map_err(Error::io(format!("start the event loop of {name}")))?;
        let (listener, address, file) = {
            let _context = runtime.enter();
            listen(bind)?
        };
        let thread = Thread::start(name, runtime, file, move |stop| serve((listener, stop)))?;
        Ok(Self { address, owner: std::process::id(), thread: Mutex::new(Some(thread)) })
    }

    /// Where it listens, with the port that the system chose; also after a shutdown.
    pub(super) fn address(&self) -> Result<&Address> {
        self.guard("read a server's address")?;
        Ok(&self.address)
    }

    /// Stops to listen and waits for the thread, for a second at most. Idempotent.
    pub(super) fn shutdown(&self) -> Result<()> {
        self.guard("shut a server down")?;
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.end();
        }
        Ok(())
    }

    fn guard(&self, action: &'static str) -> Result<()> {
        let current = std::process::id();
        if current == self.owner {
            return Ok(());
        }
        Err(Error::Forked { action, owner: self.owner, current })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.shutdown().is_err() {
            // A forked child: to drop these would wake, or wait for, a thread that is not here.
            std::mem::forget(self.thread.get_mut().take());
        }
    }
}

impl Thread {
    fn start<F: Future<Output = ()>>(
        name: &str,
        runtime: Runtime,
        file: Option<SocketFile>,
        serve: impl FnOnce(oneshot::Receiver<()>) -> F + Send + 'static,
    ) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (alive, ended) = mpsc::channel();
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            super::SCRAPING.set(true);
            runtime.block_on(async { serve(stopped).await });
            drop(runtime); // with all connections
            drop(alive);
        });
        match spawned {
            Ok(handle) => Ok(Self { stop, handle, ended, file }),
            Err(error) => {
                file.iter().for_each(SocketFile::remove);
                Err(Error::io(format!("start the thread {name}"))(error))
            }
        }
    }

    fn end(self) {
        self.file.iter().for_each(SocketFile::remove);
        let _ = self.stop.send(()); // it may have ended by a panic
        // An observer may hold the last reference, and so drop the server on its own thread.
        let own = self.handle.thread().id() == std::thread::current().id();
        if !own && self.ended.recv_timeout(SHUTDOWN_LIMIT) != Err(RecvTimeoutError::Timeout) {
            let _ = self.handle.join();
        }
    }
}
