//! What tokens cost: prices by model, and exact sums of what was spent.
//!
//! Money is counted in whole pico-dollars (10⁻¹² USD), so that a million small amounts add up to
//! exactly their sum; the page shows that sum, rounded once. A restarted process begins at zero,
//! and every process has its own sum, so a price depends on nothing but the request itself: tiers
//! are tiers of one request.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use super::catalogue::Name;
use super::families::Families;
use crate::metrics::Series;

/// Dollars × 10¹².
pub(super) type Pico = u128;

const PICO_PER_USD: Pico = 1_000_000_000_000;

/// The model that stands for all those without a price of their own.
const ANY_MODEL: &str = "*";

/// How prices are made, as the label `cost_model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostKind {
    /// Each token costs the same.
    FixedRate,
    /// Later tokens of a request cost something else than its first.
    Tiered,
    /// Code of the service says what a request costs.
    Dynamic,
}

impl CostKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::FixedRate, Self::Tiered, Self::Dynamic];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FixedRate => "fixed_rate",
            Self::Tiered => "tiered",
            Self::Dynamic => "dynamic",
        }
    }

    /// The kind with this label value, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Which tokens, as the label `token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Those that a request brought.
    Prompt,
    /// Those that it was answered with.
    Completion,
}

impl TokenType {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Completion => "completion",
        }
    }
}

/// The tokens of a request up to a number, and what each of them costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The last token of the request that this price is for.
    pub up_to: u64,
    /// The price of one token.
    pub each: Pico,
}

/// The prices of a model.
#[derive(Clone, Debug)]
pub struct CostModel {
    /// How they are made.
    pub kind: CostKind,
    /// Tiers of the prompt, by rising `up_to`; tokens past the last one are free.
    pub prompt: Vec<Tier>,
    /// Tiers of the completion.
    pub completion: Vec<Tier>,
}

impl CostModel {
    /// What so many tokens of one request cost.
    pub fn cost(&self, tokens_of: TokenType, tokens: u64) -> Pico {
        let tiers = match tokens_of {
            TokenType::Prompt => &self.prompt,
            TokenType::Completion => &self.completion,
        };
        let mut charged = 0;
        let mut cost: Pico = 0;
        for tier in tiers {
            let until = tokens.min(tier.up_to).max(charged);
            cost = cost.saturating_add(tier.each.saturating_mul(Pico::from(until - charged)));
            charged = until;
        }
        cost
    }
}

/// The number nearest to an exact sum. Beyond 2⁵³ a division would round twice.
fn usd(sum: Pico) -> f64 {
    if sum < 1 << 53 {
        return sum as f64 / PICO_PER_USD as f64;
    }
    let text = format!("{}.{:012}", sum / PICO_PER_USD, sum % PICO_PER_USD);
    text.parse().expect("digits and one point are a number")
}

/// The prices that were set, and what was spent.
#[derive(Debug, Default)]
pub(super) struct Costs {
    /// Some price was set: what a service without prices pays is one load.
    used: AtomicBool,
    models: RwLock<HashMap<Box<str>, CostModel>>,
    /// Series and their exact sums, by the address of the series: models past the limit of
    /// series share one.
    spent: Mutex<HashMap<usize, (Arc<Series>, Pico)>>,
}

impl Costs {
    pub(super) fn set(&self, model: &str, cost: Option<CostModel>) {
        let mut models = self.models.write();
        match cost {
            Some(cost) => models.insert(model.into(), cost),
            None => models.remove(model),
        };
        self.used.store(!models.is_empty(), Ordering::Release);
    }

    /// Charges a request's tokens. True if only code of the service knows the price.
    pub(super) fn charge(&self, families: &Families, model: &str, tokens: [u64; 2]) -> bool {
        if !self.used.load(Ordering::Acquire) || tokens == [0, 0] {
            return false;
        }
        let models = self.models.read();
        let Some(cost) = models.get(model).or_else(|| models.get(ANY_MODEL)) else { return false };
        if cost.kind == CostKind::Dynamic {
            return true;
        }
        let prompt = cost.cost(TokenType::Prompt, tokens[0]);
        let amounts = [prompt, cost.cost(TokenType::Completion, tokens[1])];
        self.spend(families, model, cost.kind, amounts);
        false
    }

    /// Adds amounts for the prompt and for the completion.
    pub(super) fn spend(
        &self,
        families: &Families,
        model: &str,
        kind: CostKind,
        amounts: [Pico; 2],
    ) {
        for (amount, token_type) in
            amounts.into_iter().zip([TokenType::Prompt, TokenType::Completion])
        {
            if amount > 0 {
                let labels = [model, token_type.as_str(), kind.as_str()];
                let series = families.get(Name::TokenCost).series(&labels);
                let mut spent = self.spent.lock();
                let sum = spent.entry(Arc::as_ptr(&series).addr()).or_insert((series, 0));
                sum.1 = sum.1.saturating_add(amount);
                sum.0.set(usd(sum.1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiers(tiers: &[(u64, Pico)]) -> CostModel {
        let prompt = tiers.iter().map(|&(up_to, each)| Tier { up_to, each }).collect();
        CostModel { kind: CostKind::Tiered, prompt, completion: vec![] }
    }

    #[test]
    fn each_token_costs_what_its_tier_says() {
        let cost = tiers(&[(10, 5), (20, 3), (u64::MAX, 1)]);
        let of = |tokens| cost.cost(TokenType::Prompt, tokens);
        assert_eq!([of(0), of(10), of(11), of(20), of(25)], [0, 50, 53, 80, 85]);
        assert_eq!(cost.cost(TokenType::Completion, 9), 0, "no tier, no price");
    }

    #[test]
    fn sums_are_rounded_once() {
        assert_eq!(usd(1_500_000).to_bits(), 0.000_001_5_f64.to_bits());
        let large = 9_007_199_254_740_993_000_001;
        assert_eq!(usd(large).to_bits(), 9_007_199_254.740_993_f64.to_bits());
    }

    #[test]
    fn an_absurd_price_saturates() {
        let cost = tiers(&[(u64::MAX, Pico::MAX)]);
        assert_eq!(cost.cost(TokenType::Prompt, u64::MAX), Pico::MAX);
    }
}
