//! How a request comes from Python: for which metrics, and on which terms.
//!
//! Must not know: prompts, parameters, the engine.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::backend::ModelInfo;
use crate::engine::Terms;
use crate::error::Result;
use crate::event::{Mode, Origin};

/// The endpoint, the mode, and the requests that it is part of.
#[derive(FromPyObject)]
pub(super) struct PyOrigin(String, String, Vec<u64>);

impl PyOrigin {
    /// As the engine takes it.
    pub(super) fn parse(self) -> Result<Origin> {
        let Self(endpoint, mode, parents) = self;
        Ok(Origin { endpoint: endpoint.into(), mode: Mode::parse(&mode)?, parents })
    }
}

/// The keywords of `ryot_metrics.engine.Terms`.
#[derive(Default)]
pub(super) struct PyTerms {
    priority: Option<String>,
    ttft_ms: Option<f64>,
    tbt_ms: Option<f64>,
    tenant: String,
    deadline_ms: Option<f64>,
    adapter: Option<String>,
}

impl PyTerms {
    /// Checked, for a model with these adapters.
    pub(super) fn for_model(self, info: &ModelInfo) -> Result<Terms> {
        let adapter = info.adapter(self.adapter.as_deref())?;
        let class = self.priority.as_deref().unwrap_or("interactive");
        let terms = Terms::new(class, self.ttft_ms, self.tbt_ms, &self.tenant, self.deadline_ms)?;
        Ok(Terms { adapter, ..terms })
    }

    fn set(&mut self, name: &str, value: &Bound<'_, PyAny>) -> PyResult<()> {
        match name {
            "priority" => self.priority = Some(value.extract()?),
            "ttft_ms" => self.ttft_ms = value.extract()?,
            "tbt_ms" => self.tbt_ms = value.extract()?,
            "tenant" => self.tenant = value.extract()?,
            "deadline_ms" => self.deadline_ms = value.extract()?,
            "adapter" => self.adapter = value.extract()?,
            _ => return Err(PyTypeError::new_err("no such keyword argument")),
        }
        Ok(())
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for PyTerms {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let mut terms = Self::default();
        for (name, value) in object.cast::<PyDict>()?.iter() {
            let name: String = name.extract()?;
            terms.set(&name, &value).map_err(|error| {
                PyTypeError::new_err(format!("{name}: {}", error.value(object.py())))
            })?;
        }
        Ok(terms)
    }
}
