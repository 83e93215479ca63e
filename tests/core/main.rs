//! The pure core: scheduler, engine, toy backend, catalogue and scrape server, without C++ and without Python.

mod binding;
mod embed;
mod facts;
mod gpu;
mod pipeline;
mod policy;
mod scheduler;
mod scorecard;
mod scrape;
mod simulation;
mod thread;
mod uds;
