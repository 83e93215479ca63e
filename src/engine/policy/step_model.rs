//! How long a step will take: a linear model of a step's work, fitted online.
//!
//! `seconds = fixed + token·(prefill + decodes) + logits·rows with logits + cell·KV cells read`, with
//! another price of a cell in steps of at least [`TILE`] rows, fitted by recursive least squares with
//! exponential forgetting. What it learns are factors on a
//! prior, of which each is about 1, and from relative errors, since the noise of a step grows with
//! its length. Must not know: budgets, promises, sequences, clocks.

use crate::clock::Nanos;

/// What a step computes, as far as its duration depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Prompt tokens.
    pub prefill: usize,
    /// Rows that continue answers.
    pub decodes: usize,
    /// Rows with logits: every decode, and the last token of each prompt.
    pub logits: usize,
    /// KV cells read: the sum over all rows of their position + 1.
    pub context: usize,
}

impl Work {
    /// The same and one more decode, of a sequence that holds `past` tokens.
    #[must_use]
    pub fn with_decode(self, past: usize) -> Self {
        let (decodes, logits) = (self.decodes + 1, self.logits + 1);
        Self { decodes, logits, context: self.context + past + 1, ..self }
    }

    /// The same and a chunk of `tokens` prompt tokens, the first at position `base`. A chunk may
    /// end its prompt, so it counts as one row with logits.
    ///
    /// ```
    /// use ryot_metrics::engine::Work;
    /// let work = Work::default().with_decode(10).with_prefill(3, 5);
    /// assert_eq!(work, Work { prefill: 3, decodes: 1, logits: 2, context: 11 + 6 + 7 + 8 });
    /// ```
    #[must_use]
    pub fn with_prefill(self, tokens: usize, base: usize) -> Self {
        Self {
            prefill: self.prefill + tokens,
            logits: self.logits + usize::from(tokens > 0),
            context: self.context + chunk_cells(tokens, base),
            ..self
        }
    }
}

/// KV cells that a chunk of a prompt reads: `base + 1` for its first token up to `base + tokens`.
pub fn chunk_cells(tokens: usize, base: usize) -> usize {
    tokens * (2 * base + tokens + 1) / 2
}

/// Parts of a step's duration: fixed, per token, per row with logits, per KV cell in a step of few
/// rows, per KV cell in one of many.
const PARTS: usize = 5;
const FEW: usize = 3;
const MANY: usize = 4;
type Vector = [f64; PARTS];

/// Seconds per part, before anything was seen: measured with `SmolLM2-135M` (`Q4_1`) on 2 threads,
/// a decode step of 1 / 8 / 32 sequences in 12.5 / 60 / 180 ms and 4–5 ms per prompt token, 7 ms
/// at 512. Another model or machine differs mostly by one factor, which a few steps tell.
const PRIOR: Vector = [10e-3, 4.2e-3, 1.2e-3, 10e-6, 4e-6];

/// Rows from which on llama.cpp takes other kernels on a CPU, attention in tiles among them: a prompt's
/// token costs 0.7 to 0.8 of before. The prior of the cell's price there is a guess.
const TILE: usize = 64;

/// What a step's weight becomes with each later step: half after 7, a tenth after 22 steps, so that
/// a machine that changed is known again within about 20.
const FORGETTING: f64 = 0.9;

/// Variance of a factor at the start, in units of the variance of a step's relative duration:
/// 50 % against 10 %, squared.
const OPEN: f64 = 25.0;

/// How much the factors of a cell's two prices have to do with each other at the start: a machine that
/// reads cells faster in steps of few rows does so in those of many, which might never be tried else.
const RELATED: f64 = 0.9;

/// The least factor: what was never seen to cost anything keeps a trace of a price, so that no
/// budget is infinite. A thousandth of the prior is below any device's.
const FLOOR: f64 = 1e-3;

/// A step that is this many times as long as predicted, or as short, is an outlier: it teaches
/// no more than this. Three times the deviation of a quiet machine (10 %).
const OUTLIER: f64 = 1.3;

/// So many outliers in a row, on one side, are the machine's new pace: all parts take it.
const NEW_PACE_AFTER: usize = 4;

/// The share of steps that shall end within the prediction and its margin: promises are kept by
/// their 99th percentile, and half of what may fail is left to other causes.
const COVERAGE: f64 = 0.995;

/// How far one step that took longer widens the margin; others narrow it so much less that the
/// margin rests where [`COVERAGE`] of steps keep within it.
const MARGIN_STEP: f64 = 0.02;

/// The margin before the first step, and the most: beyond it the machine, and not the model, is
/// what cannot be foreseen.
const MARGIN: (f64, f64) = (0.1, 0.5);

/// The model. A value: it is told durations and asks no clock.
///
/// ```
/// use ryot_metrics::engine::{StepModel, Work};
/// let mut model = StepModel::default();
/// let work = Work::default().with_decode(100).with_decode(40);
/// for _ in 0..20 {
///     model.observe(&work, 33_000_000);
/// }
/// assert!(model.predict(&work).abs_diff(33_000_000) < 500_000);
/// assert!(model.predict(&work.with_prefill(64, 0)) > model.predict(&work));
/// ```
#[derive(Clone, Debug)]
pub struct StepModel {
    /// The machine's pace: how many times as long as the prior it takes for everything.
    pace: f64,
    /// What each part costs, in units of prior × pace.
    factors: Vector,
    covariance: [Vector; PARTS],
    margin: f64,
    /// The least of the last outliers, as a logarithm, and how many they are, all on one side.
    outliers: (f64, usize),
}

impl Default for StepModel {
    fn default() -> Self {
        let mut covariance = [[0.0; PARTS]; PARTS];
        (0..PARTS).for_each(|i| covariance[i][i] = OPEN);
        (covariance[FEW][MANY], covariance[MANY][FEW]) = (RELATED * OPEN, RELATED * OPEN);
        Self { pace: 1.0, factors: [1.0; PARTS], covariance, margin: MARGIN.0, outliers: (0.0, 0) }
    }
}

impl StepModel {
    /// How long such a step will take, most likely.
    pub fn predict(&self, work: &Work) -> Nanos {
        (self.seconds(work) * 1e9) as Nanos
    }

    /// How long such a step will take at most, save one of 200.
    pub fn predict_within(&self, work: &Work) -> Nanos {
        (self.seconds(work) * (1.0 + self.margin) * 1e9) as Nanos
    }

    /// Learns from a step that took `nanos`.
    pub fn observe(&mut self, work: &Work, nanos: Nanos) {
        let predicted = self.seconds(work);
        let ratio = nanos.max(1) as f64 / 1e9 / predicted;
        self.widen(ratio - 1.0);
        if !self.changes_pace(ratio.ln()) {
            let shares = self.priced(work).map(|seconds| seconds / predicted);
            self.learn(&shares, ratio.clamp(1.0 / OUTLIER, OUTLIER) - 1.0);
        }
    }

    /// How much longer than predicted a step may be, relative to the prediction: what 199 of 200
    /// steps keep within, as adaptive conformal inference tracks it (Gibbs and Candès,
    /// arXiv 2106.00263). From 0 to 0.5.
    pub fn error(&self) -> f64 {
        self.margin
    }

    /// Seconds that `tokens` prompt tokens from position `base` add to steps that run anyway: what
    /// a cached prefix saves, and what a prompt still has before it.
    pub fn prefill_seconds(&self, tokens: usize, base: usize) -> f64 {
        let parts = [0, tokens, 0, chunk_cells(tokens, base), 0];
        dot(&self.price(parts), &self.factors)
    }

    fn seconds(&self, work: &Work) -> f64 {
        dot(&self.priced(work), &self.factors)
    }

    /// The parts at prior × pace, in seconds.
    fn priced(&self, work: &Work) -> Vector {
        let rows = work.prefill + work.decodes;
        let (few, many) = if rows < TILE { (work.context, 0) } else { (0, work.context) };
        self.price([1, rows, work.logits, few, many])
    }

    fn price(&self, counts: [usize; PARTS]) -> Vector {
        std::array::from_fn(|i| counts[i] as f64 * PRIOR[i] * self.pace)
    }

    /// One step of recursive least squares: `shares` of the prediction, and its relative error.
    /// Only what a step tells of is forgotten (Kulhavý's directional forgetting): steps that are
    /// all alike neither blur what others taught nor blow the covariance up.
    fn learn(&mut self, shares: &Vector, error: f64) {
        let spread: Vector = std::array::from_fn(|i| dot(&self.covariance[i], shares));
        let variance = dot(shares, &spread);
        if variance <= 0.0 {
            return; // nothing new about parts that are certain
        }
        let told = (FORGETTING - (1.0 - FORGETTING) / variance) / FORGETTING;
        for i in 0..PARTS {
            let gain = spread[i] / (1.0 + variance);
            self.factors[i] = (self.factors[i] + gain * error).max(FLOOR);
            let row = self.covariance[i].iter_mut();
            row.zip(spread).for_each(|(cell, other)| *cell -= gain * other * told);
        }
    }

    /// A lone outlier is another process that had the core; several are the machine itself, whose
    /// pace changes by what all of them agree on. Whether it did.
    fn changes_pace(&mut self, log_ratio: f64) -> bool {
        let (least, count) = self.outliers;
        self.outliers = match log_ratio.abs() > OUTLIER.ln() {
            true if least * log_ratio > 0.0 => (nearer_zero(least, log_ratio), count + 1),
            true => (log_ratio, 1),
            false => (0.0, 0),
        };
        if self.outliers.1 < NEW_PACE_AFTER {
            return false;
        }
        self.pace *= self.outliers.0.exp();
        self.outliers = (0.0, 0);
        true
    }

    fn widen(&mut self, error: f64) {
        let step = if error > self.margin { COVERAGE } else { COVERAGE - 1.0 };
        self.margin = (self.margin + MARGIN_STEP * step).clamp(0.0, MARGIN.1);
    }
}

fn nearer_zero(a: f64, b: f64) -> f64 {
    if a.abs() < b.abs() { a } else { b }
}

fn dot(a: &Vector, b: &Vector) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decodes(count: usize, past: usize) -> Work {
        (0..count).fold(Work::default(), |work, _| work.with_decode(past))
    }

    fn millis(model: &StepModel, work: &Work) -> f64 {
        model.predict(work) as f64 / 1e6
    }

    fn counts(work: &Work) -> [usize; PARTS] {
        let rows = work.prefill + work.decodes;
        let tiled = usize::from(rows >= TILE);
        [1, rows, work.logits, work.context * (1 - tiled), work.context * tiled]
    }

    /// A machine that the model does not know: nanoseconds per part, and noise of ±10 %.
    struct Machine([f64; PARTS], u64);

    impl Machine {
        fn nanos(&mut self, work: &Work) -> Nanos {
            self.1 = self.1.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let noise = 0.9 + 0.2 * (self.1 >> 40) as f64 / (1_u64 << 24) as f64;
            (counts(work).iter().zip(self.0).map(|(&n, each)| n as f64 * each).sum::<f64>() * noise)
                as u64
        }
    }

    fn mixed(step: usize) -> Work {
        let work = decodes(1 + step % 5, 40 + 3 * step % 700);
        if step.is_multiple_of(3) {
            work.with_prefill(8 * (1 + step % 11), step % 500)
        } else {
            work
        }
    }

    fn run(model: &mut StepModel, machine: &mut Machine, steps: std::ops::Range<usize>) {
        for step in steps {
            model.observe(&mixed(step), machine.nanos(&mixed(step)));
        }
    }

    fn relative_error(model: &StepModel, machine: &Machine, work: &Work) -> f64 {
        let truth: f64 = counts(work).iter().zip(machine.0).map(|(&n, each)| n as f64 * each).sum();
        (model.predict(work) as f64 / truth - 1.0).abs()
    }

    const CPU: [f64; PARTS] = [6e6, 5e6, 2e6, 3e3, 1e3];

    #[test]
    fn prior_is_within_a_third_of_what_was_measured() {
        let model = StepModel::default();
        for (count, measured) in
            [(1, 12.5), (2, 22.0), (4, 42.0), (8, 60.0), (16, 97.0), (32, 180.0)]
        {
            let predicted = millis(&model, &decodes(count, 10));
            assert!((predicted / measured - 1.0).abs() < 0.33, "{count}: {predicted}");
        }
        for (tokens, measured) in [(64, 4.5), (128, 4.5), (512, 7.0)] {
            let predicted = 1e3 * model.prefill_seconds(tokens, 0) / tokens as f64;
            assert!((predicted / measured - 1.0).abs() < 0.12, "{tokens}: {predicted}");
        }
    }

    #[test]
    fn a_machine_becomes_known_within_a_hundred_noisy_steps() {
        for scale in [0.02, 0.5, 1.0, 20.0] {
            let (mut model, mut machine) =
                (StepModel::default(), Machine(CPU.map(|n| n * scale), 1));
            run(&mut model, &mut machine, 0..100);
            for work in [decodes(4, 300), decodes(1, 50), decodes(3, 100).with_prefill(32, 200)] {
                let error = relative_error(&model, &machine, &work);
                assert!(error < 0.12, "{scale} {work:?}: {error}");
            }
        }
    }

    /// Long steps of prompts alone must not make those beside answers look cheaper than they are.
    #[test]
    fn steps_of_many_rows_say_nothing_of_the_cells_of_others() {
        let (mut model, mut machine) = (StepModel::default(), Machine(CPU, 5));
        run(&mut model, &mut machine, 0..200);
        let work = decodes(4, 700).with_prefill(12, 700);
        for step in 0..100 {
            let alone = Work::default().with_prefill(64, 64 * (step % 20));
            model.observe(&alone, machine.nanos(&alone));
        }
        let error = relative_error(&model, &machine, &work);
        assert!(error < 0.12, "{error}");
    }

    /// Long steps would never be tried if their cells were thought dear.
    #[test]
    fn cheap_cells_in_steps_of_few_rows_are_expected_in_those_of_many() {
        let mut model = StepModel::default();
        let mut machine = Machine([10e6, 4.2e6, 1.2e6, 4e3, 0.0], 1);
        for step in 0..60 {
            let work = Work::default().with_prefill(12 + step % 7 * 8, 20 * step);
            model.observe(&work, machine.nanos(&work));
        }
        assert!(model.factors[MANY] < 0.6, "{:?}", model.factors);
    }

    #[test]
    fn a_lone_outlier_changes_little_and_a_new_pace_is_known_after_20_steps() {
        let (mut model, mut machine) = (StepModel::default(), Machine(CPU, 2));
        run(&mut model, &mut machine, 0..200);
        let work = decodes(4, 300).with_prefill(16, 100);
        let before = millis(&model, &work);
        model.observe(&mixed(7), 5 * machine.nanos(&mixed(7)));
        assert!((millis(&model, &work) / before - 1.0).abs() < 0.15);
        for scale in [5.0, 0.2, 1.2] {
            machine.0 = machine.0.map(|nanos| nanos * scale);
            run(&mut model, &mut machine, 0..20);
            let error = relative_error(&model, &machine, &work);
            assert!(error < 0.15, "{scale}: {error}");
        }
    }

    #[test]
    fn a_hundred_thousand_steps_that_are_alike_leave_the_rest_as_it_was() {
        let (mut model, mut machine) = (StepModel::default(), Machine(CPU, 3));
        run(&mut model, &mut machine, 0..200);
        let prefill = model.prefill_seconds(64, 0);
        for _ in 0..100_000 {
            model.observe(&decodes(2, 90), machine.nanos(&decodes(2, 90)));
        }
        assert!((model.prefill_seconds(64, 0) / prefill - 1.0).abs() < 0.3);
        assert!(relative_error(&model, &machine, &decodes(2, 90)) < 0.05);
        for row in 0..PARTS {
            let own = model.covariance[row][row];
            assert!((0.0..=2.0 * OPEN).contains(&own), "{:?}", model.covariance);
        }
    }

    #[test]
    fn margin_covers_99_of_100_steps() {
        let (mut model, mut machine) = (StepModel::default(), Machine(CPU, 4));
        run(&mut model, &mut machine, 0..500);
        let mut late = 0;
        for step in 0..5000 {
            let (work, nanos) = (mixed(step), machine.nanos(&mixed(step)));
            late += usize::from(nanos > model.predict_within(&work));
            model.observe(&work, nanos);
        }
        assert!(late <= 50, "{late}");
        assert!(model.error() < 0.2, "{}", model.error());
    }

    #[test]
    fn nothing_is_free_and_nothing_breaks_it() {
        let mut model = StepModel::default();
        for (step, nanos) in [0, 1, u64::MAX, 0, 0, 0, 0, 0, 1, u64::MAX].into_iter().enumerate() {
            model.observe(&mixed(step), nanos);
            model.observe(&Work::default(), nanos);
            let (less, more) = (decodes(2, 10), decodes(2, 10).with_prefill(8, 0));
            assert!(model.seconds(&less).is_finite() && model.seconds(&less) > 0.0);
            assert!(model.seconds(&more) > model.seconds(&less));
        }
    }
}
