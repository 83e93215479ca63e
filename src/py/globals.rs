//! What the process has once: the default registry, and the recorder that requests go to.
//!
//! A test may put a recorder of its own in that one's place. What has begun stays with the
//! recorder it began with; where no test does so, looking the recorder up costs one relaxed load.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;

use crate::clock::MonotonicClock;
use crate::llm::{Recorder, Settings};
use crate::metrics::Registry;

static REGISTRY: LazyLock<Arc<Registry>> = LazyLock::new(Arc::default);

static RECORDER: LazyLock<Arc<Recorder>> = LazyLock::new(|| {
    let clock = Arc::new(MonotonicClock);
    let recorder = Recorder::new(&REGISTRY, clock, Settings::default());
    Arc::new(recorder.expect("the catalogue's names are valid, distinct and registered first"))
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

/// The recorder behind the default registry, or its stand-in.
pub(super) fn recorder() -> Current {
    if REPLACED.load(Ordering::Relaxed)
        && let Some(recorder) = STAND_INS.read().last()
    {
        return Current::StandIn(recorder.clone());
    }
    Current::Usual(&RECORDER)
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
