//! What a service of language models measures: the catalogue of families, and the recorder that
//! turns facts into samples.
//!
//! Knows `metrics` and `event`. Must not know: the engine, Python.

mod catalogue;
mod classes;
mod listen;
mod recorder;
mod request;
mod scope;
mod view;

pub use catalogue::{CATALOGUE, Name, Row, Shape};
pub use classes::{batch_size_class, prompt_size_class};
pub use listen::EngineObserver;
pub use recorder::{Recorder, Settings};
pub use request::{Request, Start, Status};
pub use view::{VIEWS, ViewRow};
