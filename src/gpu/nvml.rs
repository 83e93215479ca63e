//! NVIDIA's management library, found when the program runs.

use std::ffi::OsStr;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;

use super::{Probe, Reading};
use crate::error::{Error, Result};

/// The driver's library, initialised.
#[derive(Debug)]
pub struct Nvml(nvml_wrapper::Nvml);

impl Nvml {
    /// Loads the library and initialises it.
    ///
    /// # Arguments
    /// * `library` - its path or its name for the loader; None: `libnvidia-ml.so.1`, or
    ///   `nvml.dll`.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no such library, or no driver behind it.
    pub fn open(library: Option<&OsStr>) -> Result<Self> {
        let nvml = match library {
            Some(path) => nvml_wrapper::Nvml::builder().lib_path(path).init(),
            None => nvml_wrapper::Nvml::init(),
        };
        nvml.map(Self).map_err(|error| refusal("load NVIDIA's NVML", &error))
    }

    fn device(&self, index: u32) -> std::result::Result<Reading, NvmlError> {
        let device = self.0.device_by_index(index)?;
        // What a device does not support is left out. Otherwise the memory shows whether the
        // device is there at all.
        let memory = match device.memory_info() {
            Ok(memory) => Some(memory),
            Err(NvmlError::NotSupported) => None,
            Err(error) => return Err(error),
        };
        Ok(Reading {
            device: index.to_string(),
            memory_used: memory.as_ref().map(|memory| memory.used),
            memory_reserved: memory.as_ref().map(|memory| memory.reserved),
            memory_total: memory.as_ref().map(|memory| memory.total),
            utilization: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu)),
            power: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
            temperature: device.temperature(TemperatureSensor::Gpu).ok().map(f64::from),
        })
    }
}

impl Probe for Nvml {
    fn read(&mut self) -> Result<Vec<Reading>> {
        let count = self.0.device_count();
        let count = count.map_err(|error| refusal("count NVIDIA's devices", &error))?;
        Ok((0..count).filter_map(|index| self.device(index).ok()).collect())
    }
}

fn refusal(action: &str, error: &NvmlError) -> Error {
    Error::Io { action: action.to_owned(), reason: error.to_string(), code: None }
}
