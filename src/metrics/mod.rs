//! The general metrics client: families of series over an arena of atomic cells, a registry, and
//! the encoders that write a page.
//!
//! Knows nothing of language models. Must not know: `engine`, `llm`, Python.
//!
//! ```
//! use ryot_metrics::metrics::{Desc, Family, Format, Kind, Registry, encode};
//!
//! let registry = Registry::default();
//! let desc = Desc::new(Kind::Counter, "jobs", "Jobs done.", &["queue"])?;
//! let family = Family::register(desc, &registry)?;
//! family.series(&["mail"]).add(2.0);
//! let page = encode(&registry, Format::Text004);
//! assert!(page.contains("jobs_total{queue=\"mail\"} 2.0"));
//! # Ok::<(), ryot_metrics::error::Error>(())
//! ```

mod activity;
mod adapt;
mod arena;
mod created;
mod desc;
mod exponential;
mod family;
mod flat;
mod labels;
mod lease;
mod link;
mod many;
mod mapping;
mod mirror;
mod names;
mod native;
mod native_options;
mod negotiate;
mod number;
mod page;
mod protobuf;
mod rebucket;
mod registry;
mod runs;
mod sample;
mod sampling;
mod series;
mod shared;
mod sharing;
mod sink;
pub(crate) mod sync;
mod text;
mod window;
pub(crate) mod wire;

pub use created::{created_enabled, disable_created_metrics, enable_created_metrics};
pub use desc::{Desc, GaugeMode, Kind, Merge};
pub(crate) use exponential::{coarser, upper_bound};
pub use family::{Family, Options, SERIES_LIMIT};
pub use flat::{Snapshot, Snapshots, collect};
pub(crate) use labels::same_text;
pub use labels::{Key, LabelSet, OwnedKey};
pub use names::{
    Escaping, is_legacy_label_name, is_legacy_metric_name, legacy_validation, set_legacy_validation,
};
pub use native::{NativeSnapshot, Spans};
pub use native_options::NativeOptions;
pub use negotiate::{Exposition, Format};
pub use number::format_number;
pub use page::encode_bytes;
pub use rebucket::Rebucketed;
pub use registry::{Registry, Selection};
pub use runs::Runs;
pub use sample::{Exemplar, Pairs, Sample, Timestamp};
pub use sampling::Sampling;
pub use series::Series;
pub use shared::{LOCK_WAIT_MAX_SECONDS, LOCK_WAIT_SECONDS, PROCESSES_LIMIT, Shared, shared_path};
pub use sink::{Reading, Sink, Source, Value};
pub use text::encode;
pub use window::Quantiles;
