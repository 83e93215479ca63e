//! Tokens over time where worker processes count them together.
//!
//! Their clocks have one zero: when the first of them began, by the wall clock.

use std::sync::Arc;

use crate::clock::{Nanos, unix_seconds};
use crate::error::Result;
use crate::metrics::sync::{AtomicU64, Ordering};
use crate::metrics::{Runs, Shared};

const NAME: &str = "ryot:tokens";
/// What stands in the place of a class of batches.
const BEGAN: &str = "began";
const DTYPE: &str = "dtype";

/// The slots of all models in a mapping.
#[derive(Debug)]
pub(super) struct SharedRates {
    shared: Arc<Shared>,
    runs: Runs,
    /// What is added to this process' time.
    offset: i64,
}

impl SharedRates {
    /// With so many slots; `now` is this process' time.
    pub(super) fn new(shared: &Arc<Shared>, slots: usize, now: Nanos) -> Result<Self> {
        let runs = Runs::new(shared, NAME, &["model", "batch_size"], slots)?;
        let unix = (unix_seconds() * 1e9) as u64;
        let began = &runs.get(&["", BEGAN])?[0];
        let _ = began.compare_exchange(0, unix, Ordering::Relaxed, Ordering::Relaxed);
        let since = unix.saturating_sub(began.load(Ordering::Relaxed));
        Ok(Self { shared: shared.clone(), runs, offset: since as i64 - now as i64 })
    }

    /// This process' time as all of them have it.
    pub(super) fn time(&self, now: Nanos) -> Nanos {
        now.saturating_add_signed(self.offset)
    }

    /// The slots of a model and a class of batches; None where there is no room.
    pub(super) fn slots(&self, model: &str, class: &str) -> Option<&'static [AtomicU64]> {
        let run = self.runs.get(&[model, class]);
        run.inspect_err(|error| self.shared.report(error.to_string())).ok()
    }

    /// The type that a model computes in, by its place, plus 1.
    pub(super) fn dtype(&self, model: &str) -> Option<&'static AtomicU64> {
        self.slots(model, DTYPE).map(|run| &run[0])
    }

    /// Models, classes and slots that there are.
    pub(super) fn all(&self) -> Vec<(Vec<Box<str>>, &'static [AtomicU64])> {
        let mut all = self.runs.all().unwrap_or_default();
        all.retain(|(values, _)| ![BEGAN, DTYPE].contains(&&*values[1]));
        all
    }
}
