//! A request's time in the queue.

use super::{Request, State};
use crate::clock::{Nanos, seconds_between};
use crate::llm::catalogue::Name;
use crate::llm::labels::Priority;

impl Request {
    /// It waits in a queue.
    pub fn queued(&self) {
        self.queued_as(Priority::Normal);
    }

    /// It waits in a queue; if it does already, it does so with this priority from now on.
    pub fn queued_as(&self, priority: Priority) {
        let whole = self.whole();
        let mut state = whole.state.lock();
        if !state.finished {
            whole.leave_queue(&mut state);
            state.queued = Some(priority);
            whole.queue_depth(priority, 1.0);
        }
    }

    /// Whether it was in the queue, which it is no more.
    pub(super) fn leave_queue(&self, state: &mut State) -> bool {
        let left = state.queued.take();
        left.inspect(|priority| self.queue_depth(*priority, -1.0)).is_some()
    }

    /// It left the queue; records the time since it began, if it had waited for the first time.
    pub fn scheduled(&self, at: Nanos) {
        let whole = self.whole();
        let mut state = whole.state.lock();
        if whole.leave_queue(&mut state) && state.scheduled_at.is_none() {
            state.scheduled_at = Some(at);
            whole.record_queue_wait(seconds_between(whole.began, at));
        }
    }

    fn record_queue_wait(&self, seconds: f64) {
        let make = || self.recorder.family(Name::QueueWait).series(&[&*self.scope().key.model]);
        self.scope().queue_wait.get(make).observe(seconds);
    }

    fn queue_depth(&self, priority: Priority, change: f64) {
        let labels = [&*self.scope().key.model, priority.as_str()];
        let make = || self.recorder.family(Name::QueueDepth).series(&labels);
        self.scope().queue_depth[priority as usize].get(make).add(change);
    }
}
