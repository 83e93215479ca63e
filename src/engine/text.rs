//! From token bytes to text that a caller may see: whole characters, and nothing from a stop
//! string on.
//!
//! Must not know: tokens, requests. Invariant: the emitted text does not depend on where the bytes
//! were cut. Only what may still become something else is held back: the start of a character, and
//! text that may be the start of a stop string.

/// The text of one answer.
#[derive(Debug, Default)]
pub struct TextStream {
    /// The start of a character.
    bytes: Vec<u8>,
    /// Text that may be the start of a stop string.
    held: String,
    stops: Vec<String>,
    stopped: bool,
}

impl TextStream {
    /// An empty text that ends before any of these strings.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, ..Self::default() }
    }

    /// Adds bytes and returns the text that is now certain. Bytes that are no UTF-8 become U+FFFD,
    /// as [`String::from_utf8_lossy`] has it.
    ///
    /// ```
    /// use ryot_metrics::engine::TextStream;
    /// let mut text = TextStream::new(vec!["STOP".to_owned()]);
    /// assert_eq!(text.push(b"caf\xc3"), "caf");
    /// assert_eq!(text.push(b"\xa9 ST"), "é ");
    /// assert_eq!(text.push(b"OP and more"), "");
    /// assert!(text.stopped());
    /// ```
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.bytes.extend_from_slice(bytes);
        self.decode();
        self.release()
    }

    /// Whether a stop string has appeared.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The text is over: returns what was held back.
    pub fn finish(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        if !self.bytes.is_empty() {
            self.bytes.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        // U+FFFD may itself complete a stop string.
        let mut text = self.release();
        text.push_str(&std::mem::take(&mut self.held));
        text
    }

    /// Moves whole characters from `bytes` to `held`.
    fn decode(&mut self) {
        let mut rest = &self.bytes[..];
        let start_of_character = loop {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    break 0;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            self.held.push_str(std::str::from_utf8(valid).expect("valid up to here"));
            match error.error_len() {
                Some(invalid) => {
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[invalid..];
                }
                None => break after.len(),
            }
        };
        self.bytes.drain(..self.bytes.len() - start_of_character);
    }

    /// Takes from `held` what can be no part of a stop string.
    fn release(&mut self) -> String {
        // The stop string that is complete first counts, whatever else begins earlier; of those
        // that end together, the longest.
        let ends = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = ends.min() {
            self.stopped = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let kept = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - kept);
        std::mem::replace(&mut self.held, tail)
    }
}

/// Bytes at the end of `text` that are a proper start of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices()
        .map(|(index, _)| index)
        .rev()
        .find(|&length| text.ends_with(&stop[..length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    use super::*;

    fn stream(pieces: &[&[u8]], stops: &[&str]) -> (Vec<String>, bool) {
        let mut text = TextStream::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut out: Vec<String> = pieces.iter().map(|piece| text.push(piece)).collect();
        out.push(text.finish());
        (out, text.stopped())
    }

    #[test]
    fn characters_come_whole() {
        let emoji = "😀".as_bytes();
        let (out, _) = stream(&[&emoji[..1], &emoji[1..3], &emoji[3..], b"!"], &[]);
        assert_eq!(out, ["", "", "😀", "!", ""]);
        let (out, _) = stream(&[b"a\xffb", b"\xf0\x9f"], &[]);
        assert_eq!(out, ["a\u{fffd}b", "", "\u{fffd}"]);
    }

    #[test]
    fn stop_strings_are_found_across_pieces() {
        let (out, stopped) = stream(&[b"one EN", b"D two"], &["END"]);
        assert_eq!((out, stopped), (vec!["one ".into(), String::new(), String::new()], true));
        let (out, stopped) = stream(&[b"one EN", b"E"], &["END"]);
        assert_eq!((out, stopped), (vec!["one ".into(), "EN".into(), "E".into()], false));
        let (out, stopped) = stream(&[b"abc"], &["b", "abc"]);
        assert_eq!((out, stopped), (vec!["a".into(), String::new()], true));
    }

    #[test]
    fn stop_strings_may_overlap_themselves_each_other_and_split_characters() {
        let bytes = |text: &str| -> Vec<Vec<u8>> { text.bytes().map(|byte| vec![byte]).collect() };
        for (text, stops, shown) in [
            ("xaaab", &["aab"][..], "xa"),
            ("ab é😀c", &["é😀"], "ab "),
            ("ab 😁😀c", &["😀c", "😀"], "ab 😁"),
            ("one two", &["two", "ne t"], "o"),
            ("abcabd", &["abd", "abcabc"], "abc"),
        ] {
            let pieces = bytes(text);
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let (out, stopped) = stream(&pieces, stops);
            assert_eq!((out.concat(), stopped), (shown.to_owned(), true), "{text} {stops:?}");
        }
    }

    /// What the text must be, given all of it at once.
    fn reference(bytes: &[u8], stops: &[String]) -> String {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let ends = stops.iter().filter_map(|stop| text.find(stop).map(|at| (at + stop.len(), at)));
        ends.min().map_or(text.clone(), |(_, start)| text[..start].to_owned())
    }

    #[test]
    fn the_text_does_not_depend_on_where_bytes_are_cut() {
        let alphabet: [&[u8]; 7] =
            [b"a", b"b", "é".as_bytes(), "😀".as_bytes(), b"\xff", b"\xe2\x82", b"ab"];
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut below = move |limit: usize| random.next_u32() as usize % limit;
        for _ in 0..5_000 {
            let bytes: Vec<u8> = (0..below(12)).flat_map(|_| alphabet[below(7)].to_vec()).collect();
            let stops: Vec<String> = (0..below(4))
                .map(|_| (0..=below(3)).map(|_| ["a", "b", "é", "\u{fffd}"][below(4)]).collect())
                .collect();
            let mut text = TextStream::new(stops.clone());
            let (mut out, mut rest) = (String::new(), &bytes[..]);
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(1 + below(rest.len()));
                out += &text.push(piece);
                rest = after;
            }
            out += &text.finish();
            assert_eq!(out, reference(&bytes, &stops), "{bytes:?} {stops:?}");
        }
    }
}
