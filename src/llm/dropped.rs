//! Samples that were not recorded as asked: a counter by reason, and a sentence by family and
//! reason that names the first value and its limit.
//!
//! Whoever writes a page takes the sentences then and logs them, so that they come with the
//! numbers that they explain, at most one for each family and reason in [`REPORT_INTERVAL`].

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;

use super::catalogue::Name;
use super::recorder::Recorder;
use crate::clock::Nanos;

/// The time between two sentences about one family and reason.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(600);

/// A value that a label cannot have, or that is no number of its family's.
const INVALID: &str = "invalid_value";

/// What a number may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// From 0.
    Number,
    /// From 0 to this.
    UpTo(f64),
    /// A whole number from this.
    Whole(f64),
}

impl Limit {
    /// Whether a value is within the limit.
    pub(super) fn admits(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Number => value >= 0.0,
                Self::UpTo(most) => (0.0..=most).contains(&value),
                Self::Whole(least) => value >= least && value.fract() == 0.0,
            }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number => write!(f, "a number from 0"),
            Self::UpTo(most) => write!(f, "a number from 0 to {most}"),
            Self::Whole(least) => write!(f, "a whole number from {least}"),
        }
    }
}

/// What was not told yet of one family and reason.
#[derive(Debug, Default)]
struct Case {
    count: u64,
    /// Why the first of them was dropped.
    why: String,
    /// When it was told last.
    told: Option<Nanos>,
    /// How often the family was full, as it was told last.
    overflowed: u64,
}

/// What there is to tell.
#[derive(Debug, Default)]
pub(super) struct Drops(Mutex<HashMap<(Name, &'static str), Case>>);

impl Recorder {
    /// Counts a sample that could not be recorded as asked.
    pub fn dropped(&self, reason: &str) {
        self.family(Name::Dropped).series(&[reason]).add(1.0);
    }

    /// Drops a sample of a family for its value.
    pub fn drop_value(&self, name: Name, why: fmt::Arguments<'_>) {
        self.drop_sample(name, INVALID, why);
    }

    pub(super) fn drop_sample(&self, name: Name, reason: &'static str, why: fmt::Arguments<'_>) {
        self.dropped(reason);
        let mut cases = self.drops.0.lock();
        let case = cases.entry((name, reason)).or_default();
        case.count += 1;
        if case.count == 1 {
            case.why = why.to_string();
        }
    }

    /// The value if it is within the limit; else it is dropped: recording never fails a request.
    pub(super) fn checked(&self, name: Name, model: &str, value: f64, limit: Limit) -> Option<f64> {
        let valid = limit.admits(value);
        if !valid {
            self.drop_value(name, format_args!("{value} of {model:?} is not {limit}"));
        }
        valid.then_some(value)
    }

    /// A sentence for each family and reason of which samples were dropped since the last one, at
    /// most one in [`REPORT_INTERVAL`].
    pub fn take_drop_reports(&self) -> Vec<String> {
        let now = self.clock().now();
        let interval = REPORT_INTERVAL.as_nanos() as Nanos;
        let mut cases = self.drops.0.lock();
        for (name, overflowed) in self.families.overflowed() {
            let case = cases.entry((name, "cardinality")).or_default();
            case.count = overflowed - case.overflowed;
            let limit = self.settings.lock().series_limit;
            case.why = format!(
                "series_limit is {limit} and it has as many; new label sets count together under \
                 \"__overflow__\""
            );
        }
        let due = |case: &Case| case.told.is_none_or(|told| now >= told + interval);
        let mut reports = Vec::new();
        for ((name, reason), case) in cases.iter_mut().filter(|(_, case)| case.count > 0) {
            if due(case) {
                let row = name.row();
                let (family, suffix) = (row.name, row.shape.kind().page_suffix());
                let (count, why) = (std::mem::take(&mut case.count), &case.why);
                reports.push(format!(
                    "{family}{suffix}: {count} dropped ({reason}), the first because {why}"
                ));
                case.told = Some(now);
                if *reason == "cardinality" {
                    case.overflowed += count;
                }
            }
        }
        reports
    }
}
