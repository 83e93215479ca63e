//! The protobuf format: length-delimited `MetricFamily` messages, the only format in which a
//! Prometheus server takes native histograms.
//!
//! A stored series becomes a message at once; ready-made samples with the same labels are put
//! together into one. A family is named as in the text format 0.0.4; times of creation are
//! fields, not samples.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;

use super::desc::{Desc, Kind};
use super::flat::flatten;
use super::labels::LabelSet;
use super::names::Escaping;
use super::native::{NativeSnapshot, Spans};
use super::sample::{Exemplar, Pairs, Sample, Timestamp};
use super::sink::{Reading, Sink, Value};
use super::wire;

/// A sink that writes a page of protobuf messages.
pub(super) struct Encoder {
    out: Vec<u8>,
    escaping: Escaping,
    /// The family that began last.
    family: Option<wire::MetricFamily>,
    /// Where its metrics are, by labels and time in milliseconds.
    places: HashMap<(Pairs, i64), usize>,
}

impl Encoder {
    pub(super) fn new(escaping: Escaping) -> Self {
        Self { out: Vec::new(), escaping, family: None, places: HashMap::new() }
    }

    /// The page.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.out
    }

    /// Writes the last family; one without metrics is left out, as in Go's client.
    fn flush(&mut self) {
        self.places.clear();
        if let Some(family) = self.family.take().filter(|family| !family.metrics.is_empty()) {
            self.out.extend(family.encode_length_delimited_to_vec());
        }
    }

    /// A metric's name as it is written; messages need no quotes.
    fn metric_name(&self, name: &str) -> String {
        match self.escaping {
            Escaping::AllowUtf8 => name.into(),
            escaping => escaping.metric_name(name).into(),
        }
    }

    /// Labels as they are written, in alphabetical order.
    fn pairs<'a>(&self, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<wire::LabelPair> {
        let pair = |(name, value): (&str, &str)| {
            let name = match self.escaping {
                Escaping::AllowUtf8 => name.into(),
                escaping => escaping.label_name(name).into(),
            };
            wire::LabelPair { name, value: value.into() }
        };
        let mut pairs: Vec<wire::LabelPair> = pairs.map(pair).collect();
        pairs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        pairs
    }

    fn exemplar(&self, exemplar: Option<&Arc<Exemplar>>) -> Option<wire::Exemplar> {
        exemplar.map(|exemplar| wire::Exemplar {
            labels: self.pairs(borrowed(&exemplar.labels)),
            value: exemplar.value,
            timestamp: exemplar.timestamp.map(|timestamp| time(timestamp.seconds())),
        })
    }

    /// The message of a stored series; None where it takes several.
    fn message(
        &self,
        desc: &Desc,
        labels: &LabelSet,
        reading: &Reading<'_>,
    ) -> Option<wire::Metric> {
        let labels = self.pairs(labels.pairs(&desc.label_names));
        let mut metric = wire::Metric { labels, ..Default::default() };
        let start = reading.created.map(time);
        match reading.value {
            Value::Counter(value) => {
                let exemplar = self.exemplar(reading.exemplars.first().and_then(Option::as_ref));
                metric.counter = Some(wire::Counter { value, exemplar, start });
            }
            Value::Gauge(value) if desc.kind == Kind::Unknown => {
                metric.untyped = Some(wire::Number { value });
            }
            Value::Gauge(value) => metric.gauge = Some(wire::Number { value }),
            Value::Summary { count, sum, quantiles } => {
                let quantile = |&(quantile, value): &(f64, f64)| wire::Quantile { quantile, value };
                let quantiles = quantiles.iter().map(quantile).collect();
                metric.summary = Some(wire::Summary { count, sum, quantiles, start });
            }
            Value::Histogram { bounds, counts, sum } => {
                let mut histogram = self.histogram(bounds, counts, reading);
                (histogram.sum, histogram.start) = (sum, start);
                metric.histogram = Some(histogram);
            }
            Value::Info { .. } | Value::StateSet { .. } => return None,
        }
        Some(metric)
    }

    /// Buckets and count of a histogram; one that is only native has no others.
    fn histogram(&self, bounds: &[f64], counts: &[u64], reading: &Reading<'_>) -> wire::Histogram {
        let mut histogram = wire::Histogram::default();
        let alone = reading.native.is_some() && bounds.is_empty();
        for (index, count) in counts.iter().enumerate() {
            histogram.count += count;
            let exemplar = reading.exemplars.get(index).and_then(Option::as_ref);
            let exemplar = self.exemplar(exemplar);
            if alone {
                histogram.exemplars.extend(exemplar);
            } else {
                histogram.buckets.push(wire::Bucket {
                    cumulative_count: histogram.count,
                    upper_bound: bounds.get(index).copied().unwrap_or(f64::INFINITY),
                    exemplar,
                });
            }
        }
        if let Some(native) = reading.native {
            add_native(&mut histogram, native);
        }
        histogram
    }

    /// The message of the series that a sample belongs to, and the value of the added label.
    fn metric(&mut self, desc: &Desc, sample: &Sample) -> Option<(&mut wire::Metric, String)> {
        let mut labels = sample.labels.clone();
        labels.sort_unstable();
        // The state of a state set is an ordinary label here: each is a gauge of its own.
        let name = if desc.kind == Kind::StateSet { "" } else { desc.added_label() };
        let added = labels.iter().position(|label| label.0 == name);
        let added = added.map(|at| labels.remove(at).1).unwrap_or_default();
        let timestamp_ms = sample.timestamp.map_or(0, Timestamp::millis);
        let pairs = self.pairs(borrowed(&labels));
        let metrics = &mut self.family.as_mut()?.metrics;
        let place = *self.places.entry((labels, timestamp_ms)).or_insert_with(|| {
            metrics.push(wire::Metric { labels: pairs, timestamp_ms, ..Default::default() });
            metrics.len() - 1
        });
        Some((&mut metrics[place], added))
    }
}

impl Sink for Encoder {
    fn family(&mut self, desc: &Desc) {
        self.flush();
        let kind = match desc.kind {
            Kind::Counter => wire::MetricType::Counter,
            Kind::Gauge | Kind::Info | Kind::StateSet => wire::MetricType::Gauge,
            Kind::Summary => wire::MetricType::Summary,
            Kind::Histogram => wire::MetricType::Histogram,
            Kind::GaugeHistogram => wire::MetricType::GaugeHistogram,
            Kind::Unknown => wire::MetricType::Untyped,
        };
        self.family = Some(wire::MetricFamily {
            name: self.metric_name(&[&*desc.name, desc.kind.page_suffix()].concat()),
            help: desc.help.to_string(),
            kind: kind.into(),
            metrics: Vec::new(),
            unit: desc.unit.to_string(),
        });
    }

    fn sample(&mut self, desc: &Desc, labels: &LabelSet, reading: &Reading<'_>) {
        let metric = self.message(desc, labels, reading);
        match (&mut self.family, metric) {
            (Some(family), Some(metric)) => family.metrics.push(metric),
            _ => flatten(desc, labels, reading, &mut |sample| self.raw(desc, &sample)),
        }
    }

    fn raw(&mut self, desc: &Desc, sample: &Sample) {
        let exemplar = self.exemplar(sample.exemplar.as_ref());
        let Some((metric, added)) = self.metric(desc, sample) else { return };
        let suffix = sample.name.strip_prefix(&*desc.name).unwrap_or_default();
        let value = sample.value;
        match desc.kind {
            Kind::Counter => {
                put_counter(metric.counter.get_or_insert_default(), suffix, value, exemplar);
            }
            Kind::Gauge | Kind::Info | Kind::StateSet => {
                metric.gauge = Some(wire::Number { value });
            }
            Kind::Unknown => metric.untyped = Some(wire::Number { value }),
            Kind::Summary => {
                put_summary(metric.summary.get_or_insert_default(), suffix, &added, value);
            }
            Kind::Histogram | Kind::GaugeHistogram => {
                let histogram = metric.histogram.get_or_insert_default();
                put_histogram(histogram, suffix, &added, value, exemplar);
            }
        }
    }

    fn is_prompt(&self) -> bool {
        true
    }
}

fn put_counter(
    counter: &mut wire::Counter,
    suffix: &str,
    value: f64,
    exemplar: Option<wire::Exemplar>,
) {
    if suffix == "_created" {
        counter.start = Some(time(value));
    } else {
        (counter.value, counter.exemplar) = (value, exemplar);
    }
}

fn put_summary(summary: &mut wire::Summary, suffix: &str, added: &str, value: f64) {
    match suffix {
        "_count" => summary.count = value as u64,
        "_sum" => summary.sum = value,
        "_created" => summary.start = Some(time(value)),
        _ => {
            let quantile = parse(added);
            summary.quantiles.push(wire::Quantile { quantile, value });
        }
    }
}

fn put_histogram(
    histogram: &mut wire::Histogram,
    suffix: &str,
    added: &str,
    value: f64,
    exemplar: Option<wire::Exemplar>,
) {
    match suffix {
        "_count" | "_gcount" => histogram.count = value as u64,
        "_sum" | "_gsum" => histogram.sum = value,
        "_created" => histogram.start = Some(time(value)),
        _ => histogram.buckets.push(wire::Bucket {
            cumulative_count: value as u64,
            upper_bound: parse(added),
            exemplar,
        }),
    }
}

fn add_native(histogram: &mut wire::Histogram, native: &NativeSnapshot) {
    let spans = |side: &Spans| {
        side.spans.iter().map(|&(offset, length)| wire::Span { offset, length }).collect()
    };
    histogram.schema = native.schema.into();
    histogram.zero_threshold = native.zero_threshold;
    histogram.zero_count = native.zero_count;
    histogram.positive_spans = spans(&native.positive);
    histogram.positive_deltas.clone_from(&native.positive.deltas);
    histogram.negative_spans = spans(&native.negative);
    histogram.negative_deltas.clone_from(&native.negative.deltas);
}

fn borrowed(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().map(|(name, value)| (&**name, &**value))
}

/// Seconds since 1970.
fn time(seconds: f64) -> wire::Time {
    let whole = seconds.floor();
    let nanos = ((seconds - whole) * 1e9) as i32;
    wire::Time { seconds: whole as i64, nanos }
}

/// The number in an added label; NaN if it is none.
fn parse(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{
        Exposition, Family, Format, NativeOptions, Options, Quantiles, Registry, Selection,
        encode_bytes,
    };

    fn decode(mut page: &[u8]) -> Vec<wire::MetricFamily> {
        let mut families = Vec::new();
        while !page.is_empty() {
            families.push(wire::MetricFamily::decode_length_delimited(&mut page).unwrap());
        }
        families
    }

    fn family(registry: &Registry, desc: Desc) -> Arc<Family> {
        let family = Family::new(desc, Options { now: || 1.5, ..Options::default() });
        registry.register(family.clone()).unwrap();
        family
    }

    fn desc(kind: Kind, name: &str, labels: &[&str]) -> Desc {
        Desc::new(kind, name, "Help.", labels).unwrap()
    }

    fn page(registry: &Registry, escaping: Escaping) -> Vec<wire::MetricFamily> {
        let exposition = Exposition { format: Format::Protobuf, escaping: Some(escaping) };
        decode(&encode_bytes(registry, Selection::default(), exposition))
    }

    #[test]
    fn a_counter_keeps_its_exemplar_and_its_beginning() {
        let registry = Registry::default();
        let series = family(&registry, desc(Kind::Counter, "a.b", &["x.y"])).series(&["é"]);
        series.add(2.0);
        series.set_exemplar(Exemplar::new(vec![("t".into(), "1".into())], 2.0, 3.25).unwrap());
        family(&registry, desc(Kind::Counter, "empty", &["x"]));
        let families = page(&registry, Escaping::AllowUtf8);
        assert_eq!((families.len(), &*families[0].name), (1, "a.b_total"));
        let metric = &families[0].metrics[0];
        assert_eq!((&*metric.labels[0].name, &*metric.labels[0].value), ("x.y", "é"));
        let counter = metric.counter.as_ref().unwrap();
        assert_eq!(counter.start, Some(wire::Time { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(counter.exemplar.as_ref().unwrap().value.to_bits(), 2f64.to_bits());
        let escaped = page(&registry, Escaping::Underscores);
        assert_eq!(escaped[0].name, "a_b_total");
    }

    #[test]
    fn a_native_histogram_stands_alone_or_beside_buckets() {
        let registry = Registry::default();
        let native = |desc: Desc| desc.with_native(NativeOptions::default()).unwrap();
        let alone = native(desc(Kind::Histogram, "alone", &[]));
        let beside = desc(Kind::Histogram, "beside", &[]).with_bounds(&[1.5]).unwrap();
        for desc in [alone, native(beside)] {
            let series = family(&registry, desc).series::<&str>(&[]);
            for value in [0.0, 1.0, 2.0, -3.0] {
                series.observe(value);
            }
            series.set_exemplar(Exemplar::new(vec![], 1.0, 3.25).unwrap());
        }
        let families = page(&registry, Escaping::AllowUtf8);
        let histograms =
            families.iter().map(|family| family.metrics[0].histogram.as_ref().unwrap());
        let [alone, beside] = histograms.collect::<Vec<_>>()[..] else { unreachable!() };
        assert_eq!((alone.buckets.len(), alone.exemplars.len()), (0, 1));
        assert!(beside.buckets[0].exemplar.is_some() && beside.exemplars.is_empty());
        let counts: Vec<u64> = beside.buckets.iter().map(|it| it.cumulative_count).collect();
        assert_eq!(counts, [3, 4]);
        for histogram in [alone, beside] {
            assert_eq!((histogram.count, histogram.schema, histogram.zero_count), (4, 3, 1));
            assert_eq!(histogram.positive_deltas, [1, 0]);
            assert_eq!(histogram.negative_spans, [wire::Span { offset: 13, length: 1 }]);
        }
    }

    #[test]
    fn the_other_kinds_have_their_messages() {
        let registry = Registry::default();
        let took = desc(Kind::Summary, "took", &[]).with_quantiles(Quantiles::new(&[0.5])).unwrap();
        family(&registry, took).series::<&str>(&[]).observe(2.0);
        let state = desc(Kind::StateSet, "state", &[]).with_states(&["off", "on"]).unwrap();
        family(&registry, state);
        family(&registry, desc(Kind::Unknown, "odd", &[])).series::<&str>(&[]).set(3.0);
        let families = page(&registry, Escaping::Underscores);
        let summary = families[0].metrics[0].summary.as_ref().unwrap();
        assert_eq!((summary.count, summary.quantiles.len()), (1, 1));
        let states = families[1].metrics.iter().map(|it| it.gauge.unwrap().value as u8);
        assert_eq!(states.collect::<Vec<_>>(), [1, 0]);
        assert_eq!(families[2].metrics[0].untyped, Some(wire::Number { value: 3.0 }));
    }

    /// The histogram of the crate prometheus-client after the same values.
    fn of_another_client(schema: i8, values: &[f64]) -> wire::Histogram {
        use prometheus_client::encoding::prometheus_protobuf::encode_to_vec;
        use prometheus_client::metrics::histogram::{Histogram, NativeHistogramConfig};
        let config = NativeHistogramConfig::with_schema(schema).max_buckets(8);
        let histogram = Histogram::new_native(config.max_zero_threshold(1e-3));
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("a", "", histogram.clone());
        for value in values {
            histogram.observe(*value);
        }
        let families = decode(&encode_to_vec(&registry).unwrap());
        families[0].metrics[0].histogram.clone().unwrap()
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..Default::default()
        })]

        #[test]
        fn native_buckets_are_those_of_another_client(
            schema in -4i8..=8,
            values in proptest::collection::vec((-12.0..12.0f64, proptest::bool::ANY), 0..40),
        ) {
            let signed = |(power, negative): (f64, bool)| 10f64.powf(power) * if negative { -1.0 } else { 1.0 };
            let values: Vec<f64> = values.into_iter().map(signed).collect();
            let options = NativeOptions {
                schema,
                max_buckets: 8,
                max_zero_threshold: 1e-3,
                min_reset_seconds: 0.0,
                ..NativeOptions::default()
            };
            let registry = Registry::default();
            let desc = desc(Kind::Histogram, "a", &[]).with_native(options).unwrap();
            let series = family(&registry, desc).series::<&str>(&[]);
            for value in &values {
                series.observe(*value);
            }
            let families = page(&registry, Escaping::AllowUtf8);
            let ours = families[0].metrics[0].histogram.clone().unwrap();
            let theirs = of_another_client(schema, &values);
            // Bounds may differ in the last bit, and so a widened zero bucket.
            let near = (ours.zero_threshold - theirs.zero_threshold).abs() <= 1e-15 * theirs.zero_threshold;
            proptest::prop_assert!(near);
            let zero_threshold = ours.zero_threshold;
            let theirs = wire::Histogram { zero_threshold, start: ours.start, ..theirs };
            proptest::prop_assert_eq!(ours, theirs);
        }
    }
}
