//! How long a step of prompts alone may be, which is given up for whoever comes.
//!
//! A long step has less work for each of its rows than several short ones have, and is lost if
//! somebody comes before its end. Must not know: decodes, promises, the model of step times.

use crate::clock::Nanos;

/// The seconds of lone steps over which it is remembered how often somebody came.
const MEMORY: f64 = 8.0;

/// What lone steps have told so far.
#[derive(Clone, Debug)]
pub(super) struct LoneSteps {
    longest: Nanos,
    /// Time that steps have earned, up to two of the longest: each completed one adds what it took,
    /// each that is given up costs twice that, and none may cost more than there is. So at most a
    /// third of the time is lost, however many come.
    earned: Nanos,
    /// The last step was a lone one, and nobody has come since it was planned.
    undisturbed: bool,
    /// How many came in the last lone steps, one in each at most; decays, as the time does, which
    /// is at [`MEMORY`] therefore.
    came: f64,
}

impl LoneSteps {
    pub(super) fn new(longest: Nanos) -> Self {
        Self { longest, earned: 0, undisturbed: false, came: 0.0 }
    }

    /// The longest that there may be.
    pub(super) fn longest(&self) -> Nanos {
        self.longest
    }

    /// The longest that can be given up at its end, by what was earned.
    pub(super) fn affordable(&self) -> Nanos {
        (self.earned / 2).min(self.longest)
    }

    /// What gets done a second of steps that do so much `work` in so much time, if each is given up
    /// for whoever comes and people go on coming as they did: of work W in T seconds, with λ who
    /// come a second (a Poisson process), W e^-λT gets done in (1 - e^-λT) / λ seconds.
    pub(super) fn pace(&self, work: f64, nanos: Nanos) -> f64 {
        let seconds = nanos.max(1) as f64 / 1e9;
        let come = self.came / MEMORY * seconds;
        let left = if come < 1e-9 { 1.0 } else { come / come.exp_m1() };
        work / seconds * left
    }

    /// The next step is planned; whether it is a lone one.
    pub(super) fn planned(&mut self, is_lone: bool) {
        self.undisturbed = is_lone;
    }

    /// Somebody came since the last step was planned.
    pub(super) fn somebody_came(&mut self) {
        self.came += f64::from(u8::from(std::mem::take(&mut self.undisturbed)));
    }

    /// The last step, lone or not, took so long.
    pub(super) fn completed(&mut self, nanos: Nanos) {
        self.earned = self.earned.saturating_add(nanos).min(self.longest.saturating_mul(2));
        self.forget(nanos);
    }

    /// It was given up after so long.
    pub(super) fn given_up(&mut self, nanos: Nanos) {
        self.earned = self.earned.saturating_sub(nanos.saturating_mul(2));
        self.forget(nanos);
    }

    fn forget(&mut self, nanos: Nanos) {
        if self.undisturbed {
            self.came *= (-(nanos as f64) / 1e9 / MEMORY).exp();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    /// As many as came come still, one in a step at most, and none in steps of another kind.
    #[test]
    fn who_came_is_remembered_for_a_while() {
        let close = |one: f64, other: f64| (one - other).abs() < 1e-9;
        let mut steps = LoneSteps::new(500 * MS);
        assert!(close(steps.pace(50.0, 500 * MS), 100.0));
        for lone in [true, false] {
            steps.planned(lone);
            (0..3).for_each(|_| steps.somebody_came());
            steps.completed(65 * MS);
        }
        assert!(close(steps.came, 1.0));
        assert!(close(steps.pace(50.0, 500 * MS), 100.0 * 0.0625 / 0.0625_f64.exp_m1()));
        for _ in 0..16 {
            steps.planned(true);
            steps.completed(500 * MS);
        }
        assert!(close(steps.came, (-1.0_f64).exp()));
    }
}
