//! What GPUs say, in the families of the catalogue.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::catalogue::Name;
use super::recorder::Recorder;
use crate::fork;
use crate::gpu::Reading;

/// Which model runs on which device, and what was last said of the devices.
#[derive(Debug, Default)]
pub(super) struct Devices(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Models by device; under None, that of all others.
    models: HashMap<Option<Box<str>>, Box<str>>,
    /// Model and device of the last readings.
    shown: Vec<(Box<str>, Box<str>)>,
}

/// The families of readings: they come and go with the device.
const FAMILIES: [Name; 7] = [
    Name::GpuMemory,
    Name::GpuMemoryReserved,
    Name::GpuMemoryTotal,
    Name::GpuMemoryPercentage,
    Name::GpuUtilization,
    Name::GpuPower,
    Name::GpuTemperature,
];

impl Recorder {
    /// From the next reading on, what a device says is said of this model; `device` None means
    /// all devices that have no model of their own.
    pub fn attribute_gpu(&self, device: Option<&str>, model: &str) {
        self.devices.0.lock().models.insert(device.map(Into::into), model.into());
    }

    /// The model of devices that have none of their own, if there is one.
    pub fn gpu_model(&self) -> Option<Box<str>> {
        self.devices.0.lock().models.get(&None).cloned()
    }

    /// Records one reading of all devices. A device that was there and is not any more, or has
    /// another model now, leaves no series behind.
    pub fn gpus(&self, readings: &[Reading]) {
        let _pass = fork::pass();
        let mut state = self.devices.0.lock();
        let mut shown = Vec::with_capacity(readings.len());
        for reading in readings {
            let device: Box<str> = reading.device.as_str().into();
            let model = state.models.get(&Some(device.clone()));
            let model = model.or_else(|| state.models.get(&None)).cloned().unwrap_or_default();
            self.gpu(&model, reading);
            shown.push((model, device));
        }
        for gone in state.shown.iter().filter(|pair| !shown.contains(pair)) {
            self.forget_gpu(&gone.0, &gone.1);
        }
        state.shown = shown;
    }

    fn gpu(&self, model: &str, reading: &Reading) {
        let device = &*reading.device;
        let set = |name: Name, labels: &[&str], value: Option<f64>| {
            if let Some(value) = value {
                self.family(name).series(labels).set(value);
            }
        };
        let bytes = |bytes: Option<u64>| bytes.map(|bytes| bytes as f64);
        let (used, total) = (bytes(reading.memory_used), bytes(reading.memory_total));
        set(Name::GpuMemory, &[model, "used", device], used);
        set(Name::GpuMemoryReserved, &[model, device], bytes(reading.memory_reserved));
        set(Name::GpuMemoryTotal, &[model, device], total);
        let share = used.zip(total.filter(|total| *total > 0.0));
        let percentage = share.map(|(used, total)| 100.0 * used / total);
        set(Name::GpuMemoryPercentage, &[model, device, ""], percentage);
        set(Name::GpuUtilization, &[model, device, "all"], reading.utilization);
        set(Name::GpuPower, &[model, device], reading.power);
        set(Name::GpuTemperature, &[model, device], reading.temperature);
    }

    fn forget_gpu(&self, model: &str, device: &str) {
        for name in FAMILIES {
            let labels = name.row().labels;
            let place = labels.iter().position(|label| *label == "device_id");
            let place = place.expect("a family of devices has a label `device_id`");
            let of_it = |values: &[Box<str>]| &*values[0] == model && &*values[place] == device;
            self.family(name).remove_where(of_it);
        }
    }
}
