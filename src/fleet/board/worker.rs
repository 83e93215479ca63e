//! One worker as the board has it: what it last said, and what its cache has found. Pure.

use std::time::Duration;

use super::BoardLimits;
use crate::clock::Nanos;
use crate::fleet::load::Endpoint;
use crate::llm::FleetName;
use crate::metrics::LabelSet;

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) labels: LabelSet,
    pub(super) report: Option<Report>,
    pub(super) hits: Hits,
    /// What its page said of them last.
    counted: Hits,
    /// When it was last heard of them.
    pub(super) event: Option<Nanos>,
}

/// What a worker last said of itself.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) source: &'static str,
    pub(super) endpoint: Endpoint,
    pub(super) at: Nanos,
}

/// Blocks that were looked up in a KV cache, and those of them that were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::fleet) struct Hits {
    pub(in crate::fleet) isl_blocks: u64,
    pub(in crate::fleet) overlap_blocks: u64,
}

impl Hits {
    /// A cache cannot have found more than was asked for.
    pub(super) fn add(&mut self, isl_blocks: u64, overlap_blocks: u64) {
        self.isl_blocks = self.isl_blocks.saturating_add(isl_blocks);
        self.overlap_blocks = self.overlap_blocks.saturating_add(overlap_blocks.min(isl_blocks));
    }
}

impl Worker {
    pub(super) fn new(labels: LabelSet) -> Self {
        let (hits, counted) = Default::default();
        Self { labels, report: None, hits, counted, event: None }
    }

    /// What its cache has looked up and found so far, which is less than before if it began anew.
    pub(super) fn count(&mut self, now: Hits) {
        let before = std::mem::replace(&mut self.counted, now);
        let anew = now.isl_blocks < before.isl_blocks;
        let before = if anew { Hits::default() } else { before };
        let found = now.overlap_blocks.saturating_sub(before.overlap_blocks);
        self.hits.add(now.isl_blocks - before.isl_blocks, found);
    }

    pub(super) fn stays(&self, now: Nanos, limits: &BoardLimits) -> bool {
        let young = |since: Nanos, limit: Duration| {
            u128::from(now.saturating_sub(since)) < limit.as_nanos()
        };
        match &self.report {
            Some(report) => young(report.at, limits.stale_after),
            None => self.event.is_some_and(|at| young(at, limits.events_ttl)),
        }
    }

    /// The value of one of its families; None where there is none.
    pub(super) fn value(&self, name: FleetName) -> Option<f64> {
        let load = self.report.as_ref().map(|report| report.endpoint.data).unwrap_or_default();
        let hits = self.event.map(|_| self.hits);
        let count = match name {
            FleetName::KvBlocksActive => load.kv_active_blocks,
            FleetName::KvBlocksTotal => load.kv_total_blocks,
            FleetName::ActiveSlots => load.request_active_slots,
            FleetName::TotalSlots => load.request_total_slots,
            FleetName::HitRateIsl => hits.map(|hits| hits.isl_blocks),
            FleetName::HitRateOverlap => hits.map(|hits| hits.overlap_blocks),
            FleetName::HitRate => {
                return hits
                    .filter(|hits| hits.isl_blocks > 0)
                    .map(|hits| 100.0 * hits.overlap_blocks as f64 / hits.isl_blocks as f64);
            }
            _ => None,
        };
        count.map(|count| count as f64)
    }
}
