//! A scope: the series of one (model, endpoint, mode), looked up once and kept.
//!
//! Counters of closed label sets are made with the scope, so that they exist at zero; histograms
//! are made with their first observation, so that a family nobody wrote is absent.

use std::sync::{Arc, OnceLock};

use super::catalogue::Name;
use super::families::Families;
use super::request::Status;
use crate::error::ErrorKind;
use crate::event::Mode;
use crate::metrics::Series;

/// What identifies a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct ScopeKey {
    pub(super) model: Arc<str>,
    pub(super) endpoint: Arc<str>,
    pub(super) mode: Mode,
}

/// A series that is made when it is first used.
#[derive(Debug, Default)]
pub(super) struct Lazy(OnceLock<Arc<Series>>);

impl Lazy {
    pub(super) fn get(&self, make: impl FnOnce() -> Arc<Series>) -> &Series {
        self.0.get_or_init(make)
    }
}

/// The kept series.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) key: ScopeKey,
    pub(super) active: Arc<Series>,
    pub(super) queue_depth: Lazy,
    pub(super) completion_tokens: Lazy,
    pub(super) prompt_tokens: Lazy,
    pub(super) inter_token: Lazy,
    pub(super) queue_wait: Lazy,
}

impl Scope {
    pub(super) fn new(key: ScopeKey, families: &Families) -> Self {
        let model = &*key.model;
        for status in Status::ALL {
            families.get(Name::Requests).series(&[model, status.as_str(), &key.endpoint, ""]);
        }
        for kind in ErrorKind::ALL {
            families.get(Name::Errors).series(&[model, kind.as_str(), kind.severity()]);
        }
        let active = families.get(Name::ActiveRequests);
        Self {
            active: active.series(&[model, key.mode.as_str(), &key.endpoint]),
            key,
            queue_depth: Lazy::default(),
            completion_tokens: Lazy::default(),
            prompt_tokens: Lazy::default(),
            inter_token: Lazy::default(),
            queue_wait: Lazy::default(),
        }
    }
}
