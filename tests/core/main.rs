//! The pure core: scheduler, engine and toy backend, without C++ and without Python.

mod scheduler;
mod simulation;
mod thread;
