//! What the process has once: the default registry, and the recorder that requests go to.
//!
//! A test may put a recorder of its own in that one's place. What has begun stays with the
//! recorder it began with; where no test does so, looking the recorder up costs one relaxed load.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use parking_lot::RwLock;
use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

use super::drops::DropLog;
use super::gpu;
use crate::clock::MonotonicClock;
use crate::error::{Error, Result};
use crate::llm::{Recorder, Settings};
use crate::metrics::{Registry, disable_created_metrics, shared_path};

static REGISTRY: LazyLock<Arc<Registry>> = LazyLock::new(Arc::default);

static RECORDER: LazyLock<Arc<Recorder>> = LazyLock::new(|| {
    let clock = Arc::new(MonotonicClock);
    let recorder = Recorder::new(&REGISTRY, clock, &Settings::default());
    let recorder =
        recorder.expect("the catalogue's names are valid, distinct and registered first");
    let recorder = Arc::new(recorder);
    // They have no names that could be taken.
    let _ = REGISTRY.register(Arc::new(gpu::FirstPage));
    let _ = REGISTRY.register(Arc::new(DropLog::new(&recorder)));
    recorder
});

/// Whether `STAND_INS` has any.
static REPLACED: AtomicBool = AtomicBool::new(false);

/// Recorders in the place of `RECORDER`; the last one counts.
static STAND_INS: RwLock<Vec<Arc<Recorder>>> = RwLock::new(Vec::new());

/// The recorder that requests go to now.
pub(super) enum Current {
    Usual(&'static Arc<Recorder>),
    StandIn(Arc<Recorder>),
}

impl Deref for Current {
    type Target = Arc<Recorder>;

    fn deref(&self) -> &Arc<Recorder> {
        match self {
            Self::Usual(recorder) => recorder,
            Self::StandIn(recorder) => recorder,
        }
    }
}

/// The default registry, with the catalogue's families in it.
pub(super) fn registry() -> Arc<Registry> {
    LazyLock::force(&RECORDER);
    REGISTRY.clone()
}

/// The recorder behind the default registry.
pub(super) fn usual() -> &'static Arc<Recorder> {
    &RECORDER
}

/// The recorder behind the default registry, or its stand-in.
pub(super) fn recorder() -> Current {
    if REPLACED.load(Ordering::Relaxed)
        && let Some(recorder) = STAND_INS.read().last()
    {
        return Current::StandIn(recorder.clone());
    }
    Current::Usual(&RECORDER)
}

/// Applies settings to the usual recorder and the default registry.
pub(super) fn configure(settings: &Settings) -> Result<()> {
    settings.apply(&RECORDER, &REGISTRY)
}

/// Shares the default registry with other processes: its families are in this file from now on.
/// An empty name is that of who shares nothing. Who finds it locked waits for so many seconds.
pub(super) fn share(name: &str, wait: f64) -> Result<()> {
    let registry = registry();
    let shared = match (name.is_empty(), registry.shared()) {
        (true, None) => Ok(()),
        (true, Some(shared)) => {
            let path = shared.path().display();
            let text = format!("shared is empty, but this process shares {path} already");
            Err(Error::InvalidArgument(text))
        }
        (false, _) => registry.share(&shared_path(name)),
    };
    if let Some(shared) = registry.shared() {
        shared.set_lock_wait(wait);
    }
    shared
}

/// In a forked child.
pub(super) fn after_fork() {
    REGISTRY.after_fork();
}

/// Sentences about what could not be shared, for the log.
pub(super) fn take_reports() -> Vec<String> {
    REGISTRY.shared().map(|shared| shared.take_reports()).unwrap_or_default()
}

/// Lets a recorder take the place of the usual one, until `reinstate`.
pub(super) fn replace(recorder: Arc<Recorder>) {
    let mut stand_ins = STAND_INS.write();
    stand_ins.push(recorder);
    REPLACED.store(true, Ordering::Relaxed);
}

/// Takes a stand-in away again; without effect if it is none.
pub(super) fn reinstate(recorder: &Arc<Recorder>) {
    let mut stand_ins = STAND_INS.write();
    stand_ins.retain(|other| !Arc::ptr_eq(other, recorder));
    REPLACED.store(!stand_ins.is_empty(), Ordering::Relaxed);
}

/// The interpreter that has the module, as the address of its `sys`.
static HOME: OnceLock<usize> = OnceLock::new();

/// Makes this interpreter the one that has the module.
///
/// # Errors
/// `ImportError` in any other: metrics are the process's, the objects behind them are not.
pub(super) fn claim(py: Python<'_>) -> PyResult<()> {
    let interpreter = py.import("sys")?.as_ptr() as usize;
    if *HOME.get_or_init(|| interpreter) != interpreter {
        return Err(PyImportError::new_err(
            "ryot_metrics cannot be imported in a subinterpreter: it belongs to the interpreter \
             that imported it first",
        ));
    }
    let disabled = std::env::var("PROMETHEUS_DISABLE_CREATED_SERIES").unwrap_or_default();
    if ["true", "1", "t"].contains(&&*disabled.to_lowercase()) {
        disable_created_metrics();
    }
    Ok(())
}
