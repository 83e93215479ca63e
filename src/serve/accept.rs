//! The server's loop: accepts connections and gives each to a task of the same thread.
//!
//! Invariants: the loop never waits for a client; nothing a client does or leaves undone holds a
//! connection longer than the limits say.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::answer::Answerer;
use super::config::Limits;
use super::listen::Listener;
use super::seats::{Seat, Seats};
use super::socket::Socket;

/// How long a shutdown waits for answers that are on their way.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

/// What all connections share.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) answerer: Arc<Answerer>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) limits: Limits,
}

/// Serves until it is told to stop, or until the one who could tell is gone.
pub(super) async fn serve(listener: Listener, service: Service, stop: oneshot::Receiver<()>) {
    let connections = Arc::new(GracefulShutdown::new());
    let accepting = tokio::spawn(accept(listener, service, Arc::clone(&connections)));
    let _ = stop.await;
    accepting.abort();
    let _ = accepting.await; // with it, the listener is gone
    if let Some(connections) = Arc::into_inner(connections) {
        let _ = timeout(SHUTDOWN_GRACE, connections.shutdown()).await;
    }
}

async fn accept(listener: Listener, service: Service, connections: Arc<GracefulShutdown>) {
    let seats = Seats::new(service.limits.max_connections);
    loop {
        let socket = listener.next().await;
        let seat = seats.take();
        let id = seat.id();
        let task = tokio::spawn(connect(socket, service.clone(), seat, connections.watcher()));
        seats.assign(id, task.abort_handle());
    }
}

/// Serves one connection to its end.
async fn connect(socket: Socket, service: Service, seat: Seat, watcher: Watcher) {
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(service.limits.write_timeout));
    let socket: Pin<Box<TimeoutStream<Socket>>> = Box::pin(socket);
    match service.tls.clone() {
        None => talk(socket, service, seat, watcher).await,
        Some(tls) => {
            let shake = timeout(service.limits.read_timeout, tls.accept(socket));
            if let Ok(Ok(stream)) = shake.await {
                talk(stream, service, seat, watcher).await;
            }
        }
    }
}

async fn talk<IO>(io: IO, service: Service, seat: Seat, watcher: Watcher)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Service { answerer, limits, .. } = service;
    let answer = service_fn(|request: hyper::Request<Incoming>| {
        seat.active();
        std::future::ready(Ok::<_, Infallible>(answerer.answer(&request)))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read_timeout)
        .max_buf_size(limits.max_header_bytes)
        .serve_connection(TokioIo::new(io), answer);
    let _ = watcher.watch(connection).await; // a client's failure is its own affair
}
