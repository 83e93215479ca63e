//! A parser of sample lines, as small as it can be and independent of the encoders.

/// A sample: name, label pairs and the text of its value.
pub(crate) type Line = (String, Vec<(String, String)>, String);

/// All samples of a page.
///
/// # Panics
/// If a line cannot be read.
pub(crate) fn samples(page: &str) -> Vec<Line> {
    page.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

fn sample(line: &str) -> Line {
    let end = line.find(['{', ' ']).expect(line);
    let mut name = line[..end].to_owned();
    let mut labels = Vec::new();
    let mut rest = &line[end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = word(rest);
            rest = after;
            if let Some(quoted) = rest.strip_prefix('=') {
                let (value, after) = word(quoted);
                labels.push((label, value));
                rest = after;
            } else {
                name = label;
            }
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.trim_start().split(' ').next().expect(line);
    (name, labels, value.to_owned())
}

/// A bare or quoted word, and what follows it.
fn word(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(['=', ',', '}']).expect(text);
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut word = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (word, &quoted[at + 1..]),
            '\\' => word.push(match chars.next().expect(text).1 {
                'n' => '\n',
                other => other,
            }),
            other => word.push(other),
        }
    }
    panic!("no end of quotes: {text}");
}
