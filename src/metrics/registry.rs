//! The registry: sources of families, in the order of their registration, no name twice.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use super::sink::{Sink, Source};
use crate::error::{Error, Result};

/// A set of families that are exposed together.
#[derive(Default)]
pub struct Registry {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    sources: Vec<Arc<dyn Source>>,
    names: HashSet<String>,
}

impl Registry {
    /// Adds a source.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if one of its names, sample suffixes included, is taken.
    pub fn register(&self, source: Arc<dyn Source>) -> Result<()> {
        let names = names(&*source);
        let mut state = self.state.write();
        let mut taken: Vec<&String> = names.intersection(&state.names).collect();
        if !taken.is_empty() {
            taken.sort();
            return Err(Error::InvalidArgument(format!(
                "Duplicated timeseries in CollectorRegistry: {taken:?}"
            )));
        }
        state.names.extend(names);
        state.sources.push(source);
        Ok(())
    }

    /// Takes a source out again; false if it was not registered.
    pub fn unregister(&self, source: &Arc<dyn Source>) -> bool {
        let mut state = self.state.write();
        let Some(index) = state.sources.iter().position(|other| Arc::ptr_eq(other, source)) else {
            return false;
        };
        state.sources.remove(index);
        for name in names(&**source) {
            state.names.remove(&name);
        }
        true
    }

    /// Gives all families to a sink. No lock is held meanwhile.
    pub fn collect(&self, sink: &mut dyn Sink) {
        let sources = self.state.read().sources.clone();
        for source in sources {
            source.collect(sink);
        }
    }
}

fn names(source: &dyn Source) -> HashSet<String> {
    source.describe().iter().flat_map(|desc| desc.sample_names()).collect()
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("sources", &self.state.read().sources.len()).finish()
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
}
