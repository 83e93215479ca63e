//! Sinks that stand before another sink: one adds labels to every sample, one lets only samples
//! of some names through.

use std::collections::HashSet;

use super::desc::Desc;
use super::flat::flatten;
use super::labels::LabelSet;
use super::sample::{Pairs, Sample};
use super::sink::{Reading, Sink};

/// Adds the same labels to every sample. A ready-made sample that has one of them keeps its own.
pub(super) struct Labelled<'a> {
    labels: &'a Pairs,
    inner: &'a mut dyn Sink,
    /// The family that began last, with the labels.
    desc: Option<Desc>,
}

impl<'a> Labelled<'a> {
    pub(super) fn new(labels: &'a Pairs, inner: &'a mut dyn Sink) -> Self {
        Self { labels, inner, desc: None }
    }
}

impl Sink for Labelled<'_> {
    fn family(&mut self, desc: &Desc) {
        let names = self.labels.iter().map(|(name, _)| name.as_str().into());
        let label_names = desc.label_names.iter().cloned().chain(names).collect();
        let desc = self.desc.insert(Desc { label_names, ..desc.clone() });
        self.inner.family(desc);
    }

    fn sample(&mut self, _: &Desc, labels: &LabelSet, reading: &Reading<'_>) {
        if let Some(desc) = &self.desc {
            let values = self.labels.iter().map(|(_, value)| value.as_str());
            self.inner.sample(desc, &labels.extended(desc, values), reading);
        }
    }

    fn raw(&mut self, _: &Desc, sample: &Sample) {
        let mut sample = sample.clone();
        for pair in self.labels {
            if !sample.labels.iter().any(|(name, _)| *name == pair.0) {
                sample.labels.push(pair.clone());
            }
        }
        if let Some(desc) = &self.desc {
            self.inner.raw(desc, &sample);
        }
    }

    fn is_prompt(&self) -> bool {
        self.inner.is_prompt()
    }
}

/// Lets samples of some names through; a family without any is left out, and the others lose
/// their unit, as in `prometheus_client`.
pub(super) struct Restricted<'a> {
    names: &'a HashSet<&'a str>,
    inner: &'a mut dyn Sink,
    /// The family that began last, until one of its samples came through.
    pending: Option<Desc>,
}

impl<'a> Restricted<'a> {
    pub(super) fn new(names: &'a HashSet<&'a str>, inner: &'a mut dyn Sink) -> Self {
        Self { names, inner, pending: None }
    }
}

impl Sink for Restricted<'_> {
    fn family(&mut self, desc: &Desc) {
        self.pending = Some(Desc { unit: "".into(), ..desc.clone() });
    }

    fn sample(&mut self, desc: &Desc, labels: &LabelSet, reading: &Reading<'_>) {
        flatten(desc, labels, reading, &mut |sample| self.raw(desc, &sample));
    }

    fn raw(&mut self, desc: &Desc, sample: &Sample) {
        if !self.names.contains(&*sample.name) {
            return;
        }
        if let Some(family) = self.pending.take() {
            self.inner.family(&family);
        }
        self.inner.raw(desc, sample);
    }

    fn is_prompt(&self) -> bool {
        self.inner.is_prompt()
    }
}
