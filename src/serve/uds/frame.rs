//! From bytes to lines and frames. No socket, no clock: a value that bytes are pushed into.
//!
//! What kind of client it is follows from its first four bytes. A frame begins with its length, as
//! four bytes, little-endian, whose last is 0 in every length that is allowed; text has no NUL. So
//! the fourth byte decides; a fourth byte other than 0 after bytes that are no text is the length
//! of a frame that is too large.
//!
//! Invariants: what comes out does not depend on where the bytes were cut; a frame that is too
//! large is known by its length alone, and nothing of it is kept; an error stays.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// The bytes of a frame's length.
const HEADER: usize = size_of::<u32>();

/// Something that a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A line of text, without its end.
    Line(Bytes),
    /// What a frame holds.
    Frame(Bytes),
}

/// Bytes that are no frame and no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A frame of no bytes.
    Empty,
    /// A frame above its limit.
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// `max_frame_bytes`.
        limit: usize,
    },
    /// A line above its limit.
    LineTooLong {
        /// `max_line_bytes`.
        limit: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a frame has 0 bytes; at least 1 is needed"),
            Self::TooLarge { bytes, limit } => {
                write!(f, "a frame has {bytes} bytes; the limit is {limit} (max_frame_bytes)")
            }
            Self::LineTooLong { limit } => {
                write!(f, "a line has more than {limit} bytes (max_line_bytes)")
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Lines,
    Frames,
}

/// Cuts a client's bytes into lines or frames.
///
/// ```
/// use ryot_metrics::serve::uds::{Decoder, Item};
/// let mut frames = Decoder::new(1024, 64);
/// frames.push(b"\x02\0\0");
/// assert_eq!(frames.next(), Ok(None));
/// frames.push(b"\0{}");
/// assert_eq!(frames.next(), Ok(Some(Item::Frame("{}".into()))));
///
/// let mut lines = Decoder::new(1024, 64);
/// lines.push(b"metrics\n");
/// assert_eq!(lines.next(), Ok(Some(Item::Line("metrics".into()))));
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    buffer: BytesMut,
    mode: Option<Mode>,
    max_frame: usize,
    max_line: usize,
}

impl Decoder {
    /// For frames of at most `max_frame` bytes and lines of at most `max_line`.
    pub fn new(max_frame: usize, max_line: usize) -> Self {
        Self { buffer: BytesMut::new(), mode: None, max_frame, max_line }
    }

    /// Takes bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next item that is whole.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; the same again from then on.
    #[allow(clippy::should_implement_trait)] // an iterator's end is for ever
    pub fn next(&mut self) -> Result<Option<Item>, FrameError> {
        self.mode = self.mode.or_else(|| Some(mode_of(*self.buffer.first_chunk()?)));
        match self.mode {
            None => Ok(None),
            Some(Mode::Lines) => self.line(),
            Some(Mode::Frames) => self.frame(),
        }
    }

    /// Whether this may be a whole line that is shorter than a frame's length; only time can tell.
    pub fn undecided(&self) -> bool {
        self.mode.is_none() && self.buffer.contains(&b'\n')
    }

    /// No more bytes come, or not soon: what is undecided is a line.
    pub fn settle(&mut self) {
        if self.undecided() {
            self.mode = Some(Mode::Lines);
        }
    }

    /// Whether the client speaks in lines, as far as is known.
    pub fn in_lines(&self) -> bool {
        self.mode == Some(Mode::Lines)
    }

    /// Whether no part of an item is there.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    fn line(&mut self) -> Result<Option<Item>, FrameError> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n');
        let limit = self.max_line;
        if end.unwrap_or(self.buffer.len()) > limit {
            return Err(FrameError::LineTooLong { limit });
        }
        let Some(end) = end else { return Ok(None) };
        let mut line = self.buffer.split_to(end + 1);
        line.truncate(end - usize::from(line[..end].ends_with(b"\r")));
        Ok(Some(Item::Line(line.freeze())))
    }

    fn frame(&mut self) -> Result<Option<Item>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let (length, limit) = (u32::from_le_bytes(*header) as usize, self.max_frame);
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > limit {
            return Err(FrameError::TooLarge { bytes: length, limit });
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some(Item::Frame(self.buffer.split_to(length).freeze())))
    }
}

fn mode_of(first: [u8; HEADER]) -> Mode {
    let text = first.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    if text { Mode::Lines } else { Mode::Frames }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_FRAME: usize = 300;
    const MAX_LINE: usize = 40;

    fn decoder() -> Decoder {
        Decoder::new(MAX_FRAME, MAX_LINE)
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32).to_le_bytes(), payload].concat()
    }

    /// All items, and the error that ended them.
    fn drain(decoder: &mut Decoder) -> (Vec<Item>, Option<FrameError>) {
        let mut items = Vec::new();
        loop {
            match decoder.next() {
                Ok(Some(item)) => items.push(item),
                Ok(None) => return (items, None),
                Err(error) => return (items, Some(error)),
            }
        }
    }

    /// Pushes the bytes in pieces that are cut at these places.
    fn decode(bytes: &[u8], cuts: &[usize]) -> (Vec<Item>, Option<FrameError>) {
        let mut decoder = decoder();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let (mut items, mut error) = (Vec::new(), None);
        for pair in cuts.windows(2) {
            decoder.push(&bytes[pair[0]..pair[1]]);
            let (more, end) = drain(&mut decoder);
            items.extend(more);
            error = end;
        }
        (items, error)
    }

    proptest! {
        #[test]
        fn frames_do_not_depend_on_where_the_bytes_are_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..MAX_FRAME), 1..6),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| frame(payload)).collect();
            let expected = payloads.into_iter().map(|payload| Item::Frame(payload.into())).collect();
            prop_assert_eq!(decode(&bytes, &cuts), (expected, None));
        }

        #[test]
        fn nor_does_what_is_made_of_nonsense(
            bytes in prop::collection::vec(any::<u8>(), 0..600),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            prop_assert_eq!(decode(&bytes, &cuts), decode(&bytes, &[]));
        }

        #[test]
        fn nor_does_a_line(text in "[!-~]{4,39}", cuts in prop::collection::vec(any::<usize>(), 0..9)) {
            let bytes = format!("{text}\r\nrest\n");
            let expected = vec![Item::Line(text.into()), Item::Line("rest".into())];
            prop_assert_eq!(decode(bytes.as_bytes(), &cuts), (expected, None));
        }
    }

    /// 10⁵ frames of random lengths and contents: each is an item or an error, and whatever is kept
    /// is within the limit.
    #[test]
    fn random_frames_never_break_it() {
        use rand_chacha::ChaCha8Rng;
        use rand_chacha::rand_core::{RngCore, SeedableRng};
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let (mut whole, mut broken) = (0, 0);
        for _ in 0..100_000 {
            let mut decoder = decoder();
            let length = random.next_u32() >> (random.next_u32() % 32);
            let mut bytes = vec![0; random.next_u32() as usize % (2 * MAX_FRAME)];
            random.fill_bytes(&mut bytes);
            decoder.push(&length.to_le_bytes());
            decoder.push(&bytes);
            let (items, error) = drain(&mut decoder);
            whole += items.len();
            if let Some(error) = error {
                assert_eq!(decoder.next(), Err(error));
                broken += 1;
            }
            assert!(decoder.buffer.len() <= HEADER + 2 * MAX_FRAME);
        }
        assert!(whole > 10_000 && broken > 10_000, "{whole} whole, {broken} broken");
    }

    #[test]
    fn a_frame_too_large_is_known_by_its_length() {
        let too_large = |bytes| FrameError::TooLarge { bytes, limit: MAX_FRAME };
        for length in [301, 1 << 20, (1 << 24) - 1, 0xFFFF_FFFF_u32] {
            let mut decoder = decoder();
            decoder.push(&length.to_le_bytes());
            assert_eq!(decoder.next(), Err(too_large(length as usize)));
        }
        let text = too_large(301).to_string();
        assert_eq!(text, "a frame has 301 bytes; the limit is 300 (max_frame_bytes)");
        let mut decoder = decoder();
        decoder.push(&[0; HEADER]);
        assert_eq!(decoder.next(), Err(FrameError::Empty));
    }

    #[test]
    fn a_line_too_long_is_an_error_with_or_without_its_end() {
        for end in ["", "\n"] {
            let mut decoder = decoder();
            decoder.push(format!("{}{end}", "x".repeat(41)).as_bytes());
            assert!(decoder.next() == Err(FrameError::LineTooLong { limit: 40 }));
        }
    }

    #[test]
    fn what_is_shorter_than_a_length_is_a_line_once_nothing_more_comes() {
        let mut decoder = decoder();
        decoder.push(b"A\n"); // also the beginning of the length 2625
        assert_eq!((decoder.next(), decoder.undecided()), (Ok(None), true));
        let mut frame = decoder.clone();
        frame.push(&[0, 0]);
        assert_eq!((frame.next().is_err(), frame.in_lines()), (true, false));
        decoder.settle();
        assert_eq!(decoder.next(), Ok(Some(Item::Line("A".into()))));
        assert!(decoder.in_lines() && decoder.is_empty());
    }
}
