//! Switches of the whole process, and so a program of its own: other tests would see them move.

use ryot_metrics::metrics::{
    Desc, Family, Format, Kind, Registry, created_enabled, disable_created_metrics,
    enable_created_metrics, encode, legacy_validation, set_legacy_validation,
};

#[test]
fn times_of_creation_can_be_left_out() {
    let registry = Registry::default();
    Family::register(Desc::new(Kind::Counter, "a", "", &[]).unwrap(), &registry).unwrap();
    let shown = || encode(&registry, Format::OpenMetrics1).contains("\na_created 1.");
    assert!(created_enabled() && shown());
    disable_created_metrics();
    assert!(!created_enabled() && !shown());
    enable_created_metrics();
    assert!(shown());
}

#[test]
fn names_can_be_held_to_the_old_alphabet() {
    let valid = |name, label| Desc::new(Kind::Gauge, name, "", &[label]).map(|_| ());
    assert!(valid("a.b", "a:b").is_ok());
    set_legacy_validation(true);
    assert!(legacy_validation());
    let text = |name, label| valid(name, label).unwrap_err().to_string();
    assert_eq!(text("a.b", "a"), "invalid metric name a.b");
    assert_eq!(text("a", "a:b"), "Invalid label metric name: a:b");
    assert!(valid("a:b", "a").is_ok());
    set_legacy_validation(false);
}
