//! How a body travels: as it is, or compressed in the way that the client likes best.
//!
//! gzip is what Prometheus asks for; zstd is smaller and several times as fast, and browsers and
//! agents take it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// A content coding, as `Accept-Encoding` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Zstandard, RFC 8878.
    Zstd,
    /// gzip, RFC 1952.
    Gzip,
}

impl Coding {
    /// All of them, the better one first.
    pub const ALL: [Self; 2] = [Self::Zstd, Self::Gzip];

    /// Its name in HTTP.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The coding of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|coding| coding.as_str() == name)
    }

    /// Which of `offered` an `Accept-Encoding` header likes best, by its q-values; the first one
    /// of equals. None if it likes no compression better.
    ///
    /// ```
    /// use ryot_metrics::serve::Coding;
    /// assert_eq!(Coding::choose("gzip, zstd", &Coding::ALL), Some(Coding::Zstd));
    /// assert_eq!(Coding::choose("gzip;q=0.9, *;q=0.1", &Coding::ALL), Some(Coding::Gzip));
    /// assert_eq!(Coding::choose("identity", &Coding::ALL), None);
    /// ```
    pub fn choose(accept_encoding: &str, offered: &[Self]) -> Option<Self> {
        let quality = |name: &str| {
            accept_encoding.split(',').filter_map(|item| weight(item, name)).next_back()
        };
        // Not compressed is always good enough, but only preferred if the header says so.
        let least = quality("identity").unwrap_or(0.0);
        let mut best = (None, 0.0);
        for &coding in offered {
            let old_name = || (coding == Self::Gzip).then(|| quality("x-gzip")).flatten();
            let liked = quality(coding.as_str()).or_else(old_name).or_else(|| quality("*"));
            let liked = liked.unwrap_or(0.0);
            if liked > best.1 && liked >= least {
                best = (Some(coding), liked);
            }
        }
        best.0
    }

    /// The body, compressed with the fastest setting: a page is so repetitive that better ones
    /// take several times as long for a few percent.
    pub fn compress(self, body: &[u8]) -> Vec<u8> {
        let packed = match self {
            Self::Zstd => zstd::bulk::compress(body, 1),
            Self::Gzip => {
                let space = Vec::with_capacity(body.len() / 8);
                let mut encoder = GzEncoder::new(space, Compression::fast());
                encoder.write_all(body).and_then(|()| encoder.finish())
            }
        };
        packed.expect("a Vec takes what it is given")
    }
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn accept_encoding_decides_with_q_values() {
        let (gzip, zstd) = (Some(Coding::Gzip), Some(Coding::Zstd));
        let table = [
            ("", None),
            ("gzip", gzip),
            ("GZIP;q=0.5", gzip),
            ("deflate, gzip;q=1.0, *;q=0.5", gzip),
            ("x-gzip", gzip),
            ("*", zstd),
            ("*;q=0", None),
            ("gzip;q=0, *", zstd),
            ("zstd;q=0, *", gzip),
            ("gzip; q=0.000", None),
            ("gzip;q=x", None),
            ("gzip;q=7", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip;q=0.5", gzip),
            ("identity", None),
            ("deflate, br, zstd", zstd),
            ("gzip, deflate, br, zstd", zstd),
            ("gzip, zstd;q=0.5", gzip),
            ("gzippy", None),
        ];
        for (header, expected) in table {
            assert_eq!(Coding::choose(header, &Coding::ALL), expected, "{header}");
        }
        assert_eq!(Coding::choose("zstd, gzip;q=0.1", &[Coding::Gzip]), gzip);
    }

    #[test]
    fn a_compressed_body_comes_back() {
        for body in [Vec::new(), b"a_total 1.0\n".repeat(10_000)] {
            let mut back = Vec::new();
            let gzip = Coding::Gzip.compress(&body);
            flate2::read::GzDecoder::new(&*gzip).read_to_end(&mut back).unwrap();
            assert_eq!(back, body);
            assert_eq!(zstd::decode_all(&*Coding::Zstd.compress(&body)).unwrap(), body);
        }
    }
}
