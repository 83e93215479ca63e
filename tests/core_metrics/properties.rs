//! What holds for any names, values and headers.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ryot_metrics::metrics::{
    Desc, Escaping, Exposition, Family, Format, Kind, Options, Registry, Selection, encode,
    encode_bytes, format_number, is_legacy_metric_name,
};

use crate::parser::samples;

const KINDS: [Kind; 5] =
    [Kind::Counter, Kind::Gauge, Kind::Histogram, Kind::Summary, Kind::Unknown];

/// A label name: any text that is not empty or reserved.
fn label_name() -> impl Strategy<Value = String> {
    "[^\\pC]{1,6}".prop_filter("reserved", |name| {
        !name.starts_with("__") && !["le", "quantile"].contains(&&**name)
    })
}

fn exposition() -> impl Strategy<Value = Exposition> {
    let formats = prop::sample::select(&Format::ALL[..3]);
    let escapings = prop::sample::select(&Escaping::ALL[..]);
    (formats, escapings)
        .prop_map(|(format, escaping)| Exposition { format, escaping: Some(escaping) })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_page_reads_back_as_it_was_written(
        name in "[^\\pC]{1,8}",
        labels in prop::collection::btree_map(label_name(), "(?s).{0,6}", 0..4),
        kind in prop::sample::select(&KINDS[..]),
        value in 0.0..1e9,
        exposition in exposition(),
    ) {
        let names: Vec<&str> = labels.keys().map(String::as_str).collect();
        let values: Vec<&String> = labels.values().collect();
        let desc = Desc::new(kind, &name, "Help\n\\\".", &names);
        prop_assume!(desc.is_ok());
        let family = Family::new(desc.unwrap(), Options::default());
        let registry = Registry::default();
        registry.register(family.clone()).unwrap();
        let series = family.series(&values);
        match kind {
            Kind::Histogram | Kind::Summary => series.observe(value),
            _ => series.set(value),
        }
        let found = samples(&encode(&registry, exposition));
        prop_assert!(!found.is_empty());
        for (sample, found_labels, text) in found {
            if exposition.format != Format::Text004 && exposition.escaping == Some(Escaping::AllowUtf8) {
                prop_assert!(sample.starts_with(family.desc().name.as_ref()), "{sample}");
                let found: BTreeMap<String, String> =
                    found_labels.into_iter().filter(|label| label.0 != "le").collect();
                prop_assert_eq!(found, labels.clone());
            } else {
                prop_assert!(is_legacy_metric_name(&sample), "{}", sample);
            }
            prop_assert!(text == "+Inf" || text.parse::<f64>().is_ok(), "{}", text);
        }
        encode_bytes(&registry, Selection { names: Some(&[&*name]), profile: None }, Format::Protobuf);
    }

    #[test]
    fn a_number_reads_back_as_the_same_number(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        let mut text = String::new();
        format_number(value, &mut text);
        let back: f64 = text.trim_start_matches('+').parse().unwrap();
        prop_assert!(back.to_bits() == bits || value.is_nan());
    }

    #[test]
    fn any_accept_header_has_an_answer(
        noise in "(?s).{0,20}",
        parts in prop::collection::vec(prop::sample::select(&[
            "application/openmetrics-text", "text/plain", "text/*", "*/*", ";", ",", "version=",
            "1.0.0", "\"", "q=", "0.5", "=", "escaping=dots", "application/vnd.google.protobuf",
        ][..]), 0..12),
    ) {
        let accept = parts.concat() + &noise;
        let exposition = Exposition::negotiate(&accept, &Format::ALL);
        let content_type = exposition.content_type();
        let again = Exposition::negotiate(&content_type, &Format::ALL);
        prop_assert_eq!(again.format, exposition.format);
        prop_assert!(Format::ALL[..2].contains(&Exposition::negotiate(&accept, &Format::ALL[..2]).format));
    }
}
