//! What can be chosen of the catalogue, and its limits. A [`Recorder`] takes a whole
//! [`Settings`] at any time; only the buckets of a family are fixed by its first write.

use super::catalogue::{CATALOGUE, Name, Shape};
use super::families::{Plan, check_bounds};
use super::pipeline::{Limits, OUTBOX_LIMIT, OUTBOX_LIMIT_MAX, check_limit};
use super::profile::{PROFILES, RYOT};
use super::recorder::Recorder;
use super::view::VIEWS;
use super::windows::{DEFAULT_WINDOWS, parse_windows};
use crate::error::{Error, Result};
use crate::metrics::{NativeOptions, Pairs, Registry, SERIES_LIMIT};

/// The most buckets that a family may be given.
pub const BUCKETS_LIMIT: usize = 200;
/// The most characters that the name of an operation may have.
pub const OPERATION_NAME_LIMIT: usize = 64;
/// The rarest sampling.
pub const SAMPLING_LIMIT: u64 = 1_000_000;
/// The most series that a family may be allowed.
pub const SERIES_LIMIT_MAX: usize = 10_000_000;

/// The buckets of a histogram.
#[derive(Clone, Debug, PartialEq)]
pub enum Buckets {
    /// These upper bounds.
    Classic(Vec<f64>),
    /// A native histogram whose buckets grow by at most this factor.
    Native(f64),
}

/// What can be chosen. Families are named as on the page or without the suffix of their type.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The profile of a page that asks for none; default `ryot`.
    pub profile: String,
    /// The views are on the page; default true.
    pub views: bool,
    /// Families that are off: a stored one is neither recorded (but for gauges, whose steps must
    /// meet) nor shown in any profile, a view or a profile's one is not shown. Default none.
    pub disabled: Vec<String>,
    /// Histograms of which every n-th observation is recorded. Default none.
    pub sampling: Vec<(String, u64)>,
    /// Histograms with other buckets than the catalogue's. Default none.
    pub buckets: Vec<(String, Buckets)>,
    /// The windows of `ryot_tokens_per_second`; default [`DEFAULT_WINDOWS`].
    pub windows: Vec<String>,
    /// `gen_ai_operation_name` in the profile `otel`; default `inference`.
    pub operation_name: String,
    /// Labels of every sample of the registry. Default none.
    pub labels: Pairs,
    /// The most series of one family; default [`SERIES_LIMIT`]. Past it, new label sets are
    /// counted together under `model="__overflow__"`.
    pub series_limit: usize,
    /// What a pipeline keeps at most that is made from now on and is not told otherwise.
    pub pipeline: Limits,
    /// As many events wait in a buffer of a pipeline's events; default [`OUTBOX_LIMIT`].
    pub pipeline_max_buffered: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profile: RYOT.to_owned(),
            views: true,
            disabled: Vec::new(),
            sampling: Vec::new(),
            buckets: Vec::new(),
            windows: DEFAULT_WINDOWS.map(str::to_owned).to_vec(),
            operation_name: "inference".to_owned(),
            labels: Vec::new(),
            series_limit: SERIES_LIMIT,
            pipeline: Limits::default(),
            pipeline_max_buffered: OUTBOX_LIMIT,
        }
    }
}

/// How one stored family is to be.
#[derive(Clone, Debug)]
struct Wish {
    every: u64,
    plan: Plan,
}

impl Settings {
    /// Makes a recorder behave so. If anything is refused, nothing has changed.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the setting, its value and its limit; for buckets also if
    /// the family was written before.
    pub fn apply(&self, recorder: &Recorder, registry: &Registry) -> Result<()> {
        let mut before = recorder.settings.lock();
        let wishes = self.wishes()?;
        self.pipeline.check("pipeline_")?;
        check_limit("pipeline_max_buffered", self.pipeline_max_buffered, OUTBOX_LIMIT_MAX)?;
        check_operation(&self.operation_name)?;
        let windows = parse_windows(&self.windows)?;
        recorder.rates.check_windows(&windows)?;
        registry.check_profile(&self.profile)?;
        for (name, wish) in Name::ALL.iter().zip(&wishes) {
            let slot = recorder.families.slot(*name);
            let plan = slot.plan();
            let same = (&plan.bounds, plan.native) == (&wish.plan.bounds, wish.plan.native);
            if slot.is_made() && !same {
                return Err(too_late(*name));
            }
        }
        if self.labels != before.labels {
            registry.set_labels(self.labels.clone())?; // of which a registry may have its own
        }
        registry.set_default_profile(&self.profile)?;
        for (name, wish) in Name::ALL.iter().zip(wishes) {
            let slot = recorder.families.slot(*name);
            if !slot.set_plan(&wish.plan) {
                return Err(too_late(*name)); // the first write came this very moment
            }
            slot.set_every(wish.every);
        }
        recorder.rates.set_limit(self.series_limit);
        recorder.rates.set_windows(windows);
        *recorder.computed.operation.write() = self.operation_name.as_str().into();
        let disabled = |name: &str| self.disabled.iter().any(|off| is_called(off, name));
        for view in &recorder.views {
            view.show(self.views && !disabled(view.name()));
        }
        for derived in &recorder.profiles {
            derived.show(!disabled(derived.name()));
        }
        before.clone_from(self);
        Ok(())
    }

    fn wishes(&self) -> Result<Vec<Wish>> {
        let limit = self.series_limit;
        if !(1..=SERIES_LIMIT_MAX).contains(&limit) {
            let text = format!("series_limit is {limit}; it must be 1 to {SERIES_LIMIT_MAX}");
            return Err(Error::InvalidArgument(text));
        }
        let plan = |row| Plan { series_limit: limit, ..Plan::of(row) };
        let mut wishes: Vec<Wish> =
            CATALOGUE.iter().map(|row| Wish { every: 1, plan: plan(row) }).collect();
        for (text, every) in &self.sampling {
            wishes[histogram("sampling", text)? as usize].every = checked_every(text, *every)?;
        }
        for (text, buckets) in &self.buckets {
            let name = histogram("buckets", text)?;
            choose(&mut wishes[name as usize].plan, name, buckets)?;
        }
        for text in &self.disabled {
            if let Some(name) = stored(text) {
                wishes[name as usize].every = 0;
            } else if !derived_names().any(|name| is_called(text, name)) {
                return Err(unknown("disabled", text));
            }
        }
        Ok(wishes)
    }
}

fn too_late(name: Name) -> Error {
    let name = name.row().name;
    let text = format!(
        "buckets of {name} cannot change after its first observation; configure them before it"
    );
    Error::InvalidArgument(text)
}

fn check_operation(name: &str) -> Result<()> {
    let count = name.chars().count();
    if (1..=OPERATION_NAME_LIMIT).contains(&count) {
        return Ok(());
    }
    let text = format!(
        "operation_name is {name:?}, of {count} characters; it must have 1 to \
         {OPERATION_NAME_LIMIT}"
    );
    Err(Error::InvalidArgument(text))
}

fn unknown(setting: &str, text: &str) -> Error {
    let text = format!("{setting} names {text:?}; no family has that name");
    Error::InvalidArgument(text)
}

/// Whether a text is a family's name, with or without the suffix of its type.
fn is_called(text: &str, name: &str) -> bool {
    text.strip_prefix(name).is_some_and(|rest| matches!(rest, "" | "_total" | "_info"))
}

fn stored(text: &str) -> Option<Name> {
    Name::ALL.iter().copied().find(|name| is_called(text, name.row().name))
}

fn derived_names() -> impl Iterator<Item = &'static str> {
    let profiles = PROFILES.iter().flat_map(|profile| profile.rows);
    VIEWS.iter().chain(profiles).map(|row| row.name)
}

fn histogram(setting: &str, text: &str) -> Result<Name> {
    let name = stored(text).ok_or_else(|| unknown(setting, text))?;
    let kind = name.row().shape.kind().as_str();
    if !matches!(name.row().shape, Shape::Histogram(_)) {
        let text = format!("{setting} names {text:?}, a {kind}; only histograms have {setting}");
        return Err(Error::InvalidArgument(text));
    }
    Ok(name)
}

fn checked_every(name: &str, every: u64) -> Result<u64> {
    if (1..=SAMPLING_LIMIT).contains(&every) {
        return Ok(every);
    }
    let text = format!("sampling of {name} is {every}; it must be 1 to {SAMPLING_LIMIT}");
    Err(Error::InvalidArgument(text))
}

fn choose(plan: &mut Plan, name: Name, buckets: &Buckets) -> Result<()> {
    let family = name.row().name;
    let invalid = |text: String| Error::InvalidArgument(format!("buckets of {family}: {text}"));
    match buckets {
        Buckets::Native(factor) => {
            plan.bounds.clear();
            let native = NativeOptions::with_factor(*factor);
            plan.native = Some(native.map_err(|error| invalid(error.to_string()))?);
        }
        Buckets::Classic(bounds) => {
            let count = bounds.len();
            if count > BUCKETS_LIMIT {
                return Err(invalid(format!("{count} of them; the limit is {BUCKETS_LIMIT}")));
            }
            check_bounds(name, bounds)
                .map_err(|error| invalid(format!("{error}; they are {bounds:?}")))?;
            plan.bounds = bounds.iter().copied().filter(|bound| bound.is_finite()).collect();
        }
    }
    Ok(())
}
