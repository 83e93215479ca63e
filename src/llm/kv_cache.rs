//! An engine's KV cache: how full it is, and what of it is kept for the prompts to come.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::catalogue::Name;
use super::classes::{batch_size_class, context_length_class};
use super::recorder::ModelSeries;
use crate::event::{Eviction, Mode};
use crate::metrics::Series;

/// How large a KV cache is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) cells: usize,
    pub(super) bytes_per_token: Option<u64>,
}

/// What is known of it.
#[derive(Debug)]
pub(super) struct KvCache {
    of: ModelSeries,
    size: Option<Size>,
    usage: OnceLock<Arc<Series>>,
    /// The class of the batch under which its bytes stand on the page, and their series.
    shown: Mutex<Option<(&'static str, Arc<Series>)>>,
    queries: Arc<Series>,
    hits: Arc<Series>,
    evictions: Arc<Series>,
}

impl KvCache {
    pub(super) fn new(of: ModelSeries, size: Option<Size>) -> Self {
        for reason in Eviction::ALL {
            of.labelled(Name::CacheEvictions, reason.as_str());
        }
        let cache = Self {
            size,
            usage: OnceLock::new(),
            shown: Mutex::default(),
            queries: of.series(Name::PrefixQueries),
            hits: of.series(Name::PrefixHits),
            evictions: of.series(Name::PrefixEvictions),
            of,
        };
        cache.show_usage(0);
        cache
    }

    fn show_usage(&self, tokens: usize) {
        if let Some(size) = self.size {
            let usage = self.usage.get_or_init(|| self.of.series(Name::KvCacheUsage));
            usage.set(tokens as f64 / size.cells as f64);
        }
    }

    /// It holds so many tokens, while batches have so many sequences: as a ratio, and, where the
    /// size of a cell is known, in bytes under a label that says how large batches are now.
    pub(super) fn occupied(&self, tokens: usize, sequences: usize) {
        self.show_usage(tokens);
        let Some(Size { cells, bytes_per_token: Some(bytes) }) = self.size else { return };
        let (context, class) = (context_length_class(cells), batch_size_class(sequences));
        let mut shown = self.shown.lock();
        if let Some((old, _)) = shown.take_if(|(old, _)| *old != class) {
            self.of.remove(Name::KvCacheSize, &[context, old]);
        }
        let make = || (class, self.of.with(Name::KvCacheSize, &[context, class]));
        shown.get_or_insert_with(make).1.set((tokens as u64 * bytes) as f64);
    }

    /// Tokens of a prompt that were looked up, and those of them that were found.
    pub(super) fn matched(&self, mode: Mode, queried: usize, hit: usize) {
        let (queried, hit) = (queried as f64, hit as f64);
        self.queries.add(queried);
        self.hits.add(hit);
        let context_type = match mode {
            Mode::Standard => "conversation",
            Mode::Streaming => "streaming",
            Mode::Batch => "batch",
        };
        self.of.recorder.kv_cache_lookup(&self.of.model, context_type, queried, hit);
    }

    pub(super) fn evicted(&self, reason: Eviction) {
        self.evictions.add(1.0);
        self.of.labelled(Name::CacheEvictions, reason.as_str()).add(1.0);
    }

    /// Bytes of prefixes that no request uses: cells of the cache, and snapshots.
    pub(super) fn resident(&self, device_bytes: u64, host_bytes: u64) {
        for (location, bytes) in [("device", device_bytes), ("host", host_bytes)] {
            self.of.labelled(Name::PrefixResident, location).set(bytes as f64);
        }
    }
}
