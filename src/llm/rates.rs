//! Tokens over time: how many per second in the last minutes, by model and class of batch.
//!
//! Who counts a token says when; it goes into a slot of five seconds, so that counting is one
//! atomic step and the history has the size of the longest window. A page sums the slots of a
//! window: the rate is of the time that these slots cover, and of no time before the recorder was
//! made. Time is an argument. Worker processes that share a mapping have their slots there. Must not
//! know: names of families, series.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;
use parking_lot::RwLock;

use super::classes::{BATCH_SIZES, batch_size_index};
use super::labels::DTYPES;
use super::shared_rates::SharedRates;
use super::windows::Window;
use crate::clock::{Nanos, seconds_between};
use crate::error::{Error, Result};
use crate::metrics::sync::{AtomicU64, Ordering};
use crate::metrics::{SERIES_LIMIT, Shared};

pub(super) const SLOT_SECONDS: u64 = 5;
const SLOT: Nanos = SLOT_SECONDS * 1_000_000_000;

/// Lengths in slots that families have by their definition.
pub(super) const MINUTE: usize = 12;
pub(super) const FIVE_MINUTES: usize = 60;
/// A quarter of an hour is always kept, so that the default windows can be chosen at any time.
const SLOTS_AT_LEAST: usize = 180;

/// A slot holds the number of its five seconds above this many bits, and its tokens in them.
const TOKEN_BITS: u32 = 40;
const TOKENS: u64 = (1 << TOKEN_BITS) - 1;

/// The slots of the longest window.
#[derive(Debug)]
enum Ring {
    Own(Box<[AtomicU64]>),
    Shared(&'static [AtomicU64]),
}

impl Ring {
    fn new(slots: usize) -> Self {
        Self::Own((0..slots).map(|_| AtomicU64::new(0)).collect())
    }

    fn slots(&self) -> &[AtomicU64] {
        match self {
            Self::Own(slots) => slots,
            Self::Shared(slots) => slots,
        }
    }

    fn slot(&self, epoch: u64) -> &AtomicU64 {
        let slots = self.slots();
        &slots[epoch as usize % slots.len()]
    }

    fn add(&self, at: Nanos, tokens: u64) {
        let epoch = at / SLOT;
        let _ = self.slot(epoch).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let count = match old >> TOKEN_BITS {
                same if same == epoch => old & TOKENS,
                later if later > epoch => return None, // later than the longest window
                _ => 0,
            };
            Some(epoch << TOKEN_BITS | (count + tokens).min(TOKENS))
        });
    }

    /// Tokens of the last `slots` slots up to that of `now`.
    fn sum(&self, now: Nanos, slots: usize) -> u64 {
        let last = now / SLOT;
        let first = (last + 1).saturating_sub(slots as u64);
        let of = |epoch: u64| {
            let slot = self.slot(epoch).load(Ordering::Relaxed);
            if slot >> TOKEN_BITS == epoch { slot & TOKENS } else { 0 }
        };
        (first..=last).map(of).sum()
    }
}

/// The tokens of one model.
#[derive(Debug)]
pub(super) struct ModelRates {
    rings: [OnceLock<Ring>; BATCH_SIZES.len()],
    /// Where the type that the model computes in stands among [`DTYPES`].
    dtype: AtomicUsize,
    /// The length of a ring that is made now.
    slots: Arc<AtomicUsize>,
    name: Arc<str>,
    shared: Arc<OnceLock<SharedRates>>,
}

impl ModelRates {
    /// Counts tokens that were produced in a batch of so many sequences, 0 if unknown.
    pub(super) fn add(&self, at: Nanos, batch_size: usize, tokens: u64) {
        let class = batch_size_index(batch_size);
        let shared = self.shared.get();
        let at = shared.map_or(at, |shared| shared.time(at));
        self.rings[class].get_or_init(|| self.ring(BATCH_SIZES[class])).add(at, tokens);
    }

    fn ring(&self, class: &str) -> Ring {
        let shared = self.shared.get().and_then(|shared| shared.slots(&self.name, class));
        shared.map_or_else(|| Ring::new(self.slots.load(Ordering::Relaxed)), Ring::Shared)
    }

    pub(super) fn set_dtype(&self, index: usize) {
        self.dtype.store(index, Ordering::Relaxed);
        if let Some(cell) = self.shared.get().and_then(|shared| shared.dtype(&self.name)) {
            cell.store(index as u64 + 1, Ordering::Relaxed);
        }
    }

    pub(super) fn dtype(&self) -> &'static str {
        let cell = self.shared.get().and_then(|shared| shared.dtype(&self.name));
        let shared = cell.map_or(0, |cell| cell.load(Ordering::Relaxed)) as usize;
        let own = self.dtype.load(Ordering::Relaxed);
        DTYPES[shared.checked_sub(1).filter(|it| *it < DTYPES.len()).unwrap_or(own)]
    }
}

/// One figure of a model.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) model: Arc<str>,
    pub(super) batch_size: &'static str,
    pub(super) tokens_per_second: f64,
}

/// The tokens of all models.
#[derive(Debug)]
pub(super) struct Rates {
    began: Nanos,
    limit: AtomicUsize,
    windows: RwLock<Vec<Window>>,
    /// The length of the longest window.
    slots: Arc<AtomicUsize>,
    models: RwLock<IndexMap<Arc<str>, Arc<ModelRates>>>,
    shared: Arc<OnceLock<SharedRates>>,
}

impl Rates {
    /// Nothing was counted before `began`.
    pub(super) fn new(began: Nanos) -> Self {
        Self {
            began,
            limit: SERIES_LIMIT.into(),
            windows: RwLock::default(),
            slots: Arc::new(SLOTS_AT_LEAST.into()),
            models: RwLock::default(),
            shared: Arc::default(),
        }
    }

    /// Counts together with the other processes of a mapping from now on.
    pub(super) fn share(&self, shared: &Arc<Shared>, now: Nanos) -> Result<()> {
        let slots = self.slots.load(Ordering::Relaxed);
        let _ = self.shared.set(SharedRates::new(shared, slots, now)?);
        Ok(())
    }

    /// Takes over the models that other processes have counted tokens of.
    fn look(&self) {
        let Some(shared) = self.shared.get() else { return };
        for (values, slots) in shared.all() {
            let [model, class] = &*values else { continue };
            if let Some(class) = BATCH_SIZES.iter().position(|it| **it == **class) {
                self.of(model).rings[class].get_or_init(|| Ring::Shared(slots));
            }
        }
    }

    /// Whether what is kept reaches back over these windows.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if tokens were counted already, and kept for less.
    pub(super) fn check_windows(&self, windows: &[Window]) -> Result<()> {
        let models = self.models.read();
        let rings = models.values().flat_map(|rates| &rates.rings).filter_map(OnceLock::get);
        let Some(kept) = rings.map(|ring| ring.slots().len()).min() else { return Ok(()) };
        windows.iter().find(|window| window.slots > kept).map_or(Ok(()), |window| {
            let (name, kept) = (&window.name, kept as u64 * SLOT_SECONDS);
            let text = format!(
                "windows has {name:?}, but tokens were counted already and are kept for {kept}s; \
                 configure longer windows before the first token"
            );
            Err(Error::InvalidArgument(text))
        })
    }

    /// Shows the rates over these windows, and keeps tokens as long as the longest needs.
    pub(super) fn set_windows(&self, windows: Vec<Window>) {
        let longest = windows.iter().map(|window| window.slots).max().unwrap_or_default();
        self.slots.store(longest.max(SLOTS_AT_LEAST), Ordering::Relaxed);
        *self.windows.write() = windows;
    }

    pub(super) fn windows(&self) -> Vec<Window> {
        self.windows.read().clone()
    }

    /// Past so many models, new ones are counted together.
    pub(super) fn set_limit(&self, models: usize) {
        self.limit.store(models, Ordering::Relaxed);
    }

    /// Where the tokens of a model are counted. Keep it.
    pub(super) fn of(&self, model: &str) -> Arc<ModelRates> {
        if let Some(rates) = self.models.read().get(model) {
            return rates.clone();
        }
        let mut models = self.models.write();
        let full =
            models.len() >= self.limit.load(Ordering::Relaxed) && !models.contains_key(model);
        let name: Arc<str> = if full { "__overflow__" } else { model }.into();
        let empty = || ModelRates {
            rings: Default::default(),
            dtype: AtomicUsize::default(),
            slots: self.slots.clone(),
            name: name.clone(),
            shared: self.shared.clone(),
        };
        models.entry(name.clone()).or_insert_with(|| Arc::new(empty())).clone()
    }

    /// Whether a token of this model was ever counted.
    pub(super) fn knows(&self, model: &str) -> bool {
        self.look();
        let models = self.models.read();
        models.get(model).is_some_and(|rates| rates.rings.iter().any(|ring| ring.get().is_some()))
    }

    /// The rates over a window of so many slots, of each model and class of batch that had a token.
    pub(super) fn over(&self, slots: usize, now: Nanos) -> Vec<Rate> {
        self.look();
        let (now, began) = match self.shared.get() {
            Some(shared) => (shared.time(now), 0),
            None => (now, self.began),
        };
        let start = (now / SLOT + 1).saturating_sub(slots as u64) * SLOT;
        // In the first second after the start, a rate would be anything.
        let seconds = seconds_between(start.max(began), now).max(1.0);
        let models = self.models.read();
        let rings = models.iter().flat_map(|(model, rates)| {
            let rings = rates.rings.iter().zip(BATCH_SIZES);
            rings.filter_map(move |(ring, class)| Some((model, class, ring.get()?)))
        });
        rings
            .map(|(model, batch_size, ring)| Rate {
                model: model.clone(),
                batch_size,
                tokens_per_second: ring.sum(now, slots) as f64 / seconds,
            })
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // whole numbers
mod tests {
    use super::super::windows::{DEFAULT_WINDOWS, parse_windows};
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn rate(rates: &Rates, slots: usize, now: Nanos) -> f64 {
        rates.over(slots, now).iter().map(|rate| rate.tokens_per_second).sum()
    }

    /// 1, 5 and 15 minutes.
    const WINDOWS: [usize; 3] = [MINUTE, FIVE_MINUTES, SLOTS_AT_LEAST];

    fn with_windows(names: &[&str]) -> Rates {
        let rates = Rates::new(0);
        rates.set_windows(parse_windows(names).unwrap());
        rates
    }

    #[test]
    fn a_window_forgets_what_lies_before_it() {
        let rates = with_windows(&DEFAULT_WINDOWS);
        let model = rates.of("m");
        for second in 0..600 {
            model.add(second * SECOND, 1, 20);
        }
        let [minute, five, quarter] = WINDOWS.map(|window| rate(&rates, window, 600 * SECOND));
        // The slot that has just begun is empty: 55 s of tokens in 55 s, 10 minutes in 10.
        assert_eq!([minute, five, quarter], [20.0, 20.0, 20.0]);
        let [minute, five, quarter] = WINDOWS.map(|window| rate(&rates, window, 660 * SECOND));
        assert_eq!(minute, 0.0);
        assert!((five - 20.0 * 235.0 / 295.0).abs() < 1e-9, "{five}");
        assert!((quarter - 20.0 * 600.0 / 660.0).abs() < 1e-9, "{quarter}");
        assert_eq!(WINDOWS.map(|window| rate(&rates, window, 2_000 * SECOND)), [0.0; 3]);
    }

    #[test]
    fn a_rate_is_of_no_time_before_the_beginning() {
        let rates = Rates::new(100 * SECOND);
        rates.of("m").add(102 * SECOND, 0, 30);
        assert_eq!(rate(&rates, MINUTE, 103 * SECOND), 10.0);
        assert_eq!(rate(&rates, MINUTE, 102 * SECOND), 15.0);
    }

    #[test]
    fn classes_of_batches_are_apart() {
        let rates = Rates::new(0);
        rates.of("m").add(SECOND, 1, 10);
        rates.of("m").add(SECOND, 3, 20);
        rates.of("m").add(SECOND, 4, 20);
        let found = rates.over(MINUTE, 10 * SECOND);
        let found: Vec<_> =
            found.iter().map(|rate| (rate.batch_size, rate.tokens_per_second)).collect();
        assert_eq!(found, [("1", 1.0), ("2-4", 4.0)]);
    }

    #[test]
    fn history_is_as_long_as_the_longest_window_and_grows_before_the_first_token_only() {
        let rates = with_windows(&["30s", "1h"]);
        rates.of("m").add(0, 1, 720);
        let hour = rates.windows()[1].slots;
        assert!((rate(&rates, hour, 3_590 * SECOND) * 3_590.0 - 720.0).abs() < 1e-6);
        assert_eq!(rate(&rates, hour, 3_600 * SECOND), 0.0);
        assert!(rates.check_windows(&parse_windows(&["1h", "1m"]).unwrap()).is_ok());

        let rates = with_windows(&["30s"]);
        let longer = parse_windows(&["20m"]).unwrap();
        assert!(rates.check_windows(&longer).is_ok());
        rates.of("m").add(0, 1, 1);
        let error = rates.check_windows(&longer).unwrap_err().to_string();
        assert!(error.contains("\"20m\"") && error.contains("900s"), "{error}");
    }

    #[test]
    fn a_slot_is_used_again_and_late_tokens_are_not_counted() {
        let rates = with_windows(&DEFAULT_WINDOWS);
        let model = rates.of("m");
        model.add(SECOND, 0, 5);
        model.add(901 * SECOND, 0, 7);
        model.add(2 * SECOND, 0, 100);
        assert!((rate(&rates, MINUTE, 905 * SECOND) * 55.0 - 7.0).abs() < 1e-9);
    }

    #[test]
    fn a_model_without_a_token_has_no_rate_and_too_many_share_one() {
        let rates = Rates::new(0);
        rates.set_limit(2);
        rates.of("a");
        assert!(!rates.knows("a"));
        for model in ["b", "c", "d"] {
            rates.of(model).add(0, 0, 1);
        }
        let found = rates.over(MINUTE, SECOND);
        let found: Vec<_> =
            found.iter().map(|rate| (&*rate.model, rate.tokens_per_second)).collect();
        assert_eq!(found, [("b", 1.0), ("__overflow__", 2.0)]);
    }
}
