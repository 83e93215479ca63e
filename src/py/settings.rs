//! The settings of the usual recorder, from Python.

use pyo3::prelude::*;

use super::{globals, gpu};
use crate::error::{Error, Result};
use crate::llm::pipeline::{Limits, OPEN_LIMIT, OUTBOX_LIMIT_MAX, RECENT_LIMIT};
use crate::llm::{Buckets, SAMPLING_LIMIT, SERIES_LIMIT_MAX, Settings};
use crate::metrics::{LOCK_WAIT_MAX_SECONDS, Pairs};

/// Bounds, or the growth factor of a native histogram.
#[derive(FromPyObject)]
pub(super) enum AnyBuckets {
    Native(f64),
    Classic(Vec<f64>),
}

impl From<AnyBuckets> for Buckets {
    fn from(buckets: AnyBuckets) -> Self {
        match buckets {
            AnyBuckets::Native(factor) => Self::Native(factor),
            AnyBuckets::Classic(bounds) => Self::Classic(bounds),
        }
    }
}

/// Applies all settings of the process; `ryot_metrics.configure` says what they mean.
///
/// Raises:
///     ValueError: With the setting, its value and its limit; then nothing has changed.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // one for each setting
pub(super) fn apply_settings(
    profile: String,
    views: bool,
    disabled: Vec<String>,
    sampling: Vec<(String, i64)>,
    buckets: Vec<(String, AnyBuckets)>,
    windows: Vec<String>,
    operation_name: String,
    labels: Pairs,
    series_limit: i64,
    pipeline_recent: i64,
    pipeline_max_open: i64,
    pipeline_max_buffered: i64,
    gpu: bool,
    gpu_interval: f64,
    shared: &str,
    shared_wait: f64,
) -> PyResult<()> {
    let gpu_interval = gpu::checked_interval(gpu_interval)?;
    if !(shared_wait > 0.0 && shared_wait <= LOCK_WAIT_MAX_SECONDS) {
        return Err(Error::InvalidArgument(format!(
            "shared_wait is {shared_wait}; it must be above 0 and {LOCK_WAIT_MAX_SECONDS} at most"
        ))
        .into());
    }
    let buckets = buckets.into_iter().map(|(name, buckets)| (name, buckets.into())).collect();
    let sampling = sampling.into_iter().map(|(name, every)| {
        let setting = format!("sampling of {name}");
        Ok((name, at_least_1(&setting, every, SAMPLING_LIMIT)?))
    });
    let sampling = sampling.collect::<Result<_>>()?;
    let series_limit = at_least_1("series_limit", series_limit, SERIES_LIMIT_MAX as u64)? as usize;
    let pipeline = Limits {
        recent: at_least_1("pipeline_recent", pipeline_recent, RECENT_LIMIT as u64)? as usize,
        open: at_least_1("pipeline_max_open", pipeline_max_open, OPEN_LIMIT as u64)? as usize,
    };
    let (name, most) = ("pipeline_max_buffered", OUTBOX_LIMIT_MAX as u64);
    let pipeline_max_buffered = at_least_1(name, pipeline_max_buffered, most)? as usize;
    let before = globals::usual().settings();
    globals::configure(&Settings {
        profile,
        views,
        disabled,
        sampling,
        buckets,
        windows,
        operation_name,
        labels,
        series_limit,
        pipeline,
        pipeline_max_buffered,
    })?;
    if let Err(error) = globals::share(shared, shared_wait) {
        globals::configure(&before)?;
        return Err(error.into());
    }
    gpu::configure(gpu, gpu_interval);
    Ok(())
}

/// A number that the core takes without a sign; how great it may be is the core's to say.
fn at_least_1(setting: &str, value: i64, most: u64) -> Result<u64> {
    u64::try_from(value).map_err(|_| {
        Error::InvalidArgument(format!("{setting} is {value}; it must be 1 to {most}"))
    })
}
