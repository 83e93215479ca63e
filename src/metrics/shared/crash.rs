//! Tests that die under the lock, at each of its writes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::super::desc::{Desc, GaugeMode, Kind};
use super::super::sync::Ordering;
use super::backing::{Backing, Memory};
use super::children::{Child, child};
use super::families::Place;
use super::heap::{Guard, crash};
use super::{Shared, Written};
use crate::error::Result;

/// What the mapping says of a family: label values, texts and gauges' values.
fn state(guard: &Guard<'_>, place: Place) -> Vec<String> {
    let listed = guard.children_after(place, 0).unwrap();
    let live = listed.into_iter().filter(|it| it.is_live);
    let one = |child: Child| {
        let values = guard.values(child).unwrap();
        let texts = guard.notes(place, child).unwrap();
        let nodes = guard.shared.nodes(place, child);
        let owned = nodes.iter().filter(|node| node.is_owned).count();
        let left = guard.get(child.at + child::RUN).unwrap();
        format!("{values:?} {texts:?} {owned} {left}")
    };
    live.map(|it| one(it.child)).collect()
}

/// Every step, cut off at each of its writes, has happened as a whole or not at all, and the
/// next holder of the lock can take it.
#[test]
fn who_dies_under_the_lock_leaves_a_whole_mapping() {
    type Step = fn(&Guard<'_>, Place) -> Result<()>;
    let steps: [(&str, Step, usize); 6] = [
        ("a new series", |it, of| it.new_child(of, &["b"], &mut Vec::new()).map(drop), 2),
        ("a removal", |it, of| it.remove(of, it.children_after(of, 0)?[0].child).map(drop), 0),
        ("a gauge", |it, of| it.node(of, it.children_after(of, 0)?[0].child).map(drop), 1),
        (
            "a text",
            |it, of| it.set_note(of, it.children_after(of, 0)?[0].child, (1, 2), b"text"),
            1,
        ),
        (
            "a series in the place of another one",
            |it, of| {
                let old = it.children_after(of, 0)?[0].child;
                it.set_note(of, old, (0, 1), b"old")?;
                it.remove(of, old)?;
                it.shared.release(old.at);
                it.new_child(of, &["c"], &mut vec![old.at]).map(drop)
            },
            1,
        ),
        ("an end", |it, _| it.bury(it.shared.slot()), 1),
    ];
    let desc = Desc::new(Kind::Gauge, "a", "", &["x"]).unwrap();
    let desc = desc.with_mode(GaugeMode::parse("sum").unwrap());
    let written = Written {
        desc,
        omit_empty: false,
        absent_if_empty: false,
        created: false,
        idle_ttl: None,
        series_limit: None,
        hidden: false,
    };
    for (name, step, series) in steps {
        let mut writes = 0;
        loop {
            let shared = Shared::open_in(Path::new("memory"), Backing::Memory(Memory::new()));
            let shared = shared.unwrap();
            let place = shared.family(&written, 8, 8).unwrap();
            let guard = shared.lock().unwrap();
            let child = guard.new_child(place, &["a"], &mut Vec::new()).unwrap();
            let node = guard.node(place, child).unwrap();
            node[0].store(2.5_f64.to_bits(), Ordering::Relaxed);
            let before = state(&guard, place);
            crash::after(writes);
            let done = catch_unwind(AssertUnwindSafe(|| step(&guard, place))).is_ok();
            crash::after(u64::MAX);
            drop(guard);
            let guard = shared.lock().unwrap();
            guard.check().unwrap();
            let after = state(&guard, place);
            if done {
                assert_eq!(after.len(), series, "{name}");
                assert!(name == "a gauge" || after != before, "{name}");
            } else {
                step(&guard, place).unwrap_or_else(|error| panic!("{name}: {error}"));
                guard.check().unwrap();
            }
            if done {
                break;
            }
            writes += 1;
        }
        assert!(writes > 3 || name == "a gauge", "{name}: {writes}");
    }
}
