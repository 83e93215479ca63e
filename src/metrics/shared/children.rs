//! The series of a family in a mapping, by label values.
//!
//! A series that was removed stays in its chain, and is used again for new label values when no
//! process holds it any more; its number is a new one then. So a process knows what it has seen
//! by where it is and by its number.

use super::super::sync::AtomicU64;
use super::families::{LIVE, Place, REMOVED, family};
use super::heap::{Guard, header, put};
use super::{PROCESSES_LIMIT, Shared, corrupt};
use crate::error::Result;

/// Cells of a series' record; its run comes after them.
pub(super) mod child {
    pub(in super::super) const NEXT: u64 = 0;
    pub(in super::super) const SERIAL: u64 = 1;
    pub(in super::super) const TEXT: u64 = 2;
    pub(in super::super) const TEXT_LEN: u64 = 3;
    pub(in super::super) const STATE: u64 = 4;
    pub(in super::super) const NODES: u64 = 5;
    /// A bit for each process that holds its memory.
    pub(in super::super) const HELD: u64 = 6;
    /// A bit for each process in which somebody may write it.
    pub(in super::super) const USED: u64 = HELD + WORDS;
    pub(in super::super) const RUN: u64 = USED + WORDS;
    pub(in super::super) const WORDS: u64 = super::PROCESSES_LIMIT as u64 / 64;
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
    pub(super) fn listed(&self, at: u64) -> Result<Listed> {
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
            } else if !self.is_held(gone[index])? {
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
}

impl Shared {
    /// The cells of a series that all processes write.
    pub(in super::super) fn run(&self, of: Place, child: Child) -> Result<&'static [AtomicU64]> {
        self.cells(child.at + child::RUN, of.run)
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
}
