//! Prometheus metrics for services that run language models, and a batching engine over
//! llama.cpp that they measure.
//!
//! - [`metrics`]: the general client: registry, series storage, encoders.
//! - [`llm`]: the catalogue of families and the recorder that turns events into samples.
//! - [`engine`] and [`backend`]: the scheduler, the engine thread and the models behind them.
//! - [`gpu`]: the thread that reads devices.
//! - [`fleet`]: collectors of the metrics of other processes and machines.
//! - [`serve`]: the thread that answers scrapes, without an interpreter.
//! - [`error`], [`clock`], [`event`], [`fork`]: the leaves that all of them share.
//!
//! `python → py → {engine, llm, serve} → {metrics, gpu} → leaves`; engine and metrics never import each other,
//! both know only [`event`].

pub mod backend;
pub mod clock;
pub mod engine;
pub mod error;
pub mod event;
pub mod fleet;
pub mod fork;
pub mod gpu;
pub mod llm;
pub mod metrics;
pub mod serve;

#[cfg(feature = "python")]
mod py;
