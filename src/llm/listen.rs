//! The engine's facts, one arm each, handed to the requests that they are about.
//!
//! What every step and token writes is looked up once and kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::catalogue::Name;
use super::classes::{batch_size_class, context_length_class};
use super::recorder::Recorder;
use super::request::{End, Request, Start, Status};
use super::scope::Lazy;
use crate::event::{Event, FinishReason, Observer, Origin, RequestId};
use crate::fork;
use crate::metrics::Series;

/// A cell of the engine's KV cache is what others call a block, of one token.
const TOKENS_PER_CELL: usize = 1;

/// Feeds one engine's events to a recorder.
#[derive(Debug)]
pub struct EngineObserver {
    recorder: Arc<Recorder>,
    model: Arc<str>,
    device: Arc<str>,
    open: Mutex<HashMap<RequestId, Arc<Request>, ahash::RandomState>>,
    batch_sizes: Lazy,
    batches: Lazy,
    batch_tokens: Lazy,
    /// Sequences in the step whose tokens come now.
    sequences: AtomicUsize,
    /// The bits of the seconds that the model's load took.
    load_seconds: AtomicU64,
    kv_cache: OnceLock<KvCache>,
}

impl EngineObserver {
    /// An observer of the engine that runs `model` on `device` (the labels' values).
    pub fn new(recorder: Arc<Recorder>, model: &str, device: &str) -> Self {
        Self {
            recorder,
            model: model.into(),
            device: device.into(),
            open: Mutex::default(),
            batch_sizes: Lazy::default(),
            batches: Lazy::default(),
            batch_tokens: Lazy::default(),
            sequences: AtomicUsize::new(0),
            load_seconds: AtomicU64::new(0),
            kv_cache: OnceLock::new(),
        }
    }

    /// The lock is held meanwhile: all of these events come on one thread.
    fn with(&self, id: RequestId, record: impl FnOnce(&Request)) {
        if let Some(request) = self.open.lock().get(&id) {
            record(request);
        }
    }

    fn tokens(&self, id: RequestId, at: u64, count: usize) {
        self.with(id, |request| {
            request.set_batch_size(self.sequences.load(Ordering::Relaxed));
            request.tokens(at, count as u64);
        });
    }

    fn queued(&self, id: RequestId, at: u64, prompt_tokens: usize, origin: &Origin) {
        let parent = origin.parents.iter().find_map(|key| self.recorder.parent(*key));
        if parent.is_none() && !origin.parents.is_empty() {
            return; // the request that this is part of has ended, and has counted
        }
        let request = self.recorder.begin(Start {
            model: &self.model,
            endpoint: &origin.endpoint,
            mode: origin.mode,
            device: Some(self.device.clone()),
            prompt_tokens: Some(prompt_tokens),
            at: Some(at),
            parent,
        });
        request.queued();
        self.open.lock().insert(id, request);
    }

    fn loaded(&self, seconds: f64, ok: bool, again: bool) {
        let load_type = if again { "warm_start" } else { "cold_start" };
        if ok {
            self.recorder.model_loaded(&self.model, &self.device, load_type, seconds);
            self.recorder.startup_phase("model_load", seconds);
            self.load_seconds.store(seconds.to_bits(), Ordering::Relaxed);
        } else {
            self.recorder.model_load_attempt(&self.model, "failed", load_type);
        }
    }

    fn ready(&self, seconds: f64, context: usize, bytes_per_token: Option<u64>) {
        let loading = f64::from_bits(self.load_seconds.load(Ordering::Relaxed));
        self.recorder.startup_phase("cache_init", seconds);
        self.recorder.startup_phase("ready", loading + seconds);
        self.recorder.kv_cache_blocks(&self.model, TOKENS_PER_CELL, context);
        let family = |name| self.recorder.family(name).series(&[&*self.model]);
        family(Name::Preemptions); // at 0, so that the first one is an increase
        let usage = family(Name::KvCacheUsage);
        usage.set(0.0);
        let shown = Mutex::default();
        let _ = self.kv_cache.set(KvCache { cells: context, usage, bytes_per_token, shown });
    }

    fn step(&self, sequences: usize, tokens: usize) {
        self.sequences.store(sequences, Ordering::Relaxed);
        let family = |name| self.recorder.family(name);
        let sizes = self.batch_sizes.get(|| family(Name::BatchSize).series(&[&*self.model, ""]));
        sizes.observe(sequences as f64);
        self.batches.get(|| family(Name::Batches).series(&[&*self.model])).add(1.0);
        let batch_tokens =
            self.batch_tokens.get(|| family(Name::BatchTokens).series(&[&*self.model]));
        batch_tokens.observe(tokens as f64);
    }
}

impl Observer for EngineObserver {
    fn observe(&self, event: &Event) {
        let _pass = fork::pass();
        match event {
            Event::ModelLoaded { seconds, error, again } => {
                self.loaded(*seconds, error.is_none(), *again);
            }
            Event::Ready { seconds, context, bytes_per_token } => {
                self.ready(*seconds, *context, *bytes_per_token);
            }
            Event::Rejected { kind, origin } => {
                // The part of a request is no request: its error reaches the parent by itself.
                if origin.parents.is_empty() {
                    self.recorder.reject(&self.model, &origin.endpoint, *kind);
                }
            }
            Event::Queued { id, at, prompt_tokens, origin, .. } => {
                self.queued(*id, *at, *prompt_tokens, origin);
            }
            Event::Scheduled { id, at } => self.with(*id, |request| request.scheduled(*at)),
            Event::Preempted { id, .. } => {
                self.recorder.family(Name::Preemptions).series(&[&*self.model]).add(1.0);
                self.with(*id, Request::queued);
            }
            Event::FirstToken { id, at } => self.tokens(*id, *at, 1),
            Event::Tokens { id, at, count } => self.tokens(*id, *at, *count),
            Event::Step { sequences, prefill_tokens, decode_tokens, .. } => {
                self.step(*sequences, prefill_tokens + decode_tokens);
            }
            Event::PrefixMatched { .. }
            | Event::Resumed { .. }
            | Event::Relegated { .. }
            | Event::SloMissed { .. }
            | Event::CacheEvicted { .. }
            | Event::CacheResident { .. } => (),
            Event::Occupied { tokens } => {
                if let Some(cache) = self.kv_cache.get() {
                    let sequences = self.sequences.load(Ordering::Relaxed);
                    cache.show(&self.recorder, &self.model, *tokens, sequences);
                }
            }
            Event::Finished { id, at, reason, batch_size } => {
                let request = self.open.lock().remove(id);
                let (status, kind) = match reason {
                    FinishReason::Stop | FinishReason::Length => (Status::Success, None),
                    FinishReason::Cancelled => (Status::Cancelled, None),
                    FinishReason::Error(kind) => (Status::Error, Some(*kind)),
                };
                let end = End { status, kind, severity: None, batch_size: *batch_size };
                let unpriced = request.and_then(|request| request.finish(*at, end));
                if unpriced.is_some() {
                    let model = &self.model;
                    let why = format_args!(
                        "the prices of {model:?} are a function's, which the engine does not call"
                    );
                    self.recorder.drop_sample(Name::TokenCost, "unpriced", why);
                }
            }
        }
    }
}

/// How full the engine's KV cache is: as a ratio, and, where the size of a cell is known, in bytes
/// under a label that says how large batches are now.
#[derive(Debug)]
struct KvCache {
    cells: usize,
    usage: Arc<Series>,
    bytes_per_token: Option<u64>,
    /// The class of the batch under which it stands on the page, and its series.
    shown: Mutex<Option<(&'static str, Arc<Series>)>>,
}

impl KvCache {
    fn show(&self, recorder: &Recorder, model: &str, tokens: usize, sequences: usize) {
        self.usage.set(tokens as f64 / self.cells as f64);
        let Some(bytes) = self.bytes_per_token else { return };
        let (context, class) = (context_length_class(self.cells), batch_size_class(sequences));
        let family = recorder.family(Name::KvCacheSize);
        let mut shown = self.shown.lock();
        if let Some((old, _)) = shown.take_if(|(old, _)| *old != class) {
            family.remove(&[model, context, old]);
        }
        let make = || (class, family.series(&[model, context, class]));
        shown.get_or_insert_with(make).1.set((tokens as u64 * bytes) as f64);
    }
}
