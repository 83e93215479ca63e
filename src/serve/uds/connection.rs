//! One connection: what comes in, what goes out, and how long either may take.
//!
//! Each turn of the loop waits for one thing: the socket, the engine, a limit of time, or the
//! server's end. Invariants: no turn waits for the client with anything else to do; what is kept
//! for the client is bounded, and its request is cancelled when it goes away.

use std::future::pending;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{Interest, Ready};
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};

use super::event::{Code, Event, Fault};
use super::frame::{Decoder, Item};
use super::job::Job;
use super::request::{Ask, Message};
use super::server::Shared;
use crate::serve::seats::Seat;
use crate::serve::socket::Socket;

/// Bytes that are read at once.
const READ_BYTES: usize = 16 * 1024;

/// After so long without a further byte, what is shorter than a frame's length is a line.
const LINE_PAUSE: Duration = Duration::from_millis(100);

/// How long a closed connection stays for a client that still writes, so that it can read why.
const LINGER: Duration = Duration::from_secs(1);

/// What the connection waits for, as far as a limit of time is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Anything from the client.
    Idle,
    /// The rest of a frame or line.
    Partial,
    /// Perhaps nothing: a line may be whole.
    Undecided,
    /// The engine.
    Answer,
    /// The client, to read.
    Unread,
}

pub(super) struct Connection {
    socket: Socket,
    seat: Seat,
    shared: Arc<Shared>,
    /// Closes when the server ends.
    alive: watch::Receiver<()>,
    decoder: Decoder,
    out: BytesMut,
    job: Option<Job>,
    /// The client says nothing more.
    silent: bool,
    /// Nothing more is to be heard or begun.
    closing: bool,
    phase: Phase,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub(super) fn new(
        socket: Socket,
        seat: Seat,
        shared: Arc<Shared>,
        alive: watch::Receiver<()>,
    ) -> Self {
        let decoder = Decoder::new(shared.limits.max_frame_bytes, shared.limits.max_line_bytes);
        let timer = Some(Box::pin(sleep(shared.limits.idle_timeout)));
        Self {
            socket,
            seat,
            shared,
            alive,
            decoder,
            out: BytesMut::new(),
            job: None,
            silent: false,
            closing: false,
            phase: Phase::Idle,
            timer,
        }
    }

    /// Serves to the end. A client's failure is its own affair.
    pub(super) async fn run(mut self) {
        while !self.is_over() {
            let Ok(progress) = self.turn().await else { return };
            self.arm(progress);
        }
        self.linger().await;
    }

    /// Waits for one thing and does what is due; says whether the client did its part.
    async fn turn(&mut self) -> io::Result<bool> {
        let (interest, wants_more) = (self.interest(), self.wants_more());
        select! {
            ready = ready(&self.socket, interest) => return self.transfer(ready?),
            done = wait(&mut self.job), if wants_more => {
                self.advance(done);
            }
            () = expired(&mut self.timer) => self.expire()?,
            _ = self.alive.changed(), if !self.closing => self.stop(),
        }
        Ok(false)
    }

    fn is_over(&self) -> bool {
        self.out.is_empty() && self.job.is_none() && (self.closing || self.silent)
    }

    fn wants_more(&self) -> bool {
        self.out.len() < self.shared.limits.max_unsent_bytes
    }

    fn hears(&self) -> bool {
        !self.silent && !self.closing && self.wants_more()
    }

    fn interest(&self) -> Option<Interest> {
        match (self.hears(), !self.out.is_empty()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
    }

    fn transfer(&mut self, ready: Ready) -> io::Result<bool> {
        let wrote = !self.out.is_empty() && ready.is_writable() && self.write()?;
        let heard = self.hears() && ready.is_readable() && self.read()?;
        Ok(if self.phase == Phase::Unread { wrote } else { heard })
    }

    fn write(&mut self) -> io::Result<bool> {
        let count = unless_blocked(self.socket.try_write(&self.out))?.unwrap_or(0);
        self.out.advance(count);
        Ok(count > 0)
    }

    /// Reads once; says whether that made anything whole.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        match unless_blocked(self.socket.try_read(&mut buffer))? {
            None => return Ok(false),
            Some(0) => {
                self.silent = true;
                self.decoder.settle();
                // Who has only said all there is to say can be written to; who has gone cannot.
                unless_blocked(self.socket.try_write(&[]))?;
            }
            Some(count) => self.decoder.push(&buffer[..count]),
        }
        Ok(self.hear())
    }

    fn hear(&mut self) -> bool {
        let mut heard = false;
        while !self.closing {
            match self.decoder.next() {
                Ok(None) => break,
                Ok(Some(item)) => self.take(&item),
                Err(error) => self.fail(&error.into()),
            }
            heard = true;
        }
        heard
    }

    fn take(&mut self, item: &Item) {
        self.seat.active();
        match item {
            Item::Line(line) => match &**line {
                b"metrics" | b"/metrics" => self.metrics(),
                other => {
                    let text = String::from_utf8_lossy(other);
                    let text = format!("{text:?} is no command; metrics and /metrics are");
                    self.fail(&Fault::new(Code::BadRequest, text));
                }
            },
            Item::Frame(json) => match Message::parse(json, &self.shared.limits) {
                Ok(Message::Cancel(id)) => {
                    // Of a request that has ended it comes too late, and does no harm.
                    if let Some(job) = self.job.as_mut().filter(|job| *job.id() == id) {
                        job.cancel();
                    }
                }
                Ok(Message::Metrics) if self.job.is_none() => self.metrics(),
                Ok(Message::Ask(ask)) if self.job.is_none() => self.ask(*ask),
                Ok(_) => self.busy(),
                Err(fault) => self.fail(&fault),
            },
        }
    }

    fn ask(&mut self, ask: Ask) {
        if let Some(pass) = self.shared.turnstile.enter() {
            self.job = Some(Job::start(ask, &self.shared.client, pass));
        } else {
            let text = "the server is shutting down; it takes no more requests";
            self.fail(&Fault::new(Code::Closed, text).about(Some(ask.id)));
        }
    }

    fn metrics(&mut self) {
        let metrics = self.shared.metrics();
        if self.decoder.in_lines() {
            self.out.extend_from_slice(metrics.get().as_bytes());
            self.out.extend_from_slice(b"\n");
        } else {
            Event::Metrics { metrics: &metrics }.frame(&mut self.out);
        }
        self.closing = true;
    }

    fn busy(&mut self) {
        let text = "a request of this connection is still running; one at a time is answered";
        let id = self.job.as_ref().map(|job| job.id().clone());
        self.fail(&Fault::new(Code::BadRequest, text).about(id));
    }

    /// Tells what went wrong, and ends the connection where that is the end.
    fn fail(&mut self, fault: &Fault) {
        if self.decoder.in_lines() {
            fault.event().line(&mut self.out);
        } else {
            fault.event().frame(&mut self.out);
        }
        if fault.closes() {
            self.closing = true;
            self.job = None;
        }
    }

    /// The engine has something to say.
    fn advance(&mut self, waited: Result<(), Fault>) {
        let Some(job) = &mut self.job else { return };
        match waited.and_then(|()| job.write(&mut self.out)) {
            Ok(None) => (),
            Ok(Some(end)) => {
                self.closing |= end.failed;
                self.job = None;
            }
            Err(fault) => {
                self.job = None;
                self.fail(&fault);
            }
        }
        if self.job.is_none() && self.alive.has_changed().is_err() {
            self.closing = true;
        }
    }

    /// The server ends: so does its request, and then the connection.
    fn stop(&mut self) {
        self.closing = true;
        if let Some(job) = &mut self.job {
            job.cancel();
        }
    }

    /// Starts the time again if the connection waits for something else now.
    fn arm(&mut self, progress: bool) {
        let phase = self.phase();
        if phase == self.phase && !progress {
            return;
        }
        self.phase = phase;
        self.timer = self.limit().map(|limit| Box::pin(sleep(limit)));
    }

    fn phase(&self) -> Phase {
        if !self.out.is_empty() {
            Phase::Unread
        } else if self.job.is_some() {
            Phase::Answer
        } else if self.decoder.undecided() {
            Phase::Undecided
        } else if !self.decoder.is_empty() {
            Phase::Partial
        } else {
            Phase::Idle
        }
    }

    fn limit(&self) -> Option<Duration> {
        match self.phase {
            Phase::Idle => Some(self.shared.limits.idle_timeout),
            Phase::Partial => Some(self.shared.limits.frame_timeout),
            Phase::Undecided => Some(LINE_PAUSE),
            Phase::Answer => None,
            Phase::Unread => Some(self.shared.limits.write_timeout),
        }
    }

    /// The time is over.
    fn expire(&mut self) -> io::Result<()> {
        self.timer = None;
        let limit = self.limit().unwrap_or_default().as_secs_f64();
        let text = match self.phase {
            Phase::Answer => return Ok(()),
            Phase::Unread => return Err(ErrorKind::TimedOut.into()),
            Phase::Undecided => {
                self.decoder.settle();
                self.hear();
                return Ok(());
            }
            Phase::Partial => format!("a frame took more than {limit} s (frame_timeout)"),
            Phase::Idle => format!("nothing came for {limit} s (idle_timeout)"),
        };
        self.fail(&Fault::new(Code::Timeout, text));
        Ok(())
    }

    /// Lets the client read the last event: to close before it has written all would take that away.
    async fn linger(self) {
        self.socket.end_writing();
        let read_all = async {
            let mut buffer = [0; 1024];
            while self.socket.ready(Interest::READABLE).await.is_ok() {
                if let Ok(Some(0)) | Err(_) = unless_blocked(self.socket.try_read(&mut buffer)) {
                    break;
                }
            }
        };
        let _ = timeout(LINGER, read_all).await;
    }
}

async fn ready(socket: &Socket, interest: Option<Interest>) -> io::Result<Ready> {
    match interest {
        Some(interest) => socket.ready(interest).await,
        None => pending().await,
    }
}

async fn wait(job: &mut Option<Job>) -> Result<(), Fault> {
    match job {
        Some(job) => job.wait().await,
        None => pending().await,
    }
}

async fn expired(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => pending().await,
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}
