//! Views: second names for stored families, computed when a page is written.
//!
//! The Ryot design names some measurements twice, with more labels and with `model` alone. Only
//! the first is stored; the second is its sum over the labels that it lacks, so that nothing is
//! written twice on the hot path.

use std::sync::Arc;

use indexmap::IndexMap;

use super::catalogue::Name;
use crate::metrics::{Desc, Family, Kind, LabelSet, Series, Sink, Source, Value};

/// A row of the table of views. All have the one label `model`.
#[derive(Clone, Copy, Debug)]
pub struct ViewRow {
    /// The view's name.
    pub name: &'static str,
    /// The family that it sums.
    pub of: Name,
    /// Its help text.
    pub help: &'static str,
}

/// All views.
pub const VIEWS: &[ViewRow] = &[
    ViewRow {
        name: "ryot_inference_request_duration_seconds",
        of: Name::Latency,
        help: "View of ryot_inference_latency_seconds by model.",
    },
    ViewRow {
        name: "ryot_inference_ttft_seconds",
        of: Name::Ttft,
        help: "View of ryot_ttft_latency_seconds by model.",
    },
    ViewRow {
        name: "ryot_inference_queue_size",
        of: Name::QueueDepth,
        help: "View of ryot_queue_depth by model.",
    },
    ViewRow {
        name: "ryot_model_cache_hit_ratio",
        of: Name::KvCacheHitRatio,
        help: "View of ryot_kv_cache_hit_ratio by model.",
    },
];

/// A family that is summed up by `model` at each scrape.
#[derive(Debug)]
pub(super) struct View {
    desc: Desc,
    of: Arc<Family>,
    model_index: usize,
}

impl View {
    /// A view under another name; `of` must have a label `model`.
    pub(super) fn new(row: &ViewRow, of: Arc<Family>) -> Self {
        let source = of.desc();
        let model_index = source
            .label_names
            .iter()
            .position(|label| &**label == "model")
            .expect("a viewed family has a label `model`");
        let desc = Desc {
            name: row.name.into(),
            help: row.help.into(),
            label_names: ["model".into()].into(),
            ..source.clone()
        };
        Self { desc, of, model_index }
    }

    fn emit(&self, model: &str, group: &[Arc<Series>], sink: &mut dyn Sink) {
        let labels = LabelSet::new(&["model"], &[model], true);
        let desc = &self.desc;
        if desc.kind == Kind::Histogram {
            let mut counts = vec![0; desc.bounds.len() + 1];
            let sum = group.iter().map(|series| series.add_buckets_to(&mut counts)).sum();
            let value = Value::Histogram { bounds: &desc.bounds, counts: &counts, sum };
            sink.sample(desc, &labels, &value.into());
        } else {
            let sum = group.iter().map(|series| series.get()).sum();
            let counter = desc.kind == Kind::Counter;
            let value = if counter { Value::Counter(sum) } else { Value::Gauge(sum) };
            sink.sample(desc, &labels, &value.into());
        }
    }
}

impl Source for View {
    fn describe(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self, sink: &mut dyn Sink) {
        let all = self.of.all();
        if all.is_empty() {
            return;
        }
        let mut groups: IndexMap<&str, Vec<Arc<Series>>> = IndexMap::new();
        for series in &all {
            let model = &*series.labels().values()[self.model_index];
            groups.entry(model).or_default().push(series.clone());
        }
        sink.family(&self.desc);
        for (model, group) in groups {
            self.emit(model, &group, sink);
        }
    }
}
