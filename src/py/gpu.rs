//! The GPU sampler of this process. It starts with the first page, so that only a process that is
//! scraped has the thread, and a forked child has its own.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::boundary::try_attached;
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

/// Reads the GPUs of this machine, with the settings of the last call; see `ryot_metrics.gpu`.
#[pyfunction]
#[pyo3(signature = (models, interval, library))]
pub(super) fn watch_gpus(
    models: HashMap<Option<String>, String>,
    interval: f64,
    library: Option<OsString>,
) -> PyResult<()> {
    if !(interval > 0.0 && interval <= LONGEST_INTERVAL) {
        let text =
            format!("interval is {interval} s; it must be above 0, {LONGEST_INTERVAL} at most");
        return Err(Error::InvalidArgument(text).into());
    }
    for (device, model) in models {
        globals::usual().attribute_gpu(device.as_deref(), &model);
    }
    let mut state = STATE.lock();
    let interval = Duration::from_secs_f64(interval);
    *state = State { on: true, interval, library, running: None };
    Ok(state.start()?)
}

/// Ends the sampler; what it said leaves the page.
#[pyfunction]
pub(super) fn stop_watching_gpus() {
    let mut state = STATE.lock();
    state.on = false;
    state.running = None;
    drop(state);
    globals::usual().gpus(&[]);
}

/// Switches the sampler off if the environment says so.
pub(super) fn obey_environment() {
    let wish = std::env::var("RYOT_METRICS_GPU").unwrap_or_default();
    if ["0", "false", "off", "no"].contains(&&*wish.to_lowercase()) {
        STATE.lock().on = false;
    }
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
            let log = || py.import("logging")?.call_method1("getLogger", ("ryot_metrics",));
            let _ = log().and_then(|log| log.call_method1("debug", (text,)));
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
