//! Texts of a series that are written seldom: the facts of an info, exemplars.
//!
//! A table of them is made with the first. Each is replaced as a whole under the lock; a version
//! beside the table tells readers when to look again.

use super::super::sync::Ordering;
use super::Shared;
use super::children::{Child, child};
use super::families::Place;
use super::heap::{Guard, put};
use crate::error::Result;

/// The last cells of a run: where the table is, and its version.
pub(in super::super) const CELLS: u64 = 2;

fn table_at(of: Place, at: u64) -> u64 {
    at + child::RUN + of.run - CELLS
}

impl Shared {
    /// Grows with each text.
    pub(in super::super) fn notes_version(&self, of: Place, child: Child) -> u64 {
        let version = self.cells(table_at(of, child.at) + 1, 1);
        version.map_or(0, |cells| cells[0].load(Ordering::Acquire))
    }
}

impl Guard<'_> {
    /// Replaces one of `count` texts.
    pub(in super::super) fn set_note(
        &self,
        of: Place,
        child: Child,
        (index, count): (usize, usize),
        text: &[u8],
    ) -> Result<()> {
        let mut change = self.change();
        let place = table_at(of, child.at);
        let mut table = change.get(place)?;
        if table == 0 {
            table = change.take(1 + count as u64)?;
            put(&self.shared.cells(table, 1)?[0], count as u64);
            change.set(place, table);
        }
        let cell = table + 1 + index as u64;
        let old = change.get(cell)?;
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text);
        let at = change.put(&bytes)?;
        change.set(cell, at);
        if old != 0 {
            change.give_back_bytes(old, 8 + self.get(old)?)?;
        }
        change.add(place + 1, 1)?;
        change.commit()
    }

    /// All texts, in their order.
    pub(in super::super) fn notes(&self, of: Place, child: Child) -> Result<Vec<Option<Vec<u8>>>> {
        let table = self.get(table_at(of, child.at))?;
        if table == 0 {
            return Ok(Vec::new());
        }
        let note = |index| {
            let at = self.get(table + 1 + index)?;
            if at == 0 { Ok(None) } else { self.bytes(at + 1, self.get(at)?).map(Some) }
        };
        (0..self.get(table)?).map(note).collect()
    }

    /// Gives back all texts of a series that nobody holds.
    pub(super) fn clear_notes(&self, of: Place, at: u64) -> Result<()> {
        let place = table_at(of, at);
        let table = self.get(place)?;
        if table == 0 {
            return Ok(());
        }
        let count = self.get(table)?;
        for cell in (0..count).map(|index| table + 1 + index) {
            let mut change = self.change();
            let text = change.get(cell)?;
            if text != 0 {
                change.give_back_bytes(text, 8 + self.get(text)?)?;
                change.set(cell, 0);
                change.commit()?;
            }
        }
        let mut change = self.change();
        change.give_back(table, 1 + count)?;
        change.set(place, 0);
        change.commit()
    }
}
