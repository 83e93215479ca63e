//! The Unix socket of an engine: requests, answers token by token, and the scorecard, for programs
//! of one machine, without HTTP and without the interpreter.
//!
//! A connection speaks one of two ways, and its first four bytes tell which (`frame`):
//! - *frames*: a length of four bytes, little-endian, then so many bytes of JSON. `request` says
//!   what may be asked, `event` what is answered.
//! - *lines*: `metrics`, answered by one line of JSON, for `nc` and shell scripts.
//!
//! One thread serves all connections; the engine wakes those it has news for once per step. A second
//! thread turns prompts into tokens, so that a long one holds up nobody's answer. A connection is a
//! state machine whose every state has a limit of bytes and of time (`config`).
//!
//! Knows the engine's client. Must not know: metrics, Python.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::os::unix::net::UnixStream;
//! use std::sync::Arc;
//! use ryot_metrics::backend::toy::Toy;
//! use ryot_metrics::clock::MonotonicClock;
//! use ryot_metrics::engine::{Engine, EngineConfig};
//! use ryot_metrics::event::Ignore;
//! use ryot_metrics::serve::uds::{Server, UdsConfig};
//!
//! let (toy, clock) = (Arc::new(Toy::instant()), Arc::new(MonotonicClock));
//! let engine = Engine::start(toy, EngineConfig::default(), Arc::new(Ignore), clock)?;
//! let path = std::env::temp_dir().join(format!("ryot-example-{}.sock", std::process::id()));
//! let sessions = |count: u64| serde_json::value::to_raw_value(&count).unwrap();
//! let server = Server::start(engine.clone(), Arc::new(sessions), UdsConfig::new(&path))?;
//!
//! let mut client = UnixStream::connect(&path).unwrap();
//! let request = br#"{"id":"a","prompt":"hello","max_tokens":3,"stream":false}"#;
//! client.write_all(&(request.len() as u32).to_le_bytes()).unwrap();
//! client.write_all(request).unwrap();
//! let mut length = [0; 4];
//! client.read_exact(&mut length).unwrap();
//! let mut event = vec![0; u32::from_le_bytes(length) as usize];
//! client.read_exact(&mut event).unwrap();
//! assert!(event.starts_with(br#"{"event":"eos","id":"a","reason":"length","text":"#));
//! # Ok::<(), ryot_metrics::error::Error>(())
//! ```

mod config;
mod connection;
mod event;
mod frame;
mod job;
mod request;
mod server;
mod turnstile;

pub use config::{UdsConfig, UdsLimits};
pub use event::Code;
pub use frame::{Decoder, FrameError, Item};
pub use server::{Metrics, Server};
