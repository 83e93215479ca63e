//! What an HTTP status says about the outcome of a request: the one table.
//!
//! A 404 of no known route is the client's mistake, not a missing model's; a full queue is the
//! service's state.

use crate::error::ErrorKind;
use crate::llm::Status;

/// The label values `status` and `error_type`.
pub(super) type Outcome = (Status, Option<ErrorKind>);

/// The outcome of a request that was answered with this HTTP status, by a route of the app or,
/// as far as is known, by none.
pub(super) fn outcome_of(http_status: u16, known_route: bool) -> Outcome {
    match http_status {
        ..400 => (Status::Success, None),
        404 if known_route => (Status::Error, Some(ErrorKind::ModelNotFound)),
        408 | 504 => (Status::Timeout, Some(ErrorKind::Timeout)),
        499 => (Status::Cancelled, None),
        429 | 500.. => (Status::Error, Some(ErrorKind::InferenceError)),
        _ => (Status::Error, Some(ErrorKind::InvalidPrompt)),
    }
}
