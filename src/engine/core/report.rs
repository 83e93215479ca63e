//! What others are told after a step: observers of the memories, callers of what came.

use super::Core;
use crate::engine::client::Stats;
use crate::event::{Event, Eviction};

impl Core {
    /// Tells how full the memories are, if that has changed.
    pub(super) fn note_memory(&mut self) {
        let live = self.scheduler.live_cells();
        let cached = (self.scheduler.used_cells() - live) as u64;
        let device_bytes = cached * self.model.info().kv_bytes_per_token.unwrap_or(0);
        let host_bytes = self.scheduler.host_bytes();
        let shown = std::mem::replace(&mut self.shown, (live, device_bytes, host_bytes));
        if shown.0 != live {
            self.observer.observe(&Event::Occupied { tokens: live });
        }
        if (shown.1, shown.2) != (device_bytes, host_bytes) {
            self.observer.observe(&Event::CacheResident { device_bytes, host_bytes });
        }
        let tokens = self.scheduler.take_evicted();
        self.note_evicted(Eviction::MemoryPressure, tokens);
    }

    pub(super) fn note_evicted(&self, reason: Eviction, tokens: usize) {
        if tokens > 0 {
            self.observer.observe(&Event::CacheEvicted { reason, tokens });
        }
    }

    /// Wakes whoever waits for something that came in this step.
    pub(super) fn wake(&mut self) {
        self.note_memory();
        let used_cells = self.scheduler.live_cells();
        let stats = Stats {
            running: self.scheduler.running(),
            waiting: self.scheduler.waiting(),
            used_cells,
            cached_cells: self.scheduler.used_cells() - used_cells,
            host_bytes: self.scheduler.host_bytes(),
            steps: self.steps,
            service_seconds: self.service_seconds,
        };
        self.link.report(stats, std::mem::take(&mut self.ended));
        if self.touched.is_empty() {
            return;
        }
        for mailbox in self.touched.drain(..) {
            mailbox.wake();
        }
        self.link.gate.open();
    }
}
