//! Who is connected, and who has to go when too many are.
//!
//! Waiting for a place would let clients that say nothing keep a scraper out for as long as the
//! read timeout. So a new connection always gets a place, and the quietest one loses its own:
//! those that never asked anything first. A scraper asks at once, so it is never among these.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

/// The connections of one server.
#[derive(Debug)]
pub(super) struct Seats {
    limit: usize,
    /// Counts up with everything that happens.
    tick: AtomicU64,
    taken: Mutex<HashMap<u64, Taken>>,
}

#[derive(Debug)]
struct Taken {
    /// Whether it has asked something, and the tick at which it last did.
    last: (bool, u64),
    /// Known once its task is.
    task: Option<AbortHandle>,
}

/// One connection's place, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    id: u64,
    seats: Arc<Seats>,
}

impl Seats {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, tick: AtomicU64::new(0), taken: Mutex::default() })
    }

    /// A place, for which the quietest connection may have to go.
    pub(super) fn take(self: &Arc<Self>) -> Seat {
        self.take_from(|_| true).expect("with all places taken, somebody is the quietest")
    }

    /// A place, for which only a connection may have to go that never asked anything.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Seat> {
        self.take_from(|seat| !seat.last.0)
    }

    /// How many are taken.
    pub(super) fn count(&self) -> usize {
        self.taken.lock().len()
    }

    fn take_from(self: &Arc<Self>, may_go: impl Fn(&Taken) -> bool) -> Option<Seat> {
        let id = self.tick();
        let mut taken = self.taken.lock();
        if taken.len() >= self.limit {
            let losers = taken.iter().filter(|(_, seat)| may_go(seat));
            let quietest = losers.min_by_key(|(_, seat)| seat.last).map(|(id, _)| *id);
            if let Some(task) = taken.remove(&quietest?).and_then(|seat| seat.task) {
                task.abort();
            }
        }
        taken.insert(id, Taken { last: (false, id), task: None });
        Some(Seat { id, seats: Arc::clone(self) })
    }

    /// Says which task has the place with this number.
    pub(super) fn assign(&self, id: u64, task: AbortHandle) {
        if let Some(seat) = self.taken.lock().get_mut(&id) {
            seat.task = Some(task);
        }
    }

    fn tick(&self) -> u64 {
        self.tick.fetch_add(1, Ordering::Relaxed)
    }
}

impl Seat {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The connection asks something.
    pub(super) fn active(&self) {
        let tick = self.seats.tick();
        if let Some(seat) = self.seats.taken.lock().get_mut(&self.id) {
            seat.last = (true, tick);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(seats: &Seats) -> Vec<u64> {
        let mut ids: Vec<u64> = seats.taken.lock().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn the_quietest_loses_its_place() {
        let seats = Seats::new(3);
        let (first, second, third) = (seats.take(), seats.take(), seats.take());
        first.active();
        let fourth = seats.take();
        assert_eq!(ids(&seats), [first.id(), third.id(), fourth.id()]);
        third.active();
        fourth.active();
        let fifth = seats.take(); // all have asked: the first one longest ago
        assert_eq!(ids(&seats), [third.id(), fourth.id(), fifth.id()]);
        drop((first, second, third));
        assert_eq!(ids(&seats), [fourth.id(), fifth.id()]);
    }

    #[test]
    fn who_has_asked_can_be_asked_for_no_place() {
        let seats = Seats::new(2);
        let (first, second) = (seats.take(), seats.take());
        second.active();
        let third = seats.try_take().unwrap();
        assert_eq!(ids(&seats), [second.id(), third.id()]);
        third.active();
        assert!(seats.try_take().is_none());
        drop((first, third));
        assert!(seats.try_take().is_some());
        assert_eq!(seats.count(), 1);
    }
}
