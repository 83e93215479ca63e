//! GPUs as their driver sees them: memory, utilisation, power, temperature, read on a thread of
//! its own, because a driver that hangs must stop neither a request nor a scrape.
//!
//! A [`Probe`] reads; [`Nvml`] is NVIDIA's, loaded when it is first wanted, so that the package
//! runs where there is no driver. The [`Sampler`] asks a probe again and again and hands over what
//! it says. Must not know: metrics, models, Python.

mod nvml;
mod sampler;

pub use nvml::Nvml;
pub use sampler::{INTERVAL, Sampler, Watcher};

use crate::error::Result;

/// What one device says of itself. None: it does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The driver's number or name of the device, the same in each reading: `0`.
    pub device: String,
    /// Bytes that are allocated on it, by whomever.
    pub memory_used: Option<u64>,
    /// Bytes that the driver keeps for itself.
    pub memory_reserved: Option<u64>,
    /// Bytes that it has.
    pub memory_total: Option<u64>,
    /// Percent of the driver's last period in which it computed, 0 to 100.
    pub utilization: Option<f64>,
    /// Watts.
    pub power: Option<f64>,
    /// Degrees Celsius of the chip.
    pub temperature: Option<f64>,
}

/// Reads devices.
pub trait Probe {
    /// One reading of each device that answers; a device that is gone is left out.
    ///
    /// # Errors
    /// If the driver as a whole does not answer.
    fn read(&mut self) -> Result<Vec<Reading>>;
}
