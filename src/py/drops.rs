//! Lines in Python's log about samples that were dropped or could not be shared, with the page that
//! shows their number.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::boundary::attached;
use super::callbacks::{self, Callback};
use super::globals;
use crate::llm::Recorder;
use crate::metrics::{Desc, Sink, Source};
use crate::serve::on_scrape_thread;

/// Writes a line into Python's log; what logging raises is its own business.
pub(super) fn log(py: Python<'_>, level: &str, text: &str) {
    let logger = || py.import("logging")?.call_method1("getLogger", ("ryot_metrics",));
    let _ = logger().and_then(|logger| logger.call_method1(level, (text,)));
}

/// Lines that are still to be written.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Callback for Lines {
    fn call(&self, py: Python<'_>) {
        let lines = std::mem::take(&mut *self.0.lock());
        for line in &lines {
            log(py, "warning", line);
        }
    }
}

/// Has each page log what its recorder has dropped.
pub(super) struct DropLog {
    recorder: Weak<Recorder>,
    lines: Arc<Lines>,
}

impl DropLog {
    pub(super) fn new(recorder: &Arc<Recorder>) -> Self {
        Self { recorder: Arc::downgrade(recorder), lines: Arc::default() }
    }
}

impl Source for DropLog {
    fn prepare(&self) {
        let Some(recorder) = self.recorder.upgrade() else { return };
        let mut reports = recorder.take_drop_reports();
        reports.extend(globals::take_reports());
        let mut lines = self.lines.0.lock();
        lines.extend(reports);
        let none = lines.is_empty();
        drop(lines);
        if none {
            return;
        }
        if on_scrape_thread() {
            callbacks::tell(self.lines.clone());
        } else {
            attached(|py| self.lines.call(py));
        }
    }

    fn describe(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self, _: &mut dyn Sink) {}
}
