//! The atomics of cells: the standard library's, or loom's where every order of the threads'
//! steps is gone through (`poe model`).

#[cfg(not(feature = "loom"))]
pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU64, fence};

#[cfg(feature = "loom")]
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU64, fence};

#[cfg(not(feature = "loom"))]
pub(crate) use std::thread::yield_now;

#[cfg(feature = "loom")]
pub(crate) use loom::thread::yield_now;

pub(crate) use std::sync::atomic::Ordering;
