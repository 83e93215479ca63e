//! Names of metrics and labels: what is valid, and how a name that old readers do not understand
//! is written for them.
//!
//! Since Prometheus 3 a name may hold any UTF-8 text. A *legacy* name is one of the old alphabet:
//! `[a-zA-Z_:][a-zA-Z0-9_:]*`, for labels without the colon. Escaping never touches values.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static LEGACY_VALIDATION: AtomicBool = AtomicBool::new(false);

/// Whether new names must be legacy names, process-wide; default false.
pub fn set_legacy_validation(on: bool) {
    LEGACY_VALIDATION.store(on, Ordering::Relaxed);
}

/// Whether new names must be legacy names; see [`set_legacy_validation`].
pub fn legacy_validation() -> bool {
    LEGACY_VALIDATION.load(Ordering::Relaxed)
}

/// How a name that is not a legacy name is written.
///
/// ```
/// use ryot_metrics::metrics::Escaping;
/// assert_eq!(Escaping::AllowUtf8.metric_name("na.me"), "\"na.me\"");
/// assert_eq!(Escaping::Underscores.metric_name("na.me"), "na_me");
/// assert_eq!(Escaping::Dots.metric_name("na.me_x"), "na_dot_me__x");
/// assert_eq!(Escaping::Values.metric_name("na.me"), "U__na_2e_me");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Escaping {
    /// As it is, in quotes and inside the braces.
    AllowUtf8,
    /// Each foreign character becomes an underscore. The default.
    #[default]
    Underscores,
    /// A dot becomes `_dot_`, any other foreign character `__`, and `_` itself is doubled.
    Dots,
    /// `U__`, then each foreign character as its code point in hexadecimal between underscores.
    Values,
}

impl Escaping {
    /// All schemes.
    pub const ALL: [Self; 4] = [Self::AllowUtf8, Self::Underscores, Self::Dots, Self::Values];

    /// The scheme's name in `Accept` and `Content-Type` headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllowUtf8 => "allow-utf-8",
            Self::Underscores => "underscores",
            Self::Dots => "dots",
            Self::Values => "values",
        }
    }

    /// The scheme of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == name)
    }

    /// The name of a metric or sample as it is written.
    pub fn metric_name(self, name: &str) -> Cow<'_, str> {
        self.escape(name, is_legacy_metric_name(name), |c| c == ':')
    }

    /// The name of a label as it is written.
    pub fn label_name(self, name: &str) -> Cow<'_, str> {
        self.escape(name, is_legacy_label_name(name) && !name.starts_with("__"), |_| false)
    }

    fn escape(self, name: &str, legacy: bool, extra: impl Fn(char) -> bool) -> Cow<'_, str> {
        if name.is_empty() || (legacy && self != Self::Dots) {
            return name.into();
        }
        let mut out = String::with_capacity(name.len() + 8);
        if self == Self::AllowUtf8 {
            out.push('"');
            escape_value(name, &mut out);
            out.push('"');
            return out.into();
        }
        if self == Self::Values {
            out.push_str("U__");
        }
        for (index, c) in name.chars().enumerate() {
            let valid = is_word(c) || extra(c) || (index > 0 && c.is_ascii_digit());
            self.push(c, valid, &mut out);
        }
        out.into()
    }

    fn push(self, c: char, valid: bool, out: &mut String) {
        match (self, c) {
            (Self::Dots | Self::Values, '_') => out.push_str("__"),
            (Self::Dots, '.') => out.push_str("_dot_"),
            (_, c) if valid => out.push(c),
            (Self::Dots, _) => out.push_str("__"),
            (Self::Values, c) => {
                let _ = write!(out, "_{:x}_", c as u32);
            }
            _ => out.push('_'),
        }
    }
}

/// Whether a metric's name is of the old alphabet.
pub fn is_legacy_metric_name(name: &str) -> bool {
    is_legacy(name, |c| c == ':')
}

/// Whether a label's name is of the old alphabet.
pub fn is_legacy_label_name(name: &str) -> bool {
    is_legacy(name, |_| false)
}

fn is_legacy(name: &str, extra: impl Fn(char) -> bool) -> bool {
    let word = |c: char| is_word(c) || extra(c);
    let mut chars = name.chars();
    chars.next().is_some_and(&word) && chars.all(|c| word(c) || c.is_ascii_digit())
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

/// Checks the name of a new metric.
pub(super) fn check_metric_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::InvalidArgument("Metric name should not be empty".into()));
    }
    if legacy_validation() && !is_legacy_metric_name(name) {
        return Err(Error::InvalidArgument(format!("invalid metric name {name}")));
    }
    Ok(())
}

/// Checks the name of a new label.
pub(super) fn check_label_name(name: &str) -> Result<()> {
    if name.is_empty() || (legacy_validation() && !is_legacy_label_name(name)) {
        return Err(Error::InvalidArgument(format!("Invalid label metric name: {name}")));
    }
    if name.starts_with("__") {
        return Err(Error::InvalidArgument(format!("Reserved label metric name: {name}")));
    }
    Ok(())
}

/// Escapes a label value: backslash, quote and line feed, the same in all text formats.
pub(super) fn escape_value(value: &str, out: &mut String) {
    escape_text(value, true, out);
}

/// Escapes backslash and line feed, and the quote if asked to. Text without any is copied whole.
pub(super) fn escape_text(text: &str, quotes: bool, out: &mut String) {
    let mut rest = text;
    let special = |c: char| c == '\\' || c == '\n' || (quotes && c == '"');
    while let Some(at) = rest.find(special) {
        out.push_str(&rest[..at]);
        out.push('\\');
        out.push_str(if rest.as_bytes()[at] == b'\n' { "n" } else { &rest[at..=at] });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_are_escaped_as_in_prometheus_client() {
        let table = [
            ("a_b:c", ["a_b:c", "a_b:c", "a__b:c", "a_b:c"]),
            ("a.b_c", ["\"a.b_c\"", "a_b_c", "a_dot_b__c", "U__a_2e_b__c"]),
            ("0a", ["\"0a\"", "_a", "__a", "U___30_a"]),
            ("é\"", ["\"é\\\"\"", "__", "____", "U___e9__22_"]),
            ("", ["", "", "", ""]),
        ];
        for (name, expected) in table {
            assert_eq!(Escaping::ALL.map(|scheme| scheme.metric_name(name).into_owned()), expected);
        }
    }

    #[test]
    fn a_colon_is_foreign_in_a_label_name() {
        let written = Escaping::ALL.map(|scheme| scheme.label_name("a:b").into_owned());
        assert_eq!(written, ["\"a:b\"", "a_b", "a__b", "U__a_3a_b"]);
    }

    #[test]
    fn names_may_be_utf_8_but_not_empty_or_reserved() {
        assert!(check_metric_name("é 1").is_ok() && check_label_name("é 1").is_ok());
        assert!(check_metric_name("").is_err() && check_label_name("").is_err());
        assert!(check_label_name("__a").is_err());
    }

    #[test]
    fn a_scheme_is_found_by_its_name() {
        for scheme in Escaping::ALL {
            assert_eq!(Escaping::parse(scheme.as_str()), Some(scheme));
        }
        assert_eq!(Escaping::parse("x"), None);
    }
}
