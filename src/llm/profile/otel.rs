//! The profile `otel`: the metrics of OpenTelemetry's semantic conventions for generative AI, in
//! their Prometheus spelling.
//!
//! `gen_ai_operation_name` and `gen_ai_provider_name` are required and not recorded: the first is
//! the setting `operation_name`, the second always `ryot`. `error_type` is on the durations of
//! requests that failed; who gave up a request has not made it fail. Where durations are configured
//! to be native histograms, which are stored together, it is missing.

use crate::llm::catalogue::{Name, Shape};
use crate::llm::derived::{DerivedRow, Label, Term};

const LABELS: &[&str] = &["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"];
const LABELS_AND_ERROR: &[&str] = &[LABELS[0], LABELS[1], LABELS[2], "error_type"];
const MODEL: &[Label] = &[Label::Operation, Label::Fixed("ryot"), Label::Of("model")];
const FAILED: &[Label] = &[MODEL[0], MODEL[1], MODEL[2], Label::Of("error_type")];
const INPUT: &[Label] = &[MODEL[0], MODEL[1], MODEL[2], Label::Fixed("input")];
const OUTPUT: &[Label] = &[MODEL[0], MODEL[1], MODEL[2], Label::Fixed("output")];

const TTFT: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const PER_TOKEN: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const DURATION: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

pub(super) const ROWS: &[DerivedRow] = &[
    DerivedRow {
        name: "gen_ai_server_request_duration_seconds",
        help: "Time of a request from queued to finished.",
        shape: Shape::Histogram(DURATION),
        labels: LABELS_AND_ERROR,
        terms: &[Term::all(Name::Latency, FAILED)],
    },
    DerivedRow {
        name: "gen_ai_server_time_to_first_token_seconds",
        help: "Time to first token, from queued to the first token.",
        shape: Shape::Histogram(TTFT),
        labels: LABELS,
        terms: &[Term::all(Name::Ttft, MODEL)],
    },
    DerivedRow {
        name: "gen_ai_server_time_per_output_token_seconds",
        help: "Time from one token produced to the next.",
        shape: Shape::Histogram(PER_TOKEN),
        labels: LABELS,
        terms: &[Term::all(Name::InterToken, MODEL)],
    },
    DerivedRow {
        name: "gen_ai_client_token_usage",
        help: "Tokens of a request: of its prompt (input) and of its completion (output).",
        shape: Shape::Histogram(TOKENS),
        labels: &[LABELS[0], LABELS[1], LABELS[2], "gen_ai_token_type"],
        terms: &[
            Term::all(Name::PromptTokensPerRequest, INPUT),
            Term::all(Name::TokensPerRequest, OUTPUT),
        ],
    },
];
