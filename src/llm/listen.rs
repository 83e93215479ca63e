//! The engine's facts, one arm each, handed to the requests, steps or cache that they are about.
//!
//! What every step and token writes is looked up once and kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::catalogue::Name;
use super::kv_cache::{KvCache, Size};
use super::recorder::{ModelSeries, Recorder};
use super::request::{Request, Start};
use super::scorecard::Scorecard;
use super::sessions::Sessions;
use super::steps::Steps;
use crate::event::{Event, Observer, Origin};
use crate::fork;

/// A cell of the engine's KV cache is what others call a block, of one token.
const TOKENS_PER_CELL: usize = 1;

/// Feeds one engine's events to a recorder.
#[derive(Debug)]
pub struct EngineObserver {
    of: ModelSeries,
    device: Arc<str>,
    /// The bits of the seconds that the model's load took.
    load_seconds: AtomicU64,
    /// Since the engine was ready.
    running: OnceLock<Running>,
}

impl EngineObserver {
    /// An observer of the engine that runs `model` on `device` (the labels' values).
    pub fn new(recorder: Arc<Recorder>, model: &str, device: &str) -> Self {
        Self {
            of: ModelSeries { recorder, model: model.into() },
            device: device.into(),
            load_seconds: AtomicU64::new(0),
            running: OnceLock::new(),
        }
    }

    /// The scorecard of its model; see [`Recorder::scorecard`].
    pub fn scorecard(&self, active_sessions: Option<u64>) -> Scorecard {
        self.of.recorder.scorecard(&self.of.model, active_sessions)
    }

    /// What its engine looked up and found in its prefix cache; see [`Recorder::prefix_cache`].
    pub fn prefix_cache(&self) -> (u64, u64) {
        self.of.recorder.prefix_cache(&self.of.model)
    }

    /// A model that could be loaded is not let in: its memory is not to be had.
    pub fn load_refused(&self) {
        self.of.recorder.model_load_attempt(&self.of.model, "refused", "cold_start");
    }

    fn loaded(&self, seconds: f64, ok: bool, again: bool) {
        let ModelSeries { recorder, model } = &self.of;
        let load_type = if again { "warm_start" } else { "cold_start" };
        if ok {
            recorder.model_loaded(model, &self.device, load_type, seconds);
            recorder.startup_phase("model_load", seconds);
            self.load_seconds.store(seconds.to_bits(), Ordering::Relaxed);
        } else {
            recorder.model_load_attempt(model, "failed", load_type);
        }
    }

    fn ready(&self, seconds: f64, size: Size, weight_bytes: u64) {
        let ModelSeries { recorder, model } = &self.of;
        let loading = f64::from_bits(self.load_seconds.load(Ordering::Relaxed));
        recorder.startup_phase("cache_init", seconds);
        recorder.startup_phase("ready", loading + seconds);
        recorder.kv_cache_blocks(model, TOKENS_PER_CELL, size.cells);
        recorder.engine_ready(model);
        let _ = self.running.set(Running::new(&self.of, Some(size), weight_bytes));
    }

    fn request(&self, at: u64, prompt_tokens: usize, origin: &Origin) -> Option<Arc<Request>> {
        let ModelSeries { recorder, model } = &self.of;
        let parent = origin.parents.iter().find_map(|key| recorder.parent(*key));
        if parent.is_none() && !origin.parents.is_empty() {
            return None; // the request that this is part of has ended, and has counted
        }
        Some(recorder.begin(Start {
            model,
            endpoint: &origin.endpoint,
            mode: origin.mode,
            device: Some(self.device.clone()),
            prompt_tokens: Some(prompt_tokens),
            at: Some(at),
            parent,
        }))
    }
}

impl Observer for EngineObserver {
    fn observe(&self, event: &Event) {
        let _pass = fork::pass();
        let running = || self.running.get_or_init(|| Running::new(&self.of, None, 0));
        match event {
            Event::ModelLoaded { seconds, error, again } => {
                self.loaded(*seconds, error.is_none(), *again);
            }
            Event::Ready { seconds, slots, context, bytes_per_token, weight_bytes } => {
                let size = Size { cells: *context, bytes_per_token: *bytes_per_token };
                self.of.series(Name::EngineSlots).set(*slots as f64);
                self.ready(*seconds, size, *weight_bytes);
            }
            Event::Rejected { kind, origin } => {
                // The part of a request is no request: its error reaches the parent by itself.
                if origin.parents.is_empty() {
                    self.of.recorder.reject(&self.of.model, &origin.endpoint, *kind);
                }
            }
            Event::Queued { id, at, prompt_tokens, class, origin } => {
                let request = self.request(*at, *prompt_tokens, origin);
                running().sessions.queued(*id, *at, *class, request);
            }
            event => running().observe(event),
        }
    }
}

/// What is kept of an engine that runs.
#[derive(Debug)]
struct Running {
    of: ModelSeries,
    steps: Steps,
    sessions: Sessions,
    kv_cache: KvCache,
}

impl Running {
    fn new(of: &ModelSeries, size: Option<Size>, weight_bytes: u64) -> Self {
        let bytes_per_token = size.and_then(|size| size.bytes_per_token).unwrap_or(0);
        Self {
            of: of.clone(),
            steps: Steps::new(of.clone(), weight_bytes, bytes_per_token),
            sessions: Sessions::new(of.clone()),
            kv_cache: KvCache::new(of.clone(), size),
        }
    }

    fn observe(&self, event: &Event) {
        let Self { steps, sessions, kv_cache, .. } = self;
        match event {
            Event::Scheduled { id, at } | Event::Resumed { id, at } => sessions.scheduled(*id, *at),
            Event::PrefixMatched { id, queried, hit } => {
                kv_cache.matched(sessions.mode(*id).unwrap_or_default(), *queried, *hit);
            }
            Event::Preempted { id, .. } => sessions.preempted(*id),
            Event::Relegated { id, .. } => sessions.relegated(*id),
            Event::SloMissed { slo, class, .. } => sessions.missed(*slo, *class),
            Event::FirstToken { id, at } => sessions.tokens(*id, *at, 1, steps.sequences()),
            Event::Tokens { id, at, count } => {
                sessions.tokens(*id, *at, *count, steps.sequences());
            }
            Event::Step { at, nanos, .. } => {
                steps.step(event);
                sessions.computed(at.saturating_sub(*nanos), *at);
            }
            Event::StepInterrupted { nanos } => steps.interrupted(*nanos),
            Event::Occupied { tokens } => kv_cache.occupied(*tokens, steps.sequences()),
            Event::CacheEvicted { reason, .. } => kv_cache.evicted(*reason),
            Event::CacheResident { device_bytes, host_bytes } => {
                kv_cache.resident(*device_bytes, *host_bytes);
            }
            Event::Finished { id, at, reason, batch_size } => {
                if sessions.finished(*id, *at, *reason, *batch_size).is_some() {
                    let model = &self.of.model;
                    let why = format_args!(
                        "the prices of {model:?} are a function's, which the engine does not call"
                    );
                    self.of.recorder.drop_sample(Name::TokenCost, "unpriced", why);
                }
            }
            Event::ModelLoaded { .. }
            | Event::Ready { .. }
            | Event::Rejected { .. }
            | Event::Queued { .. } => (), // the observer's own
        }
    }
}
