//! Which format a scraper gets: its `Accept` header, with q-values, formats' versions and the
//! escaping of names.
//!
//! A header yields what `prometheus_client` makes of it, except that q-values count. Of media
//! ranges of equal quality the first wins; plain 0.0.4 is what remains, and loses every tie.

use std::borrow::Cow;
use std::cmp::Reverse;

use super::names::Escaping;

/// A format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4, what everybody reads.
    Text004,
    /// Prometheus text 1.0.0: the same with names of any UTF-8 text.
    Text100,
    /// OpenMetrics text 1.0.0.
    OpenMetrics1,
    /// Length-delimited protobuf messages `io.prometheus.client.MetricFamily`.
    Protobuf,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::Text004, Self::Text100, Self::OpenMetrics1, Self::Protobuf];

    /// The formats of text.
    pub const TEXT: [Self; 3] = [Self::Text004, Self::Text100, Self::OpenMetrics1];

    /// A short name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text004 => "text-0.0.4",
            Self::Text100 => "text-1.0.0",
            Self::OpenMetrics1 => "openmetrics-1.0.0",
            Self::Protobuf => "protobuf",
        }
    }

    /// The format with this short name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name)
    }

    /// The `Content-Type` of a page in this format, where no escaping was negotiated.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text004 => "text/plain; version=0.0.4; charset=utf-8",
            Self::Text100 => "text/plain; version=1.0.0; charset=utf-8",
            Self::OpenMetrics1 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
                 encoding=delimited"
            }
        }
    }

    /// The better of [`Text004`](Self::Text004) and [`OpenMetrics1`](Self::OpenMetrics1) for an
    /// `Accept` header; see [`Exposition::negotiate`] for all formats.
    ///
    /// ```
    /// use ryot_metrics::metrics::Format;
    /// assert_eq!(Format::negotiate("*/*"), Format::Text004);
    /// let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
    /// assert_eq!(Format::negotiate(prometheus), Format::OpenMetrics1);
    /// ```
    pub fn negotiate(accept: &str) -> Self {
        Exposition::negotiate(accept, &[Self::Text004, Self::OpenMetrics1]).format
    }
}

/// A format, and how names that it does not know are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exposition {
    /// The format.
    pub format: Format,
    /// The escaping; None if none was negotiated, which means underscores.
    pub escaping: Option<Escaping>,
}

/// The format without a negotiated escaping.
impl From<Format> for Exposition {
    fn from(format: Format) -> Self {
        Self { format, escaping: None }
    }
}

impl Exposition {
    /// The `offered` format that an `Accept` header likes best; plain text 0.0.4 if it likes none
    /// of them or does not say.
    ///
    /// ```
    /// use ryot_metrics::metrics::{Exposition, Format};
    /// let accept = "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;q=0.3";
    /// let exposition = Exposition::negotiate(accept, &Format::ALL);
    /// let expected = "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8";
    /// assert_eq!(exposition.content_type(), expected);
    /// ```
    pub fn negotiate(accept: &str, offered: &[Format]) -> Self {
        let ranges: Vec<Range<'_>> = accept.split(',').filter_map(Range::parse).collect();
        // The most precise range decides about 0.0.4; all others are named or not wanted.
        let plain = ranges.iter().max_by_key(|range| range.fits_plain());
        let plain = plain.filter(|range| range.fits_plain() > 0).map_or(0, |range| range.quality);
        let named = ranges.iter().enumerate().filter_map(|(index, range)| {
            let exposition = range.exposition().filter(|it| offered.contains(&it.format))?;
            let wanted = range.quality > 0 && range.quality >= plain;
            wanted.then_some(((range.quality, Reverse(index)), exposition))
        });
        let best = named.max_by_key(|(rank, _)| *rank);
        best.map_or(Format::Text004.into(), |(_, exposition)| exposition)
    }

    /// The `Content-Type` of a page.
    pub fn content_type(&self) -> Cow<'static, str> {
        let plain = self.format.content_type();
        match self.escaping {
            Some(escaping) if self.format != Format::Text004 => {
                format!("{plain}; escaping={}", escaping.as_str()).into()
            }
            _ => plain.into(),
        }
    }

    /// The escaping that a page is written with.
    pub(super) fn effective_escaping(self) -> Escaping {
        let fixed = self.format == Format::Text004;
        self.escaping.filter(|_| !fixed).unwrap_or_default()
    }
}

/// One media range of an `Accept` header.
struct Range<'a> {
    media: String,
    /// In thousandths.
    quality: u32,
    version: Option<&'a str>,
    escaping: Option<Escaping>,
    /// The protobuf message and its framing, if they are named, are ours.
    framed: bool,
}

impl<'a> Range<'a> {
    /// None if its quality cannot be read.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next()?.to_ascii_lowercase();
        let mut range = Self { media, quality: 1000, version: None, escaping: None, framed: true };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "q" => range.quality = quality_of(value)?,
                "version" => range.version = Some(value).filter(|version| !version.is_empty()),
                "escaping" => range.escaping = Escaping::parse(value),
                "proto" => range.framed &= value == "io.prometheus.client.MetricFamily",
                "encoding" => range.framed &= value == "delimited",
                _ => {}
            }
        }
        Some(range)
    }

    /// What it asks for by name; a range for plain 0.0.4 asks for nothing.
    fn exposition(&self) -> Option<Exposition> {
        let escaping = Some(self.escaping.unwrap_or_default());
        match &*self.media {
            "application/openmetrics-text" if self.version.is_none() => {
                Some(Format::OpenMetrics1.into())
            }
            "application/openmetrics-text" if self.is_modern() => {
                Some(Exposition { format: Format::OpenMetrics1, escaping })
            }
            "text/plain" if self.is_modern() => {
                Some(Exposition { format: Format::Text100, escaping })
            }
            "application/vnd.google.protobuf" if self.framed => {
                Some(Exposition { format: Format::Protobuf, escaping })
            }
            _ => None,
        }
    }

    /// How precisely it names the plain text 0.0.4; 0 if it does not fit.
    fn fits_plain(&self) -> u32 {
        match &*self.media {
            "text/plain" if self.version == Some("0.0.4") => 4,
            "text/plain" if !self.is_modern() => 3,
            "text/*" => 2,
            "*/*" => 1,
            _ => 0,
        }
    }

    /// Of version 1.0.0 or later.
    fn is_modern(&self) -> bool {
        let major = self.version.and_then(|version| version.split('.').next());
        major.and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 1)
    }
}

fn quality_of(text: &str) -> Option<u32> {
    let quality: f64 = text.parse().ok()?;
    (0.0..=1.0).contains(&quality).then_some((quality * 1000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
    const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    fn content_type(accept: &str) -> String {
        Exposition::negotiate(accept, &Format::ALL).content_type().into_owned()
    }

    #[test]
    fn a_header_without_versions_chooses_a_plain_content_type() {
        let table = [
            ("", TEXT),
            ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
            ("application/openmetrics-text", OPEN),
            ("application/openmetrics-text; escaping=dots", OPEN),
            ("application/openmetrics-text; version=0.0.1", TEXT),
            ("application/openmetrics-text;q=0.1,text/plain;q=0.2", TEXT),
            ("application/openmetrics-text;q=0,text/plain;q=0.2", TEXT),
            ("application/openmetrics-text;q=x", TEXT),
            ("text/plain,application/openmetrics-text", OPEN),
            ("text/plain;q=0.1,application/openmetrics-text;q=0.2,*/*", OPEN),
            ("APPLICATION/OpenMetrics-Text", OPEN),
            ("application/json", TEXT),
            ("application/*", TEXT),
            ("text/plain;version=1.0.0;q=0", TEXT),
        ];
        for (accept, expected) in table {
            assert_eq!(content_type(accept), expected, "{accept}");
        }
    }

    #[test]
    fn a_version_is_answered_with_an_escaping() {
        let table = [
            ("application/openmetrics-text;version=\"1.0.0\";q=0.9,*/*;q=0.1", OPEN, "underscores"),
            ("application/openmetrics-text;version=1.0.0;escaping=dots,text/plain", OPEN, "dots"),
            ("application/openmetrics-text;version=1.0.0;escaping=x", OPEN, "underscores"),
            ("text/plain;version=1.0.0;escaping=values", Format::Text100.content_type(), "values"),
        ];
        for (accept, expected, escaping) in table {
            assert_eq!(
                content_type(accept),
                format!("{expected}; escaping={escaping}"),
                "{accept}"
            );
        }
    }

    #[test]
    fn prometheus_gets_what_it_prefers_of_what_is_offered() {
        let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
            encoding=delimited;escaping=allow-utf-8;q=0.7,application/openmetrics-text;\
            version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;\
            q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;\
            q=0.3,*/*;q=0.2";
        let format = |offered: &[Format]| Exposition::negotiate(accept, offered).format;
        assert_eq!(format(&Format::ALL), Format::Protobuf);
        assert_eq!(format(&Format::ALL[..3]), Format::OpenMetrics1);
        assert_eq!(format(&Format::ALL[..2]), Format::Text100);
        assert_eq!(Format::negotiate(accept), Format::OpenMetrics1);
    }

    #[test]
    fn of_equals_the_first_wins() {
        let text = "text/plain;version=1.0.0";
        let open = "application/openmetrics-text;version=1.0.0";
        let format = |accept: &str| Exposition::negotiate(accept, &Format::ALL).format;
        assert_eq!(format(&format!("{text},{open}")), Format::Text100);
        assert_eq!(format(&format!("{open},{text}")), Format::OpenMetrics1);
    }

    #[test]
    fn another_message_or_framing_is_not_ours() {
        let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;";
        assert_eq!(content_type(&format!("{accept}encoding=text")), TEXT);
        assert_eq!(content_type("application/vnd.google.protobuf;proto=x"), TEXT);
    }
}
