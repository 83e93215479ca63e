//! One line of a page of text: names, quoted texts and a sample. Pure.

/// Names and values.
pub(super) type Labels = Vec<(String, String)>;

/// One line's sample.
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) value: f64,
}

/// Reads a line from its beginning on.
pub(super) struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Self(line)
    }

    /// What has not been read yet.
    pub(super) fn rest(&self) -> &'a str {
        self.0
    }

    /// A name, bare up to one of these or in quotes.
    pub(super) fn name(&mut self, ends: &[char]) -> Result<String, String> {
        if self.0.starts_with('"') {
            return self.quoted();
        }
        let end = self.0.find(ends).unwrap_or(self.0.len());
        let (name, rest) = self.0.split_at(end);
        self.0 = rest;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err("no name".into());
        }
        Ok(name.to_owned())
    }

    /// A text in quotes, with its escapes.
    fn quoted(&mut self) -> Result<String, String> {
        let inner = self.0.strip_prefix('"').ok_or("no quoted text")?;
        let mut text = String::new();
        let mut characters = inner.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &inner[at + 1..];
                    return Ok(text);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                other => text.push(other),
            }
        }
        Err("a quoted text without an end".into())
    }

    fn skip(&mut self, expected: char) -> bool {
        self.0 = self.0.trim_start();
        let rest = self.0.strip_prefix(expected);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// A sample, which is all of the line.
    pub(super) fn sample(mut self) -> Result<Sample, String> {
        let mut name =
            if self.0.starts_with('{') { String::new() } else { self.name(&['{', ' ', '\t'])? };
        let mut labels = Labels::new();
        if self.skip('{') {
            while !self.skip('}') {
                self.0 = self.0.trim_start();
                let quoted = self.0.starts_with('"');
                let label = self.name(&['=', '}', ','])?;
                if self.skip('=') {
                    self.0 = self.0.trim_start();
                    let value = self.quoted()?;
                    labels.push((label, value));
                } else if quoted && name.is_empty() {
                    name = label;
                } else {
                    return Err("no value of a label".into());
                }
                if !self.skip(',') && !self.0.trim_start().starts_with('}') {
                    return Err("no comma between labels".into());
                }
            }
        }
        if name.is_empty() {
            return Err("no name".into());
        }
        let rest = self.0.split(" # ").next().unwrap_or_default(); // an exemplar
        let mut numbers = rest.split_whitespace();
        let value = number(numbers.next().ok_or("no value")?)?;
        if let Some(timestamp) = numbers.next() {
            number(timestamp)?;
        }
        match numbers.next() {
            None => Ok(Sample { name, labels, value }),
            Some(_) => Err("more behind the value".into()),
        }
    }
}

/// A number as Prometheus writes it.
pub(super) fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}
