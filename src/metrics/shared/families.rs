//! The families of a mapping: a chain that only grows, and of each family the chain of its series.
//!
//! A family that gave way to another of its name stays in the chain, unseen.

use super::super::sync::{AtomicU64, Ordering};
use super::children::child;
use super::heap::{Change, Guard, header, put};
use super::nodes;
use super::process::hash;
use super::{Shared, Written, corrupt};
use crate::error::{Error, Result};

/// Cells of a family's record.
pub(super) mod family {
    pub(in super::super) const NEXT: u64 = 0;
    pub(in super::super) const TEXT: u64 = 1;
    pub(in super::super) const TEXT_LEN: u64 = 2;
    pub(in super::super) const STATE: u64 = 3;
    pub(in super::super) const RUN: u64 = 4;
    pub(in super::super) const NODE: u64 = 5;
    pub(in super::super) const MODE: u64 = 6;
    pub(in super::super) const FIRST: u64 = 7;
    pub(in super::super) const LAST: u64 = 8;
    /// Grows when a series is removed or used again.
    pub(in super::super) const EDITS: u64 = 9;
    /// Series that are there.
    pub(in super::super) const COUNT: u64 = 10;
    pub(in super::super) const OVERFLOWED: u64 = 11;
    /// A number made of its name.
    pub(in super::super) const NAME: u64 = 12;
    pub(in super::super) const LEN: u64 = 13;
}

pub(super) const LIVE: u64 = 1;
pub(super) const REMOVED: u64 = 2;

/// Where a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Place {
    pub(super) at: u64,
    pub(super) run: u64,
    pub(super) node: u64,
    pub(super) mode: u64,
}

impl Place {
    /// Whether its series are gauges of which each process has a value.
    pub(in super::super) fn is_gauge(self) -> bool {
        self.node != 0 && self.mode != 0
    }
}

impl Guard<'_> {
    /// The records of a chain.
    pub(super) fn chain(&self, first: u64) -> Result<Vec<u64>> {
        let (mut chain, mut at) = (Vec::new(), first);
        let most = self.get(header::USED)? / family::LEN;
        while at != 0 {
            chain.push(at);
            if chain.len() as u64 > most {
                return Err(corrupt(&self.shared.path, "a chain has no end"));
            }
            at = self.get(at)?; // both kinds of records have the next one first
        }
        Ok(chain)
    }

    fn place(&self, at: u64) -> Result<Place> {
        let [run, node, mode] =
            [family::RUN, family::NODE, family::MODE].map(|field| self.get(at + field));
        Ok(Place { at, run: run?, node: node?, mode: mode? })
    }

    fn written(&self, at: u64) -> Result<Written> {
        let bytes = self.bytes(self.get(at + family::TEXT)?, self.get(at + family::TEXT_LEN)?)?;
        let damaged = |error: Error| corrupt(&self.shared.path, &error.to_string());
        Written::from_bytes(&bytes).map_err(damaged)
    }

    /// All families.
    pub(in super::super) fn families(&self) -> Result<Vec<(Place, Written)>> {
        let mut families = Vec::new();
        for at in self.chain(self.get(header::FIRST_FAMILY)?)? {
            if self.get(at + family::STATE)? == LIVE {
                families.push((self.place(at)?, self.written(at)?));
            }
        }
        Ok(families)
    }

    /// The family of this name.
    fn find(&self, name: &str) -> Result<Option<(Place, Written)>> {
        for at in self.chain(self.get(header::FIRST_FAMILY)?)? {
            if self.get(at + family::STATE)? == LIVE && self.get(at + family::NAME)? == hash(name) {
                let written = self.written(at)?;
                if *written.desc.name == *name {
                    return Ok(Some((self.place(at)?, written)));
                }
            }
        }
        Ok(None)
    }

    /// The family of this description, new or known. `run` are the cells of a series, `node` those
    /// that each process has of it for itself.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if another process has one of this name that differs; if no other
    /// process is there, it gives way.
    pub(in super::super) fn family(&self, written: &Written, run: u64, node: u64) -> Result<Place> {
        let name = &written.desc.name;
        let Some((place, theirs)) = self.find(name)? else {
            return self.new_family(self.change(), written, run, node);
        };
        let conflict = written.conflict(&theirs).or_else(|| {
            let same = (place.run, place.node) == (run, node);
            (!same).then(|| "another layout than in another process".to_owned())
        });
        let Some(conflict) = conflict else { return Ok(place) };
        if self.others()? {
            let path = self.shared.path.display();
            let text = format!("{name} is not shared in {path}: it has {conflict}; it counts here");
            return Err(Error::InvalidArgument(text));
        }
        let mut change = self.change();
        change.set(place.at + family::STATE, REMOVED);
        self.new_family(change, written, run, node)
    }

    fn new_family(
        &self,
        mut change: Change<'_>,
        written: &Written,
        run: u64,
        node: u64,
    ) -> Result<Place> {
        let bytes = written.to_bytes();
        let text = change.put(&bytes)?;
        let at = change.take(family::LEN)?;
        let mode = nodes::mode(&written.desc);
        let record = self.shared.cells(at, family::LEN)?;
        for (field, value) in [
            (family::TEXT, text),
            (family::TEXT_LEN, bytes.len() as u64),
            (family::STATE, LIVE),
            (family::RUN, run),
            (family::NODE, node),
            (family::MODE, mode),
            (family::NAME, hash(&written.desc.name)),
        ] {
            put(&record[field as usize], value);
        }
        let last = change.get(header::LAST_FAMILY)?;
        change.set(if last == 0 { header::FIRST_FAMILY } else { last + family::NEXT }, at);
        change.set(header::LAST_FAMILY, at);
        change.add(header::CHANGES, 1)?;
        change.commit()?;
        Ok(Place { at, run, node, mode })
    }

    /// Calls for each series of each family, removed ones too.
    pub(super) fn each(&self, mut call: impl FnMut(Place, u64) -> Result<()>) -> Result<()> {
        for family in self.chain(self.get(header::FIRST_FAMILY)?)? {
            let place = self.place(family)?;
            for at in self.chain(self.get(family + family::FIRST)?)? {
                call(place, at)?;
            }
        }
        Ok(())
    }

    /// Follows everything that there is, so that a damaged mapping is refused when it is opened.
    pub(super) fn check(&self) -> Result<()> {
        self.families()?;
        self.each(|place, at| {
            self.values(self.listed(at)?.child)?;
            self.shared.cells(at + child::RUN, place.run)?;
            self.check_nodes(place, at)
        })
    }
}

impl Shared {
    /// Makes or finds a family.
    ///
    /// # Errors
    /// As [`Guard::family`].
    pub(in super::super) fn family(&self, written: &Written, run: u64, node: u64) -> Result<Place> {
        self.lock()?.family(written, run, node)
    }

    /// How often series of a family were removed or used again.
    pub(in super::super) fn edits(&self, of: Place) -> u64 {
        self.cells(of.at + family::EDITS, 1).map_or(0, |cells| cells[0].load(Ordering::Acquire))
    }

    /// How often a new label set met the family when it was full.
    pub(in super::super) fn overflowed(&self, of: Place) -> Option<&'static AtomicU64> {
        self.cells(of.at + family::OVERFLOWED, 1).ok().map(|cells| &cells[0])
    }
}
