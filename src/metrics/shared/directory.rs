//! The families of a mapping, and their series by label values.
//!
//! Families and series are chains that only grow. A series that was removed stays in the chain,
//! and is used again for new label values when no process holds it any more; its number is a new
//! one then. So a process knows what it has seen by where it is and by its number.

use std::sync::atomic::{AtomicU64, Ordering};

use super::heap::{Change, Guard, header, put};
use super::nodes;
use super::process::hash;
use super::{PROCESSES_LIMIT, Shared, Written, corrupt};
use crate::error::{Error, Result};

/// Cells of a family's record.
mod family {
    pub(super) const NEXT: u64 = 0;
    pub(super) const TEXT: u64 = 1;
    pub(super) const TEXT_LEN: u64 = 2;
    pub(super) const STATE: u64 = 3;
    pub(super) const RUN: u64 = 4;
    pub(super) const NODE: u64 = 5;
    pub(super) const MODE: u64 = 6;
    pub(super) const FIRST: u64 = 7;
    pub(super) const LAST: u64 = 8;
    /// Grows when a series is removed or used again.
    pub(super) const EDITS: u64 = 9;
    /// Series that are there.
    pub(super) const COUNT: u64 = 10;
    pub(super) const OVERFLOWED: u64 = 11;
    /// A number made of its name.
    pub(super) const NAME: u64 = 12;
    pub(super) const LEN: u64 = 13;
}

/// Cells of a series' record; its run comes after them.
pub(super) mod child {
    pub(in super::super) const NEXT: u64 = 0;
    pub(in super::super) const SERIAL: u64 = 1;
    pub(in super::super) const TEXT: u64 = 2;
    pub(in super::super) const TEXT_LEN: u64 = 3;
    pub(in super::super) const STATE: u64 = 4;
    pub(in super::super) const NODES: u64 = 5;
    /// A bit for each process that holds it.
    pub(in super::super) const HELD: u64 = 6;
    pub(in super::super) const RUN: u64 = HELD + WORDS;
    pub(in super::super) const WORDS: u64 = super::PROCESSES_LIMIT as u64 / 64;
}

const LIVE: u64 = 1;
const REMOVED: u64 = 2;

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

/// Where a series is, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Child {
    pub(in super::super) at: u64,
    pub(in super::super) serial: u64,
}

/// A series in the chain of its family.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Listed {
    pub(in super::super) child: Child,
    pub(in super::super) is_live: bool,
}

fn pack(values: &[impl AsRef<str>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        let text = value.as_ref().as_bytes();
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text);
    }
    bytes
}

fn unpack(mut bytes: &[u8]) -> Option<Vec<String>> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        values.push(String::from_utf8(text.to_vec()).ok()?);
        bytes = rest;
    }
    Some(values)
}

impl Guard<'_> {
    /// The records of a chain.
    fn chain(&self, first: u64) -> Result<Vec<u64>> {
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

    fn listed(&self, at: u64) -> Result<Listed> {
        let child = Child { at, serial: self.get(at + child::SERIAL)? };
        Ok(Listed { child, is_live: self.get(at + child::STATE)? == LIVE })
    }

    /// The series after this one in a family's chain, or all of them after 0.
    pub(in super::super) fn children_after(&self, of: Place, last: u64) -> Result<Vec<Listed>> {
        let first = self.get(if last == 0 { of.at + family::FIRST } else { last })?;
        self.chain(first)?.into_iter().map(|at| self.listed(at)).collect()
    }

    /// The label values of a series.
    pub(in super::super) fn values(&self, of: Child) -> Result<Vec<String>> {
        let [text, len] = [child::TEXT, child::TEXT_LEN].map(|field| self.get(of.at + field));
        let values = unpack(&self.bytes(text?, len?)?);
        values.ok_or_else(|| corrupt(&self.shared.path, "label values are no text"))
    }

    /// A new series, held by this process; in the place of one of `gone`, if one can be used again.
    pub(in super::super) fn new_child(
        &self,
        of: Place,
        values: &[impl AsRef<str>],
        gone: &mut Vec<u64>,
    ) -> Result<Child> {
        let bytes = pack(values);
        let used = self.usable(gone)?;
        if let Some(at) = used {
            self.empty(of, at)?;
        }
        let mut change = self.change();
        let text = change.put(&bytes)?;
        let serial = change.add(header::SERIAL, 1)?;
        let at = match used {
            Some(at) => at,
            None => change.take(child::RUN + of.run)?,
        };
        if used.is_some() {
            let [old, len] = [child::TEXT, child::TEXT_LEN].map(|field| self.get(at + field));
            change.give_back_bytes(old?, len?)?;
            change.add(of.at + family::EDITS, 1)?;
        } else {
            let last = change.get(of.at + family::LAST)?;
            change.set(if last == 0 { of.at + family::FIRST } else { last + child::NEXT }, at);
            change.set(of.at + family::LAST, at);
        }
        self.shared.hold(at)?;
        for (field, value) in [
            (child::SERIAL, serial),
            (child::TEXT, text),
            (child::TEXT_LEN, bytes.len() as u64),
            (child::STATE, LIVE),
        ] {
            change.set(at + field, value);
        }
        change.add(of.at + family::COUNT, 1)?;
        change.add(header::CHANGES, 1)?;
        change.commit()?;
        Ok(Child { at, serial })
    }

    /// Takes one out of those that were removed which nobody holds any more.
    fn usable(&self, gone: &mut Vec<u64>) -> Result<Option<u64>> {
        for index in (0..gone.len()).rev() {
            if self.get(gone[index] + child::STATE)? != REMOVED {
                gone.swap_remove(index); // another process has used it
            } else if !self.shared.is_held(gone[index], None)? {
                return Ok(Some(gone.swap_remove(index)));
            }
        }
        Ok(None)
    }

    fn empty(&self, of: Place, at: u64) -> Result<()> {
        self.clear_notes(of, at)?;
        for cell in self.shared.cells(at + child::RUN, of.run)? {
            put(cell, 0);
        }
        self.empty_nodes(of, at)
    }

    /// Takes a series off all pages; false if it was not there any more.
    pub(in super::super) fn remove(&self, of: Place, child: Child) -> Result<bool> {
        let listed = self.listed(child.at)?;
        if listed.child != child || !listed.is_live {
            return Ok(false);
        }
        let mut change = self.change();
        change.set(child.at + child::STATE, REMOVED);
        change.add(of.at + family::COUNT, u64::MAX)?;
        change.add(of.at + family::EDITS, 1)?;
        change.add(header::CHANGES, 1)?;
        change.commit()?;
        Ok(true)
    }

    /// Whether this is still that series.
    pub(in super::super) fn is_there(&self, child: Child) -> Result<bool> {
        Ok(self.listed(child.at)?.child == child)
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

    /// Takes away what a process had that is no more.
    pub(super) fn bury(&self, slot: usize) -> Result<()> {
        self.each(|place, at| {
            self.bury_nodes(place, at, slot)?;
            let held = self.shared.cells(at + child::HELD + slot as u64 / 64, 1)?;
            held[0].fetch_and(!(1 << (slot % 64)), Ordering::AcqRel);
            Ok(())
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

    /// The cells of a series that all processes write.
    pub(in super::super) fn run(&self, of: Place, child: Child) -> Result<&'static [AtomicU64]> {
        self.cells(child.at + child::RUN, of.run)
    }

    /// How often series of a family were removed or used again.
    pub(in super::super) fn edits(&self, of: Place) -> u64 {
        self.cells(of.at + family::EDITS, 1).map_or(0, |cells| cells[0].load(Ordering::Acquire))
    }

    /// How often a new label set met the family when it was full.
    pub(in super::super) fn overflowed(&self, of: Place) -> Option<&'static AtomicU64> {
        self.cells(of.at + family::OVERFLOWED, 1).ok().map(|cells| &cells[0])
    }

    fn held(&self, at: u64) -> Result<&'static [AtomicU64]> {
        self.cells(at + child::HELD, child::WORDS)
    }

    /// This process holds a series from now on.
    pub(in super::super) fn hold(&self, at: u64) -> Result<()> {
        let slot = self.slot();
        if slot < PROCESSES_LIMIT {
            self.held(at)?[slot / 64].fetch_or(1 << (slot % 64), Ordering::AcqRel);
        }
        Ok(())
    }

    /// It does so no more.
    pub(in super::super) fn release(&self, at: u64) {
        let slot = self.slot();
        if slot < PROCESSES_LIMIT
            && let Ok(held) = self.held(at)
        {
            held[slot / 64].fetch_and(!(1 << (slot % 64)), Ordering::AcqRel);
        }
    }

    /// Whether a process holds a series, but for this one.
    pub(in super::super) fn is_held(&self, at: u64, but: Option<usize>) -> Result<bool> {
        let held = self.held(at)?.iter().enumerate().any(|(word, cell)| {
            let own = but.filter(|slot| slot / 64 == word).map_or(0, |slot| 1 << (slot % 64));
            cell.load(Ordering::Acquire) & !own != 0
        });
        Ok(held)
    }

    /// Whether another process holds a series.
    pub(in super::super) fn is_held_elsewhere(&self, child: Child) -> bool {
        self.is_held(child.at, Some(self.slot())).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_come_back_as_they_were() {
        for values in [&[][..], &[""], &["a", "", "é\n"]] {
            assert_eq!(unpack(&pack(values)).unwrap(), values);
        }
        assert_eq!(unpack(&[5, 0, 0, 0, 65]), None);
    }

    /// What the mapping says of a family: label values, texts and gauges' values.
    fn state(guard: &Guard<'_>, place: Place) -> Vec<String> {
        let listed = guard.children_after(place, 0).unwrap();
        let live = listed.into_iter().filter(|it| it.is_live);
        let one = |child: Child| {
            let values = guard.values(child).unwrap();
            let texts = guard.notes(place, child).unwrap();
            let nodes = guard.shared.nodes(place, child);
            let owned = nodes.iter().filter(|node| node.is_owned).count();
            let left = guard.get(child.at + child::RUN).unwrap();
            format!("{values:?} {texts:?} {owned} {left}")
        };
        live.map(|it| one(it.child)).collect()
    }

    /// Every step, cut off at each of its writes, has happened as a whole or not at all, and the
    /// next holder of the lock can take it.
    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn who_dies_under_the_lock_leaves_a_whole_mapping() {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        use super::super::super::desc::{Desc, GaugeMode, Kind};
        use super::super::heap::crash;

        type Step = fn(&Guard<'_>, Place) -> Result<()>;
        let steps: [(&str, Step, usize); 6] = [
            ("a new series", |it, of| it.new_child(of, &["b"], &mut Vec::new()).map(drop), 2),
            ("a removal", |it, of| it.remove(of, it.children_after(of, 0)?[0].child).map(drop), 0),
            ("a gauge", |it, of| it.node(of, it.children_after(of, 0)?[0].child).map(drop), 1),
            (
                "a text",
                |it, of| it.set_note(of, it.children_after(of, 0)?[0].child, (1, 2), b"text"),
                1,
            ),
            (
                "a series in the place of another one",
                |it, of| {
                    let old = it.children_after(of, 0)?[0].child;
                    it.set_note(of, old, (0, 1), b"old")?;
                    it.remove(of, old)?;
                    it.shared.release(old.at);
                    it.new_child(of, &["c"], &mut vec![old.at]).map(drop)
                },
                1,
            ),
            ("an end", |it, _| it.bury(it.shared.slot()), 1),
        ];
        let desc = Desc::new(Kind::Gauge, "a", "", &["x"]).unwrap();
        let desc = desc.with_mode(GaugeMode::parse("sum").unwrap());
        let written = Written {
            desc,
            omit_empty: false,
            absent_if_empty: false,
            created: false,
            idle_ttl: None,
            series_limit: None,
            hidden: false,
        };
        let file = std::env::temp_dir().join(format!("ryot-crash-{}", std::process::id()));
        for (name, step, series) in steps {
            let mut writes = 0;
            loop {
                let shared = Shared::open(&file).unwrap();
                let place = shared.family(&written, 8, 8).unwrap();
                let guard = shared.lock().unwrap();
                let child = guard.new_child(place, &["a"], &mut Vec::new()).unwrap();
                let node = guard.node(place, child).unwrap();
                node[0].store(2.5_f64.to_bits(), Ordering::Relaxed);
                let before = state(&guard, place);
                crash::after(writes);
                let done = catch_unwind(AssertUnwindSafe(|| step(&guard, place))).is_ok();
                crash::after(u64::MAX);
                drop(guard);
                let guard = shared.lock().unwrap();
                guard.check().unwrap();
                let after = state(&guard, place);
                if done {
                    assert_eq!(after.len(), series, "{name}");
                    assert!(name == "a gauge" || after != before, "{name}");
                } else {
                    step(&guard, place).unwrap_or_else(|error| panic!("{name}: {error}"));
                    guard.check().unwrap();
                }
                drop(guard);
                drop(shared);
                std::fs::remove_file(&file).unwrap();
                if done {
                    break;
                }
                writes += 1;
            }
            assert!(writes > 3 || name == "a gauge", "{name}: {writes}");
        }
    }
}
