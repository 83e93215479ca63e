//! One door to all formats: the bytes of a page as they go over the wire.

use std::sync::atomic::Ordering;

use super::negotiate::{Exposition, Format};
use super::registry::{Registry, Selection};
use super::sink::Sink;
use super::{protobuf, text};
use crate::clock::{Clock, MonotonicClock};

/// Writes a page of what is selected, in any format.
///
/// ```
/// use ryot_metrics::metrics::{Desc, Family, Format, Kind, Registry, encode_bytes, Selection};
/// let registry = Registry::default();
/// Family::register(Desc::new(Kind::Gauge, "depth", "Waiting.", &[])?, &registry)?;
/// let nothing = Selection { names: Some(&["other"]), profile: None };
/// assert_eq!(encode_bytes(&registry, nothing, Format::Text004), b"");
/// let page = encode_bytes(&registry, Selection::default(), Format::Protobuf);
/// assert!(page.windows(5).any(|part| part == b"depth"));
/// # Ok::<(), ryot_metrics::error::Error>(())
/// ```
pub fn encode_bytes(
    registry: &Registry,
    selection: Selection<'_>,
    exposition: impl Into<Exposition>,
) -> Vec<u8> {
    let since = MonotonicClock.now();
    let page = write(registry, selection, exposition.into());
    let nanos = MonotonicClock.now() - since;
    registry.page_nanos().store(nanos, Ordering::Relaxed);
    page
}

fn write(registry: &Registry, selection: Selection<'_>, exposition: Exposition) -> Vec<u8> {
    let feed = |sink: &mut dyn Sink| registry.collect_selected(selection, sink);
    if exposition.format == Format::Protobuf {
        let mut encoder = protobuf::Encoder::new(exposition.effective_escaping());
        feed(&mut encoder);
        return encoder.finish();
    }
    if selection.names.is_none() && selection.profile.is_none() {
        return text::encode(registry, exposition).into_bytes();
    }
    let mut encoder = text::Encoder::new(exposition, 0);
    feed(&mut encoder);
    encoder.finish().into_bytes()
}
