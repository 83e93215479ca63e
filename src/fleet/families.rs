//! The descriptions of a fleet's families, from the catalogue's rows.

use crate::llm::FleetName;
use crate::metrics::Desc;

/// All of them, in the order of [`FleetName::ALL`].
#[derive(Debug)]
pub(super) struct Descs(Vec<Desc>);

impl Descs {
    pub(super) fn new() -> Self {
        let describe = |name: &FleetName| {
            let row = name.row();
            Desc::new(row.shape.kind(), row.name, row.help, row.labels).expect("a row is valid")
        };
        Self(FleetName::ALL.iter().map(describe).collect())
    }

    pub(super) fn get(&self, name: FleetName) -> &Desc {
        &self.0[name as usize]
    }
}
