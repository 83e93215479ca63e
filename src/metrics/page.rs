//! One door to all formats: the bytes of a page as they go over the wire.

use super::negotiate::{Exposition, Format};
use super::registry::Registry;
use super::sink::Sink;
use super::{protobuf, text};

/// Writes a page in any format; with `names`, only the samples of these names, as
/// [`Registry::collect_only`] chooses them.
///
/// ```
/// use ryot_metrics::metrics::{Desc, Family, Format, Kind, Registry, encode_bytes};
/// let registry = Registry::default();
/// Family::register(Desc::new(Kind::Gauge, "depth", "Waiting.", &[])?, &registry)?;
/// assert_eq!(encode_bytes(&registry, Some(&["other"]), Format::Text004), b"");
/// let page = encode_bytes(&registry, None, Format::Protobuf);
/// assert!(page.windows(5).any(|part| part == b"depth"));
/// # Ok::<(), ryot_metrics::error::Error>(())
/// ```
pub fn encode_bytes(
    registry: &Registry,
    names: Option<&[&str]>,
    exposition: impl Into<Exposition>,
) -> Vec<u8> {
    let exposition = exposition.into();
    let feed = |sink: &mut dyn Sink| match names {
        Some(names) => registry.collect_only(names, sink),
        None => registry.collect(sink),
    };
    if exposition.format == Format::Protobuf {
        let mut encoder = protobuf::Encoder::new(exposition.effective_escaping());
        feed(&mut encoder);
        return encoder.finish();
    }
    if names.is_none() {
        return text::encode(registry, exposition).into_bytes();
    }
    let mut encoder = text::Encoder::new(exposition, 0);
    feed(&mut encoder);
    encoder.finish().into_bytes()
}
