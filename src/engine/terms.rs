//! What a caller is promised about a request, and how urgent it is.
//!
//! Must not know: how promises are kept; that is the scheduler's part.

use std::sync::Arc;

use crate::clock::Nanos;
use crate::error::{Error, Result};
use crate::event::Class;

/// The longest promise or deadline, in milliseconds: a day.
pub const MAX_MILLIS: f64 = 86_400_000.0;
/// The most bytes in a tenant's name.
pub const MAX_TENANT_BYTES: usize = 256;

/// The terms of one request. Default: interactive, with the engine's own promises, no deadline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How urgent it is.
    pub class: Class,
    /// The promise for its first token, in nanoseconds from queued; default: the engine's.
    pub ttft: Option<Nanos>,
    /// The promise for the time between two tokens, in nanoseconds; default: the engine's.
    pub tbt: Option<Nanos>,
    /// On whose behalf: tenants of one class share it fairly. Default: the empty name.
    pub tenant: Arc<str>,
    /// When its answer is of no use any more, in nanoseconds from queued; default never.
    pub deadline: Option<Nanos>,
    /// What it is computed with: 0, the default, is the bare model; see [`ModelInfo::adapter`].
    ///
    /// [`ModelInfo::adapter`]: crate::backend::ModelInfo::adapter
    pub adapter: usize,
}

impl Terms {
    /// Terms in the units of callers, checked.
    ///
    /// ```
    /// use ryot_metrics::engine::Terms;
    /// let terms = Terms::new("background", None, Some(50.0), "alice", None)?;
    /// assert_eq!(terms.tbt, Some(50_000_000));
    /// let error = Terms::new("interactive", Some(-1.0), None, "", None).unwrap_err();
    /// assert_eq!(error.to_string(), "ttft_ms is -1; it must be above 0 and at most 86400000");
    /// # Ok::<(), ryot_metrics::error::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with the field, its value and its range.
    pub fn new(
        class: &str,
        ttft_ms: Option<f64>,
        tbt_ms: Option<f64>,
        tenant: &str,
        deadline_ms: Option<f64>,
    ) -> Result<Self> {
        if tenant.len() > MAX_TENANT_BYTES {
            return Err(Error::InvalidArgument(format!(
                "the tenant's name has {} bytes; it must have at most {MAX_TENANT_BYTES}",
                tenant.len()
            )));
        }
        Ok(Self {
            class: Class::parse(class)?,
            ttft: nanos("ttft_ms", ttft_ms)?,
            tbt: nanos("tbt_ms", tbt_ms)?,
            tenant: tenant.into(),
            deadline: nanos("deadline_ms", deadline_ms)?,
            adapter: 0,
        })
    }
}

fn nanos(field: &str, millis: Option<f64>) -> Result<Option<Nanos>> {
    match millis {
        None => Ok(None),
        Some(millis) if millis > 0.0 && millis <= MAX_MILLIS => Ok(Some((millis * 1e6) as Nanos)),
        Some(millis) => Err(Error::InvalidArgument(format!(
            "{field} is {millis}; it must be above 0 and at most {MAX_MILLIS}"
        ))),
    }
}
