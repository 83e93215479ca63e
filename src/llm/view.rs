//! Views: second names for stored families, computed when a page is written.
//!
//! The Ryot design names some measurements twice, with more labels and with `model` alone. Only
//! the first is stored; the second is its sum over the labels that it lacks, so that nothing is
//! written twice on the hot path.

use super::catalogue::Name;
use super::derived::{DerivedRow, Label, Term};

const MODEL: &[Label] = &[Label::Of("model")];

const fn view(
    name: &'static str,
    of: Name,
    terms: &'static [Term],
    help: &'static str,
) -> DerivedRow {
    DerivedRow { name, help, shape: of.row().shape, labels: &["model"], terms }
}

/// All views.
pub const VIEWS: &[DerivedRow] = &[
    view(
        "ryot_inference_request_duration_seconds",
        Name::Latency,
        &[Term::all(Name::Latency, MODEL)],
        "View of ryot_inference_latency_seconds by model.",
    ),
    view(
        "ryot_inference_ttft_seconds",
        Name::Ttft,
        &[Term::all(Name::Ttft, MODEL)],
        "View of ryot_ttft_latency_seconds by model.",
    ),
    view(
        "ryot_inference_queue_size",
        Name::QueueDepth,
        &[Term::all(Name::QueueDepth, MODEL)],
        "View of ryot_queue_depth by model.",
    ),
    view(
        "ryot_model_cache_hit_ratio",
        Name::KvCacheHitRatio,
        &[Term::all(Name::KvCacheHitRatio, MODEL)],
        "View of ryot_kv_cache_hit_ratio by model.",
    ),
];
