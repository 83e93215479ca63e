//! Facts that a service reports itself, one function each, for what no request sees.

#![allow(clippy::needless_pass_by_value)] // arguments of Python are extracted by value

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::globals;
use crate::error::ErrorKind;
use crate::llm::Name;

/// A number; what is none is NaN, which the recorder drops and counts.
#[derive(Clone, Copy)]
pub(super) struct Number(pub(super) f64);

impl<'a, 'py> FromPyObject<'a, 'py> for Number {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(object.extract().unwrap_or(f64::NAN)))
    }
}

/// A label's value: text, or what `str` makes of it.
pub(super) struct Text(String);

impl<'a, 'py> FromPyObject<'a, 'py> for Text {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let text = object.str().map(|text: Bound<'_, PyString>| text.to_string_lossy().into());
        Ok(Self(text.unwrap_or_default()))
    }
}

impl Text {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn into_cow(self) -> std::borrow::Cow<'static, str> {
        self.0.into()
    }
}

/// A prompt as text or as tokens.
#[derive(FromPyObject)]
pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<u64>),
}

/// Sets what a GPU says of itself, as a service reads it now and then.
///
/// The ratio of used to reserved memory follows from it, and the peak of the used memory.
///
/// Args:
///     model: The label `model`.
///     gpu_id: The label `device_id`.
///     used_bytes: Memory in use.
///     reserved_bytes: Memory that is reserved, in use or not.
///     utilization: Time in which the GPU computed, 0 to 100.
///
/// Example:
///     >>> from ryot_metrics import client, update_gpu_metrics
///     >>> update_gpu_metrics("gpt4", gpu_id=0, used_bytes=6e9, reserved_bytes=8e9, utilization=91)
///     >>> labels = {"model": "gpt4", "device_id": "0"}
///     >>> client.REGISTRY.get_sample_value("ryot_memory_efficiency_ratio", labels)
///     0.75
#[pyfunction]
pub(super) fn update_gpu_metrics(
    model: Text,
    gpu_id: Text,
    used_bytes: Number,
    reserved_bytes: Number,
    utilization: Number,
) {
    let recorder = globals::recorder();
    recorder.gpu_memory(&model.0, &gpu_id.0, "used", used_bytes.0);
    recorder.gpu_memory_reserved(&model.0, &gpu_id.0, reserved_bytes.0);
    recorder.gpu_utilization(&model.0, &gpu_id.0, "all", utilization.0);
}

/// Sets one part of a GPU's memory.
///
/// Args:
///     model: The label `model`.
///     gpu_id: The label `device_id`.
///     memory_type: `model_weights`, `kv_cache`, `activations`, `used` or `peak`.
///     used_bytes: Its size.
#[pyfunction]
pub(super) fn update_gpu_memory(model: Text, gpu_id: Text, memory_type: Text, used_bytes: Number) {
    globals::recorder().gpu_memory(&model.0, &gpu_id.0, &memory_type.0, used_bytes.0);
}

/// Sets the share of a GPU's memory that is in use. With it, `ryot_token_efficiency_ratio` exists.
///
/// Args:
///     model: The label `model`.
///     gpu_id: The label `device_id`.
///     percentage: 0 to 100.
///     batch_size: Sequences in the batches of that time; 0 if unknown. The gauge of another
///         class of batches goes away.
#[pyfunction]
#[pyo3(signature = (model, gpu_id, percentage, batch_size=Number(0.0)))]
pub(super) fn update_gpu_memory_percentage(
    model: Text,
    gpu_id: Text,
    percentage: Number,
    batch_size: Number,
) {
    globals::recorder().gpu_memory_percentage(&model.0, &gpu_id.0, percentage.0, batch_size.0);
}

/// Sets how much of its time a GPU computed.
///
/// Args:
///     model: The label `model`.
///     gpu_id: The label `device_id`.
///     utilization: 0 to 100.
///     kernel_type: `matmul`, `attention`, `other` or `all`.
#[pyfunction]
#[pyo3(signature = (model, gpu_id, utilization, kernel_type=Text("all".into())))]
pub(super) fn update_gpu_utilization(
    model: Text,
    gpu_id: Text,
    utilization: Number,
    kernel_type: Text,
) {
    globals::recorder().gpu_utilization(&model.0, &gpu_id.0, &kernel_type.0, utilization.0);
}

/// Counts an error outside of any tracked request, which counts its own.
///
/// Args:
///     model: The label `model`.
///     error_type: `oom`, `timeout`, `cuda_error`, `invalid_prompt`, `model_not_found`,
///         `inference_error` or `tokenization_error`; others count as `inference_error`.
#[pyfunction]
pub(super) fn record_inference_error(model: Text, error_type: Text) {
    let kind = ErrorKind::parse(&error_type.0).unwrap_or(ErrorKind::InferenceError);
    globals::recorder().error(&model.0, kind);
}

/// Counts one more attempt of a request that failed.
///
/// Args:
///     model: The label `model`.
#[pyfunction]
pub(super) fn record_retry(model: Text) {
    globals::recorder().retry(&model.0);
}

/// Sets the length of a queue of the service's own.
///
/// It adds to the requests that `InferenceContext.queued()` and the engine count by themselves,
/// so name only requests that are not among those.
///
/// Args:
///     model: The label `model`.
///     queue_size: Requests that wait.
///     priority_level: `high`, `normal` or `low`.
///
/// Example:
///     >>> from ryot_metrics import client, update_queue_metrics
///     >>> update_queue_metrics("queued", 5)
///     >>> update_queue_metrics("queued", 3)
///     >>> client.REGISTRY.get_sample_value("ryot_inference_queue_size", {"model": "queued"})
///     3.0
#[pyfunction]
#[pyo3(signature = (model, queue_size, priority_level=Text("normal".into())))]
pub(super) fn update_queue_metrics(model: Text, queue_size: Number, priority_level: Text) {
    globals::recorder().queue_size(&model.0, &priority_level.0, queue_size.0);
}

/// Records how long a request waited in a queue of the service's own.
///
/// Args:
///     model: The label `model`.
///     wait_seconds: From queued to scheduled.
#[pyfunction]
pub(super) fn record_queue_wait(model: Text, wait_seconds: Number) {
    globals::recorder().queue_wait(&model.0, wait_seconds.0);
}

/// Reports a rate of tokens that the service measured itself.
///
/// It stands in `ryot_tokens_per_second{model}`, without a window, and in
/// `ryot_average_tokens_per_minute`, as long as no token of the model is counted in this process.
/// The first token that a decorator, a context or the engine counts takes it off the page for
/// good: the rates over rolling windows are there instead.
///
/// Args:
///     model: The label `model`.
///     tokens_per_sec: Tokens of completions per second.
///
/// Example:
///     >>> from ryot_metrics import client, update_token_throughput
///     >>> update_token_throughput("reported", 120)
///     >>> client.REGISTRY.get_sample_value("ryot_tokens_per_second", {"model": "reported"})
///     120.0
#[pyfunction]
pub(super) fn update_token_throughput(model: Text, tokens_per_sec: Number) {
    globals::recorder().token_rate(&model.0, tokens_per_sec.0);
}

/// Says in which type a model computes: the label `dtype` of `ryot_token_efficiency_ratio`.
///
/// Args:
///     model: The label `model`.
///     dtype: `float32`, `float16`, `bfloat16` or `int8`; empty if unknown.
#[pyfunction]
pub(super) fn set_model_dtype(model: Text, dtype: Text) {
    globals::recorder().dtype(&model.0, &dtype.0);
}

/// Records one batch that was computed.
///
/// Args:
///     model: The label `model`.
///     batch_size: Its sequences, at least 1.
///     request_type: `standard`, `streaming` or `batch`; empty if mixed or unknown.
#[pyfunction]
#[pyo3(signature = (model, batch_size, request_type=Text(String::new())))]
pub(super) fn record_batch_processed(model: Text, batch_size: Number, request_type: Text) {
    globals::recorder().batch(&model.0, &request_type.0, batch_size.0);
}

/// Records a model load that ended well, and counts it as an attempt.
///
/// Args:
///     model: The label `model`.
///     load_time_seconds: From its start to the model being ready.
///     load_type: `cold_start`, `warm_start` or `cache_hit`.
///     device_type: Such as `gpu` or `cpu`; empty if unknown.
#[pyfunction]
#[pyo3(signature = (
    model, load_time_seconds, load_type=Text("cold_start".into()), device_type=Text(String::new())
))]
pub(super) fn record_model_load_time(
    model: Text,
    load_time_seconds: Number,
    load_type: Text,
    device_type: Text,
) {
    let seconds = load_time_seconds.0;
    globals::recorder().model_loaded(&model.0, &device_type.0, &load_type.0, seconds);
}

/// Counts a model load that `record_model_load_time` does not count: one that did not end well.
///
/// Args:
///     model: The label `model`.
///     result: `failed`, `partial` or `refused`; or `success`, of unknown length.
///     load_type: `cold_start`, `warm_start` or `cache_hit`.
#[pyfunction]
#[pyo3(signature = (model, result, load_type=Text("cold_start".into())))]
pub(super) fn record_model_load_attempt(model: Text, result: Text, load_type: Text) {
    globals::recorder().model_load_attempt(&model.0, &result.0, &load_type.0);
}

/// Records how long a phase of the service's start took.
///
/// Args:
///     startup_phase: `model_load`, `cache_init`, `warmup`, or `ready` for all of it.
///     seconds: From the phase's beginning to its end.
#[pyfunction]
pub(super) fn record_startup_phase(startup_phase: Text, seconds: Number) {
    globals::recorder().startup_phase(&startup_phase.0, seconds.0);
}

/// Reports a hit ratio of the KV cache that the service measured itself.
///
/// It stands in `ryot_kv_cache_hit_ratio{model}` and `ryot_model_cache_hit_ratio{model}` as long
/// as `record_kv_cache_lookup` counts nothing for the model; then the ratio follows from its
/// counters.
///
/// Args:
///     model: The label `model`.
///     hit_ratio: 0 to 1.
///
/// Example:
///     >>> from ryot_metrics import client, record_kv_cache_lookup, update_cache_metrics
///     >>> update_cache_metrics("cached", 0.5)
///     >>> record_kv_cache_lookup("cached", queries=100, hits=87)
///     >>> client.REGISTRY.get_sample_value("ryot_model_cache_hit_ratio", {"model": "cached"})
///     0.87
#[pyfunction]
pub(super) fn update_cache_metrics(model: Text, hit_ratio: Number) {
    globals::recorder().cache_hit_ratio(&model.0, hit_ratio.0);
}

/// Counts a prompt's tokens that were looked up in the KV cache, and those that were found.
///
/// Args:
///     model: The label `model`.
///     queries: Tokens that were looked up.
///     hits: Tokens of these that were found; not more.
///     context_type: `conversation`, `batch` or `streaming`.
#[pyfunction]
#[pyo3(signature = (model, queries, hits, context_type=Text("conversation".into())))]
pub(super) fn record_kv_cache_lookup(
    model: Text,
    queries: Number,
    hits: Number,
    context_type: Text,
) {
    globals::recorder().kv_cache_lookup(&model.0, &context_type.0, queries.0, hits.0);
}

/// Sets the size of the KV cache. The gauge of another class of contexts or batches goes away.
///
/// Args:
///     model: The label `model`.
///     size_bytes: What holds tokens.
///     context_length: Tokens that the context has room for; 0 if unknown.
///     batch_size: Sequences in the batches of that time; 0 if unknown.
#[pyfunction]
#[pyo3(signature = (model, size_bytes, context_length=Number(0.0), batch_size=Number(0.0)))]
pub(super) fn update_kv_cache_size(
    model: Text,
    size_bytes: Number,
    context_length: Number,
    batch_size: Number,
) {
    let (context_length, batch_size) = (context_length.0, batch_size.0);
    globals::recorder().kv_cache_size(&model.0, size_bytes.0, context_length, batch_size);
}

/// Sets how full the KV cache of a service's own engine is; that of an `Engine` is known anyway.
///
/// Args:
///     model: The label `model`.
///     ratio: What holds tokens over what there is, 0 to 1.
///
/// Example:
///     >>> from ryot_metrics import client, update_kv_cache_usage
///     >>> update_kv_cache_usage("gpt4", 0.4)
///     >>> vllm = client.REGISTRY.with_profile("vllm")
///     >>> labels = {"model_name": "gpt4", "engine": "0"}
///     >>> vllm.get_sample_value("vllm:kv_cache_usage_perc", labels)
///     0.4
#[pyfunction]
pub(super) fn update_kv_cache_usage(model: Text, ratio: Number) {
    globals::recorder().kv_cache_usage(&model.0, ratio.0);
}

/// Counts a model, or its cache, that was evicted.
///
/// Args:
///     model: The label `model`.
///     eviction_reason: `memory_pressure`, `timeout` or `manual`.
#[pyfunction]
pub(super) fn record_cache_eviction(model: Text, eviction_reason: Text) {
    globals::recorder().cache_eviction(&model.0, &eviction_reason.0);
}

/// Records how much of a prompt began a prompt of the last hour, day and week too.
///
/// The beginning of a prompt is compared in blocks of 64 bytes of text or 16 tokens; digests of
/// the last 65,536 blocks are kept, and no text.
///
/// Args:
///     model: The label `model`.
///     prompt: The text, or the tokens as whole numbers from 0.
///
/// Example:
///     >>> from ryot_metrics import client, record_prompt_reuse
///     >>> system = "You are a helpful assistant. " * 10
///     >>> record_prompt_reuse("reused", system)
///     >>> record_prompt_reuse("reused", system)
///     >>> labels = {"model": "reused", "context_reuse_window": "1h"}
///     >>> client.REGISTRY.get_sample_value("ryot_prompt_cache_effectiveness_sum", labels)
///     1.0
#[pyfunction]
pub(super) fn record_prompt_reuse(model: Text, prompt: &Bound<'_, PyAny>) {
    let recorder = globals::recorder();
    match prompt.extract::<Prompt>() {
        Ok(Prompt::Text(text)) => recorder.prompt_text_seen(&model.0, &text),
        Ok(Prompt::Tokens(tokens)) => recorder.prompt_tokens_seen(&model.0, &tokens),
        Err(_) => {
            let model = &model.0;
            let why =
                format_args!("the prompt of {model:?} is neither text nor whole numbers from 0");
            recorder.drop_value(Name::PromptReuse, why);
        }
    }
}
