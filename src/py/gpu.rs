//! The GPU sampler of this process. It starts with the first page, so that only a process that is
//! scraped has the thread, and a forked child has its own.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::boundary::try_attached;
use super::drops::log;
use super::globals;
use crate::error::{Error, Result};
use crate::gpu::{INTERVAL, Nvml, Probe, Reading, Sampler, Watcher};
use crate::metrics::{Desc, Sink, Source};

/// The longest pause between two readings: an hour.
const LONGEST_INTERVAL: f64 = 3600.0;

struct State {
    on: bool,
    interval: Duration,
    library: Option<OsString>,
    /// The sampler, and the process whose thread it is.
    running: Option<(u32, Sampler)>,
}

static STATE: Mutex<State> =
    Mutex::new(State { on: true, interval: INTERVAL, library: None, running: None });

/// An interval as a setting.
///
/// # Errors
/// [`Error::InvalidArgument`] outside of its limits.
pub(super) fn checked_interval(seconds: f64) -> Result<Duration> {
    if seconds > 0.0 && seconds <= LONGEST_INTERVAL {
        return Ok(Duration::from_secs_f64(seconds));
    }
    let text =
        format!("gpu_interval is {seconds} s; it must be above 0, {LONGEST_INTERVAL} at most");
    Err(Error::InvalidArgument(text))
}

/// Applies the settings. A sampler that is off ends, and what it said leaves the page; one that is
/// to read at another interval ends too, and the next page starts it again.
pub(super) fn configure(on: bool, interval: Duration) {
    let mut state = STATE.lock();
    if (state.on, state.interval) == (on, interval) {
        return;
    }
    (state.on, state.interval, state.running) = (on, interval, None);
    drop(state);
    if !on {
        globals::usual().gpus(&[]);
    }
}

/// Reads the GPUs of this machine at once, if the settings have it so; see `ryot_metrics.gpu`.
#[pyfunction]
#[pyo3(signature = (models, library))]
pub(super) fn watch_gpus(
    models: HashMap<Option<String>, String>,
    library: Option<OsString>,
) -> PyResult<()> {
    for (device, model) in models {
        globals::usual().attribute_gpu(device.as_deref(), &model);
    }
    let mut state = STATE.lock();
    (state.library, state.running) = (library, None);
    Ok(state.start()?)
}

impl State {
    fn start(&mut self) -> Result<()> {
        let process = std::process::id();
        if !self.on || self.running.as_ref().is_some_and(|(home, _)| *home == process) {
            return Ok(());
        }
        let library = self.library.clone();
        let sampler = Sampler::start(move || probe(library.as_deref()), self.interval, Families)?;
        self.running = Some((process, sampler));
        Ok(())
    }
}

/// NVIDIA's devices; where there are none, llama.cpp's.
fn probe(library: Option<&OsStr>) -> Result<Box<dyn Probe>> {
    match Nvml::open(library) {
        Ok(nvml) => Ok(Box::new(nvml)),
        #[cfg(feature = "llama")]
        Err(error) => match crate::backend::llama::Devices::find() {
            Some(devices) => Ok(Box::new(devices)),
            None => Err(error),
        },
        #[cfg(not(feature = "llama"))]
        Err(error) => Err(error),
    }
}

/// The families of the default registry.
struct Families;

impl Watcher for Families {
    fn readings(&self, readings: &[Reading]) {
        globals::usual().gpus(readings);
    }

    fn nothing(&self, reason: &Error) {
        try_attached(|py| {
            let text = format!("no GPU families: {reason}");
            log(py, "debug", &text);
        });
    }
}

/// Has the first page start the sampler.
pub(super) struct FirstPage;

impl Source for FirstPage {
    fn prepare(&self) {
        let _ = STATE.lock().start(); // a page without GPUs is better than none
    }

    fn describe(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self, _: &mut dyn Sink) {}
}
