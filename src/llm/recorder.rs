//! The recorder: owns the stored families and the clock, and opens [requests](super::request).
//!
//! Both of its feeders end here: the engine's events (through
//! [`EngineObserver`](super::EngineObserver)) and the decorators and contexts of Python.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::catalogue::{CATALOGUE, Name, Shape};
use super::request::{Request, Start};
use super::scope::{Scope, ScopeKey};
use super::view::{VIEWS, View};
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::metrics::{Desc, Family, Options, Registry, SERIES_LIMIT, Sink, Source};

/// What can be chosen when a recorder is made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The most series of one family; default [`SERIES_LIMIT`]. Past it, new label sets are
    /// counted together under `model="__overflow__"`.
    pub series_limit: usize,
    /// The views are on the page; default true.
    pub views: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { series_limit: SERIES_LIMIT, views: true }
    }
}

/// The stored families of the catalogue.
#[derive(Debug)]
pub(super) struct Families(Vec<Arc<Family>>);

impl Families {
    pub(super) fn get(&self, name: Name) -> &Arc<Family> {
        &self.0[name as usize]
    }
}

/// Turns facts into samples.
#[derive(Debug)]
pub struct Recorder {
    pub(super) families: Families,
    clock: Arc<dyn Clock>,
    scopes: RwLock<HashMap<ScopeKey, Arc<Scope>>>,
    /// Open requests that an engine's requests may be part of, by key.
    parents: Mutex<HashMap<u64, Weak<Request>>>,
}

impl Recorder {
    /// Makes the families of the catalogue, and their views, in a registry.
    ///
    /// # Errors
    /// If the registry has one of their names already.
    pub fn new(registry: &Registry, clock: Arc<dyn Clock>, settings: Settings) -> Result<Self> {
        let mut families = Vec::with_capacity(CATALOGUE.len());
        for row in CATALOGUE {
            let mut desc = Desc::new(row.shape.kind(), row.name, row.help, row.labels)?;
            if let Shape::Histogram(bounds) = row.shape {
                desc = desc.with_bounds(bounds)?;
            }
            let options = Options {
                series_limit: Some(settings.series_limit),
                omit_empty_labels: true,
                absent_if_empty: true,
                created: false,
                ..Options::default()
            };
            families.push(Family::new(desc, options));
        }
        registry.register(Arc::new(Stored(families.clone())))?;
        for row in VIEWS.iter().filter(|_| settings.views) {
            registry.register(Arc::new(View::new(row, families[row.of as usize].clone())))?;
        }
        let families = Families(families);
        Ok(Self { families, clock, scopes: RwLock::default(), parents: Mutex::default() })
    }

    /// The family of this name.
    pub fn family(&self, name: Name) -> &Arc<Family> {
        self.families.get(name)
    }

    /// The clock that all times are read from.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Opens a request: it is active from now on, until it is finished or dropped.
    pub fn begin(self: &Arc<Self>, start: Start) -> Arc<Request> {
        Request::open(self.clone(), start)
    }

    /// Counts a request that never became one: refused on arrival.
    pub fn reject(&self, model: &str, endpoint: &str, kind: ErrorKind) {
        let requests = self.family(Name::Requests);
        requests.series(&[model, "error", endpoint, kind.as_str()]).add(1.0);
        self.count_error(model, kind);
    }

    /// Records a model load.
    pub fn model_load(&self, model: &str, device: &str, seconds: f64, ok: bool, again: bool) {
        let load_type = if again { "warm_start" } else { "cold_start" };
        let result = if ok { "success" } else { "failed" };
        self.family(Name::ModelLoadAttempts).series(&[model, result, load_type]).add(1.0);
        if ok {
            let loading = self.family(Name::ModelLoading);
            loading.series(&[model, load_type, device]).observe(seconds);
            self.family(Name::ModelLoadingLast).series(&[model]).set(seconds);
        }
    }

    /// Records one batch of this many sequences.
    pub fn batch(&self, model: &str, request_type: &str, sequences: usize) {
        let sizes = self.family(Name::BatchSize);
        sizes.series(&[model, request_type]).observe(sequences as f64);
        self.family(Name::Batches).series(&[model]).add(1.0);
    }

    pub(super) fn count_error(&self, model: &str, kind: ErrorKind) {
        let labels = [model, kind.as_str(), kind.severity()];
        self.family(Name::Errors).series(&labels).add(1.0);
    }

    /// A value that makes no sense is dropped and counted: recording never fails a request.
    pub(super) fn checked(&self, seconds: f64) -> Option<f64> {
        let valid = seconds.is_finite() && seconds >= 0.0;
        if !valid {
            self.family(Name::Dropped).series(&["invalid_value"]).add(1.0);
        }
        valid.then_some(seconds)
    }

    pub(super) fn scope(&self, key: ScopeKey) -> Arc<Scope> {
        if let Some(scope) = self.scopes.read().get(&key) {
            return scope.clone();
        }
        let scope = Arc::new(Scope::new(key.clone(), &self.families));
        let mut scopes = self.scopes.write();
        // The families cap themselves; the map of kept series must not outgrow them.
        if scopes.len() >= SERIES_LIMIT {
            return scope;
        }
        scopes.entry(key).or_insert(scope).clone()
    }

    pub(super) fn adopt(&self, parent: Weak<Request>) -> u64 {
        static NEXT_KEY: AtomicU64 = AtomicU64::new(1);
        let key = NEXT_KEY.fetch_add(1, Ordering::Relaxed);
        self.parents.lock().insert(key, parent);
        key
    }

    pub(super) fn parent(&self, key: u64) -> Option<Arc<Request>> {
        self.parents.lock().get(&key).and_then(Weak::upgrade)
    }

    pub(super) fn disown(&self, key: u64) {
        self.parents.lock().remove(&key);
    }
}

/// The stored families as one source, so that the overflow count is taken with them.
struct Stored(Vec<Arc<Family>>);

impl Source for Stored {
    fn describe(&self) -> Vec<&Desc> {
        self.0.iter().map(|family| family.desc()).collect()
    }

    fn collect(&self, sink: &mut dyn Sink) {
        let overflowed: u64 = self.0.iter().map(|family| family.overflowed()).sum();
        if overflowed > 0 {
            let series = self.0[Name::Dropped as usize].series(&["cardinality"]);
            series.add(overflowed as f64 - series.get());
        }
        for family in &self.0 {
            family.collect(sink);
        }
    }
}
