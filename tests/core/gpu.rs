//! The sampler against a library that the test compiles: the real loading code runs, and the
//! numbers are known. Needs a C compiler, as the crate's own build does.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ryot_metrics::clock::ManualClock;
use ryot_metrics::error::{Error, Result};
use ryot_metrics::gpu::{Nvml, Probe, Reading, Sampler, Watcher};
use ryot_metrics::llm::{Recorder, Settings};
use ryot_metrics::metrics::{Format, Registry, encode};

/// The compiled library; each test has its own, since a library's counters are the process's.
fn fake_nvml(test: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ryot-{}-{test}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let library = folder.join("libnvidia-ml.so.1");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/core/fake_nvml.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let arguments = ["-shared", "-fPIC", "-o"];
    let status = Command::new(compiler).args(arguments).arg(&library).arg(source).status();
    assert!(status.expect("a C compiler").success());
    library
}

fn recorder() -> (Registry, Recorder) {
    let registry = Registry::default();
    let clock = Arc::new(ManualClock::default());
    let recorder = Recorder::new(&registry, clock, &Settings::default()).unwrap();
    (registry, recorder)
}

fn samples(registry: &Registry) -> Vec<String> {
    let page = encode(registry, Format::Text004);
    page.lines().filter(|line| line.starts_with("ryot_gpu_")).map(str::to_owned).collect()
}

#[test]
fn the_driver_s_numbers_are_read_in_base_units() {
    let mut nvml = Nvml::open(Some(fake_nvml("numbers").as_os_str())).unwrap();
    let first = Reading {
        device: "0".to_owned(),
        memory_used: Some(20_000_000_000),
        memory_reserved: Some(500_000_000),
        memory_total: Some(80_000_000_000),
        utilization: Some(41.0),
        power: Some(312.5),
        temperature: Some(61.0),
    };
    let second = Reading {
        device: "1".to_owned(),
        memory_used: Some(40_000_000_000),
        utilization: Some(51.0),
        power: None,
        temperature: None,
        ..first.clone()
    };
    assert_eq!(nvml.read().unwrap(), [first, second]);
    assert_eq!(nvml.read().unwrap().len(), 2);
    let left = nvml.read().unwrap();
    assert_eq!((left.len(), &*left[0].device), (1, "0"), "the second device is lost");
}

#[test]
fn a_library_that_is_not_there_is_named() {
    let error = Nvml::open(Some("/nowhere/libnvidia-ml.so.1".as_ref())).unwrap_err().to_string();
    assert!(error.contains("/nowhere/libnvidia-ml.so.1"), "{error}");
}

#[test]
fn a_device_s_series_come_and_go_with_it_and_carry_its_model() {
    let (registry, recorder) = recorder();
    assert!(samples(&registry).is_empty());
    let mut nvml = Nvml::open(Some(fake_nvml("series").as_os_str())).unwrap();
    recorder.attribute_gpu(None, "small");
    recorder.attribute_gpu(Some("0"), "large");
    recorder.gpus(&nvml.read().unwrap());
    let lines = samples(&registry);
    for line in [
        "ryot_gpu_memory_usage_bytes{device_id=\"0\",memory_type=\"used\",model=\"large\"} 2e+010",
        "ryot_gpu_memory_reserved_bytes{device_id=\"1\",model=\"small\"} 5e+08",
        "ryot_gpu_memory_total_bytes{device_id=\"0\",model=\"large\"} 8e+010",
        "ryot_gpu_memory_percentage{device_id=\"1\",model=\"small\"} 50.0",
        "ryot_gpu_utilization_percent{device_id=\"0\",kernel_type=\"all\",model=\"large\"} 41.0",
        "ryot_gpu_power_watts{device_id=\"0\",model=\"large\"} 312.5",
        "ryot_gpu_temperature_celsius{device_id=\"0\",model=\"large\"} 61.0",
    ] {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let found = lines.iter().find_map(|line| line.strip_prefix(name)).expect(name);
        assert_eq!(found.trim().parse::<f64>(), value.parse(), "{name}");
    }
    assert_eq!(lines.len(), 12, "the second device has neither power nor temperature");
    recorder.gpus(&nvml.read().unwrap());
    recorder.gpus(&nvml.read().unwrap());
    let lines = samples(&registry);
    assert_eq!(lines.len(), 7, "nothing is left of the lost device");
    recorder.attribute_gpu(Some("0"), "other");
    recorder.gpus(&nvml.read().unwrap());
    assert!(samples(&registry).iter().all(|line| line.contains("model=\"other\"")));
    recorder.gpus(&[]);
    assert!(samples(&registry).is_empty());
}

/// Passes on what the sampler says.
struct Told(SyncSender<std::result::Result<Vec<Reading>, Error>>);

impl Watcher for Told {
    fn readings(&self, readings: &[Reading]) {
        let _ = self.0.send(Ok(readings.to_vec()));
    }

    fn nothing(&self, reason: &Error) {
        let _ = self.0.send(Err(reason.clone()));
    }
}

type Answers = Receiver<std::result::Result<Vec<Reading>, Error>>;

fn sample(open: impl FnOnce() -> Result<Box<dyn Probe>> + Send + 'static) -> (Sampler, Answers) {
    let (told, answers) = sync_channel(0);
    let sampler = Sampler::start(open, Duration::from_millis(1), Told(told)).unwrap();
    (sampler, answers)
}

#[test]
fn the_sampler_reads_again_and_again_until_it_is_stopped() {
    let library = fake_nvml("sampler");
    let (sampler, answers) = sample(move || {
        let nvml = Nvml::open(Some(library.as_os_str()))?;
        Ok(Box::new(nvml) as Box<dyn Probe>)
    });
    let counts: Vec<usize> = (0..4).map(|_| answers.recv().unwrap().unwrap().len()).collect();
    assert_eq!(counts, [2, 2, 1, 1]);
    drop(answers); // the sampler waits for nobody any more
    sampler.join();
}

/// Takes its time over a reading: until it hears that the sampler was stopped, or for so long.
struct Slow {
    began: SyncSender<()>,
    stopped: Mutex<Receiver<()>>,
    late: Arc<AtomicBool>,
}

impl Watcher for Slow {
    fn readings(&self, _: &[Reading]) {
        self.began.send(()).unwrap();
        let stopped = self.stopped.lock().unwrap().recv_timeout(Duration::from_millis(50));
        self.late.store(stopped.is_ok(), Ordering::SeqCst);
    }

    fn nothing(&self, _: &Error) {}
}

#[test]
fn a_sampler_that_was_stopped_passes_nothing_on() {
    let ((began, begins), (stopped, stops)) = (sync_channel(0), sync_channel(1));
    let late = Arc::new(AtomicBool::default());
    let watcher = Slow { began, stopped: Mutex::new(stops), late: late.clone() };
    let library = fake_nvml("late");
    let open = move || Ok(Box::new(Nvml::open(Some(library.as_os_str()))?) as Box<dyn Probe>);
    let sampler = Sampler::start(open, Duration::from_secs(3600), watcher).unwrap();
    begins.recv().unwrap();
    sampler.stop();
    let _ = stopped.send(()); // its thread has ended, unless the reading still waits for this
    sampler.join();
    assert!(!late.load(Ordering::SeqCst), "a reading was passed on after the sampler was stopped");
}

#[test]
fn without_a_driver_the_reason_is_said_once() {
    let (sampler, answers) = sample(|| {
        let nvml = Nvml::open(Some("/nowhere/libnvidia-ml.so.1".as_ref()))?;
        Ok(Box::new(nvml) as Box<dyn Probe>)
    });
    assert!(answers.recv().unwrap().is_err());
    assert!(answers.recv().is_err(), "the thread has ended");
    sampler.join();
}

#[test]
fn an_interval_of_nothing_is_refused() {
    let (told, _answers) = sync_channel(1);
    let open = || Err(Error::EngineClosed);
    let error = Sampler::start(open, Duration::ZERO, Told(told)).unwrap_err().to_string();
    assert!(error.contains("interval is 0 s; it must be above 0"), "{error}");
}
