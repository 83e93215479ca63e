//! What the page of an engine says of its load: a page of this package's, or one of vLLM's. Pure.
//!
//! Where a page says nothing of a figure, the figure is not known, and its family has no series for
//! the worker. Tokens that were looked up and found become blocks of the cache's size.

use super::board::Hits;
use super::load::Load;
use crate::metrics::wire::{Metric, MetricFamily};

/// How a kind of page calls what a load is made of.
struct Words {
    /// Requests that it has, those that wait included if `waiting` says how many do.
    requests: &'static str,
    waiting: Option<&'static str>,
    /// Requests that could run at once.
    slots: Option<&'static str>,
    /// The share of the KV cache that is in use, 0 to 1.
    usage: &'static str,
    /// What tells, by its labels, the cache's blocks and how many tokens one has room for.
    cache: &'static str,
    blocks: &'static str,
    block_size: &'static str,
    /// Tokens that were looked up in the cache, and those of them that were found.
    queries: &'static str,
    hits: &'static str,
}

/// An engine of this package.
const ENGINE: Words = Words {
    requests: "ryot_engine_active_sessions",
    waiting: Some("ryot_engine_queued_sessions"),
    slots: Some("ryot_engine_slots"),
    usage: "ryot_kv_cache_usage_ratio",
    cache: "ryot_kv_cache_info",
    blocks: "blocks",
    block_size: "block_size",
    queries: "ryot_engine_prefix_cache_queries_total",
    hits: "ryot_engine_prefix_cache_hits_total",
};

/// The first whose requests are on a page speaks for it.
const ALL: [Words; 3] = [
    ENGINE,
    // A service around an engine of its own.
    Words {
        requests: "ryot_active_inference_requests",
        waiting: Some("ryot_queue_depth"),
        slots: None,
        queries: "ryot_kv_cache_queries_total",
        hits: "ryot_kv_cache_hits_total",
        ..ENGINE
    },
    Words {
        requests: "vllm:num_requests_running",
        waiting: None,
        slots: None,
        usage: "vllm:kv_cache_usage_perc",
        cache: "vllm:cache_config_info",
        blocks: "num_gpu_blocks",
        block_size: "block_size",
        queries: "vllm:prefix_cache_queries_total",
        hits: "vllm:prefix_cache_hits_total",
    },
];

/// What a page says of the load, and of what the cache has looked up and found so far; None if it
/// is no engine's page.
pub(super) fn load_of(page: &[MetricFamily]) -> Option<(Load, Option<Hits>)> {
    let (words, requests) =
        ALL.iter().find_map(|words| Some((words, Page(page).sum(words.requests)?)))?;
    let page = Page(page);
    let waiting = words.waiting.and_then(|name| page.sum(name)).unwrap_or(0.0);
    let blocks = words.blocks(&page);
    let load = Load {
        request_active_slots: whole(requests - waiting),
        request_total_slots: words.slots.and_then(|name| page.sum(name)).and_then(whole),
        kv_active_blocks: blocks.and_then(|(active, _)| whole(active)),
        kv_total_blocks: blocks.and_then(|(_, total)| whole(total)),
    };
    Some((load, words.hits(&page)))
}

impl Words {
    /// The blocks in use, and all, of all caches of the page.
    fn blocks(&self, page: &Page<'_>) -> Option<(f64, f64)> {
        let caches = page.series(self.cache)?;
        let mut sums = (0.0, 0.0);
        for usage in page.series(self.usage)? {
            let cache = caches.iter().find(|cache| agree(cache, usage))?;
            let blocks = number(cache, self.blocks)?;
            sums.0 += blocks * value(usage)?;
            sums.1 += blocks;
        }
        Some(sums)
    }

    fn hits(&self, page: &Page<'_>) -> Option<Hits> {
        let size = number(page.series(self.cache)?.first()?, self.block_size)?;
        let blocks = |name| whole((page.sum(name)? / size).floor());
        Some(Hits {
            isl_blocks: blocks(self.queries)?,
            overlap_blocks: blocks(self.hits).unwrap_or(0),
        })
    }
}

struct Page<'a>(&'a [MetricFamily]);

impl Page<'_> {
    fn series(&self, name: &str) -> Option<&[Metric]> {
        self.0.iter().find(|family| family.name == name).map(|family| &*family.metrics)
    }

    fn sum(&self, name: &str) -> Option<f64> {
        self.series(name)?.iter().map(value).sum()
    }
}

/// What a series shows, if that is one number.
fn value(metric: &Metric) -> Option<f64> {
    let number = metric.gauge.or(metric.untyped).map(|number| number.value);
    number.or(metric.counter.as_ref().map(|counter| counter.value))
}

/// The number that a label tells.
fn number(metric: &Metric, label: &str) -> Option<f64> {
    let label = metric.labels.iter().find(|pair| pair.name == label)?;
    label.value.parse().ok().filter(|number| *number > 0.0)
}

/// Whether two series are of one model and engine: no label that both have differs.
fn agree(one: &Metric, other: &Metric) -> bool {
    let differs = |pair: &crate::metrics::wire::LabelPair| {
        other.labels.iter().any(|it| it.name == pair.name && it.value != pair.value)
    };
    !one.labels.iter().any(differs)
}

/// A whole number; a page that is written between two facts may show one too few.
fn whole(number: f64) -> Option<u64> {
    number.is_finite().then(|| number.max(0.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::exposition::parse;

    fn told(page: &str) -> Option<(Load, Option<Hits>)> {
        load_of(&parse("text/plain", page.as_bytes()).unwrap())
    }

    #[test]
    fn an_engine_s_page_tells_all_of_its_load() {
        let page = "ryot_engine_active_sessions{model=\"a\"} 5\n\
                    ryot_engine_queued_sessions{model=\"a\",class=\"interactive\"} 1\n\
                    ryot_engine_queued_sessions{model=\"a\",class=\"background\"} 1\n\
                    ryot_engine_slots{model=\"a\"} 8\n\
                    ryot_kv_cache_usage_ratio{model=\"a\"} 0.25\n\
                    ryot_kv_cache_info{model=\"a\",block_size=\"1\",blocks=\"4096\"} 1\n\
                    ryot_active_inference_requests{model=\"a\"} 99\n\
                    # TYPE ryot_engine_prefix_cache_queries counter\n\
                    ryot_engine_prefix_cache_queries_total{model=\"a\"} 100\n\
                    # TYPE ryot_engine_prefix_cache_hits counter\n\
                    ryot_engine_prefix_cache_hits_total{model=\"a\"} 40\n";
        let load = Load {
            request_active_slots: Some(3),
            request_total_slots: Some(8),
            kv_active_blocks: Some(1024),
            kv_total_blocks: Some(4096),
        };
        let hits = Hits { isl_blocks: 100, overlap_blocks: 40 };
        assert_eq!(told(page), Some((load, Some(hits))));
    }

    #[test]
    fn a_page_of_vllm_tells_what_it_knows_of_all_its_engines() {
        let page = "# TYPE vllm:num_requests_running gauge\n\
                    vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0\n\
                    vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 4.0\n\
                    vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 9.0\n\
                    vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.5\n\
                    vllm:kv_cache_usage_perc{engine=\"1\",model_name=\"m\"} 0.25\n\
                    vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"100\"} 1\n\
                    vllm:cache_config_info{block_size=\"16\",engine=\"1\",num_gpu_blocks=\"200\"} 1\n\
                    # TYPE vllm:prefix_cache_queries_total counter\n\
                    vllm:prefix_cache_queries_total{engine=\"0\",model_name=\"m\"} 170\n\
                    # TYPE vllm:prefix_cache_hits_total counter\n\
                    vllm:prefix_cache_hits_total{engine=\"0\",model_name=\"m\"} 64\n";
        let load = Load {
            request_active_slots: Some(7),
            kv_active_blocks: Some(100),
            kv_total_blocks: Some(300),
            ..Load::default()
        };
        let hits = Hits { isl_blocks: 10, overlap_blocks: 4 };
        assert_eq!(told(page), Some((load, Some(hits))));
    }

    #[test]
    fn what_a_page_does_not_say_is_not_known() {
        let page = "vllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.5\n\
                    vllm:cache_config_info{num_gpu_blocks=\"None\",block_size=\"16\"} 1\n";
        let load = Load { request_active_slots: Some(1), ..Load::default() };
        assert_eq!(told(page), Some((load, None)));
        assert_eq!(told("jobs_total 5\n"), None);
    }
}
