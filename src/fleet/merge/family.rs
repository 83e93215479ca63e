//! One family of all workers together: its series, and what each has counted. Pure.

use indexmap::IndexMap;

use crate::fleet::total::Total;
use crate::metrics::wire::{Metric, MetricFamily, MetricType};
use crate::metrics::{Desc, Kind, LabelSet};

/// A family of all workers together.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) kind: MetricType,
    pub(super) desc: Desc,
    pub(super) series: IndexMap<Labels, Series>,
}

/// Names and values, as the worker had them.
pub(super) type Labels = Vec<(String, String)>;

#[derive(Debug)]
pub(super) struct Series {
    pub(super) desc: Desc,
    pub(super) labels: LabelSet,
    pub(super) total: Total,
}

impl Family {
    /// # Errors
    /// Why it cannot be added up.
    pub(super) fn of(from: &MetricFamily) -> Result<Self, String> {
        let kind = match from.kind() {
            // A counter's name without the suffix stays as it is; the type cannot.
            MetricType::Counter if from.name.ends_with("_total") => Kind::Counter,
            MetricType::Counter | MetricType::Untyped => Kind::Unknown,
            MetricType::Gauge => Kind::Gauge,
            MetricType::Summary => Kind::Summary,
            MetricType::Histogram => Kind::Histogram,
            MetricType::GaugeHistogram => {
                return Err(format!("{} is a gauge histogram", from.name));
            }
        };
        let desc =
            Desc::new(kind, &from.name, &from.help, &[]).map_err(|error| error.to_string())?;
        Ok(Self { kind: from.kind(), desc, series: IndexMap::new() })
    }

    /// The place of a series; a new one if there is room.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn place(&mut self, metric: &Metric, limit: usize) -> Result<usize, String> {
        let mut labels: Labels =
            metric.labels.iter().map(|pair| (pair.name.clone(), pair.value.clone())).collect();
        labels.sort_unstable();
        if let Some(place) = self.series.get_index_of(&labels) {
            return Ok(place);
        }
        let name = &self.desc.name;
        if self.series.len() >= limit {
            return Err(format!("{name} has more than {limit} series (series_limit)"));
        }
        let (names, values): (Vec<&str>, Vec<&str>) =
            labels.iter().map(|(name, value)| (&**name, &**value)).unzip();
        let desc =
            Desc::new(self.desc.kind, name, "", &names).map_err(|error| error.to_string())?;
        let set = LabelSet::beside(desc.added_label(), &names, &values, false);
        let series = Series { desc, labels: set, total: Total::default() };
        Ok(self.series.insert_full(labels, series).0)
    }
}
