//! Fair shares of the engine for the tenants of one class: virtual token counters.
//!
//! Each tenant's counter grows with the tokens computed for it, and the smallest goes first (Sheng
//! et al., "Fairness in Serving Large Language Models", OSDI 2024, arXiv 2401.00588). Here counters
//! only bound the unfairness: whoever is more than `limit` ahead waits, all others compete by
//! deadline. Must not know: requests, deadlines, queues.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// What a prompt token costs: the paper's `w_p`.
pub const PREFILL_WEIGHT: u64 = 1;

/// What a token of an answer costs: the paper's `w_q`, after the usual prices of input and output.
pub const DECODE_WEIGHT: u64 = 2;

/// How far ahead of the least served tenant one may be, in weighted tokens, by default 1,024: a few
/// answers, so that deadlines decide between tenants that use about the same.
pub const FAIRNESS_TOKENS: u64 = 1024;

/// Tenants that left ahead of others and are still remembered for it, at most.
const MAX_DEBTORS: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Account {
    counter: u64,
    /// Requests that wait; the tenant is backlogged while there is one.
    backlog: usize,
}

/// The counters of one class's tenants.
///
/// A tenant takes part while it has requests that wait. One that comes (back) begins no lower than
/// the least of those, so nobody saves up credit by being idle; one that leaves is forgotten as
/// soon as it is not ahead of them, so memory is bounded by the tenants that wait.
///
/// For two tenants that both wait all the time, counters differ by at most `limit + work`, where
/// `work` is the weighted tokens of a tenant that are chosen before they are charged: a step's, if
/// [`Self::may_run`] is asked for each chunk. What they are served over any time differs by at
/// most twice that.
///
/// ```
/// use ryot_metrics::engine::{FAIRNESS_TOKENS, TokenCounters};
/// let mut counters = TokenCounters::new(FAIRNESS_TOKENS);
/// counters.activate(&"ann");
/// counters.activate(&"bob");
/// counters.charge(&"ann", 1000, 50);
/// assert_eq!((counters.lag(&"ann"), counters.may_run(&"ann")), (1100, false));
/// counters.charge(&"bob", 100, 0);
/// assert!(counters.may_run(&"ann"));
/// ```
#[derive(Clone, Debug)]
pub struct TokenCounters<K> {
    limit: u64,
    accounts: HashMap<K, Account>,
    /// Those that wait, the least served first.
    order: BTreeSet<(u64, K)>,
    /// The highest counter that was reached while nobody waited.
    floor: u64,
}

impl<K: Clone + Eq + Hash + Ord> TokenCounters<K> {
    /// `limit` weighted tokens are the most that one may be ahead.
    pub fn new(limit: u64) -> Self {
        Self { limit, accounts: HashMap::new(), order: BTreeSet::new(), floor: 0 }
    }

    /// One more request of this tenant waits.
    pub fn activate(&mut self, tenant: &K) {
        let least = self.least();
        let account = self.account(tenant);
        account.backlog += 1;
        if account.backlog == 1 {
            account.counter = account.counter.max(least);
            let counter = account.counter;
            self.order.insert((counter, tenant.clone()));
        }
    }

    /// One request of this tenant waits no longer.
    pub fn deactivate(&mut self, tenant: &K) {
        let Some(account) = self.accounts.get_mut(tenant) else { return };
        let counter = account.counter;
        account.backlog = account.backlog.saturating_sub(1);
        if account.backlog == 0 && self.order.remove(&(counter, tenant.clone())) {
            if self.order.is_empty() {
                self.floor = self.floor.max(counter);
            }
            self.forget();
        }
    }

    /// These tokens were computed for it, whether or not it still waits. While nobody waits they
    /// are at nobody's cost: all begin anew from there.
    pub fn charge(&mut self, tenant: &K, prefill: usize, decode: usize) {
        let cost = PREFILL_WEIGHT * prefill as u64 + DECODE_WEIGHT * decode as u64;
        let account = self.account(tenant);
        let (before, after) = (account.counter, account.counter.saturating_add(cost));
        account.counter = after;
        if account.backlog == 0 {
            if self.order.is_empty() {
                self.floor = self.floor.max(after);
            }
            self.forget();
        } else if before != after {
            self.order.remove(&(before, tenant.clone()));
            self.order.insert((after, tenant.clone()));
        }
    }

    /// How far it is ahead of the least served tenant that waits, in weighted tokens.
    pub fn lag(&self, tenant: &K) -> u64 {
        let counter = self.accounts.get(tenant).map_or(0, |account| account.counter);
        counter.saturating_sub(self.least())
    }

    /// Whether it may compete; otherwise it waits for those behind it.
    pub fn may_run(&self, tenant: &K) -> bool {
        self.lag(tenant) <= self.limit
    }

    /// Tenants that are remembered.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether no tenant is remembered.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// The least counter of those that wait, or where all begin if nobody does.
    fn least(&self) -> u64 {
        self.order.first().map_or(self.floor, |&(counter, _)| counter)
    }

    /// Its account; one that is not known was not ahead of anyone.
    fn account(&mut self, tenant: &K) -> &mut Account {
        let counter = self.least();
        if !self.accounts.contains_key(tenant) {
            self.accounts.insert(tenant.clone(), Account { counter, backlog: 0 });
        }
        self.accounts.get_mut(tenant).expect("it was inserted")
    }

    /// Drops those that neither wait nor are ahead of those that do; of too many that are ahead,
    /// the one that is the least.
    fn forget(&mut self) {
        let least = self.least();
        self.accounts.retain(|_, account| account.backlog > 0 || account.counter > least);
        if self.accounts.len() - self.order.len() > MAX_DEBTORS {
            let debtors = self.accounts.iter().filter(|(_, account)| account.backlog == 0);
            let smallest = debtors.min_by_key(|(_, account)| account.counter);
            if let Some(tenant) = smallest.map(|(tenant, _)| tenant.clone()) {
                self.accounts.remove(&tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(tenants: &[u32]) -> TokenCounters<u32> {
        let mut counters = TokenCounters::new(100);
        for tenant in tenants {
            counters.activate(tenant);
        }
        counters
    }

    #[test]
    fn who_comes_late_begins_at_the_least_and_has_no_credit() {
        let mut counters = counters(&[1, 2]);
        counters.charge(&1, 500, 0);
        counters.charge(&2, 300, 50);
        counters.activate(&3);
        assert_eq!([counters.lag(&1), counters.lag(&2), counters.lag(&3)], [100, 0, 0]);
        counters.charge(&3, 1, 0);
        assert_eq!(counters.lag(&2), 0, "the newcomer is not the least");
    }

    #[test]
    fn who_leaves_ahead_of_others_comes_back_ahead_of_them() {
        let mut counters = counters(&[1, 2]);
        counters.charge(&1, 500, 0);
        counters.deactivate(&1);
        counters.activate(&1);
        assert_eq!((counters.lag(&1), counters.may_run(&1)), (500, false));
        counters.charge(&2, 450, 0);
        assert!(counters.may_run(&1));
    }

    #[test]
    fn a_tenant_waits_only_for_others_that_wait() {
        let mut counters = counters(&[1, 2]);
        counters.charge(&1, 500, 0);
        counters.deactivate(&2);
        assert!(counters.may_run(&1));
        counters.deactivate(&1);
        assert!(counters.is_empty());
        counters.activate(&1);
        counters.activate(&2);
        assert_eq!((counters.lag(&1), counters.lag(&2)), (0, 0));
    }

    #[test]
    fn answers_that_run_on_are_charged_although_nothing_waits() {
        let mut counters = counters(&[1, 2]);
        counters.deactivate(&1);
        counters.charge(&1, 0, 75);
        counters.activate(&1);
        assert_eq!(counters.lag(&1), 150);
    }

    #[test]
    fn what_is_served_while_nobody_waits_is_no_debt() {
        let mut counters = counters(&[1]);
        counters.deactivate(&1);
        counters.charge(&1, 0, 10_000);
        counters.activate(&2);
        counters.activate(&1);
        assert_eq!((counters.lag(&1), counters.lag(&2)), (0, 0));
    }

    #[test]
    fn passing_tenants_leave_no_memory() {
        let mut counters = counters(&[0]);
        for tenant in 1..3000 {
            counters.activate(&tenant);
            counters.charge(&tenant, 10, 0);
            counters.deactivate(&tenant);
            assert!(counters.len() <= MAX_DEBTORS + 2);
        }
        counters.charge(&0, 20, 0);
        counters.deactivate(&7); // unknown: nothing
        counters.activate(&1);
        counters.deactivate(&1);
        assert_eq!(counters.len(), 1);
    }
}
