//! What can be asked of a vocabulary's logits without sorting all of them.
//!
//! A vocabulary has 50,000 to 260,000 tokens, and these functions run for each token of each answer
//! on the engine's thread. Must not know: parameters, histories. Logits that are NaN count as −∞.

use std::cmp::Ordering;

use crate::backend::{Candidate, Token};

/// The index of the first maximum; none if all are −∞ or NaN.
///
/// Works in blocks, so that the inner loop has no index to carry and compiles to vector
/// instructions; only the block that holds the maximum is looked at twice.
///
/// ```
/// use ryot_metrics::engine::argmax;
/// assert_eq!(argmax(&[1.0, f32::NAN, 3.0, 3.0]), Some(2));
/// assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY]), None);
/// ```
#[allow(clippy::float_cmp)] // the maximum is one of the values
pub fn argmax(values: &[f32]) -> Option<usize> {
    const BLOCK: usize = 1024;
    let mut best = (f32::NEG_INFINITY, 0);
    for (index, block) in values.chunks(BLOCK).enumerate() {
        let max = block_max(block);
        if max > best.0 {
            best = (max, index * BLOCK);
        }
    }
    let (max, start) = best;
    let offset = values[start..].iter().position(|&value| value == max)?;
    (max > f32::NEG_INFINITY).then_some(start + offset)
}

/// The maximum of a block without its NaNs.
fn block_max(block: &[f32]) -> f32 {
    const LANES: usize = 16;
    // Written as a comparison: `f32::max` would add a test for NaN to each lane.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| larger(max, value))
}

/// All tokens that can be drawn at all. An infinite logit is made finite: ∞ − ∞ is NaN.
pub(super) fn finite(logits: &[f32]) -> impl Iterator<Item = Candidate> {
    (0..)
        .zip(logits)
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(token, logit)| Candidate { token, logit: logit.min(f32::MAX) })
}

/// A candidate's probability, but for the common divisor. Summed in double precision: over a
/// whole vocabulary, single precision would shift the end of the nucleus.
pub(super) fn weight(candidate: Candidate, max: f32) -> f64 {
    f64::from((candidate.logit - max).exp())
}

#[allow(clippy::trivially_copy_pass_by_ref)] // what sorting asks for
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The `k` likeliest tokens, likeliest first; of equals, the lower token.
///
/// Collects what beats a threshold, and cuts the collection back to `k` when it has doubled, which
/// raises the threshold: nearly all tokens cost one comparison.
pub(super) fn keep_top_k(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let room = (2 * k).max(256);
    let mut threshold = f32::NEG_INFINITY;
    for candidate in finite(logits) {
        if candidate.logit > threshold {
            out.push(candidate);
            if out.len() >= room {
                out.select_nth_unstable_by(k - 1, by_rank);
                out.truncate(k);
                threshold = out[k - 1].logit;
            }
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, by_rank);
        out.truncate(k);
    }
    out.sort_unstable_by(by_rank);
}

/// Of sorted candidates, the first whose probabilities reach `p`; false if these do not.
/// `total` is the weight of all tokens, of which these may be the head only.
pub(super) fn keep_top_p(sorted: &mut Vec<Candidate>, p: f32, max: f32, total: f64) -> bool {
    let mut sum = 0.0;
    let reached = sorted.iter().position(|candidate| {
        sum += weight(*candidate, max) / total;
        sum >= f64::from(p)
    });
    if let Some(last) = reached
        && p < 1.0
    {
        sorted.truncate(last + 1);
    }
    reached.is_some()
}

/// How likely the model itself held a token, and which tokens it held likeliest.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The natural logarithm of the drawn token's probability.
    pub drawn: f32,
    /// The likeliest tokens and the logarithms of their probabilities, likeliest first.
    pub top: Vec<(Token, f32)>,
}

impl Logprobs {
    /// Of the drawn token and of the `top` likeliest, by a softmax over the whole vocabulary.
    ///
    /// ```
    /// use ryot_metrics::engine::Logprobs;
    /// let half = Logprobs::of(&[1.0, f32::NEG_INFINITY, 1.0], 2, 1, &mut Vec::new());
    /// assert_eq!((half.drawn, half.top), (0.5_f32.ln(), vec![(0, 0.5_f32.ln())]));
    /// ```
    pub fn of(logits: &[f32], drawn: Token, top: usize, room: &mut Vec<Candidate>) -> Self {
        let max = argmax(logits).map_or(0.0, |best| logits[best].min(f32::MAX));
        let total: f64 = finite(logits).map(|candidate| weight(candidate, max)).sum();
        let logprob = |logit: f32| (f64::from(logit.min(f32::MAX) - max) - total.ln()) as f32;
        room.clear();
        if top > 0 {
            keep_top_k(logits, top, room);
        }
        Self {
            drawn: logprob(logits[drawn as usize]),
            top: room.iter().map(|kept| (kept.token, logprob(kept.logit))).collect(),
        }
    }
}
