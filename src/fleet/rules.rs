//! Which families are added up, and how their gauges are combined. Pure.

use crate::error::{Error, Result};

/// What gauges of several workers make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Their sum.
    #[default]
    Sum,
    /// The least of them.
    Min,
    /// The greatest.
    Max,
    /// Their mean.
    Mean,
    /// No one value: every worker has its own, with its name in the label `worker`.
    Each,
}

impl Mode {
    const ALL: [(&str, Self); 5] = [
        ("sum", Self::Sum),
        ("min", Self::Min),
        ("max", Self::Max),
        ("mean", Self::Mean),
        ("each", Self::Each),
    ];
}

/// The rules of one aggregator.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Patterns of the families that are added up.
    families: Vec<String>,
    /// Patterns of gauges, and what is made of them; the first that fits counts.
    gauges: Vec<(String, Mode)>,
    /// The most series of a family.
    pub(super) series_limit: usize,
}

impl Rules {
    /// # Errors
    /// [`Error::InvalidArgument`] for an unknown mode.
    pub(super) fn new(families: &[String], gauges: &[String], series_limit: usize) -> Result<Self> {
        let gauges = gauges.iter().map(|rule| {
            let (pattern, word) = rule.split_once('=').unwrap_or((rule, ""));
            let mode = Mode::ALL.into_iter().find(|mode| mode.0 == word);
            mode.map(|mode| (pattern.to_owned(), mode.1)).ok_or_else(|| {
                let words = Mode::ALL.map(|mode| mode.0).join(", ");
                let text =
                    format!("gauge is {rule:?}; it must be NAME=MODE, with a mode of {words}");
                Error::InvalidArgument(text)
            })
        });
        Ok(Self {
            families: families.to_vec(),
            gauges: gauges.collect::<Result<_>>()?,
            series_limit,
        })
    }

    /// Whether a family is added up.
    pub(super) fn takes(&self, family: &str) -> bool {
        self.families.iter().any(|pattern| fits(pattern, family))
    }

    /// What is made of a family's gauges.
    pub(super) fn mode(&self, family: &str) -> Mode {
        let rule = self.gauges.iter().find(|(pattern, _)| fits(pattern, family));
        rule.map_or(Mode::Sum, |(_, mode)| *mode)
    }
}

/// Whether a name fits a pattern, in which `*` stands for any text.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(head) else { return false };
    let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
    ends.into_iter().any(|at| fits(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in [("*", ""), ("a*", "a"), ("a*c", "abc"), ("*b*", "abc"), ("a", "a")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("", "a"), ("a*", "b"), ("a*c", "acd"), ("a", "ab")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let gauges = ["a_max=max".to_owned(), "a*=each".to_owned()];
        let rules = Rules::new(&["a*".to_owned()], &gauges, 1).unwrap();
        assert_eq!(
            (rules.mode("a_max"), rules.mode("a"), rules.mode("b")),
            (Mode::Max, Mode::Each, Mode::Sum)
        );
        assert_eq!((rules.takes("a_max"), rules.takes("b")), (true, false));
        let error = Rules::new(&[], &["a=most".to_owned()], 1).unwrap_err().to_string();
        assert_eq!(
            error,
            "gauge is \"a=most\"; it must be NAME=MODE, with a mode of sum, min, max, mean, each"
        );
    }
}
