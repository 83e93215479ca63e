//! What answers scrapes on a socket without the interpreter: HTTP on TCP or a Unix socket, with
//! or without TLS, on one thread of its own.
//!
//! A scrape has to be answered above all while the service is stuck; so nothing here waits for a
//! lock that Python code can hold. HTTP itself is `hyper`'s, TLS is `rustls`'s.
//!
//! Must not know: Python, language models, how a page is written.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use std::sync::Arc;
//! use ryot_metrics::metrics::{Desc, Family, Kind, Registry};
//! use ryot_metrics::serve::{Bind, ServeConfig, Server};
//!
//! let registry = Arc::new(Registry::default());
//! let jobs = Family::register(Desc::new(Kind::Counter, "jobs", "", &[])?, &registry)?;
//! jobs.series::<&str>(&[]).add(2.0);
//! let bind = Bind::Tcp { host: "127.0.0.1".into(), port: 0 };
//! let server = Server::start(registry, ServeConfig { bind, ..ServeConfig::default() })?;
//!
//! let mut client = TcpStream::connect(server.address()?.to_string()).unwrap();
//! client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
//! let mut answer = String::new();
//! client.read_to_string(&mut answer).unwrap();
//! assert!(answer.contains("\njobs_total 2.0\n"));
//! # Ok::<(), ryot_metrics::error::Error>(())
//! ```

mod accept;
mod answer;
mod config;
mod encoding;
mod listen;
mod running;
mod seats;
mod server;
mod socket;
mod tls;
pub mod uds;

use std::cell::Cell;

thread_local! {
    static SCRAPING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a scrape server's thread, on which a source must not wait for the interpreter.
pub fn on_scrape_thread() -> bool {
    SCRAPING.get()
}

pub use config::{
    Bind, Ignore, Limits, LivePage, Scrape, ScrapeObserver, ServeConfig, StaticPage, TlsFiles,
};
pub use encoding::Coding;
pub use listen::Address;
pub use server::Server;
