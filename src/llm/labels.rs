//! The labels whose values are a closed set, and these values. `model`, `endpoint` and ids are
//! free; a raw number is a [class](super::classes) before it is a label.

use super::classes::BATCH_SIZES;
use super::windows::DEFAULT_WINDOWS;
use crate::error::ErrorKind;
use crate::event::Class;

/// The types that a model may compute in; the first is unknown.
pub(super) const DTYPES: [&str; 5] = ["", "float32", "float16", "int8", "bfloat16"];

/// Each label of a closed set with the values that it may have beside the empty one; those of
/// `time_window` are a setting.
pub const LABEL_VALUES: &[(&str, &[&str])] = &[
    ("memory_type", &["model_weights", "kv_cache", "activations", "peak", "used"]),
    ("kernel_type", &["matmul", "attention", "other", "all"]),
    ("context_type", &["conversation", "batch", "streaming"]),
    ("context_length", &["512", "1024", "2048", "4096", "8192", "16384", "16384+"]),
    ("context_reuse_window", &["1h", "24h", "7d"]),
    ("eviction_reason", &["memory_pressure", "timeout", "manual"]),
    ("priority_level", &["high", "normal", "low"]),
    ("slo", &["ttft", "tbt"]),
    ("class", &["interactive", "background"]),
    ("kind", &["target", "used"]),
    ("path", &["zero_copy", "copied"]),
    ("location", &["device", "host"]),
    ("startup_phase", &["model_load", "cache_init", "warmup", "ready"]),
    ("load_type", &["cold_start", "warm_start", "cache_hit"]),
    ("result", &["success", "failed", "partial", "refused"]),
    ("status", &["success", "error", "timeout", "partial", "cancelled"]),
    ("severity", &["critical", "warning", "info"]),
    ("request_type", &["standard", "streaming", "batch"]),
    ("generation_mode", &["standard", "streaming", "batch"]),
    ("token_type", &["prompt", "completion"]),
    ("cost_model", &["fixed_rate", "tiered", "dynamic"]),
    ("time_window", &DEFAULT_WINDOWS),
    ("prompt_size", &["tiny", "small", "medium", "large", "xlarge"]),
    ("batch_size", BATCH_SIZES.split_at(1).1),
    ("dtype", DTYPES.split_at(1).1),
    ("error_type", &ERROR_TYPES),
    ("outcome", &["completed", "client_abort", "client_disconnect", "stage_error", "unknown"]),
];

/// How urgent a request is while it waits, as the label `priority_level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// An engine's interactive request.
    High,
    /// A request of a service that knows no priorities.
    #[default]
    Normal,
    /// An engine's background request.
    Low,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl From<Class> for Priority {
    fn from(class: Class) -> Self {
        match class {
            Class::Interactive => Self::High,
            Class::Background => Self::Low,
        }
    }
}

const ERROR_TYPES: [&str; ErrorKind::ALL.len()] = {
    let mut names = [""; ErrorKind::ALL.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = ErrorKind::ALL[index].as_str();
        index += 1;
    }
    names
};

/// Whether a label may have this value: any, if its set is not closed; empty is unknown.
pub(super) fn is_value(label: &str, value: &str) -> bool {
    let set = LABEL_VALUES.iter().find(|(name, _)| *name == label);
    value.is_empty() || set.is_none_or(|(_, values)| values.contains(&value))
}

/// What a label may be, as half a sentence.
pub(super) fn known_values(label: &str) -> String {
    let set = LABEL_VALUES.iter().find(|(name, _)| *name == label);
    set.map_or_else(String::new, |(_, values)| format!("it must be one of {}", values.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Eviction, Mode, Slo};
    use crate::llm::pipeline::Outcome;
    use crate::llm::{CATALOGUE, Status};

    #[test]
    fn every_closed_label_is_one_of_the_catalogue() {
        for (label, _) in LABEL_VALUES {
            assert!(CATALOGUE.iter().any(|row| row.labels.contains(label)), "{label}");
        }
    }

    #[test]
    fn the_sets_are_those_of_the_enums() {
        let values = |label| LABEL_VALUES.iter().find(|(name, _)| *name == label).unwrap().1;
        assert_eq!(values("status"), Status::ALL.map(Status::as_str));
        assert_eq!(values("request_type"), Mode::ALL.map(Mode::as_str));
        assert_eq!(values("priority_level"), Priority::ALL.map(Priority::as_str));
        assert_eq!(values("class"), Class::ALL.map(Class::as_str));
        assert_eq!(values("slo"), Slo::ALL.map(Slo::as_str));
        assert_eq!(values("eviction_reason"), Eviction::ALL.map(Eviction::as_str));
        assert_eq!(values("error_type")[0], "oom");
        assert!(ErrorKind::ALL.iter().all(|kind| is_value("severity", kind.severity())));
        assert_eq!(values("batch_size")[0], "1");
        assert_eq!(values("outcome"), Outcome::ALL.map(Outcome::as_str));
    }

    #[test]
    fn free_labels_take_anything() {
        assert!(is_value("model", "x") && is_value("memory_type", ""));
        assert!(!is_value("memory_type", "x"));
    }
}
