//! What closes a request.

use super::{Severity, Status};
use crate::error::ErrorKind;

/// What is known when a request ends.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// How it ended. An error after the first token of a stream is [`Status::Partial`].
    pub status: Status,
    /// What went wrong; None for what has no name of its own.
    pub kind: Option<ErrorKind>,
    /// How bad that is; None: as bad as its kind.
    pub severity: Option<Severity>,
    /// The sequences that it shared its batch with, itself included; 0 if unknown.
    pub batch_size: usize,
}

impl End {
    /// An end that went well.
    pub const fn success(batch_size: usize) -> Self {
        Self { status: Status::Success, kind: None, severity: None, batch_size }
    }
}
