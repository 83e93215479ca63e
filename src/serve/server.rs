//! The handle of a running server: its address and its end.
//!
//! After a fork the child has the handle and not the thread: there every method says so, and
//! nothing of what belongs to the parent is touched, neither the socket's file nor any lock that
//! the thread may have held.

use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::accept::{self, Service};
use super::answer::Answerer;
use super::config::ServeConfig;
use super::listen::{Address, SocketFile, listen};
use super::tls;
use crate::error::{Error, Result};
use crate::metrics::Registry;

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
    file: Option<SocketFile>,
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
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("ryot-scrape".to_owned())
            .spawn(move || runtime.block_on(accept::serve(listener, service, stopped)))
            .map_err(Error::io("start the scrape server's thread"))?;
        let running = Mutex::new(Some(Running { stop, thread, file }));
        Ok(Self { address, owner: std::process::id(), running })
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
    /// for the thread. The address is free afterwards. Idempotent.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn shutdown(&self) -> Result<()> {
        self.guard("shut the scrape server down")?;
        let Some(Running { stop, thread, file }) = self.running.lock().take() else {
            return Ok(());
        };
        if let Some(file) = file {
            file.remove();
        }
        let _ = stop.send(()); // it may have ended by a panic
        // An observer may hold the last reference, and so drop the server on its own thread.
        if thread.thread().id() != std::thread::current().id() {
            let _ = thread.join();
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
