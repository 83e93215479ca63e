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

mod arena;
mod desc;
mod family;
mod labels;
mod many;
mod negotiate;
mod number;
mod registry;
mod series;
mod sink;
mod text;

pub use desc::{Desc, Kind};
pub use family::{Family, Options, SERIES_LIMIT};
pub use labels::{Key, LabelSet, OwnedKey};
pub use negotiate::Format;
pub use number::format_number;
pub use registry::Registry;
pub use series::Series;
pub use sink::{Sink, Source, Value};
pub use text::encode;
