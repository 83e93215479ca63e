//! Tokens in a response body: the events of a stream, and `OpenAI`'s `usage`.
//!
//! Knows bytes, nothing of HTTP or of requests.

use std::sync::LazyLock;

use memchr::memchr2;
use memchr::memmem::Finder;
use serde::Deserialize;
use serde_json::Value;

/// The most that is kept of an event whose end has not come yet.
pub(super) const MAX_EVENT_BYTES: usize = 65_536;

/// How a stream of `OpenAI`'s shape says that nothing else comes.
static DONE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"data: [DONE]"));
static EMPTY_DELTA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""delta":{}"#));
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""usage""#));

/// The tokens that a response reports; None where it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt_tokens: Option<u32>,
    pub(super) completion_tokens: Option<u32>,
}

impl Usage {
    /// `OpenAI`'s `usage` in a JSON document, if it is there and an object.
    pub(super) fn of(document: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            usage: Value,
        }
        if !is_named(document) {
            return None;
        }
        let Document { usage } = serde_json::from_slice(document).ok()?;
        let count = |name| usage.get(name)?.as_u64()?.try_into().ok();
        usage.is_object().then(|| Self {
            prompt_tokens: count("prompt_tokens"),
            completion_tokens: count("completion_tokens"),
        })
    }
}

/// Whether an object of this name stands somewhere in it; `"usage": null` is in every event.
fn is_named(document: &[u8]) -> bool {
    USAGE.find_iter(document).any(|at| {
        let mut rest =
            document[at + USAGE.needle().len()..].iter().filter(|byte| !byte.is_ascii_whitespace());
        rest.next() == Some(&b':') && rest.next() == Some(&b'{')
    })
}

/// Counts the events of a stream that stand for tokens, however it is cut into chunks.
///
/// Events without data (comments, pings), `[DONE]`, empty deltas and the event that carries the
/// usage are none.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// What the stream reported, if it did.
    pub(super) usage: Option<Usage>,
    /// Of an event whose end has not come yet.
    rest: Vec<u8>,
}

impl Events {
    /// How many events of tokens end in this chunk.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> u64 {
        // One whole event of one line, as most servers send them; the rest of this method is for all others.
        let first_line = memchr2(b'\r', b'\n', chunk).unwrap_or(chunk.len());
        if self.rest.is_empty() && &chunk[first_line..] == b"\n\n" {
            return u64::from(self.is_token(chunk));
        }
        let mut seen = self.rest.len().saturating_sub(LONGEST_END - 1);
        let mut buffer = std::mem::take(&mut self.rest);
        buffer.extend_from_slice(chunk);
        let (mut begin, mut tokens) = (0, 0);
        while let Some((end, length)) = end_of_event(&buffer, seen) {
            tokens += u64::from(self.is_token(&buffer[begin..end]));
            begin = end + length;
            seen = begin;
        }
        buffer.drain(..begin);
        if buffer.len() <= MAX_EVENT_BYTES {
            self.rest = buffer;
        }
        tokens
    }

    fn is_token(&mut self, event: &[u8]) -> bool {
        let mut lines = event.split(|byte| matches!(byte, b'\r' | b'\n'));
        let Some(data) = lines.find_map(|line| line.strip_prefix(b"data:")) else { return false };
        let data = data.strip_prefix(b" ").unwrap_or(data);
        if data == b"[DONE]" || EMPTY_DELTA.find(data).is_some() {
            return false;
        }
        let usage = Usage::of(data);
        self.usage = usage.or(self.usage);
        usage.is_none()
    }
}

/// Whether a chunk says that nothing else comes.
pub(super) fn says_done(chunk: &[u8]) -> bool {
    DONE.find(chunk).is_some()
}

/// Bytes of the longest end that an event may have.
const LONGEST_END: usize = 4;

/// Where the first end of an event from `begin` on stands, and how long it is.
fn end_of_event(buffer: &[u8], begin: usize) -> Option<(usize, usize)> {
    const ENDS: [&[u8]; 3] = [b"\r\n\r\n", b"\n\n", b"\r\r"];
    let mut at = begin;
    loop {
        at += memchr2(b'\r', b'\n', buffer.get(at..)?)?;
        if let Some(end) = ENDS.iter().find(|end| buffer[at..].starts_with(end)) {
            return Some((at, end.len()));
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_do_not_depend_on_where_a_stream_is_cut() {
        let stream = b"data: a\r\n\r\nevent: x\ndata: b\n\n:ping\n\ndata: [DONE]\n\ndata:c\r\r";
        for size in 1..=stream.len() {
            let mut events = Events::default();
            let counted: u64 = stream.chunks(size).map(|piece| events.feed(piece)).sum();
            assert_eq!(counted, 3, "pieces of {size} bytes");
        }
    }

    /// No more memory than the limit is kept, and the stream goes on after it.
    #[test]
    fn an_endless_event_is_not_kept() {
        let mut events = Events::default();
        for _ in 0..3 {
            assert_eq!(events.feed(&vec![b'x'; MAX_EVENT_BYTES]), 0);
            assert!(events.rest.len() <= MAX_EVENT_BYTES);
        }
        events.feed(b"\n\n");
        assert_eq!(events.feed(b"data: a\n\n"), 1);
    }

    #[test]
    fn an_event_with_usage_is_no_token_and_tells_it() {
        let mut events = Events::default();
        let chunk =
            br#"data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}"#;
        assert_eq!(events.feed(&[chunk, &b"\n\n"[..]].concat()), 0);
        let expected = Usage { prompt_tokens: Some(3), completion_tokens: Some(5) };
        assert_eq!(events.usage, Some(expected));
        assert_eq!(events.feed(b"data: {\"delta\":{}}\n\n"), 0);
        assert_eq!(events.feed(b"data: {\"usage\": null}\n\n"), 1);
        assert_eq!(events.usage, Some(expected));
    }

    #[test]
    fn usage_is_an_object_at_the_top_of_valid_json() {
        assert_eq!(Usage::of(br#"{"usage": null}"#), None);
        assert_eq!(Usage::of(br#"{"a": {"usage": {}}}"#), None);
        assert_eq!(Usage::of(br#"{"usage": {"completion_tokens": 1}"#), None);
        let counted = Usage { prompt_tokens: None, completion_tokens: Some(1) };
        assert_eq!(Usage::of(br#"{"usage" : {"completion_tokens": 1}}"#), Some(counted));
        let odd = br#"{"usage": {"prompt_tokens": -1, "completion_tokens": true}}"#;
        assert_eq!(Usage::of(odd), Some(Usage { prompt_tokens: None, completion_tokens: None }));
    }
}
