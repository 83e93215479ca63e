//! What each process has of a series for itself: a gauge's value, a native histogram.
//!
//! A node belongs to its series for ever and to one process at a time. Its memory is read without
//! the lock, so it is never used for anything else.

use super::super::desc::{Desc, GaugeMode, Kind, Merge};
use super::super::sync::{AtomicU64, Ordering};
use super::children::{Child, child};
use super::families::Place;
use super::heap::{Guard, put};
use super::{Shared, corrupt};
use crate::error::Result;

const NEXT: u64 = 0;
/// Nobody, a process by its place in the table, or one that is no more.
const OWNER: u64 = 1;
const PID: u64 = 2;
const DATA: u64 = 3;

const NOBODY: u64 = 0;
/// Its value stays on the page.
const DEAD: u64 = u64::MAX;

/// The most values of processes that are no more, of one gauge of the mode `all`.
pub(in super::super) const DEAD_LIMIT: usize = 64;

/// The number of a gauge's mode; 0 where a node's next owner goes on with what is in it.
pub(super) fn mode(desc: &Desc) -> u64 {
    let place = GaugeMode::ALL.iter().position(|mode| *mode == desc.mode);
    if desc.kind == Kind::Gauge { place.map_or(0, |place| place as u64 + 1) } else { 0 }
}

fn gauge_mode(mode: u64) -> Option<GaugeMode> {
    GaugeMode::ALL.get(mode.checked_sub(1)? as usize).copied()
}

/// One process' part.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Node {
    /// Somebody's: its process is there, or its value stays.
    pub(in super::super) is_owned: bool,
    pub(in super::super) pid: u64,
    pub(in super::super) data: &'static [AtomicU64],
}

impl Shared {
    fn node_places(&self, at: u64) -> Result<Vec<u64>> {
        let mut places = Vec::new();
        let mut node = self.cells(at + child::NODES, 1)?[0].load(Ordering::Acquire);
        while node != 0 {
            places.push(node);
            if places.len() > super::PROCESSES_LIMIT + DEAD_LIMIT {
                return Err(corrupt(&self.path, "a series has too many processes"));
            }
            node = self.cells(node + NEXT, 1)?[0].load(Ordering::Acquire);
        }
        Ok(places)
    }

    /// The parts of all processes.
    pub(in super::super) fn nodes(&self, of: Place, child: Child) -> Vec<Node> {
        let node = |at: u64| {
            let cells = self.cells(at, DATA + of.node).ok()?;
            let (head, data) = cells.split_at(DATA as usize);
            let is_owned = head[OWNER as usize].load(Ordering::Acquire) != NOBODY;
            Some(Node { is_owned, pid: head[PID as usize].load(Ordering::Relaxed), data })
        };
        self.node_places(child.at).unwrap_or_default().into_iter().filter_map(node).collect()
    }
}

impl Guard<'_> {
    /// This process' part of a series: what it has, what another one left, or a new one.
    pub(in super::super) fn node(&self, of: Place, child: Child) -> Result<&'static [AtomicU64]> {
        let (own, pid) = (self.shared.slot() as u64 + 1, u64::from(std::process::id()));
        let places = self.shared.node_places(child.at)?;
        let owned =
            |owner: u64| move |at: &&u64| self.get(**at + OWNER).is_ok_and(|it| it == owner);
        if let Some(at) = places.iter().find(owned(own)) {
            return self.shared.cells(at + DATA, of.node);
        }
        let dead: Vec<&u64> = places.iter().filter(owned(DEAD)).collect();
        let same = dead.iter().copied().find(|at| self.get(**at + PID).is_ok_and(|it| it == pid));
        let oldest = dead.last().copied().filter(|_| dead.len() >= DEAD_LIMIT);
        let mut change = self.change();
        let at = if let Some(&at) = same.or_else(|| places.iter().find(owned(NOBODY))).or(oldest) {
            if of.mode != 0 {
                (0..of.node).for_each(|cell| change.set(at + DATA + cell, 0));
            }
            at
        } else {
            let at = change.take(DATA + of.node)?;
            let next = change.get(child.at + child::NODES)?;
            change.set(at + NEXT, next);
            change.set(child.at + child::NODES, at);
            at
        };
        change.set(at + PID, pid);
        change.set(at + OWNER, own);
        change.commit_move()?;
        self.shared.cells(at + DATA, of.node)
    }

    pub(super) fn check_nodes(&self, of: Place, at: u64) -> Result<()> {
        for node in self.shared.node_places(at)? {
            self.shared.cells(node, DATA + of.node)?;
        }
        Ok(())
    }

    /// Nobody has a part of a series that begins anew.
    pub(super) fn empty_nodes(&self, of: Place, at: u64) -> Result<()> {
        for node in self.shared.node_places(at)? {
            for cell in &self.shared.cells(node, DATA + of.node)?[OWNER as usize..] {
                put(cell, 0);
            }
        }
        Ok(())
    }

    /// Ends a process' part of a series.
    pub(super) fn bury_nodes(&self, of: Place, at: u64, slot: usize) -> Result<()> {
        for node in self.shared.node_places(at)? {
            if self.get(node + OWNER)? == slot as u64 + 1 {
                self.bury_node(of, at + child::RUN, node)?;
            }
        }
        Ok(())
    }

    fn bury_node(&self, of: Place, run: u64, node: u64) -> Result<()> {
        let mut change = self.change();
        let Some(mode) = gauge_mode(of.mode) else {
            change.set(node + OWNER, NOBODY); // its data wait for another process
            return change.commit();
        };
        if mode.merge == Merge::All && !mode.is_live {
            change.set(node + OWNER, DEAD);
            return change.commit();
        }
        if !mode.is_live {
            // The first two cells of the run: what dead processes add up to, and whether any does.
            let value = f64::from_bits(self.get(node + DATA)?);
            let left = f64::from_bits(self.get(run)?);
            let merged = if self.get(run + 1)? == 0 { value } else { mode.merge.of(left, value) };
            change.set(run, merged.to_bits());
            change.set(run + 1, 1);
        }
        change.set(node + OWNER, NOBODY);
        change.set(node + DATA, 0);
        change.commit_move()
    }
}
