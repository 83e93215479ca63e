//! A label set: its values, and the text between the braces, rendered once.

use std::hash::{Hash, Hasher};

use indexmap::Equivalent;

use super::desc::Desc;
use super::names::escape_value;

/// The values of one series' labels and their rendered text.
///
/// Names are in alphabetical order in the text, as `prometheus_client` writes them, and the label
/// that a kind adds to its samples (`le`, `quantile`, a state) has its place among them. The names
/// are written as they are: the text is for legacy names only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelSet {
    values: Box<[Box<str>]>,
    text: Box<str>,
    /// Where in `text` the added label belongs.
    added_at: usize,
    omit_empty: bool,
}

impl LabelSet {
    /// Renders `names` with `values`; with `omit_empty`, a label whose value is empty is left out.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(names: &[N], values: &[V], omit_empty: bool) -> Self {
        Self::beside("le", names, values, omit_empty)
    }

    /// The same beside an added label of another name than `le`.
    pub(crate) fn beside<N: AsRef<str>, V: AsRef<str>>(
        added: &str,
        names: &[N],
        values: &[V],
        omit_empty: bool,
    ) -> Self {
        debug_assert_eq!(names.len(), values.len());
        let mut pairs: Vec<(&str, &str)> = names
            .iter()
            .zip(values)
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
            .filter(|(_, value)| !(omit_empty && value.is_empty()))
            .collect();
        pairs.sort_unstable();
        let mut text = String::new();
        let mut added_at = 0;
        for (name, value) in pairs {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
            escape_value(value, &mut text);
            text.push('"');
            if name < added {
                added_at = text.len();
            }
        }
        let values = values.iter().map(|value| value.as_ref().into()).collect();
        Self { values, text: text.into(), added_at, omit_empty }
    }

    /// The same with more values, under a description that names all of them.
    pub(super) fn extended<'a>(&'a self, desc: &Desc, more: impl Iterator<Item = &'a str>) -> Self {
        let values: Vec<&str> = self.values.iter().map(|value| &**value).chain(more).collect();
        Self::beside(desc.added_label(), &desc.label_names, &values, self.omit_empty)
    }

    /// The values, in the order of the family's label names.
    pub fn values(&self) -> &[Box<str>] {
        &self.values
    }

    /// The labels as they are on the page, given the names that the set was made with.
    pub fn pairs<'a>(&'a self, names: &'a [Box<str>]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = names.iter().zip(&self.values).map(|(name, value)| (&**name, &**value));
        pairs.filter(|(_, value)| !(self.omit_empty && value.is_empty()))
    }

    /// The text between the braces: `a="1",b="2"`, or empty.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text before and after the added label.
    pub fn around_added(&self) -> (&str, &str) {
        let (before, after) = self.text.split_at(self.added_at);
        (before, after.strip_prefix(',').unwrap_or(after))
    }
}

/// A key of a map by label values.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnedKey(pub(super) Box<[Box<str>]>);

impl OwnedKey {
    /// The values.
    pub fn values(&self) -> &[Box<str>] {
        &self.0
    }

    /// Copies the values.
    pub fn new<V: AsRef<str>>(values: &[V]) -> Self {
        Self(values.iter().map(|value| value.as_ref().into()).collect())
    }
}

/// The same, borrowed from whatever the caller has.
#[derive(Debug)]
pub struct Key<'a, V>(pub &'a [V]);

impl Hash for OwnedKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Key(&self.0).hash(state);
    }
}

impl<V: AsRef<str>> Hash for Key<'_, V> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in self.0 {
            value.as_ref().hash(state);
        }
    }
}

impl<V: AsRef<str>> Equivalent<OwnedKey> for Key<'_, V> {
    fn equivalent(&self, key: &OwnedKey) -> bool {
        self.0.len() == key.0.len()
            && self.0.iter().zip(&key.0).all(|(a, b)| same_text(a.as_ref(), b))
    }
}

/// Whether two texts are equal. An empty boxed text points nowhere, and a vectorised memcmp of
/// nothing at a bad address takes a hundred nanoseconds on some processors.
pub(crate) fn same_text(a: &str, b: &str) -> bool {
    a.len() == b.len() && (a.is_empty() || a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_values_escaped() {
        let labels = LabelSet::new(&["b", "a"], &["x\"y\\z\n", ""], false);
        assert_eq!(labels.text(), r#"a="",b="x\"y\\z\n""#);
        assert_eq!(&*labels.values()[0], "x\"y\\z\n");
    }

    #[test]
    fn an_empty_value_can_be_left_out() {
        assert_eq!(LabelSet::new(&["a", "b"], &["", "1"], true).text(), "b=\"1\"");
    }

    #[test]
    fn le_has_its_alphabetical_place() {
        let around = |names: &[&str]| {
            let labels = LabelSet::new(names, &vec!["1"; names.len()], false);
            let (before, after) = labels.around_added();
            (before.to_owned(), after.to_owned())
        };
        assert_eq!(around(&[]), (String::new(), String::new()));
        assert_eq!(around(&["a", "z"]), ("a=\"1\"".into(), "z=\"1\"".into()));
        assert_eq!(around(&["z"]), (String::new(), "z=\"1\"".into()));
        assert_eq!(around(&["a"]), ("a=\"1\"".into(), String::new()));
    }
}
