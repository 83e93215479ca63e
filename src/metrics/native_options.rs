//! What can be chosen of a native histogram, and its limits.

use super::exponential::{MAX_SCHEMA, MIN_SCHEMA, schema_of};
use crate::error::{Error, Result};

/// How a native histogram begins and what it may become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NativeOptions {
    /// The resolution, −4 to 8: a bucket ends at 2^(2^-schema) times its beginning. Default 3,
    /// a growth of 9 %.
    pub schema: i8,
    /// Values of at most this size are counted in the zero bucket; default 2⁻¹²⁸.
    pub zero_threshold: f64,
    /// The most buckets, the zero bucket not counted; default 160, 0 for no limit.
    pub max_buckets: usize,
    /// How far the zero bucket may widen; default 0, not at all.
    pub max_zero_threshold: f64,
    /// The least seconds between two new starts; default 3600, 0 for no new start.
    pub min_reset_seconds: f64,
}

impl Default for NativeOptions {
    fn default() -> Self {
        Self {
            schema: 3,
            zero_threshold: 2f64.powi(-128),
            max_buckets: 160,
            max_zero_threshold: 0.0,
            min_reset_seconds: 3600.0,
        }
    }
}

impl NativeOptions {
    /// The coarsest resolution whose buckets grow by at most this factor.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] unless the factor is above 1.
    ///
    /// ```
    /// use ryot_metrics::metrics::NativeOptions;
    /// assert_eq!(NativeOptions::with_factor(1.1)?.schema, 3);
    /// # Ok::<(), ryot_metrics::error::Error>(())
    /// ```
    pub fn with_factor(factor: f64) -> Result<Self> {
        if factor.is_nan() || factor <= 1.0 {
            let text = format!("The factor of a native histogram must be above 1, not {factor}");
            return Err(Error::InvalidArgument(text));
        }
        Ok(Self { schema: schema_of(factor), ..Self::default() })
    }

    /// # Errors
    /// [`Error::InvalidArgument`] for a schema or a threshold out of range.
    pub(super) fn check(&self) -> Result<()> {
        let schema = self.schema;
        if !(MIN_SCHEMA..=MAX_SCHEMA).contains(&schema) {
            let text = format!("The schema of a native histogram is -4 to 8, not {schema}");
            return Err(Error::InvalidArgument(text));
        }
        let thresholds = [self.zero_threshold, self.max_zero_threshold, self.min_reset_seconds];
        if let Some(value) = thresholds.iter().find(|value| !(value.is_finite() && **value >= 0.0))
        {
            let text = format!("A threshold of a native histogram is at least 0, not {value}");
            return Err(Error::InvalidArgument(text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_refused() {
        assert!(NativeOptions::with_factor(1.0).is_err());
        assert!(NativeOptions { schema: 9, ..NativeOptions::default() }.check().is_err());
        let options = NativeOptions { zero_threshold: -1.0, ..NativeOptions::default() };
        assert!(options.check().is_err());
    }
}
