//! The recorder: owns the stored families and the clock, and opens [requests](super::request).
//!
//! Both of its feeders end here: the engine's events (through
//! [`EngineObserver`](super::EngineObserver)) and the decorators and contexts of Python.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};

use super::catalogue::Name;
use super::computed::Computed;
use super::cost::{CostModel, Costs};
use super::derived::{Derived, DerivedRow};
use super::dropped::Drops;
use super::families::{Families, Stored};
use super::gpu::Devices;
use super::profile::{PROFILES, RYOT};
use super::rates::Rates;
use super::request::{Request, Start};
use super::reuse::Reuse;
use super::scope::{Scope, ScopeKey};
use super::settings::Settings;
use super::view::VIEWS;
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::event::FinishReason;
use crate::metrics::{Family, Registry, Series};

/// Turns facts into samples.
#[derive(Debug)]
pub struct Recorder {
    pub(super) families: Arc<Families>,
    pub(super) views: Vec<Arc<Derived>>,
    /// The families of the profiles beside the catalogue's own.
    pub(super) profiles: Vec<Arc<Derived>>,
    /// As they were applied last.
    pub(super) settings: Mutex<Settings>,
    pub(super) computed: Arc<Computed>,
    clock: Arc<dyn Clock>,
    scopes: RwLock<IndexMap<ScopeKey, Arc<Scope>, ahash::RandomState>>,
    pub(super) costs: Costs,
    pub(super) rates: Arc<Rates>,
    pub(super) reuse: Mutex<Reuse>,
    /// What was last reported of each series of the queue's depth, by its labels.
    pub(super) reported_queues: Mutex<HashMap<Box<str>, f64>>,
    /// Open requests that an engine's requests may be part of, by key.
    parents: Mutex<HashMap<u64, Weak<Request>>>,
    pub(super) devices: Devices,
    pub(super) drops: Drops,
}

impl Recorder {
    /// Makes the families of the catalogue, their views and the profiles in a registry.
    ///
    /// # Errors
    /// If the registry has one of their names already, or a setting is refused.
    pub fn new(registry: &Registry, clock: Arc<dyn Clock>, settings: &Settings) -> Result<Self> {
        let families = Arc::new(Families::new());
        let rates = Arc::new(Rates::new(clock.now()));
        let computed = Arc::new(Computed {
            families: families.clone(),
            rates: rates.clone(),
            clock: clock.clone(),
            operation: RwLock::default(),
            engines: RwLock::default(),
            page_nanos: registry.page_nanos(),
        });
        registry.register_in(RYOT, Arc::new(Stored::new(computed.clone())))?;
        let derive = |profile, rows: &[DerivedRow]| -> Result<Vec<Arc<Derived>>> {
            let sources = rows.iter().map(|row| Arc::new(Derived::new(*row, computed.clone())));
            let sources: Vec<_> = sources.collect();
            sources.iter().try_for_each(|source| registry.register_in(profile, source.clone()))?;
            Ok(sources)
        };
        let views = derive(RYOT, VIEWS)?;
        let mut profiles = Vec::new();
        for profile in PROFILES {
            profiles.extend(derive(profile.name, profile.rows)?);
        }
        let recorder = Self {
            families,
            views,
            profiles,
            settings: Mutex::default(),
            computed,
            clock,
            costs: Costs::default(),
            devices: Devices::default(),
            drops: Drops::default(),
            scopes: RwLock::default(),
            rates,
            reuse: Mutex::default(),
            reported_queues: Mutex::default(),
            parents: Mutex::default(),
        };
        settings.apply(&recorder, registry)?;
        Ok(recorder)
    }

    /// The family of this name.
    pub fn family(&self, name: Name) -> &Arc<Family> {
        self.families.get(name)
    }

    /// The clock that all times are read from.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The settings as they were applied last.
    pub fn settings(&self) -> Settings {
        self.settings.lock().clone()
    }

    /// Opens a request: it is active from now on, until it is finished or dropped.
    pub fn begin(self: &Arc<Self>, start: Start<'_>) -> Arc<Request> {
        Request::open(self.clone(), start)
    }

    /// Counts a request that never became one: refused on arrival.
    pub fn reject(&self, model: &str, endpoint: &str, kind: ErrorKind) {
        let requests = self.family(Name::Requests);
        let labels = [model, "error", endpoint, kind.as_str(), FinishReason::Error(kind).as_str()];
        requests.series(&labels).add(1.0);
        self.count_error(model, kind, kind.severity());
    }

    pub(super) fn count_error(&self, model: &str, kind: ErrorKind, severity: &str) {
        self.family(Name::Errors).series(&[model, kind.as_str(), severity]).add(1.0);
    }

    /// From now on, tokens of `model` cost this; `*` is every model without a price of its own.
    pub fn set_cost_model(&self, model: &str, cost: Option<CostModel>) {
        self.costs.set(model, cost);
    }

    pub(super) fn scope(&self, key: &ScopeKey<&str>) -> Arc<Scope> {
        if let Some(scope) = self.scopes.read().get(key) {
            return scope.clone();
        }
        let key = key.to_owned();
        let rates = self.rates.of(&key.model);
        let scope = Arc::new(Scope::new(key.clone(), &self.families, rates));
        let limit = self.settings.lock().series_limit;
        let mut scopes = self.scopes.write();
        // The families cap themselves; the map of kept series must not outgrow them.
        if scopes.len() >= limit {
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

    /// An engine of this model can take requests from now on.
    pub(super) fn engine_ready(&self, model: &str) {
        let now = self.clock.now();
        self.computed.engines.write().entry(model.into()).or_insert(now);
    }
}

/// The series of one model.
#[derive(Clone, Debug)]
pub(super) struct ModelSeries {
    pub(super) recorder: Arc<Recorder>,
    pub(super) model: Arc<str>,
}

impl ModelSeries {
    /// Of a family without further labels.
    pub(super) fn series(&self, name: Name) -> Arc<Series> {
        self.with(name, &[])
    }

    /// Of a family with one further label.
    pub(super) fn labelled(&self, name: Name, value: &str) -> Arc<Series> {
        self.with(name, &[value])
    }

    /// With these values of the further labels.
    pub(super) fn with(&self, name: Name, values: &[&str]) -> Arc<Series> {
        self.recorder.family(name).series(&self.values(values))
    }

    /// Of a family without further labels, if it was made before.
    pub(super) fn find(&self, name: Name) -> Option<Arc<Series>> {
        self.recorder.family(name).find(&self.values(&[]))
    }

    /// Takes a series off the page.
    pub(super) fn remove(&self, name: Name, values: &[&str]) {
        self.recorder.family(name).remove(&self.values(values));
    }

    fn values<'a>(&'a self, further: &[&'a str]) -> Vec<&'a str> {
        [&[&*self.model], further].concat()
    }
}
