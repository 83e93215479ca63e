//! Collectors of the metrics of other processes and machines.
//!
//! What a collector knows, adds up and shows is pure and takes its time from a clock; NATS, HTTP,
//! names and files are in modules of their own, on one thread that never holds a lock of Python's.
//!
//! Must not know: the engine, Python.

mod access;
mod board;
mod config;
mod discover;
mod dns;
mod engines;
mod exposition;
mod families;
mod http;
mod journal;
mod load;
mod merge;
mod mock;
mod nats;
mod poll;
mod push;
mod round;
mod rules;
mod running;
mod service;
mod sparse;
mod targets;
mod thread;
mod total;
mod worker;

pub use access::NatsServer;
pub use config::{FleetConfig, Output};
pub use discover::Discovery;
pub use journal::{Level, Notice};
pub use load::{Endpoint, ForwardPassMetrics, KvHitRateEvent, Load, ProcessedEndpoints, WorkerId};
pub use mock::Mock;
pub use push::Push;
pub use rules::Mode;
pub use running::Fleet;
pub use service::Component;
pub use worker::{Member, Worker, WorkerConfig, random_worker_id};
