//! What must hold in the book between any two calls.

use super::{Cells, State};
use crate::engine::scheduler::radix::BLOCK;

impl Cells {
    /// Checks what must hold between any two calls.
    pub(in crate::engine::scheduler) fn check_integrity(&self) -> Result<(), String> {
        let ensure =
            |ok: bool, what: &str| if ok { Ok(()) } else { Err(format!("{what}: {self:?}")) };
        ensure(self.used() <= self.capacity, "no more cells are used than there are")?;
        ensure(self.live() <= self.used(), "live cells are used")?;
        let mut holds = self.tree.holds();
        for (seq, slot) in (0..).zip(&self.slots) {
            let free = slot.state == State::Free;
            ensure(free == slot.path.is_empty(), "who is not free has a path")?;
            ensure(!free || slot.tail.is_empty(), "who is free holds nothing")?;
            ensure(slot.tail.len() < BLOCK || !self.has_tree(), "full blocks are in the tree")?;
            ensure(self.unified || slot.length() <= self.part(), "no slot has more than its part")?;
            ensure(self.tokens(seq).len() == slot.length(), "lengths agree")?;
            for node in &slot.path {
                let Some((held, live)) = holds.get_mut(node) else {
                    return ensure(false, "who is held is there");
                };
                *held = held.wrapping_sub(1);
                *live = live.wrapping_sub(usize::from(slot.is_live()));
            }
        }
        let balanced = holds.values().all(|&counts| counts == (0, 0));
        ensure(balanced, "each node is held as often as slots hold it")
    }
}
