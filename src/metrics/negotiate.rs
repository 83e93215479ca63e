//! Which format a scraper gets: its `Accept` header, with q-values.

/// A format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4, what everybody reads.
    Text004,
    /// OpenMetrics text 1.0.0.
    OpenMetrics1,
}

impl Format {
    /// The `Content-Type` of a page in this format.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text004 => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics1 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that an `Accept` header likes best; plain text if it likes none of them or does
    /// not say. Of two that it likes equally, the one it names more precisely.
    ///
    /// ```
    /// use ryot_metrics::metrics::Format;
    /// assert_eq!(Format::negotiate("*/*"), Format::Text004);
    /// let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3";
    /// assert_eq!(Format::negotiate(prometheus), Format::OpenMetrics1);
    /// ```
    pub fn negotiate(accept: &str) -> Self {
        let text = Self::Text004.rank(accept);
        let open = Self::OpenMetrics1.rank(accept);
        if open > text { Self::OpenMetrics1 } else { Self::Text004 }
    }

    /// The q-value in thousandths and the precision of the best media range that this format fits.
    fn rank(self, accept: &str) -> (u32, u32) {
        let (media, group, versions): (_, _, &[&str]) = match self {
            Self::Text004 => ("text/plain", "text/*", &["0.0.4"]),
            Self::OpenMetrics1 => {
                ("application/openmetrics-text", "application/*", &["1.0.0", "0.0.1"])
            }
        };
        let range = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next()?.to_ascii_lowercase();
            let (mut quality, mut version) = (1000, None);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match key.trim() {
                    "q" => quality = quality_of(value)?,
                    "version" => version = Some(value.trim().trim_matches('"').to_owned()),
                    _ => {}
                }
            }
            let precision = match (&*name, version) {
                (name, None) if name == media => 3,
                // OpenMetrics 0.0.1 is what old scrapers call the same text: less precise.
                (name, Some(version)) if name == media => {
                    let index = versions.iter().position(|known| *known == version)?;
                    4 - index as u32
                }
                (name, _) if name == group && self == Self::Text004 => 2,
                ("*/*", _) if self == Self::Text004 => 1,
                _ => return None,
            };
            (quality > 0).then_some((quality, precision))
        };
        accept.split(',').filter_map(range).max().unwrap_or_default()
    }
}

fn quality_of(text: &str) -> Option<u32> {
    let quality: f64 = text.trim().parse().ok()?;
    (0.0..=1.0).contains(&quality).then_some((quality * 1000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accept_header_chooses_the_format() {
        let open = Format::OpenMetrics1;
        let text = Format::Text004;
        let table = [
            ("", text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", text),
            ("application/openmetrics-text", open),
            ("application/openmetrics-text; version=1.0.0", open),
            ("application/openmetrics-text;version=\"1.0.0\";q=0.9,*/*;q=0.1", open),
            ("application/openmetrics-text;version=9.9.9", text),
            ("application/openmetrics-text;q=0.1,text/plain;q=0.2", text),
            ("application/openmetrics-text;q=0,text/plain;q=0.2", text),
            ("application/openmetrics-text;q=x", text),
            ("application/openmetrics-text;version=1.0.0,text/plain", open),
            ("APPLICATION/OpenMetrics-Text", open),
            ("application/json", text),
            ("application/*", text),
        ];
        for (accept, expected) in table {
            assert_eq!(Format::negotiate(accept), expected, "{accept}");
        }
    }
}
