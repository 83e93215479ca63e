//! The pure core: scheduler, engine, toy backend and scrape server, without C++ and without Python.

mod binding;
mod gpu;
mod scheduler;
mod scrape;
mod simulation;
mod thread;
