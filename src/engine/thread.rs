//! The engine on a thread of its own, which owns the decoder from its making to its end.
//!
//! The thread never touches a caller's locks for longer than a push, and never any interpreter.
//! Whatever ends it (shutdown, an error, a panic in the model) ends all requests too, so nobody
//! waits for a thread that is gone.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::backend::{DecoderConfig, Model};
use crate::clock::{Clock, Nanos};
use crate::engine::client::Client;
use crate::engine::config::EngineConfig;
use crate::engine::core::{Core, Progress};
use crate::error::{Error, Result};
use crate::event::Observer;

/// A running engine; submits as its [`Client`] does. Dropping it shuts it down.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use ryot_metrics::backend::toy::Toy;
/// use ryot_metrics::clock::MonotonicClock;
/// use ryot_metrics::engine::{Engine, EngineConfig, SamplingParams, Terms};
/// use ryot_metrics::event::{Ignore, Origin};
///
/// let engine = Engine::start(
///     Arc::new(Toy::instant()),
///     EngineConfig::default(),
///     Arc::new(Ignore),
///     Arc::new(MonotonicClock),
/// )?;
/// let params = SamplingParams { max_tokens: Some(5), ..SamplingParams::greedy() };
/// let request = engine.submit("hello".into(), params, Terms::default(), Origin::default())?;
/// assert!(request.wait_finished(Duration::from_secs(10))?);
/// let (deltas, finish) = request.drain()?;
/// assert_eq!(deltas.len(), 5);
/// assert_eq!(finish.unwrap().reason.as_str(), "length");
/// # Ok::<(), ryot_metrics::error::Error>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    client: Client,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts an engine and waits until its decoder exists.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for an invalid configuration, [`Error::OutOfMemory`] if the
    /// decoder's memory or the thread cannot be had.
    pub fn start(
        model: Arc<dyn Model>,
        config: EngineConfig,
        observer: Arc<dyn Observer>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let decoder = config.decoder();
        let since = clock.now();
        let (core, client) = Core::new(Arc::clone(&model), config, observer, clock)?;
        let (ready, started) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("ryot-engine".to_owned())
            .spawn(move || work(core, &*model, &decoder, since, &ready))
            .map_err(|error| Error::OutOfMemory(format!("cannot start a thread: {error}")))?;
        started.recv().unwrap_or(Err(Error::EngineClosed))?;
        Ok(Self { client, thread: Mutex::new(Some(thread)) })
    }

    /// Ends all requests as cancelled, with [`Error::EngineClosed`], and waits for the thread:
    /// at most one step. Idempotent.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn shutdown(&self) -> Result<()> {
        self.client.link.guard("shut the engine down")?;
        self.client.link.close();
        let thread = self.thread.lock().take();
        // An observer may hold the last reference, and so drop the engine on its own thread.
        let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
        if let Some(thread) = thread.filter(|thread| !own(thread)) {
            let _ = thread.join(); // it catches its panics
        }
        Ok(())
    }
}

impl Deref for Engine {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.shutdown(); // in a forked child there is no thread to wait for
    }
}

fn work(
    mut core: Core,
    model: &dyn Model,
    config: &DecoderConfig,
    since: Nanos,
    ready: &mpsc::SyncSender<Result<()>>,
) {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        model.run(config, &mut |decoder| {
            core.ready(since, config.cells);
            let _ = ready.send(Ok(()));
            loop {
                match core.step(decoder) {
                    Progress::Worked => (),
                    Progress::Idle => core.wait(),
                    Progress::Closed => break,
                }
            }
        })
    }));
    let error = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(panic) => Error::Decode(format!("the engine's thread panicked: {}", text(&*panic))),
    };
    core.close(&error);
    let _ = ready.try_send(Err(error));
}

fn text(panic: &(dyn std::any::Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
