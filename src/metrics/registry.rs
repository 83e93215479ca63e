//! The registry: sources of families, in the order of their registration, no name twice.
//!
//! A source may belong to a *profile*: one of several ways to say the same, of which a page shows
//! one. Sources without a profile are on every page.

use std::any::Any;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::adapt::{Labelled, Restricted};
use super::desc::{Desc, Kind};
use super::family::{Family, Options};
use super::labels::LabelSet;
use super::names::check_label_name;
use super::sample::Pairs;
use super::sharing::Sharing;
use super::sink::{Sink, Source, Value};
use crate::error::{Error, Result};

/// The sample that describes the target as a whole.
const TARGET_INFO: &str = "target_info";

/// A set of families that are exposed together.
#[derive(Default)]
pub struct Registry {
    state: RwLock<State>,
    /// Labels of every sample.
    labels: RwLock<Arc<Pairs>>,
    /// Sources that describe no name are asked for restricted pages too.
    asks_unnamed: AtomicBool,
    /// The length of the last page: the next is about as long.
    page_len: AtomicUsize,
    /// How long it took.
    page_nanos: Arc<AtomicU64>,
    /// With worker processes, where it is.
    pub(super) sharing: Sharing,
}

#[derive(Default)]
struct State {
    sources: Vec<Entry>,
    /// Names that are taken: all but those of profiles past the first.
    names: HashSet<String>,
    target_info: Pairs,
    /// In the order of their registration.
    profiles: Vec<&'static str>,
    /// The profile of a page that asks for none; None: the first.
    default_profile: Option<&'static str>,
}

#[derive(Clone)]
struct Entry {
    source: Arc<dyn Source>,
    /// The names that it had when it was registered.
    names: HashSet<String>,
    profile: Option<&'static str>,
}

/// What of a registry a page shows; by default all, in the registry's own profile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// Only the samples of these names, suffix included, and the families that have one.
    pub names: Option<&'a [&'a str]>,
    /// The profile; an unknown one, which [`Registry::check_profile`] refuses, has no families.
    pub profile: Option<&'a str>,
}

impl Registry {
    /// A registry that adds these labels to every sample.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an invalid label name, and for one that histograms or
    /// summaries add themselves.
    ///
    /// ```
    /// use ryot_metrics::metrics::{Desc, Family, Format, Kind, Registry, encode};
    /// let registry = Registry::with_labels(vec![("zone".into(), "a".into())])?;
    /// Family::register(Desc::new(Kind::Gauge, "depth", "", &[])?, &registry)?;
    /// assert!(encode(&registry, Format::Text004).ends_with("depth{zone=\"a\"} 0.0\n"));
    /// # Ok::<(), ryot_metrics::error::Error>(())
    /// ```
    pub fn with_labels(labels: Pairs) -> Result<Self> {
        let registry = Self::default();
        registry.set_labels(labels)?;
        Ok(registry)
    }

    /// Adds these labels to every sample from now on, in place of those before.
    ///
    /// # Errors
    /// As [`Self::with_labels`], and if a registered family has a label of such a name.
    pub fn set_labels(&self, labels: Pairs) -> Result<()> {
        for (name, _) in &labels {
            check_label_name(name)?;
            if ["le", "quantile"].contains(&&**name) {
                return Err(Error::InvalidArgument(format!("Reserved label metric name: {name}")));
            }
        }
        let state = self.state.write();
        for entry in &state.sources {
            check_labels(&entry.source.describe(), &labels)?;
        }
        *self.labels.write() = Arc::new(labels);
        drop(state);
        Ok(())
    }

    /// Adds a source.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if one of its names, sample suffixes included, is taken, or one
    /// of its labels is a label of the registry.
    pub fn register(&self, source: Arc<dyn Source>) -> Result<()> {
        self.register_as(None, source)
    }

    /// Adds a source to a profile, which is new with its first source. The names of the first
    /// profile are taken as any others are; those of another are not, and where a source without
    /// a profile has one of them, that source is shown and this one is not.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn register_in(&self, profile: &'static str, source: Arc<dyn Source>) -> Result<()> {
        self.register_as(Some(profile), source)
    }

    #[allow(clippy::needless_pass_by_value)] // those who register give it away
    fn register_as(&self, profile: Option<&'static str>, source: Arc<dyn Source>) -> Result<()> {
        self.state.write().register(source.clone(), profile, &self.labels.read())?;
        self.sharing.added(&*source);
        Ok(())
    }

    /// The profiles, in the order of their registration.
    pub fn profiles(&self) -> Vec<&'static str> {
        self.state.read().profiles.clone()
    }

    /// The profile of this name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is none, with those that there are.
    pub fn check_profile(&self, name: &str) -> Result<&'static str> {
        let profiles = self.profiles();
        profiles.iter().copied().find(|profile| *profile == name).ok_or_else(|| {
            let known = profiles.join(", ");
            Error::InvalidArgument(if profiles.is_empty() {
                format!("profile is {name:?}; this registry has no profiles")
            } else {
                format!("profile is {name:?}; it must be one of {known}")
            })
        })
    }

    /// Chooses the profile of a page that asks for none; without a choice it is the first.
    ///
    /// # Errors
    /// As [`Self::check_profile`].
    pub fn set_default_profile(&self, name: &str) -> Result<()> {
        let profile = self.check_profile(name)?;
        self.state.write().default_profile = Some(profile);
        Ok(())
    }

    /// Makes and registers a family; or returns the one that is registered with an equal
    /// description. The options are those of the first.
    ///
    /// # Errors
    /// As [`Self::register`], where another description has the name.
    pub fn register_or_get(&self, desc: Desc, options: Options) -> Result<Arc<Family>> {
        let mut state = self.state.write();
        let same = state.sources.iter().filter(|entry| entry.names.contains(&*desc.name));
        let families = same.filter_map(|entry| {
            let source: Arc<dyn Any + Send + Sync> = entry.source.clone();
            source.downcast::<Family>().ok()
        });
        if let Some(family) = families.into_iter().find(|family| *family.desc() == desc) {
            return Ok(family);
        }
        let family = Family::new(desc, options);
        state.register(family.clone(), None, &self.labels.read())?;
        self.sharing.added(&*family);
        Ok(family)
    }

    /// The source that described this name, if there is one.
    pub fn find(&self, name: &str) -> Option<Arc<dyn Source>> {
        let state = self.state.read();
        let entry = state.sources.iter().find(|entry| entry.names.contains(name))?;
        Some(entry.source.clone())
    }

    /// Takes a source out again; false if it was not registered.
    pub fn unregister(&self, source: &Arc<dyn Source>) -> bool {
        let mut state = self.state.write();
        let same = |entry: &Entry| Arc::ptr_eq(&entry.source, source);
        let Some(index) = state.sources.iter().position(same) else {
            return false;
        };
        let entry = state.sources.remove(index);
        self.sharing.removed();
        if entry.profile.is_none() || entry.profile == state.profiles.first().copied() {
            for name in entry.names {
                state.names.remove(&name);
            }
        }
        true
    }

    /// Sets the labels of the sample `target_info`, which stands first on the page; none of them
    /// takes it off.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a registered family has that name.
    pub fn set_target_info(&self, labels: Pairs) -> Result<()> {
        let mut state = self.state.write();
        if labels.is_empty() {
            if !state.target_info.is_empty() {
                state.names.remove(TARGET_INFO);
            }
        } else if !state.names.insert(TARGET_INFO.into()) && state.target_info.is_empty() {
            return Err(Error::InvalidArgument(
                "CollectorRegistry already contains a target_info metric".into(),
            ));
        }
        state.target_info = labels;
        Ok(())
    }

    /// The labels of `target_info`.
    pub fn target_info(&self) -> Pairs {
        self.state.read().target_info.clone()
    }

    /// All sources.
    pub(super) fn sources(&self) -> Vec<Arc<dyn Source>> {
        self.state.read().sources.iter().map(|entry| entry.source.clone()).collect()
    }

    /// Whether a source of its own has a family of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.state
            .read()
            .sources
            .iter()
            .any(|entry| entry.names.contains(name) && !self.sharing.is_refused(&*entry.source))
    }

    /// Gives all families to a sink. No lock of the registry is held meanwhile.
    pub fn collect(&self, sink: &mut dyn Sink) {
        self.collect_selected(Selection::default(), sink);
    }

    /// Whether a source that describes no name is asked when only some names are wanted; default
    /// false.
    pub fn ask_unnamed(&self, on: bool) {
        self.asks_unnamed.store(on, Ordering::Relaxed);
    }

    /// Gives what is selected.
    pub fn collect_selected(&self, selection: Selection<'_>, sink: &mut dyn Sink) {
        let Some(names) = selection.names else {
            return self.collect_where(selection.profile, |_| true, sink);
        };
        let unnamed = self.asks_unnamed.load(Ordering::Relaxed);
        let names: HashSet<&str> = names.iter().copied().collect();
        let wanted = |entry: &Entry| {
            let described = entry.names.iter().any(|name| names.contains(&**name));
            described || (unnamed && entry.names.is_empty())
        };
        self.collect_where(selection.profile, wanted, &mut Restricted::new(&names, sink));
    }

    fn collect_where(
        &self,
        profile: Option<&str>,
        wanted: impl Fn(&Entry) -> bool,
        sink: &mut dyn Sink,
    ) {
        self.sharing.look(self);
        let state = self.state.read();
        let sources: Vec<_> = state.shown(profile).filter(|entry| wanted(entry)).collect();
        let shown = sources.into_iter().map(|entry| &entry.source);
        let shown = shown.filter(|source| !self.sharing.is_refused(&***source)).cloned();
        let foreign = self.sharing.foreign().into_iter().map(Entry::foreign);
        let foreign = foreign.filter(|entry| wanted(entry)).map(|entry| entry.source);
        let sources: Vec<_> = shown.chain(foreign).collect();
        let target_info = state.target_info.clone();
        drop(state);
        let labels = self.labels.read().clone();
        for source in &sources {
            source.prepare();
        }
        if labels.is_empty() {
            give(&target_info, &sources, sink);
        } else {
            give(&target_info, &sources, &mut Labelled::new(&labels, sink));
        }
    }

    /// Nanoseconds that the last page took to write; 0 before the first.
    pub fn page_nanos(&self) -> Arc<AtomicU64> {
        self.page_nanos.clone()
    }

    pub(super) fn page_len(&self) -> usize {
        self.page_len.load(Ordering::Relaxed) + 256
    }

    pub(super) fn set_page_len(&self, len: usize) {
        self.page_len.store(len, Ordering::Relaxed);
    }
}

impl Entry {
    /// A family of other processes.
    fn foreign(family: Arc<Family>) -> Self {
        let names = family.desc().sample_names().collect();
        Self { source: family, names, profile: None }
    }
}

impl State {
    /// The sources of a page in this profile.
    fn shown<'a>(&'a self, profile: Option<&'a str>) -> impl Iterator<Item = &'a Entry> {
        let first = self.profiles.first().copied();
        let profile = profile.or(self.default_profile).or(first);
        self.sources.iter().filter(move |entry| match entry.profile {
            None => true,
            of if of == first => of == profile,
            of => of == profile && entry.names.is_disjoint(&self.names),
        })
    }

    fn register(
        &mut self,
        source: Arc<dyn Source>,
        profile: Option<&'static str>,
        labels: &Pairs,
    ) -> Result<()> {
        let descs = source.describe();
        check_labels(&descs, labels)?;
        let names: HashSet<String> = descs.iter().flat_map(|desc| desc.sample_names()).collect();
        if profile.is_none_or(|name| self.profiles.first().is_none_or(|first| *first == name)) {
            let mut taken: Vec<&String> = names.intersection(&self.names).collect();
            if !taken.is_empty() {
                taken.sort();
                return Err(Error::Duplicate(taken.into_iter().cloned().collect()));
            }
            self.names.extend(names.iter().cloned());
        }
        if let Some(new) = profile.filter(|name| !self.profiles.contains(name)) {
            self.profiles.push(new);
        }
        self.sources.push(Entry { source, names, profile });
        Ok(())
    }
}

/// A label of the registry cannot be one of a family too.
fn check_labels(descs: &[&Desc], labels: &Pairs) -> Result<()> {
    for (label, _) in labels {
        if let Some(desc) = descs.iter().find(|desc| desc.has_label(label)) {
            let name = &desc.name;
            return Err(Error::InvalidArgument(format!(
                "Label {label} of {name} is a label of the registry"
            )));
        }
    }
    Ok(())
}

fn give(target_info: &Pairs, sources: &[Arc<dyn Source>], sink: &mut dyn Sink) {
    if !target_info.is_empty() {
        let target = Desc::new(Kind::Info, "target", "Target metadata", &[]);
        let target = target.expect("the description is valid");
        let names: Vec<Box<str>> = target_info.iter().map(|pair| pair.0.as_str().into()).collect();
        let values: Vec<&str> = target_info.iter().map(|pair| pair.1.as_str()).collect();
        let labels = LabelSet::new(&names, &values, false);
        sink.family(&target);
        let value = Value::Info { names: &names, labels: &labels };
        sink.sample(&target, &LabelSet::default(), &value.into());
    }
    for source in sources {
        source.collect(sink);
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self.state.read().sources.len();
        f.debug_struct("Registry").field("sources", &sources).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Desc, Family, Kind};

    fn register(registry: &Registry, kind: Kind, name: &str) -> Result<Arc<Family>> {
        Family::register(Desc::new(kind, name, "", &[])?, registry)
    }

    #[test]
    fn a_name_is_refused_the_second_time() {
        let registry = Registry::default();
        register(&registry, Kind::Histogram, "a").unwrap();
        for (kind, name) in [(Kind::Gauge, "a"), (Kind::Gauge, "a_count"), (Kind::Counter, "a")] {
            let error = register(&registry, kind, name).unwrap_err().to_string();
            assert!(error.contains("Duplicated timeseries in CollectorRegistry"), "{error}");
        }
    }

    #[test]
    fn an_unregistered_name_is_free_again() {
        let registry = Registry::default();
        let source: Arc<dyn Source> = register(&registry, Kind::Counter, "a").unwrap();
        assert!(registry.unregister(&source));
        assert!(!registry.unregister(&source));
        register(&registry, Kind::Counter, "a").unwrap();
    }

    #[test]
    fn an_equal_description_can_return_the_first_family() {
        let registry = Registry::default();
        let options = Options::default();
        let desc = |kind| Desc::new(kind, "a", "", &["x"]).unwrap();
        let first = registry.register_or_get(desc(Kind::Gauge), options.clone()).unwrap();
        let second = registry.register_or_get(desc(Kind::Gauge), options.clone()).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(registry.register_or_get(desc(Kind::Counter), options.clone()).is_err());
    }

    #[test]
    fn a_label_of_the_registry_is_taken() {
        let registry = Registry::with_labels(vec![("a".into(), "1".into())]).unwrap();
        for (kind, label) in [(Kind::Gauge, "a"), (Kind::StateSet, "b")] {
            let desc = Desc::new(kind, "a", "", &[label]).unwrap();
            let error = Family::register(desc, &registry).unwrap_err().to_string();
            assert_eq!(error, "Label a of a is a label of the registry");
        }
        assert!(Registry::with_labels(vec![("le".into(), String::new())]).is_err());
    }

    fn names(registry: &Registry, profile: Option<&str>) -> Vec<String> {
        let selection = Selection { profile, ..Selection::default() };
        let page =
            crate::metrics::encode_bytes(registry, selection, crate::metrics::Format::Text004);
        let page = String::from_utf8(page).unwrap();
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_page_shows_one_profile_and_all_that_has_none() {
        let gauge =
            |name| Family::new(Desc::new(Kind::Gauge, name, "", &[]).unwrap(), Options::default());
        let registry = Registry::default();
        assert!(registry.check_profile("a").unwrap_err().to_string().contains("no profiles"));
        registry.register_in("a", gauge("x")).unwrap();
        registry.register_in("b", gauge("y")).unwrap();
        registry.register_in("b", gauge("mine")).unwrap();
        register(&registry, Kind::Gauge, "mine").unwrap();
        assert_eq!(names(&registry, None), ["x", "mine"]);
        assert_eq!(names(&registry, Some("b")), ["y", "mine"]);
        registry.set_default_profile("b").unwrap();
        assert_eq!(names(&registry, None), ["y", "mine"]);
        assert_eq!(names(&registry, Some("a")), ["x", "mine"]);
        let error = registry.set_default_profile("c").unwrap_err().to_string();
        assert!(error.contains("profile is \"c\"; it must be one of a, b"), "{error}");
        assert!(register(&registry, Kind::Gauge, "x").is_err());
    }

    #[test]
    fn labels_of_the_registry_can_be_set_later() {
        let registry = Registry::default();
        register(&registry, Kind::Gauge, "x").unwrap();
        registry.set_labels(vec![("zone".into(), "a".into())]).unwrap();
        assert_eq!(names(&registry, None), ["x{zone=\"a\"}"]);
        Family::register(Desc::new(Kind::Gauge, "y", "", &["of"]).unwrap(), &registry).unwrap();
        let error = registry.set_labels(vec![("of".into(), "a".into())]).unwrap_err().to_string();
        assert_eq!(error, "Label of of y is a label of the registry");
    }

    #[test]
    fn target_info_has_its_name_to_itself() {
        let registry = Registry::default();
        let labels: Pairs = vec![("a".into(), "1".into())];
        registry.set_target_info(labels.clone()).unwrap();
        assert!(register(&registry, Kind::Gauge, TARGET_INFO).is_err());
        registry.set_target_info(labels.clone()).unwrap();
        registry.set_target_info(vec![]).unwrap();
        register(&registry, Kind::Gauge, TARGET_INFO).unwrap();
        assert!(registry.set_target_info(labels).is_err());
        assert!(registry.target_info().is_empty());
    }
}
