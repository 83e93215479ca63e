//! The protocol of cells, gone through in every order of the threads' steps, as far as a model
//! can tell them apart (loom: up to two preemptions, and loads that see what was stored before).
//! Each thread is a process: it has a [`Shared`] of its own, on memory in the place of a file.
//!
//! Under miri, which knows of no model, each test runs once, with threads.

use std::path::Path;
use std::sync::Arc;

use super::super::arena;
use super::super::desc::{Desc, GaugeMode, Kind};
use super::super::family::{Family, Options};
use super::super::labels::LabelSet;
use super::super::lease::{Lease, lengths};
use super::super::link::written;
use super::super::mirror::{Mirror, mirror_len};
use super::super::native::Native;
use super::super::native_options::NativeOptions;
use super::super::series::Series;
use super::super::sync::{AtomicU64, Ordering};
use super::backing::{Backing, Memory};
use super::children::Child;
use super::families::Place;
use super::table::entry;
use super::{Guard, Shared};

#[cfg(feature = "loom")]
use loom::thread::spawn;
#[cfg(not(feature = "loom"))]
use std::thread::spawn;

/// A thread is interrupted in the middle of its work so often at most.
#[cfg(feature = "loom")]
fn model(interruptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.max_branches = 1_000_000;
    builder.check(run);
}

#[cfg(not(feature = "loom"))]
fn model(_: usize, run: impl Fn()) {
    run();
}

fn process(memory: &Arc<Memory>) -> Arc<Shared> {
    let shared = Shared::open_in(Path::new("memory"), Backing::Memory(memory.clone())).unwrap();
    shared.set_lock_wait(60.0); // miri is slow
    shared
}

fn processes<const N: usize>() -> [Arc<Shared>; N] {
    let memory = Memory::new();
    [(); N].map(|()| process(&memory))
}

fn options() -> Options {
    Options { created: false, now: || 1.0, ..Options::default() }
}

fn counter() -> Desc {
    Desc::new(Kind::Counter, "a", "", &["x"]).unwrap()
}

fn gauge(mode: &str) -> Desc {
    let desc = Desc::new(Kind::Gauge, "a", "", &["x"]).unwrap();
    desc.with_mode(GaugeMode::parse(mode).unwrap())
}

fn place(shared: &Shared, desc: &Desc) -> Place {
    let (run, node) = lengths(desc);
    shared.family(&written(desc, &options(), false), run, node).unwrap()
}

fn new_child(guard: &Guard<'_>, of: Place, label: &str) -> Child {
    guard.new_child(of, &[label], &mut Vec::new()).unwrap()
}

fn series(desc: &Desc) -> Arc<Series> {
    let labels = LabelSet::new(&desc.label_names, &["1"], false);
    Arc::new(Series::new(Arc::new(desc.clone()), labels, &options()))
}

/// A series of a process, in the mapping.
fn attached(shared: &Arc<Shared>, desc: &Desc, of: Place, child: Child) -> Arc<Series> {
    let series = series(desc);
    let guard = shared.lock().unwrap();
    series.attach(Lease::new(shared, of, child).unwrap());
    assert!(series.take_up_under(&guard).unwrap());
    drop(guard);
    series
}

/// Ends a process without a word.
fn kill(shared: Arc<Shared>) {
    let cells = shared.entry(shared.slot()).unwrap();
    cells[entry::STARTED as usize].store(1, Ordering::Release);
    std::mem::forget(shared);
}

fn families<const N: usize>(shared: &[Arc<Shared>; N], options: &Options) -> [Arc<Family>; N] {
    std::array::from_fn(|index| {
        let family = Family::new(counter(), options.clone());
        family.link_to(&shared[index]).unwrap();
        family
    })
}

fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> impl FnOnce() -> T {
    let thread = spawn(work);
    move || thread.join().unwrap()
}

fn is(value: f64, expected: f64) {
    assert!((value - expected).abs() < f64::EPSILON, "{value}, not {expected}");
}

#[test]
fn what_two_processes_add_at_once_is_added() {
    model(2, || {
        let shared = processes::<2>();
        let (desc, of) = (counter(), place(&shared[0], &counter()));
        let child = new_child(&shared[0].lock().unwrap(), of, "1");
        let writers = shared.each_ref().map(|it| attached(it, &desc, of, child));
        let [a, b] = writers.clone().map(|it| run(move || (0..2).for_each(|_| it.add(1.0))));
        a();
        b();
        is(writers[0].get(), 4.0);
    });
}

#[test]
fn what_is_counted_while_a_series_moves_into_the_mapping_is_there_at_the_next_page() {
    model(2, || {
        let [shared] = processes();
        let (desc, of) = (counter(), place(&shared, &counter()));
        let child = new_child(&shared.lock().unwrap(), of, "1");
        let series = series(&desc);
        let writer = run({
            let series = series.clone();
            move || (0..2).for_each(|_| series.add(1.0))
        });
        series.attach(Lease::new(&shared, of, child).unwrap());
        writer();
        series.settle();
        is(arena::get(&shared.run(of, child).unwrap()[0]), 2.0);
    });
}

#[test]
fn a_dead_process_gauge_is_counted_once_while_it_is_buried_and_its_cells_get_a_new_owner() {
    model(2, || {
        let [reader, next, dead] = processes();
        let (desc, of) = (gauge("sum"), place(&reader, &gauge("sum")));
        let child = new_child(&reader.lock().unwrap(), of, "1");
        let writer = attached(&dead, &desc, of, child);
        writer.set(3.0);
        std::mem::forget(writer);
        let slot = dead.slot();
        kill(dead);
        let seen = attached_as_reader(&reader, &desc, of, child);
        let burial = run(move || {
            next.lock().unwrap().bury(slot).unwrap();
            let own = attached(&next, &desc, of, child);
            own.set(4.0);
            (next, own)
        });
        let value = seen.get();
        assert!([3.0, 7.0].contains(&value), "{value}");
        let _own = burial();
        is(seen.get(), 7.0);
    });
}

/// Who only reads has no part of its own.
fn attached_as_reader(shared: &Arc<Shared>, desc: &Desc, of: Place, child: Child) -> Arc<Series> {
    let series = series(desc);
    series.attach(Lease::new(shared, of, child).unwrap());
    series
}

#[test]
fn memory_is_of_one_series_while_anybody_holds_it() {
    model(2, || {
        let [holder, maker] = processes();
        let (desc, of) = (counter(), place(&holder, &counter()));
        let old = new_child(&holder.lock().unwrap(), of, "1");
        let held = attached(&holder, &desc, of, old);
        maker.lock().unwrap().remove(of, old).unwrap();
        let writer = run(move || {
            held.add(1.0);
            drop(held);
        });
        let new = maker.lock().unwrap().new_child(of, &["2"], &mut vec![old.at]).unwrap();
        writer();
        is(arena::get(&maker.run(of, new).unwrap()[0]), 0.0);
    });
}

#[test]
fn a_label_set_that_two_processes_make_at_once_is_one_series() {
    model(2, || {
        let shared = processes::<2>();
        let families = families(&shared, &options());
        let [a, b] = families.clone().map(|it| run(move || it.series(&["1"]).add(1.0)));
        a();
        b();
        for family in &families {
            is(family.find(&["1"]).unwrap().get(), 2.0);
        }
    });
}

#[test]
fn what_is_written_while_another_process_forgets_the_idle_series_is_not_lost() {
    model(2, || {
        let shared = processes::<2>();
        let options = Options { idle_ttl: Some(0.0), ..options() };
        let families = families(&shared, &options);
        drop(families[1].series(&["1"]));
        families[0].catch_up();
        let [scraper, writer] = families.clone();
        let forgetting = run(move || scraper.forget_idle());
        writer.series(&["1"]).add(1.0);
        forgetting();
        is(families[0].find(&["1"]).unwrap().get(), 1.0);
    });
}

#[test]
fn a_reader_of_a_native_histogram_sees_no_half_of_a_change() {
    model(1, || {
        let options =
            NativeOptions { max_buckets: 8, min_reset_seconds: 0.0, ..NativeOptions::default() };
        let cells = (0..mirror_len(&options)).map(|_| AtomicU64::new(0));
        let mirror = Mirror(Box::leak(cells.collect::<Box<[_]>>()));
        let mut native = Native::new(options, 1.0);
        mirror.write(&mut native);
        let values = [1.0, 100.0];
        let mut wholes = vec![native.snapshot()];
        let mut counted = native.clone();
        for value in values {
            counted.observe(value, 1, || 1.0);
            wholes.push(counted.snapshot());
        }
        let writer = run(move || {
            for value in values {
                native.observe(value, 1, || 1.0);
                mirror.note(&mut native, 1);
            }
        });
        let read = mirror.read(options).unwrap().snapshot();
        assert!(wholes.contains(&read), "{read:?}");
        writer();
    });
}
