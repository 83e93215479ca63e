//! What the server says: events, and the codes of its errors.

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;

use super::frame::FrameError;
use super::request::Id;
use crate::backend::Token;
use crate::error::Error;

/// What went wrong, as a client needs to tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Code {
    /// A frame of no bytes.
    #[serde(rename = "E_PROTO_INVALID_LEN")]
    InvalidLength,
    /// A frame, or a line, above its limit.
    #[serde(rename = "E_PROTO_FRAME_TOO_LARGE")]
    FrameTooLarge,
    /// A frame that is not UTF-8.
    #[serde(rename = "E_PROTO_INVALID_UTF8")]
    InvalidUtf8,
    /// A frame that is not JSON.
    #[serde(rename = "E_PROTO_INVALID_JSON")]
    InvalidJson,
    /// A field that is missing or outside its range, a line that is no command, or a request while
    /// another one runs.
    #[serde(rename = "E_PROTO_BAD_REQUEST")]
    BadRequest,
    /// A prompt above its limit of bytes, or of tokens.
    #[serde(rename = "E_LIMIT_PROMPT_TOO_LARGE")]
    PromptTooLarge,
    /// The engine's queue is full; `retry_after` says for about how many seconds.
    #[serde(rename = "E_LIMIT_QUEUE_FULL")]
    QueueFull,
    /// The first token could not come as promised, and the engine is set up to refuse such
    /// requests; `retry_after` as above.
    #[serde(rename = "E_LIMIT_SLO")]
    Unattainable,
    /// All connections are taken.
    #[serde(rename = "E_LIMIT_CONNECTIONS")]
    Connections,
    /// A frame was not finished in time, or nothing came for too long.
    #[serde(rename = "E_LIMIT_TIMEOUT")]
    Timeout,
    /// The request failed while it was computed.
    #[serde(rename = "E_RUNTIME_DECODE")]
    Decode,
    /// The engine was shut down, or the server is being shut down and takes no more requests.
    #[serde(rename = "E_RUNTIME_CLOSED")]
    Closed,
}

/// An error on its way to a client.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) id: Option<Id>,
    pub(super) retry_after: Option<f64>,
}

impl Fault {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), id: None, retry_after: None }
    }

    /// The same, about this request.
    pub(super) fn about(self, id: Option<Id>) -> Self {
        Self { id, ..self }
    }

    /// Whether the connection ends with it: not if another attempt is worth while.
    pub(super) fn closes(&self) -> bool {
        self.retry_after.is_none()
    }

    pub(super) fn event(&self) -> Event<'_> {
        let Self { code, message, id, retry_after } = self;
        Event::Error { id: id.as_ref(), code: *code, message, retry_after: *retry_after }
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        let code = match error {
            FrameError::Empty => Code::InvalidLength,
            FrameError::TooLarge { .. } | FrameError::LineTooLong { .. } => Code::FrameTooLarge,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let code = match error {
            Error::InvalidArgument(_) | Error::EmptyPrompt => Code::BadRequest,
            Error::PromptTooLong { .. } => Code::PromptTooLarge,
            Error::QueueFull { .. } => Code::QueueFull,
            Error::Unattainable { .. } => Code::Unattainable,
            Error::EngineClosed => Code::Closed,
            _ => Code::Decode,
        };
        let retry_after = match error {
            Error::QueueFull { retry_after, .. } => Some(retry_after),
            Error::Unattainable { promised, expected } => Some(expected - promised),
            _ => None,
        };
        Self { retry_after, ..Self::new(code, error.to_string()) }
    }
}

/// What a frame of the server holds.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub(super) enum Event<'a> {
    /// A piece of an answer; `token_id` is null for text of several tokens.
    Token { id: &'a Id, text: &'a str, token_id: Option<Token> },
    /// The end of an answer. `text` is what no token event had.
    Eos {
        id: &'a Id,
        reason: &'static str,
        #[serde(skip_serializing_if = "str::is_empty")]
        text: &'a str,
        prompt_tokens: usize,
        completion_tokens: usize,
    },
    /// Something went wrong.
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a Id>,
        code: Code,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<f64>,
    },
    /// The scorecard.
    Metrics { metrics: &'a RawValue },
}

impl Event<'_> {
    /// Writes it as a frame.
    pub(super) fn frame(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32_le(0);
        self.json(out);
        let length = (out.len() - start - size_of::<u32>()) as u32;
        out[start..][..size_of::<u32>()].copy_from_slice(&length.to_le_bytes());
    }

    /// Writes it as a line.
    pub(super) fn line(&self, out: &mut BytesMut) {
        self.json(out);
        out.put_u8(b'\n');
    }

    fn json(&self, out: &mut BytesMut) {
        serde_json::to_writer(out.writer(), self).expect("text and numbers are JSON");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_frames_of_json() {
        let id = Id::Text("a\"b".to_owned());
        let mut out = BytesMut::new();
        Event::Token { id: &id, text: "é\0", token_id: Some(7) }.frame(&mut out);
        let json = r#"{"event":"token","id":"a\"b","text":"é\u0000","token_id":7}"#;
        assert_eq!(out[..4], (json.len() as u32).to_le_bytes());
        assert_eq!(out.split_off(4), json);
        out.clear();
        let fault = Fault::from(Error::QueueFull { limit: 2, retry_after: 1.5 }).about(Some(id));
        fault.event().line(&mut out);
        let json = r#"{"event":"error","id":"a\"b","code":"E_LIMIT_QUEUE_FULL","message":"#;
        assert!(out.starts_with(json.as_bytes()));
        assert!(out.ends_with(b",\"retry_after\":1.5}\n"));
        assert!(!fault.closes() && Fault::from(Error::EngineClosed).closes());
    }

    #[test]
    fn the_engines_errors_have_codes() {
        let tokens = Error::PromptTooLong { tokens: 9, limit: 8, size: "ctx_size" };
        for (error, code) in [
            (Error::EmptyPrompt, "E_PROTO_BAD_REQUEST"),
            (tokens, "E_LIMIT_PROMPT_TOO_LARGE"),
            (Error::Decode("x".to_owned()), "E_RUNTIME_DECODE"),
            (Error::EngineClosed, "E_RUNTIME_CLOSED"),
        ] {
            let fault = Fault::from(error);
            assert_eq!(serde_json::to_value(fault.code).unwrap(), code);
        }
    }
}
