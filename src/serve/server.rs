//! The handle of a running server: its address and its end.
//!
//! After a fork the child has the handle and not the thread: there every method says so, and
//! nothing of what belongs to the parent is touched, neither the socket's file nor any lock that
//! the thread may have held.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::accept::{self, Service};
use super::answer::Answerer;
use super::config::ServeConfig;
use super::listen::{Address, Listener, SocketFile, listen};
use super::tls;
use crate::error::{Error, Result};
use crate::metrics::Registry;

/// How long a shutdown waits for the thread.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// A thread that answers scrapes. Dropping it shuts it down.
#[derive(Debug)]
pub struct Server {
    address: Address,
    owner: u32,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    /// Closes when the thread is about to end.
    ended: Receiver<()>,
    file: Option<SocketFile>,
}

impl Running {
    fn start(
        runtime: Runtime,
        listener: Listener,
        service: Service,
        file: Option<SocketFile>,
    ) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (alive, ended) = mpsc::channel();
        let spawned = std::thread::Builder::new().name("ryot-scrape".to_owned()).spawn(move || {
            super::SCRAPING.set(true);
            runtime.block_on(accept::serve(listener, service, stopped));
            drop(runtime); // with all connections
            drop(alive);
        });
        match spawned {
            Ok(thread) => Ok(Self { stop, thread, ended, file }),
            Err(error) => {
                file.iter().for_each(SocketFile::remove);
                Err(Error::io("start the scrape server's thread")(error))
            }
        }
    }

    fn end(self) {
        self.file.iter().for_each(SocketFile::remove);
        let _ = self.stop.send(()); // it may have ended by a panic
        // An observer may hold the last reference, and so drop the server on its own thread.
        let own = self.thread.thread().id() == std::thread::current().id();
        if !own && self.ended.recv_timeout(SHUTDOWN_LIMIT) != Err(RecvTimeoutError::Timeout) {
            let _ = self.thread.join();
        }
    }
}

impl Server {
    /// Starts to answer. When it returns, clients can connect.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a value outside its range or a file that holds no
    /// certificate or key, [`Error::Io`] for an address or file that cannot be had.
    pub fn start(registry: Arc<Registry>, config: ServeConfig) -> Result<Self> {
        config.validate()?;
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::io("start the scrape server's event loop"))?;
        let (listener, address, file) = {
            let _context = runtime.enter();
            listen(&config.bind)?
        };
        let answerer = Arc::new(Answerer::new(registry, &config));
        let service = Service { answerer, tls, limits: config.limits };
        let running = Running::start(runtime, listener, service, file)?;
        let owner = std::process::id();
        Ok(Self { address, owner, running: Mutex::new(Some(running)) })
    }

    /// Where it listens, with the port that the system chose; also after a shutdown.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn address(&self) -> Result<&Address> {
        self.guard("read the scrape server's address")?;
        Ok(&self.address)
    }

    /// Stops to listen, finishes answers that are on their way within half a second, and waits
    /// for the thread, for a second at most: a collector may be stuck. Otherwise the address is
    /// free afterwards. Idempotent.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn shutdown(&self) -> Result<()> {
        self.guard("shut the scrape server down")?;
        let running = self.running.lock().take();
        if let Some(running) = running {
            running.end();
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

impl Drop for Server {
    fn drop(&mut self) {
        if self.shutdown().is_err() {
            // A forked child: to drop these would wake, or wait for, a thread that is not here.
            std::mem::forget(self.running.get_mut().take());
        }
    }
}
