//! What the process has once: the default registry, and the recorder that writes into it.

use std::sync::{Arc, LazyLock};

use crate::clock::MonotonicClock;
use crate::llm::{Recorder, Settings};
use crate::metrics::Registry;

static REGISTRY: LazyLock<Arc<Registry>> = LazyLock::new(Arc::default);

static RECORDER: LazyLock<Arc<Recorder>> = LazyLock::new(|| {
    let clock = Arc::new(MonotonicClock);
    let recorder = Recorder::new(&REGISTRY, clock, Settings::default());
    Arc::new(recorder.expect("the catalogue's names are valid, distinct and registered first"))
});

/// The default registry, with the catalogue's families in it.
pub(super) fn registry() -> Arc<Registry> {
    LazyLock::force(&RECORDER);
    REGISTRY.clone()
}

/// The recorder behind the default registry.
pub(super) fn recorder() -> &'static Arc<Recorder> {
    &RECORDER
}
