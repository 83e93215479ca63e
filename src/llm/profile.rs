//! Profiles: the same events under other names. A profile is a table of derived families, which
//! costs nothing until a page in it is asked for.
//!
//! `ryot` is the catalogue with its views; the others have a file each.

mod otel;
mod vllm;

use super::derived::DerivedRow;

/// The name of the catalogue's own profile.
pub const RYOT: &str = "ryot";

/// A table of names.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Its name, as in `?profile=`.
    pub name: &'static str,
    /// Its families.
    pub rows: &'static [DerivedRow],
}

/// The profiles beside the catalogue's own.
pub const PROFILES: &[Profile] =
    &[Profile { name: "vllm", rows: vllm::ROWS }, Profile { name: "otel", rows: otel::ROWS }];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::llm::{Name, Shape};

    #[test]
    fn every_row_names_labels_and_types_of_stored_families() {
        for profile in PROFILES {
            let names: HashSet<_> = profile.rows.iter().map(|row| row.name).collect();
            assert_eq!(names.len(), profile.rows.len());
            for row in profile.rows {
                assert!(row.bounds().is_sorted_by(|a, b| a < b), "{}", row.name);
                for term in row.terms {
                    let stored: &Name = &term.of;
                    assert_eq!(term.labels.len(), row.labels.len(), "{}", row.name);
                    let histogram = |shape| matches!(shape, Shape::Histogram(_));
                    assert_eq!(histogram(row.shape), histogram(stored.row().shape), "{}", row.name);
                }
            }
        }
    }
}
