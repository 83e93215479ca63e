//! What workers say of their load, and the figures over all of them. Pure.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One worker's load: places for requests, and blocks of its KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Reported")]
pub struct ForwardPassMetrics {
    /// Requests that run.
    pub request_active_slots: u64,
    /// Requests that could run at once.
    pub request_total_slots: u64,
    /// Blocks of the KV cache that running requests use.
    pub kv_active_blocks: u64,
    /// Blocks that there are.
    pub kv_total_blocks: u64,
}

/// The forms in which workers report it: flat, or in two parts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Reported {
    Flat {
        request_active_slots: u64,
        request_total_slots: u64,
        kv_active_blocks: u64,
        kv_total_blocks: u64,
    },
    Parts {
        worker_stats: WorkerStats,
        kv_stats: KvStats,
    },
}

#[derive(Deserialize)]
struct WorkerStats {
    request_active_slots: u64,
    request_total_slots: u64,
}

#[derive(Deserialize)]
struct KvStats {
    kv_active_blocks: u64,
    kv_total_blocks: u64,
}

impl From<Reported> for ForwardPassMetrics {
    fn from(reported: Reported) -> Self {
        let (worker, kv) = match reported {
            Reported::Flat {
                request_active_slots,
                request_total_slots,
                kv_active_blocks,
                kv_total_blocks,
            } => (
                WorkerStats { request_active_slots, request_total_slots },
                KvStats { kv_active_blocks, kv_total_blocks },
            ),
            Reported::Parts { worker_stats, kv_stats } => (worker_stats, kv_stats),
        };
        Self {
            request_active_slots: worker.request_active_slots,
            request_total_slots: worker.request_total_slots,
            kv_active_blocks: kv.kv_active_blocks,
            kv_total_blocks: kv.kv_total_blocks,
        }
    }
}

/// What is known of a worker's load: all of it, of a worker that tells it; of one whose page is
/// read, what the page says.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that run.
    pub request_active_slots: Option<u64>,
    /// Requests that could run at once.
    pub request_total_slots: Option<u64>,
    /// Blocks of the KV cache that running requests use.
    pub kv_active_blocks: Option<u64>,
    /// Blocks that there are.
    pub kv_total_blocks: Option<u64>,
}

impl From<ForwardPassMetrics> for Load {
    fn from(told: ForwardPassMetrics) -> Self {
        Self {
            request_active_slots: Some(told.request_active_slots),
            request_total_slots: Some(told.request_total_slots),
            kv_active_blocks: Some(told.kv_active_blocks),
            kv_total_blocks: Some(told.kv_total_blocks),
        }
    }
}

impl fmt::Debug for Load {
    /// As the worker's own report, without what is not known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ForwardPassMetrics");
        for (name, value) in [
            ("request_active_slots", self.request_active_slots),
            ("request_total_slots", self.request_total_slots),
            ("kv_active_blocks", self.kv_active_blocks),
            ("kv_total_blocks", self.kv_total_blocks),
        ] {
            value.map(|value| shown.field(name, &value));
        }
        shown.finish()
    }
}

/// How much of a request's prompt a worker's KV cache already held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvHitRateEvent {
    /// The worker.
    pub worker_id: i64,
    /// Blocks of the prompt.
    pub isl_blocks: u64,
    /// Those of them that were found.
    pub overlap_blocks: u64,
}

/// What a worker is called in the label `worker_id`: by its number, or its address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub Arc<str>);

impl From<i64> for WorkerId {
    fn from(id: i64) -> Self {
        Self(id.to_string().into())
    }
}

impl WorkerId {
    /// The name of an endpoint whose worker has this number.
    pub(super) fn name(&self) -> String {
        format!("worker-{}", self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One worker's endpoint and its load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `worker-` and its number, or its address.
    pub name: String,
    /// Where requests reach it.
    pub subject: String,
    /// Its load.
    pub data: Load,
}

/// All workers and the figures over them.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessedEndpoints {
    /// The workers, in the order of their numbers.
    pub endpoints: Vec<Endpoint>,
    /// What they are called.
    pub worker_ids: Vec<WorkerId>,
    /// Active KV blocks of a worker, on average over those that tell them; NaN if none does.
    pub load_avg: f64,
    /// Their population standard deviation.
    pub load_std: f64,
}

impl ProcessedEndpoints {
    /// Computes the figures over these workers.
    ///
    /// ```
    /// use ryot_metrics::fleet::{Endpoint, Load, ProcessedEndpoints};
    /// let endpoint = |kv_active_blocks| Endpoint {
    ///     name: String::new(),
    ///     subject: String::new(),
    ///     data: Load { kv_active_blocks, ..Default::default() },
    /// };
    /// let [first, second, silent] = [Some(77), Some(29), None].map(endpoint);
    /// let all = [(1.into(), first), (2.into(), second), (3.into(), silent)];
    /// let all = ProcessedEndpoints::new(all);
    /// assert_eq!((all.load_avg, all.load_std), (53.0, 24.0));
    /// ```
    pub fn new(workers: impl IntoIterator<Item = (WorkerId, Endpoint)>) -> Self {
        let (worker_ids, endpoints): (_, Vec<Endpoint>) = workers.into_iter().unzip();
        let loads = endpoints.iter().filter_map(|it| it.data.kv_active_blocks);
        let (load_avg, load_std) = mean_and_deviation(loads.map(|load| load as f64));
        Self { endpoints, worker_ids, load_avg, load_std }
    }
}

/// The mean of some numbers and their population standard deviation.
pub(super) fn mean_and_deviation(numbers: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = numbers.clone().count() as f64;
    let mean = numbers.clone().sum::<f64>() / count;
    let variance = numbers.map(|number| (number - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_has_the_form_of_the_document() {
        let endpoint = |id: i64, active, blocks| {
            let data = ForwardPassMetrics {
                request_active_slots: active,
                request_total_slots: 100,
                kv_active_blocks: blocks,
                kv_total_blocks: 100,
            };
            let subject = format!("dynemo_backend_720278f8.generate-{id:x}");
            let name = format!("worker-{id}");
            (WorkerId::from(id), Endpoint { name, subject, data: data.into() })
        };
        let all = ProcessedEndpoints::new([
            endpoint(7_587_884_888_253_033_398, 58, 77),
            endpoint(7_587_884_888_253_033_401, 71, 29),
        ]);
        assert_eq!(
            format!("{all:?}"),
            "ProcessedEndpoints { endpoints: [Endpoint { name: \"worker-7587884888253033398\", \
             subject: \"dynemo_backend_720278f8.generate-694d951a80e06bb6\", data: \
             ForwardPassMetrics { request_active_slots: 58, request_total_slots: 100, \
             kv_active_blocks: 77, kv_total_blocks: 100 } }, Endpoint { name: \
             \"worker-7587884888253033401\", subject: \
             \"dynemo_backend_720278f8.generate-694d951a80e06bb9\", data: ForwardPassMetrics { \
             request_active_slots: 71, request_total_slots: 100, kv_active_blocks: 29, \
             kv_total_blocks: 100 } }], worker_ids: [7587884888253033398, 7587884888253033401], \
             load_avg: 53.0, load_std: 24.0 }"
        );
    }

    #[test]
    fn both_forms_of_a_report_are_read_and_others_are_not() {
        let expected = ForwardPassMetrics {
            request_active_slots: 1,
            request_total_slots: 2,
            kv_active_blocks: 3,
            kv_total_blocks: 4,
        };
        let flat = r#"{"request_active_slots": 1, "request_total_slots": 2, "kv_active_blocks": 3,
            "kv_total_blocks": 4, "num_requests_waiting": 9}"#;
        let parts = r#"{"worker_stats": {"request_active_slots": 1, "request_total_slots": 2,
            "num_requests_waiting": 9}, "kv_stats": {"kv_active_blocks": 3, "kv_total_blocks": 4,
            "gpu_cache_usage_perc": 0.75}, "spec_decode_stats": null}"#;
        assert_eq!(serde_json::from_str::<ForwardPassMetrics>(flat).unwrap(), expected);
        assert_eq!(serde_json::from_str::<ForwardPassMetrics>(parts).unwrap(), expected);
        for bad in ["null", "{}", r#"{"request_active_slots": -1}"#] {
            assert!(serde_json::from_str::<ForwardPassMetrics>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_workers_have_no_load() {
        let none = ProcessedEndpoints::new([]);
        assert!(none.load_avg.is_nan() && none.load_std.is_nan());
    }
}
