//! Why an event was not taken.

/// An event that changes nothing; it is counted by its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The label of `ryot_metrics_dropped_total`.
    pub reason: &'static str,
    /// A clause that says what is the case.
    pub why: String,
}

impl Refused {
    /// A name or number that is beyond its limit.
    pub(super) fn invalid(why: String) -> Self {
        Self { reason: "invalid_value", why }
    }

    /// Of a request that is not open.
    pub(super) fn unknown(request: &str) -> Self {
        let why = format!("request {request:?} has not started, or has ended");
        Self { reason: "unknown_request", why }
    }

    /// It came before.
    pub(super) fn duplicate(request: &str, what: &str) -> Self {
        Self { reason: "duplicate_event", why: format!("{what} of {request:?} came twice") }
    }

    /// A request, or all together, have as much as they may.
    pub(super) fn full(why: String) -> Self {
        Self { reason: "pipeline_full", why }
    }

    /// A stage's end without its begin, or the reverse.
    pub(super) fn incomplete(request: &str, stage: &str) -> Self {
        let why = format!("stage {stage:?} of {request:?} has no start or no end");
        Self { reason: "incomplete_stage", why }
    }
}
