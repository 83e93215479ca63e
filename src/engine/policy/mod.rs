//! What a step may hold: how many prompt tokens beside its decodes, and whose turn it is.
//!
//! All are pure values: durations are arguments, nothing here reads a clock, does I/O or knows a
//! sequence. [`StepModel`] foretells how long a step takes; a [`Policy`] turns that and the
//! tightest promise into an [`Allowance`]; [`TokenCounters`] keep tenants' shares fair.

mod budget;
mod fairness;
mod lone;
mod step_model;
mod uma;

use crate::clock::Nanos;
use crate::error::{Error, Result};

pub use self::budget::{LONE_STEP, MAX_SKIPS, MIN_PREFILL, QUANTUM, STEP, SloBudget};
pub use self::fairness::{DECODE_WEIGHT, FAIRNESS_TOKENS, PREFILL_WEIGHT, TokenCounters};
pub use self::step_model::{StepModel, Work, chunk_cells};
pub use self::uma::{UmaBudget, UmaConfig};

/// The policies by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// The largest prefill that keeps the tightest promise, by a fitted model: [`SloBudget`].
    #[default]
    Slo,
    /// The adaptive budget and the guards that UMA Serve describes: [`UmaBudget`].
    Uma,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Slo, Self::Uma];

    /// Its name in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slo => "slo",
            Self::Uma => "uma",
        }
    }

    /// The policy of this name.
    ///
    /// ```
    /// use ryot_metrics::engine::PolicyKind;
    /// assert_eq!(PolicyKind::parse("uma"), Ok(PolicyKind::Uma));
    /// let error = PolicyKind::parse("fifo").unwrap_err();
    /// assert_eq!(error.to_string(), "policy is \"fifo\"; it must be one of slo, uma");
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if there is none.
    pub fn parse(text: &str) -> Result<Self> {
        let named = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        named.ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::InvalidArgument(format!("policy is {text:?}; it must be one of {known}"))
        })
    }
}

/// What a step holds already and what waits for a place in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The decodes of this step.
    pub work: Work,
    /// Time until the tightest inter-token promise of a decoding sequence is due; none if there
    /// is no promise, or if nothing decodes.
    pub slack: Option<Nanos>,
    /// Prompt tokens that wait to be computed.
    pub wanted: usize,
    /// The position of the first of them.
    pub base_context: usize,
    /// How many tokens the batch can take beside the decodes.
    pub room: usize,
    /// Tokens that wait of the first prompt, if no answer is under way: nobody waits for the end of
    /// the step but those in it. Else 0.
    pub lone: usize,
    /// Interactive requests wait for a place: who comes waits for one too, and not for the step.
    pub crowded: bool,
    /// Each answer under way has a promise, and the first prompt is an interactive request's.
    pub promised: bool,
}

/// How much prefill a step takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Prompt tokens for this step; at most what is wanted and what there is room for.
    pub tokens: usize,
    /// The policy's budget in tokens, however much is wanted: prompt tokens of a
    /// [`SloBudget`], all tokens of a [`UmaBudget`].
    pub target: usize,
    /// Prompts wanted a place and the policy gave none.
    pub skipped: bool,
    /// What the step is given up for.
    pub yields: Yields,
}

/// What a step that is under way is given up for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Yields {
    /// Nothing.
    #[default]
    ToNothing,
    /// The cancellation of a prompt in it.
    ToCancel,
    /// That, and whoever comes: it is longer than a step that others wait for.
    ToArrival,
}

/// Picks how many prompt tokens each step computes.
///
/// ```
/// use ryot_metrics::engine::{LONE_STEP, Load, Policy, PolicyKind, STEP, Work};
/// let mut policy = Policy::new(PolicyKind::Slo, (STEP, LONE_STEP), 512);
/// let work = Work::default().with_decode(100);
/// let slack = Some(80_000_000);
/// let load = Load { work, slack, wanted: 900, room: 511, ..Load::default() };
/// let allowance = policy.prefill(&load); // two quanta: the first step is careful
/// policy.observe(&work.with_prefill(allowance.tokens, 0), 46_000_000);
/// assert_eq!((allowance.tokens, allowance.skipped), (8, false));
/// ```
#[derive(Clone, Debug)]
pub enum Policy {
    /// By promises.
    Slo(SloBudget),
    /// By an average, with guards.
    Uma(UmaBudget),
}

impl Policy {
    /// A policy for batches of `batch_size` tokens. `step` is the most time that prompts may take
    /// of a step, [`STEP`] by default, and of one that may be given up, [`LONE_STEP`]; the UMA
    /// policies have their own, [`UmaConfig`].
    pub fn new(kind: PolicyKind, step: (Nanos, Nanos), batch_size: usize) -> Self {
        match kind {
            PolicyKind::Slo => Self::Slo(SloBudget::new(step.0, step.1)),
            PolicyKind::Uma => Self::Uma(UmaBudget::new(UmaConfig::default(), batch_size)),
        }
    }

    /// How many prompt tokens the next step takes. To be asked once per step, also if nothing is
    /// wanted.
    pub fn prefill(&mut self, load: &Load) -> Allowance {
        match self {
            Self::Slo(budget) => budget.prefill(load),
            Self::Uma(budget) => budget.prefill(load),
        }
    }

    /// How many of the decodes in `background`, which have no promise, join those of `load`, which
    /// have. The caller lets them take turns, so that each runs at least once in
    /// [`MAX_SKIPS`]` + 1` steps.
    pub fn background_decodes(&self, load: &Load, background: &Work) -> usize {
        match self {
            Self::Slo(budget) => budget.background_decodes(load, background),
            Self::Uma(_) => background.decodes,
        }
    }

    /// The most tokens of one prompt in one step, while others wait; `answered` if it is computed
    /// again after its first token.
    pub fn chunk(&self, answered: bool) -> usize {
        match self {
            Self::Slo(_) => usize::MAX,
            Self::Uma(budget) => budget.chunk(answered),
        }
    }

    /// A step was computed: what it held, and how long it took.
    pub fn observe(&mut self, work: &Work, nanos: Nanos) {
        match self {
            Self::Slo(budget) => budget.observe(work, nanos),
            Self::Uma(budget) => budget.observe(work, nanos),
        }
    }

    /// The last step was given up after so many nanoseconds.
    pub fn interrupted(&mut self, nanos: Nanos) {
        match self {
            Self::Slo(budget) => budget.interrupted(nanos),
            Self::Uma(_) => (), // its steps yield to nothing
        }
    }

    /// An interactive request came since the last step was planned, which was this policy's.
    pub fn somebody_came(&mut self) {
        match self {
            Self::Slo(budget) => budget.somebody_came(),
            Self::Uma(_) => (),
        }
    }

    /// How long steps take, as learned so far.
    pub fn model(&self) -> &StepModel {
        match self {
            Self::Slo(budget) => budget.model(),
            Self::Uma(budget) => budget.model(),
        }
    }
}
