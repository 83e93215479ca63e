//! How a body travels: as it is, or compressed with gzip if the client takes that.
//!
//! gzip alone: it is what Prometheus and every other scraper asks for.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Whether an `Accept-Encoding` header likes gzip at least as well as no compression.
pub(super) fn accepts_gzip(header: &str) -> bool {
    let quality = |name: &str| header.split(',').filter_map(|item| weight(item, name)).next_back();
    let gzip = quality("gzip").or_else(|| quality("x-gzip")).or_else(|| quality("*"));
    // Not compressed is always good enough, but only preferred if the header says so.
    gzip.is_some_and(|gzip| gzip > 0.0 && gzip >= quality("identity").unwrap_or(0.0))
}

/// The q-value of an item, if it is of this coding; an invalid one counts as a refusal.
fn weight(item: &str, name: &str) -> Option<f64> {
    let mut parts = item.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(name) {
        return None;
    }
    let value = parts
        .filter_map(|part| part.split_once('='))
        .find(|(key, _)| key.trim().eq_ignore_ascii_case("q"));
    let Some((_, value)) = value else { return Some(1.0) };
    let value = value.trim().parse().unwrap_or(0.0);
    Some(if (0.0..=1.0).contains(&value) { value } else { 0.0 })
}

/// The body as a gzip stream, with the fastest setting: a page is so repetitive that better ones
/// take several times as long for a few percent.
pub(super) fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    written.expect("a Vec takes what it is given")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn accept_encoding_decides_with_q_values() {
        let table = [
            ("", false),
            ("gzip", true),
            ("GZIP;q=0.5", true),
            ("deflate, gzip;q=1.0, *;q=0.5", true),
            ("x-gzip", true),
            ("*", true),
            ("*;q=0", false),
            ("gzip;q=0, *", false),
            ("gzip; q=0.000", false),
            ("gzip;q=x", false),
            ("gzip;q=7", false),
            ("identity;q=1, gzip;q=0.5", false),
            ("identity;q=0.5, gzip;q=0.5", true),
            ("identity", false),
            ("deflate, br, zstd", false),
            ("gzippy", false),
        ];
        for (header, expected) in table {
            assert_eq!(accepts_gzip(header), expected, "{header}");
        }
    }

    #[test]
    fn a_compressed_body_comes_back() {
        for body in [Vec::new(), b"a_total 1.0\n".repeat(10_000)] {
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(&*gzip(&body)).read_to_end(&mut back).unwrap();
            assert_eq!(back, body);
        }
    }
}
