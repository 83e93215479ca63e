//! The scrape server: a thread that answers from a registry.

use std::sync::Arc;

use super::accept::{self, Service};
use super::answer::Answerer;
use super::config::ServeConfig;
use super::listen::Address;
use super::running::Running;
use super::tls;
use crate::error::Result;
use crate::metrics::Registry;

/// A thread that answers scrapes. Dropping it shuts it down.
#[derive(Debug)]
pub struct Server(Running);

impl Server {
    /// Starts to answer. When it returns, clients can connect.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a value outside its range or a file that holds no
    /// certificate or key, [`Error::Io`] for an address or file that cannot be had.
    ///
    /// [`Error::InvalidArgument`]: crate::error::Error::InvalidArgument
    /// [`Error::Io`]: crate::error::Error::Io
    pub fn start(registry: Arc<Registry>, config: ServeConfig) -> Result<Self> {
        config.validate()?;
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?;
        let answerer = Arc::new(Answerer::new(registry, &config));
        let service = Service { answerer, tls, limits: config.limits };
        let serve = move |(listener, stop)| accept::serve(listener, service, stop);
        Running::start("ryot-scrape", &config.bind, serve).map(Self)
    }

    /// Where it listens, with the port that the system chose; also after a shutdown.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn address(&self) -> Result<&Address> {
        self.0.address()
    }

    /// Stops to listen, finishes answers that are on their way within half a second, and waits
    /// for the thread, for a second at most: a collector may be stuck. Otherwise the address is
    /// free afterwards. Idempotent.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn shutdown(&self) -> Result<()> {
        self.0.shutdown()
    }
}
