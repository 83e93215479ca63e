//! The core's errors as Python's exceptions: built-in ones where Python has one.

use std::collections::HashSet;

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyFileNotFoundError, PyOSError, PyValueError};
use pyo3::prelude::*;

use super::boundary::attached;
use crate::error::Error;

create_exception!(ryot_metrics, RyotError, PyException, "Base of this package's own errors.");
create_exception!(
    ryot_metrics,
    QueueFullError,
    RyotError,
    "The engine has no place for a request now, or none that keeps its promise; `retry_after` \
     estimates the seconds until it has."
);
create_exception!(ryot_metrics, EngineClosedError, RyotError, "The engine was shut down.");
create_exception!(ryot_metrics, DecodeError, RyotError, "The backend failed to compute a step.");
create_exception!(
    ryot_metrics,
    OutOfMemoryError,
    RyotError,
    "Memory for a model or its context could not be had."
);

create_exception!(
    ryot_metrics.client,
    DuplicateTimeseries,
    PyValueError,
    "A registry has some of these samples already; `duplicates` is the set of their names."
);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Duplicate(names) => {
                let names: HashSet<String> = names.into_iter().collect();
                with_value(DuplicateTimeseries::new_err(text), "duplicates", names)
            }
            Error::InvalidArgument(_)
            | Error::EmptyPrompt
            | Error::PromptTooLong { .. }
            | Error::ModelLoad { .. } => PyValueError::new_err(text),
            Error::ModelNotFound(_) => PyFileNotFoundError::new_err(text),
            Error::QueueFull { retry_after, .. } => {
                with_value(QueueFullError::new_err(text), "retry_after", retry_after)
            }
            Error::Unattainable { promised, expected } => {
                let retry_after = expected - promised;
                with_value(QueueFullError::new_err(text), "retry_after", retry_after)
            }
            Error::EngineClosed => EngineClosedError::new_err(text),
            Error::Decode(_) => DecodeError::new_err(text),
            Error::OutOfMemory(_) => OutOfMemoryError::new_err(text),
            // With its number, Python makes it the subclass: PermissionError and the like.
            Error::Io { code: Some(code), .. } => PyOSError::new_err((code, text)),
            Error::Io { code: None, .. } => PyOSError::new_err(text),
            Error::Forked { .. } => RyotError::new_err(text),
        }
    }
}

/// The error, with a value that callers may want.
fn with_value<V>(error: PyErr, name: &str, value: V) -> PyErr
where
    V: for<'py> IntoPyObject<'py>,
{
    attached(|py| match error.value(py).setattr(name, value) {
        Ok(()) => error,
        Err(failure) => failure,
    })
}
