//! A family: a description and its series by label values.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;
use parking_lot::RwLock;

use super::desc::{Desc, Kind, Merge};
use super::labels::{Key, LabelSet, OwnedKey};
use super::link::Link;
use super::registry::Registry;
use super::sampling::Sampling;
use super::series::Series;
use super::shared::{Guard, Shared};
use super::sink::{Sink, Source, Value};
use super::sync::{AtomicU64, Ordering};
use crate::clock::{WallClock, unix_seconds};
use crate::error::{Error, Result};

/// The most series that a family holds by default; see [`Options::series_limit`].
pub const SERIES_LIMIT: usize = 10_000;

/// How a family behaves, where the default is not what one wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most series that the family holds; past it, new label sets share one overflow series,
    /// whose first label is `__overflow__` and all others `other`. None: no limit.
    pub series_limit: Option<usize>,
    /// A label with an empty value is left out of the page.
    pub omit_empty_labels: bool,
    /// The family is not on the page while it has no series.
    pub absent_if_empty: bool,
    /// Counters, histograms and summaries tell when they were created; default true.
    pub created: bool,
    /// A labelled series that was not written for this many seconds leaves the page, and comes
    /// back when it is written again; it is forgotten when nobody holds it any more. Writes are
    /// noticed at a scrape, so the time is as fine as scrapes are frequent. None: they all stay.
    pub idle_ttl: Option<f64>,
    /// Which writes are recorded; None: all.
    pub sampling: Option<Arc<Sampling>>,
    /// Where the time comes from; default the machine's wall clock.
    pub now: WallClock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            series_limit: None,
            omit_empty_labels: false,
            absent_if_empty: false,
            created: true,
            idle_ttl: None,
            sampling: None,
            now: unix_seconds,
        }
    }
}

pub(super) type SeriesMap = IndexMap<OwnedKey, Arc<Series>, ahash::RandomState>;

/// A family of series.
#[derive(Debug)]
pub struct Family {
    desc: Arc<Desc>,
    options: Options,
    series: RwLock<SeriesMap>,
    /// [`Options::series_limit`], as it is now.
    series_limit: AtomicUsize,
    overflowed: AtomicU64,
    /// When idle series were last looked for: the bits of the time.
    swept: AtomicU64,
    /// Where worker processes share it.
    link: OnceLock<Link>,
}

impl Family {
    /// Makes a family that stands in no registry. Without labels, its one series exists at once.
    pub fn new(desc: Desc, options: Options) -> Arc<Self> {
        let family = Self {
            desc: Arc::new(desc),
            series_limit: AtomicUsize::new(options.series_limit.unwrap_or(usize::MAX)),
            options,
            series: RwLock::default(),
            overflowed: AtomicU64::new(0),
            swept: AtomicU64::new(0),
            link: OnceLock::new(),
        };
        if family.desc.label_names.is_empty() && !family.options.absent_if_empty {
            family.series::<&str>(&[]);
        }
        Arc::new(family)
    }

    /// Makes a family with default options and registers it.
    ///
    /// # Errors
    /// As [`Registry::register`].
    pub fn register(desc: Desc, registry: &Registry) -> Result<Arc<Self>> {
        let family = Self::new(desc, Options::default());
        registry.register(family.clone())?;
        Ok(family)
    }

    /// The description.
    pub fn desc(&self) -> &Desc {
        &self.desc
    }

    /// The series with these label values; made if it is new, and the overflow series if the
    /// family is full. Keep the result: the lookup costs more than the sample.
    ///
    /// # Panics
    /// If there are not as many values as label names: a programmer's error.
    pub fn series<V: AsRef<str>>(&self, values: &[V]) -> Arc<Series> {
        assert_eq!(values.len(), self.desc.label_names.len(), "{}", self.desc.name);
        let link = self.link.get();
        if link.is_some_and(Link::is_stale) {
            self.catch_up();
        }
        let known = self.series.read().get(&Key(values)).cloned();
        match (known, link) {
            (Some(series), None) => return series,
            (Some(series), Some(link)) => match series.take_up() {
                Ok(true) => return series,
                Ok(false) => {} // it was removed meanwhile
                Err(error) => {
                    link.shared.report(error.to_string());
                    return series;
                }
            },
            (None, _) => {}
        }
        self.find_or_make(values)
    }

    fn find_or_make<V: AsRef<str>>(&self, values: &[V]) -> Arc<Series> {
        let mut map = self.series.write();
        let link = self.link.get();
        if link.is_some() {
            self.forget_sometimes(&mut map);
        }
        // One holder of the lock looks what there is and makes what there is not.
        let guard = link.and_then(|link| self.sync(link, &mut map));
        let is_full = map.len() >= self.series_limit.load(Ordering::Relaxed);
        if is_full && !map.contains_key(&Key(values)) {
            self.overflow().fetch_add(1, Ordering::Relaxed);
            let overflow: Vec<&str> = (0..values.len())
                .map(|index| if index == 0 { "__overflow__" } else { "other" })
                .collect();
            return self.insert(&mut map, &overflow, guard);
        }
        self.insert(&mut map, values, guard)
    }

    /// The series with these label values, if there is one.
    pub fn find<V: AsRef<str>>(&self, values: &[V]) -> Option<Arc<Series>> {
        self.catch_up();
        self.series.read().get(&Key(values)).cloned()
    }

    fn insert<V: AsRef<str>>(
        &self,
        map: &mut SeriesMap,
        values: &[V],
        guard: Option<Guard<'_>>,
    ) -> Arc<Series> {
        if let Some(series) = map.get(&Key(values)).cloned() {
            self.take_up(&series, guard); // it may be one that another process has made
            return series;
        }
        let series = self.make(values);
        map.insert(OwnedKey::new(values), series.clone());
        if let Some(link) = self.link.get() {
            self.publish(link, map, &series, guard);
        }
        series
    }

    /// A series that is in no map.
    pub(super) fn make<V: AsRef<str>>(&self, values: &[V]) -> Arc<Series> {
        let omit_empty = self.options.omit_empty_labels;
        let added = self.desc.added_label();
        let labels = LabelSet::beside(added, &self.desc.label_names, values, omit_empty);
        Arc::new(Series::new(self.desc.clone(), labels, &self.options))
    }

    /// Takes the series with these values off the page; false if there was none.
    pub fn remove<V: AsRef<str>>(&self, values: &[V]) -> bool {
        self.catch_up();
        let mut map = self.series.write();
        let removed = map.shift_remove(&Key(values));
        if let Some(series) = &removed {
            self.withdraw(std::slice::from_ref(series));
        }
        removed.is_some()
    }

    /// Takes the series off the page whose label values, in the order of the names, are chosen;
    /// returns how many.
    pub fn remove_where(&self, chosen: impl Fn(&[Box<str>]) -> bool) -> usize {
        self.catch_up();
        let mut map = self.series.write();
        let mut removed = Vec::new();
        map.retain(|key, series| {
            let stays = !chosen(&key.0);
            if !stays {
                removed.push(series.clone());
            }
            stays
        });
        self.withdraw(&removed);
        removed.len()
    }

    /// Takes all series off the page.
    pub fn clear(&self) {
        self.remove_where(|_| true);
    }

    pub(super) fn map(&self) -> &RwLock<SeriesMap> {
        &self.series
    }

    pub(super) fn link(&self) -> Option<&Link> {
        self.link.get()
    }

    /// Writes to a mapping from now on, with the other processes there.
    pub(super) fn link_to(&self, shared: &Arc<Shared>) -> Result<()> {
        if self.link.get().is_none() {
            let _ = self.link.set(Link::new(shared, &self.desc, &self.options)?);
            self.catch_up();
        }
        Ok(())
    }

    /// Grows when series were found to be gone that another process removed: whoever keeps some
    /// looks whether they are [replaced](Self::replaced).
    pub fn edits(&self) -> u64 {
        let Some(link) = self.link.get() else { return 0 };
        if link.is_stale() {
            self.catch_up();
        }
        link.edits()
    }

    /// Whether a lookup gives another series than this one.
    pub fn replaced(&self, series: &Arc<Series>) -> bool {
        self.is_replaced(series)
    }

    fn overflow(&self) -> &AtomicU64 {
        self.link.get().and_then(Link::overflowed).unwrap_or(&self.overflowed)
    }

    /// Whether a series of it can become idle; see [`Options::idle_ttl`].
    pub fn forgets(&self) -> bool {
        self.options.idle_ttl.is_some()
    }

    /// All series, in the order in which they were made.
    pub fn all(&self) -> Vec<Arc<Series>> {
        self.series.read().values().cloned().collect()
    }

    /// Holds at most so many series from now on; those past it that it has already stay.
    pub fn set_series_limit(&self, limit: usize) {
        self.series_limit.store(limit, Ordering::Relaxed);
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.series.read().len()
    }

    /// Whether there is no series.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often a new label set met a full family.
    pub fn overflowed(&self) -> u64 {
        self.overflow().load(Ordering::Relaxed)
    }
}

impl Source for Family {
    fn prepare(&self) {
        self.catch_up();
    }

    fn share(&self, shared: &Arc<Shared>) -> Result<()> {
        self.link_to(shared)
    }

    fn check_unwritten(&self) -> Result<()> {
        if self.link.get().is_none() && self.all().iter().any(|series| series.is_written()) {
            let name = &self.desc.name;
            let text = format!("shared: {name} was written before; share before the first write");
            return Err(Error::InvalidArgument(text));
        }
        Ok(())
    }

    fn after_fork(&self) {
        self.enter_after_fork();
    }

    fn describe(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self, sink: &mut dyn Sink) {
        self.forget_idle();
        if sink.is_prompt() {
            self.give(self.series.read().values(), sink);
        } else {
            // A slow reader must not stop new label sets.
            self.give(self.all().iter(), sink);
        }
    }
}

impl Family {
    pub(super) fn forget_idle(&self) {
        if let Some(ttl) = self.options.idle_ttl {
            self.forget(ttl, &mut self.series.write());
        }
    }

    /// The same for a worker that serves no page: four times in the time after which a series is
    /// idle.
    fn forget_sometimes(&self, map: &mut SeriesMap) {
        let Some(ttl) = self.options.idle_ttl else { return };
        let swept = f64::from_bits(self.swept.load(Ordering::Relaxed));
        if ((self.options.now)() - swept).abs() >= ttl / 4.0 {
            self.forget(ttl, map);
        }
    }

    fn forget(&self, ttl: f64, map: &mut SeriesMap) {
        let now = (self.options.now)();
        self.swept.store(now.to_bits(), Ordering::Relaxed);
        // Nobody can take a new hold of a series while the map is locked.
        let is_idle =
            |series: &Arc<Series>| series.note_idle(now, ttl) && Arc::strong_count(series) == 1;
        match self.link.get() {
            None => map.retain(|_, series| !is_idle(series)),
            Some(link) => link.forget_unused(map, is_idle),
        }
    }

    /// Whether each process stands for itself on the page.
    fn is_by_process(&self) -> bool {
        let all = self.desc.kind == Kind::Gauge && self.desc.mode.merge == Merge::All;
        all && self.link.get().is_some()
    }

    /// The values of each process, with the label `pid`.
    fn give_by_process<'a>(&self, all: impl Iterator<Item = &'a Arc<Series>>, sink: &mut dyn Sink) {
        let pid = std::iter::once("pid".into());
        let label_names = self.desc.label_names.iter().cloned().chain(pid).collect();
        let desc = Desc { label_names, ..(*self.desc).clone() };
        sink.family(&desc);
        for series in all.filter(|series| !series.is_idle()) {
            let Some(lease) = series.lease.get() else { continue };
            for (pid, value) in lease.by_process() {
                let labels = series.labels().extended(&desc, [&*pid.to_string()].into_iter());
                sink.sample(&desc, &labels, &Value::Gauge(value).into());
            }
        }
    }

    fn give<'a>(&self, all: impl ExactSizeIterator<Item = &'a Arc<Series>>, sink: &mut dyn Sink) {
        if all.len() == 0 && self.options.absent_if_empty {
            return;
        }
        if self.is_by_process() {
            return self.give_by_process(all, sink);
        }
        sink.family(&self.desc);
        let mut counts = Vec::new();
        for series in all.filter(|series| !series.is_idle()) {
            let labels = series.labels();
            series.read(&mut counts, &mut |reading| sink.sample(&self.desc, labels, reading));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::metrics::{Format, Kind, encode};

    fn family(limit: Option<usize>) -> Arc<Family> {
        let desc = Desc::new(Kind::Counter, "a", "", &["x", "y"]).unwrap();
        Family::new(desc, Options { series_limit: limit, ..Options::default() })
    }

    #[test]
    fn the_same_values_give_the_same_series() {
        let family = family(None);
        family.series(&["1", "2"]).add(1.0);
        family.series(&[String::from("1"), String::from("2")]).add(1.0);
        assert_eq!(family.all().len(), 1);
        assert!((family.series(&["1", "2"]).get() - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn label_values_do_not_run_into_each_other() {
        let family = family(None);
        family.series(&["ab", "c"]);
        family.series(&["a", "bc"]);
        assert_eq!(family.all().len(), 2);
    }

    #[test]
    fn a_full_family_counts_on_in_one_overflow_series() {
        let family = family(Some(2));
        for index in 0..5 {
            family.series(&[index.to_string(), "y".into()]).add(1.0);
        }
        family.series(&["0", "y"]).add(1.0);
        let values: Vec<f64> = family.all().iter().map(|series| series.get()).collect();
        assert_eq!(values, [2.0, 1.0, 3.0]);
        assert_eq!(family.all()[2].labels().text(), r#"x="__overflow__",y="other""#);
        assert_eq!(family.overflowed(), 3);
    }

    #[test]
    fn a_removed_series_is_off_the_page_and_still_usable() {
        let family = family(None);
        let series = family.series(&["1", "2"]);
        assert!(family.remove(&["1", "2"]));
        assert!(!family.remove(&["1", "2"]));
        series.add(1.0);
        assert!(family.all().is_empty());
    }

    #[test]
    fn series_are_removed_by_some_of_their_labels() {
        let family = family(None);
        for values in [["1", "a"], ["1", "b"], ["2", "a"]] {
            family.series(&values);
        }
        assert_eq!(family.remove_where(|values| &*values[0] == "1"), 2);
        assert_eq!(family.all()[0].labels().text(), r#"x="2",y="a""#);
    }

    #[test]
    fn an_info_is_there_before_its_facts_unless_its_family_is_absent() {
        for (absent_if_empty, expected) in [(false, "a_info 1.0\n"), (true, "")] {
            let options = Options { absent_if_empty, ..Options::default() };
            let family = Family::new(Desc::new(Kind::Info, "a", "", &[]).unwrap(), options);
            let registry = Registry::default();
            registry.register(family).unwrap();
            assert!(encode(&registry, Format::Text004).ends_with(expected));
        }
    }

    #[test]
    fn an_idle_series_leaves_the_page_and_comes_back() {
        static NOW: AtomicU64 = AtomicU64::new(0);
        let now = || NOW.load(Ordering::Relaxed) as f64;
        let options = Options { idle_ttl: Some(10.0), created: false, now, ..Options::default() };
        let desc = Desc::new(Kind::Counter, "a", "", &["x"]).unwrap();
        let registry = Registry::default();
        let family = Family::new(desc, options);
        registry.register(family.clone()).unwrap();
        let held = family.series(&["held"]);
        family.series(&["dropped"]).add(1.0);
        let lines = |time| {
            NOW.store(time, Ordering::Relaxed);
            encode(&registry, Format::Text004).lines().skip(2).count()
        };
        assert_eq!([lines(0), lines(9)], [2, 2]);
        held.add(1.0);
        assert_eq!([lines(10), family.all().len()], [1, 1]);
        assert_eq!([lines(20), family.all().len()], [0, 1]);
        held.add(1.0);
        assert_eq!(lines(30), 1);
        drop(held);
        assert_eq!([lines(40), family.all().len()], [0, 0]);
    }
}
