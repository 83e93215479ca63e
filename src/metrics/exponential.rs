//! The buckets of native histograms: their bounds are the powers of 2^(2^-schema), so that one
//! number, the schema, describes them all, and histograms of different schemas can be added.
//!
//! The bounds are computed, not copied: they may differ from those of Go's client in the last
//! bit, which moves only values that lie on a bound.

use std::sync::OnceLock;

/// The coarsest schema: a bucket ends at 2¹⁶ = 65536 times its beginning.
pub(super) const MIN_SCHEMA: i8 = -4;
/// The finest: at 2^(1/256), 0.27 % above it.
pub(super) const MAX_SCHEMA: i8 = 8;

/// The lower bounds of the finest schema between 0.5 and 1.
fn fractions() -> &'static [f64; 256] {
    static FRACTIONS: OnceLock<[f64; 256]> = OnceLock::new();
    FRACTIONS.get_or_init(|| std::array::from_fn(|index| (index as f64 / 256.0).exp2() / 2.0))
}

/// The coarsest schema whose buckets grow by at most this factor, within the limits.
pub(super) fn schema_of(factor: f64) -> i8 {
    let floor = factor.log2().log2().floor();
    (-floor).clamp(f64::from(MIN_SCHEMA), f64::from(MAX_SCHEMA)) as i8
}

/// The index of the bucket that a positive value falls into; its upper bound is inclusive.
pub(super) fn index_of(schema: i8, value: f64) -> i32 {
    if value.is_infinite() {
        return index_of(schema, f64::MAX) + 1;
    }
    let (fraction, exponent) = split(value);
    if schema > 0 {
        let fractions = fractions();
        let step = 1 << (MAX_SCHEMA - schema);
        let below = fractions.partition_point(|bound| *bound < fraction);
        return below.div_ceil(step) as i32 + ((exponent - 1) << schema);
    }
    let exponent = if fraction <= 0.5 { exponent - 1 } else { exponent };
    (exponent + (1 << -schema) - 1) >> -schema
}

/// A positive value as a fraction of at least 0.5 and below 1, and a power of two.
fn split(value: f64) -> (f64, i32) {
    let bits = value.to_bits();
    let exponent = (bits >> 52) as i32;
    if exponent == 0 {
        let (fraction, exponent) = split(value * 2f64.powi(64)); // subnormal
        return (fraction, exponent - 64);
    }
    let fraction = f64::from_bits((bits & ((1 << 52) - 1)) | (1022 << 52));
    (fraction, exponent - 1022)
}

/// The upper bound of a bucket.
pub(crate) fn upper_bound(schema: i8, index: i32) -> f64 {
    let (fraction, exponent) = if schema < 0 {
        (0.5, (index << -schema) + 1)
    } else {
        let step = 1 << (MAX_SCHEMA - schema);
        let within = (index & ((1 << schema) - 1)) as usize;
        (fractions()[within * step], (index >> schema) + 1)
    };
    if fraction <= 0.5 && exponent == 1025 {
        return f64::MAX;
    }
    // In two steps: 2^1024 is not a number.
    fraction * 2.0 * 2f64.powi(exponent - 1)
}

/// The index of the same bucket in the next coarser schema.
pub(crate) fn coarser(index: i32) -> i32 {
    (index + 1).div_euclid(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_chooses_a_schema() {
        let table = [(1.1, 3), (1.2, 2), (2.0, 0), (4.0, -1), (17.0, -2), (1e9, -4), (1.0001, 8)];
        for (factor, schema) in table {
            assert_eq!(schema_of(factor), schema, "{factor}");
        }
    }

    #[test]
    fn known_values_fall_into_known_buckets() {
        let table = [
            (0, 1.0, 0),
            (0, 1.5, 1),
            (0, 2.0, 1),
            (0, 0.5, -1),
            (3, 2.0, 8),
            (2, 1.2, 2),
            (-1, 33.33, 3),
            (-2, 0.0625, -1),
            (2, f64::INFINITY, 4097),
            (0, 5e-324, -1074),
        ];
        for (schema, value, index) in table {
            assert_eq!(index_of(schema, value), index, "{schema} {value}");
        }
    }

    #[test]
    fn a_bound_is_in_its_own_bucket_and_a_coarser_one_around_it() {
        for schema in MIN_SCHEMA..=MAX_SCHEMA {
            for index in [-60, -5, -1, 0, 1, 2, 3, 60] {
                let bound = upper_bound(schema, index);
                assert_eq!(index_of(schema, bound), index, "{schema} {index}");
                if schema > MIN_SCHEMA {
                    assert_eq!(index_of(schema - 1, bound * 0.9999), coarser(index));
                }
            }
        }
    }
}
