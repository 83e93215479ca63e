//! What a service of language models measures: the catalogue of families, and the recorder that
//! turns facts into samples.
//!
//! Knows `metrics` and `event`. Must not know: the engine, Python.

mod catalogue;
mod classes;
mod computed;
mod cost;
mod derived;
mod dropped;
mod exchange;
mod facts;
mod families;
mod gpu;
mod kv_cache;
mod labels;
mod listen;
mod merged;
pub mod pipeline;
mod profile;
mod rates;
mod recorder;
mod request;
mod reuse;
mod scope;
mod scorecard;
mod sessions;
mod settings;
mod shared_rates;
mod steps;
mod view;
mod windows;

pub use catalogue::{CATALOGUE, FLEET, FleetName, Name, Row, Shape};
pub use classes::{batch_size_class, context_length_class, prompt_size_class};
pub use cost::{CostKind, CostModel, Tier, TokenType};
pub use derived::{DerivedRow, Label, Term};
pub use dropped::REPORT_INTERVAL;
pub use exchange::{Body, Cause, Exchange};
pub use labels::{LABEL_VALUES, Priority};
pub use listen::EngineObserver;
pub use profile::{PROFILES, Profile, RYOT};
pub use recorder::Recorder;
pub use request::{End, Request, Severity, Start, Status};
pub use scorecard::{Histogram, Scorecard};
pub use settings::{
    BUCKETS_LIMIT, Buckets, OPERATION_NAME_LIMIT, SAMPLING_LIMIT, SERIES_LIMIT_MAX, Settings,
};
pub use view::VIEWS;
pub use windows::{DEFAULT_WINDOWS, WINDOW_LIMIT, WINDOWS_LIMIT};
