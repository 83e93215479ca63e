//! A family's description as bytes that every process reads alike.

use serde::{Deserialize, Serialize};

use super::super::desc::{Desc, GaugeMode, Kind};
use super::super::native_options::NativeOptions;
use super::super::window::Quantiles;
use crate::error::{Error, Result};

/// A description, and those options that say what the page has of a family.
#[allow(clippy::struct_excessive_bools)] // each says another thing
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Written {
    pub(in super::super) desc: Desc,
    pub(in super::super) omit_empty: bool,
    pub(in super::super) absent_if_empty: bool,
    pub(in super::super) created: bool,
    pub(in super::super) idle_ttl: Option<f64>,
    pub(in super::super) series_limit: Option<usize>,
    /// It is on no page: what others are computed from.
    pub(in super::super) hidden: bool,
}

/// The same as text; numbers as their bits, so that they come back as they were.
#[allow(clippy::struct_excessive_bools)]
#[derive(Serialize, Deserialize)]
struct Text {
    name: String,
    help: String,
    kind: String,
    label_names: Vec<String>,
    unit: String,
    bounds: Vec<u64>,
    states: Vec<String>,
    /// Schema, zero threshold, most buckets, widest zero bucket, time between beginnings.
    native: Option<(i8, u64, usize, u64, u64)>,
    /// Objectives, window, steps.
    quantiles: Option<(Vec<u64>, u64, usize)>,
    mode: String,
    omit_empty: bool,
    absent_if_empty: bool,
    created: bool,
    idle_ttl: Option<u64>,
    series_limit: Option<usize>,
    hidden: bool,
}

fn owned(texts: &[Box<str>]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn boxed(texts: Vec<String>) -> Box<[Box<str>]> {
    texts.into_iter().map(Into::into).collect()
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn values(bits: &[u64]) -> Box<[f64]> {
    bits.iter().copied().map(f64::from_bits).collect()
}

impl Written {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let desc = &self.desc;
        let text = Text {
            name: desc.name.to_string(),
            help: desc.help.to_string(),
            kind: desc.kind.as_str().to_owned(),
            label_names: owned(&desc.label_names),
            unit: desc.unit.to_string(),
            bounds: bits(&desc.bounds),
            states: owned(&desc.states),
            native: desc.native.map(|it| {
                let [zero, most, least] =
                    [it.zero_threshold, it.max_zero_threshold, it.min_reset_seconds]
                        .map(f64::to_bits);
                (it.schema, zero, it.max_buckets, most, least)
            }),
            quantiles: desc
                .quantiles
                .as_ref()
                .map(|it| (bits(&it.objectives), it.window_seconds.to_bits(), it.age_buckets)),
            mode: desc.mode.as_str().to_owned(),
            omit_empty: self.omit_empty,
            absent_if_empty: self.absent_if_empty,
            created: self.created,
            idle_ttl: self.idle_ttl.map(f64::to_bits),
            series_limit: self.series_limit,
            hidden: self.hidden,
        };
        serde_json::to_vec(&text).unwrap_or_default()
    }

    /// # Errors
    /// [`Error::InvalidArgument`] with what is wrong.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let invalid = |what: &str| Error::InvalidArgument(format!("a description has {what}"));
        let text: Text = serde_json::from_slice(bytes).map_err(|it| invalid(&it.to_string()))?;
        let kind = Kind::parse(&text.kind).ok_or_else(|| invalid("an unknown type"))?;
        let desc = Desc {
            name: text.name.into(),
            help: text.help.into(),
            kind,
            label_names: boxed(text.label_names),
            unit: text.unit.into(),
            bounds: values(&text.bounds),
            states: boxed(text.states),
            native: text.native.map(|(schema, zero, max_buckets, most, least)| NativeOptions {
                schema,
                zero_threshold: f64::from_bits(zero),
                max_buckets,
                max_zero_threshold: f64::from_bits(most),
                min_reset_seconds: f64::from_bits(least),
            }),
            quantiles: text.quantiles.map(|(objectives, window, age_buckets)| Quantiles {
                objectives: values(&objectives),
                window_seconds: f64::from_bits(window),
                age_buckets,
            }),
            mode: GaugeMode::parse(&text.mode)?,
        };
        Ok(Self {
            desc,
            omit_empty: text.omit_empty,
            absent_if_empty: text.absent_if_empty,
            created: text.created,
            idle_ttl: text.idle_ttl.map(f64::from_bits),
            series_limit: text.series_limit,
            hidden: text.hidden,
        })
    }

    /// In which it differs from another description of the same name so much that their cells
    /// cannot be the same.
    pub(super) fn conflict(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (&self.desc, &other.desc);
        let differs = |what: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
            Some(format!("{what} {a:?}, and another process has {b:?}"))
        };
        if ours.kind != theirs.kind {
            differs("type", &ours.kind, &theirs.kind)
        } else if ours.label_names != theirs.label_names {
            differs("labels", &ours.label_names, &theirs.label_names)
        } else if ours.bounds != theirs.bounds {
            differs("buckets", &ours.bounds, &theirs.bounds)
        } else if ours.states != theirs.states {
            differs("states", &ours.states, &theirs.states)
        } else if ours.native != theirs.native {
            differs("native buckets", &ours.native, &theirs.native)
        } else if ours.quantiles != theirs.quantiles {
            differs("quantiles", &ours.quantiles, &theirs.quantiles)
        } else if ours.mode != theirs.mode {
            differs("multiprocess_mode", &ours.mode.as_str(), &theirs.mode.as_str())
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_comes_back_as_it_was() {
        let desc = Desc::new(Kind::Histogram, "a_é", "Help \"text\"\n", &["x", "y"]).unwrap();
        let desc = desc.with_bounds(&[0.1, 1.0 / 3.0]).unwrap();
        let desc = desc.with_native(NativeOptions::with_factor(1.1).unwrap()).unwrap();
        let written = Written {
            desc,
            omit_empty: true,
            absent_if_empty: false,
            created: true,
            idle_ttl: Some(0.1),
            series_limit: Some(7),
            hidden: false,
        };
        assert_eq!(Written::from_bytes(&written.to_bytes()), Ok(written.clone()));
        assert!(Written::from_bytes(b"{}").is_err());
        let other =
            Written { desc: written.desc.clone().with_bounds(&[2.0]).unwrap(), ..written.clone() };
        assert!(written.conflict(&other).unwrap().starts_with("buckets [0.1, 0.3"));
        assert_eq!(written.conflict(&written), None);
    }
}
