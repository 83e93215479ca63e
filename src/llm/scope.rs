//! A scope: the series of one (model, endpoint, mode), looked up once and kept.
//!
//! Counters of closed label sets are made with the scope, so that they exist at zero; histograms
//! are made with their first observation, so that a family nobody wrote is absent.

use std::sync::{Arc, OnceLock};

use indexmap::Equivalent;

use super::catalogue::Name;
use super::classes::{BATCH_SIZES, PROMPT_SIZES};
use super::families::Families;
use super::labels::Priority;
use super::rates::ModelRates;
use super::request::Status;
use crate::error::ErrorKind;
use crate::event::{FinishReason, Mode};
use crate::metrics::{Series, same_text};

/// What identifies a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ScopeKey<S = Box<str>> {
    pub(super) model: S,
    pub(super) endpoint: S,
    pub(super) mode: Mode,
}

impl ScopeKey<&str> {
    pub(super) fn to_owned(&self) -> ScopeKey {
        ScopeKey { model: self.model.into(), endpoint: self.endpoint.into(), mode: self.mode }
    }
}

// A lookup borrows its key. Both hash alike: `Box<str>` as `str` does.
impl Equivalent<ScopeKey> for ScopeKey<&str> {
    fn equivalent(&self, key: &ScopeKey) -> bool {
        self.mode == key.mode
            && same_text(self.model, &key.model)
            && same_text(self.endpoint, &key.endpoint)
    }
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
    /// Requests that ended well: by themselves, and at their limit of tokens.
    pub(super) succeeded: [Arc<Series>; 2],
    pub(super) cancelled: Arc<Series>,
    /// By the class of the batch's size.
    pub(super) latency: [Lazy; BATCH_SIZES.len()],
    /// By the class of the prompt's length, for requests without a device.
    pub(super) ttft: [Lazy; PROMPT_SIZES.len()],
    pub(super) tokens_per_request: Lazy,
    pub(super) prompt_tokens_per_request: Lazy,
    pub(super) rate: Lazy,
    /// Tokens over time.
    pub(super) rates: Arc<ModelRates>,
    /// By priority.
    pub(super) queue_depth: [Lazy; Priority::ALL.len()],
    pub(super) completion_tokens: Lazy,
    pub(super) prompt_tokens: Lazy,
    pub(super) inter_token: Lazy,
    pub(super) queue_wait: Lazy,
    pub(super) prefill: Lazy,
    pub(super) decode: Lazy,
    pub(super) inference: Lazy,
}

impl Scope {
    pub(super) fn new(key: ScopeKey, families: &Families, rates: Arc<ModelRates>) -> Self {
        let model = &*key.model;
        let ended = |status: Status, reason: FinishReason| {
            let labels = [model, status.as_str(), &key.endpoint, "", reason.as_str()];
            families.get(Name::Requests).series(&labels)
        };
        let succeeded =
            [FinishReason::Stop, FinishReason::Length].map(|it| ended(Status::Success, it));
        for status in [Status::Error, Status::Timeout, Status::Partial] {
            ended(status, FinishReason::Error(ErrorKind::InferenceError));
        }
        let cancelled = ended(Status::Cancelled, FinishReason::Cancelled);
        for kind in ErrorKind::ALL {
            families.get(Name::Errors).series(&[model, kind.as_str(), kind.severity()]);
        }
        let active = families.get(Name::ActiveRequests);
        Self {
            active: active.series(&[model, key.mode.as_str(), &key.endpoint]),
            succeeded,
            cancelled,
            latency: Default::default(),
            ttft: Default::default(),
            tokens_per_request: Lazy::default(),
            prompt_tokens_per_request: Lazy::default(),
            rate: Lazy::default(),
            rates,
            key,
            queue_depth: Default::default(),
            completion_tokens: Lazy::default(),
            prompt_tokens: Lazy::default(),
            inter_token: Lazy::default(),
            queue_wait: Lazy::default(),
            prefill: Lazy::default(),
            decode: Lazy::default(),
            inference: Lazy::default(),
        }
    }
}
