//! The catalogue: every family once, as one row of one table. The stored families, the
//! documentation's table and the tests that look names up all come from these rows.
//!
//! A new family is a row here and an arm of the recorder. The names follow the Ryot metric
//! design; where it names one measurement twice, the row with more labels is stored and the other
//! name is a [view](super::view).

use crate::metrics::Kind;

/// What is stored for a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// A sum.
    Counter,
    /// A value.
    Gauge,
    /// Observations, with the upper bounds of their buckets (without `+Inf`).
    Histogram(&'static [f64]),
    /// Facts as labels.
    Info,
}

impl Shape {
    /// The type of such a family.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Counter => Kind::Counter,
            Self::Gauge => Kind::Gauge,
            Self::Histogram(_) => Kind::Histogram,
            Self::Info => Kind::Info,
        }
    }
}

/// A row of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The family's name, without the suffix of its type.
    pub name: &'static str,
    /// What it measures; for an interval, the two events that bound it.
    pub help: &'static str,
    /// What is stored.
    pub shape: Shape,
    /// The labels.
    pub labels: &'static [&'static str],
}

macro_rules! catalogue {
    ($($id:ident: $name:literal, $shape:expr, [$($label:literal),*], $help:literal;)*) => {
        /// The families, by a name that the compiler checks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Name {
            $(#[doc = concat!("`", $name, "`")] $id,)*
        }

        /// All rows, in the order in which they stand on the page.
        pub const CATALOGUE: &[Row] = &[
            $(Row { name: $name, help: $help, shape: $shape, labels: &[$($label),*] },)*
        ];

        impl Name {
            /// All names, in the order of [`CATALOGUE`].
            pub const ALL: &[Self] = &[$(Self::$id,)*];
        }
    };
}

const LATENCY: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const TTFT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
const INTER_TOKEN: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5];
const QUEUE_WAIT: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];
const TOKENS: &[f64] = &[1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0];
const RATE: &[f64] = &[10.0, 25.0, 50.0, 100.0, 150.0, 250.0, 400.0, 600.0];
const LOADING: &[f64] = &[0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// The upper ends of the batch size classes 1, 2-4, 5-8, 9-16, 17-32, 33+.
const BATCH_SIZE: &[f64] = &[1.0, 4.0, 8.0, 16.0, 32.0];

catalogue! {
    Requests: "ryot_inference_requests", Shape::Counter,
        ["model", "status", "endpoint", "error_type"],
        "Requests by how they ended.";
    Errors: "ryot_inference_errors", Shape::Counter,
        ["model", "error_type", "severity"],
        "Errors by type; a timeout counts as one.";
    Latency: "ryot_inference_latency_seconds", Shape::Histogram(LATENCY),
        ["model", "batch_size", "generation_mode"],
        "Time of a request from queued to finished.";
    Ttft: "ryot_ttft_latency_seconds", Shape::Histogram(TTFT),
        ["model", "prompt_size", "device"],
        "Time to first token, from queued to the first token.";
    InterToken: "ryot_inference_inter_token_latency_seconds", Shape::Histogram(INTER_TOKEN),
        ["model"],
        "Inter-token latency, from one token produced to the next.";
    QueueWait: "ryot_inference_queue_wait_seconds", Shape::Histogram(QUEUE_WAIT),
        ["model"],
        "Time in the queue, from queued to scheduled.";
    ModelLoading: "ryot_model_loading_time_seconds", Shape::Histogram(LOADING),
        ["model", "load_type", "device_type"],
        "Time of a model load, from its start to the model being ready.";
    ModelLoadingLast: "ryot_model_loading_duration_seconds", Shape::Gauge,
        ["model"],
        "Time of the last model load.";
    ModelLoadAttempts: "ryot_model_load_attempts", Shape::Counter,
        ["model", "result", "load_type"],
        "Model loads by result.";
    TokensGenerated: "ryot_tokens_generated", Shape::Counter,
        ["model", "token_type", "generation_mode"],
        "Tokens of finished prompts and of completions.";
    TokensPerRequest: "ryot_tokens_per_request", Shape::Histogram(TOKENS),
        ["model"],
        "Completion tokens of a successful request.";
    RequestTokensPerSecond: "ryot_request_tokens_per_second", Shape::Histogram(RATE),
        ["model"],
        "Completion tokens of a successful request over its latency.";
    ActiveRequests: "ryot_active_inference_requests", Shape::Gauge,
        ["model", "request_type", "endpoint"],
        "Requests between queued and finished.";
    QueueDepth: "ryot_queue_depth", Shape::Gauge,
        ["model", "priority_level"],
        "Requests that are queued and not scheduled yet.";
    BatchSize: "ryot_batch_size_distribution", Shape::Histogram(BATCH_SIZE),
        ["model", "request_type"],
        "Sequences in one batch, in the classes 1, 2-4, 5-8, 9-16, 17-32, 33+.";
    Batches: "ryot_batches_processed", Shape::Counter,
        ["model"],
        "Batches computed.";
    SystemInfo: "ryot_system", Shape::Info, [],
        "Facts about the system.";
    ModelInfo: "ryot_model", Shape::Info, [],
        "Facts about the models.";
    Dropped: "ryot_metrics_dropped", Shape::Counter,
        ["reason"],
        "Samples that could not be recorded as asked.";
}

impl Name {
    /// The row of this family.
    pub fn row(self) -> &'static Row {
        &CATALOGUE[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Desc;

    #[test]
    fn every_row_describes_a_valid_family() {
        for row in CATALOGUE {
            let desc = Desc::new(row.shape.kind(), row.name, row.help, row.labels).unwrap();
            assert_eq!(&*desc.name, row.name, "the name carries no suffix of its type");
            if let Shape::Histogram(bounds) = row.shape {
                desc.with_bounds(bounds).unwrap();
            }
            assert!(row.help.ends_with('.'), "{}", row.name);
        }
    }

    #[test]
    fn a_name_finds_its_row() {
        assert_eq!(Name::Dropped.row().name, "ryot_metrics_dropped");
        assert_eq!(Name::ALL.len(), CATALOGUE.len());
    }
}
