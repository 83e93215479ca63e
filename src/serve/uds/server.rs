//! The server: who is connected, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use serde_json::value::RawValue;
use tokio::io::Interest;
use tokio::select;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use super::config::{MODE, UdsConfig, UdsLimits};
use super::connection::Connection;
use super::event::{Code, Fault};
use super::turnstile::Turnstile;
use crate::engine::Client;
use crate::error::Result;
use crate::fork;
use crate::serve::config::Bind;
use crate::serve::listen::{Address, Listener};
use crate::serve::running::Running;
use crate::serve::seats::Seats;
use crate::serve::socket::Socket;

/// How long a shutdown waits for the ends of cancelled requests.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// Makes the scorecard, as a JSON object, for so many sessions. It must not need the interpreter.
pub type Metrics = Arc<dyn Fn(u64) -> Box<RawValue> + Send + Sync>;

/// What all connections share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) limits: UdsLimits,
    pub(super) turnstile: Arc<Turnstile>,
    metrics: Metrics,
    seats: Arc<Seats>,
}

impl Shared {
    pub(super) fn metrics(&self) -> Box<RawValue> {
        let _pass = fork::pass();
        (self.metrics)(self.seats.count() as u64)
    }
}

/// A thread that answers an engine's clients. Dropping it shuts it down.
#[derive(Debug)]
pub struct Server {
    running: Running,
    turnstile: Arc<Turnstile>,
}

impl Server {
    /// Starts to answer. When it returns, clients can connect.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a limit outside its range, [`Error::Io`] for a file that
    /// cannot be had: it is no socket, another server listens there, or its directory is missing.
    ///
    /// [`Error::InvalidArgument`]: crate::error::Error::InvalidArgument
    /// [`Error::Io`]: crate::error::Error::Io
    pub fn start(client: Client, metrics: Metrics, config: UdsConfig) -> Result<Self> {
        let UdsConfig { path, limits } = config;
        limits.validate()?;
        let seats = Seats::new(limits.max_connections);
        let turnstile = Arc::new(Turnstile::default());
        let shared = Shared { client, limits, turnstile: Arc::clone(&turnstile), metrics, seats };
        let bind = Bind::Unix { path, mode: MODE };
        let serve = move |(listener, stop)| serve(listener, stop, Arc::new(shared));
        let running = Running::start("ryot-uds", &bind, serve)?;
        Ok(Self { running, turnstile })
    }

    /// Where it listens; also after a shutdown.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn address(&self) -> Result<&Address> {
        self.running.address()
    }

    /// Refuses requests from now on, with [`Code::Closed`], and waits until those that run have
    /// ended, for so long at most. Says whether they have. Metrics can still be read.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn drain(&self, patience: Duration) -> Result<bool> {
        self.address()?;
        Ok(self.turnstile.close(patience))
    }

    /// Removes the file, cancels the requests that run, tells their clients, and waits for the
    /// thread, for a second at most. Idempotent.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`](crate::error::Error::Forked).
    pub fn shutdown(&self) -> Result<()> {
        self.running.shutdown()
    }
}

/// Serves until it is told to stop, or until the one who could tell is gone.
async fn serve(listener: Listener, mut stop: oneshot::Receiver<()>, shared: Arc<Shared>) {
    let (alive, _) = watch::channel(());
    let mut tasks = JoinSet::new();
    loop {
        select! {
            socket = listener.next() => admit(socket, &shared, &alive, &mut tasks),
            Some(_) = tasks.join_next() => (),
            _ = &mut stop => break,
        }
        // Who has come may speak before the next one takes a place from those who do not.
        yield_now().await;
    }
    drop(listener);
    drop(alive);
    let _ = timeout(SHUTDOWN_GRACE, async { while tasks.join_next().await.is_some() {} }).await;
}

fn admit(socket: Socket, shared: &Arc<Shared>, alive: &watch::Sender<()>, tasks: &mut JoinSet<()>) {
    let Some(seat) = shared.seats.try_take() else {
        tasks.spawn(refuse(socket, shared.limits.max_connections));
        return;
    };
    let id = seat.id();
    let connection = Connection::new(socket, seat, Arc::clone(shared), alive.subscribe());
    shared.seats.assign(id, tasks.spawn(connection.run()));
}

async fn refuse(socket: Socket, limit: usize) {
    let text = format!("all {limit} connections are taken (max_connections)");
    let mut out = BytesMut::new();
    Fault::new(Code::Connections, text).event().frame(&mut out);
    if socket.ready(Interest::WRITABLE).await.is_ok() {
        let _ = socket.try_write(&out); // a new connection has room for it
    }
}
