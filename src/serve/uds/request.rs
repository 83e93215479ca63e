//! What a client may say in a frame, as types. Each field's range is the engine's to check.
//!
//! Unknown fields are ignored, and null is the same as an absent field. `metadata` is the client's
//! own, and is not looked at.

use serde::{Deserialize, Serialize};

use super::config::{MAX_ID_BYTES, UdsLimits};
use super::event::{Code, Fault};
use crate::engine::{SamplingParams, Terms};
use crate::error::Error;
use crate::event::Class;

/// What a client calls its request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "id must be a string or an integer")]
pub(super) enum Id {
    Text(String),
    Number(i64),
}

/// A whole message.
#[derive(Debug)]
pub(super) enum Message {
    /// The scorecard is asked for.
    Metrics,
    /// A request is of no use any more.
    Cancel(Id),
    /// A prompt is to be answered.
    Ask(Box<Ask>),
}

/// A request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) id: Id,
    pub(super) prompt: String,
    pub(super) params: SamplingParams,
    pub(super) terms: Terms,
    /// The name of what is added to the model's weights.
    pub(super) adapter: Option<String>,
    /// Whether each token is an event.
    pub(super) stream: bool,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(alias = "type")]
    event: Option<String>,
    id: Option<Id>,
    prompt: Option<String>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    grammar: Option<String>,
    seed: Option<i64>,
    stop: Option<Stop>,
    ignore_eos: Option<bool>,
    stream: Option<bool>,
    slo: Option<Slo>,
    priority: Option<String>,
    user: Option<String>,
    deadline_ms: Option<f64>,
    adapter: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "stop must be a string or a list of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[derive(Default, Deserialize)]
struct Slo {
    #[serde(alias = "ttft_ms")]
    target_ttft_ms: Option<f64>,
    #[serde(alias = "tbt_ms")]
    target_tbt_ms: Option<f64>,
}

/// What of a message can be known even if the rest is wrong.
#[derive(Deserialize)]
struct Named {
    id: Option<Id>,
}

impl Message {
    /// Reads the JSON of a frame.
    pub(super) fn parse(json: &[u8], limits: &UdsLimits) -> Result<Self, Fault> {
        let text = std::str::from_utf8(json)
            .map_err(|error| Fault::new(Code::InvalidUtf8, error.to_string()))?;
        // A list of values in the fields' order would be read too.
        let is_object = text.trim_ascii_start().starts_with('{');
        let fields: Fields = serde_json::from_str(text).map_err(|error| {
            let code = if error.is_data() { Code::BadRequest } else { Code::InvalidJson };
            let named = is_object.then(|| serde_json::from_str(text).ok()).flatten();
            let id = named.and_then(|named: Named| named.id);
            Fault::new(code, error.to_string()).about(id.filter(|id| id.check().is_ok()))
        })?;
        if !is_object {
            return Err(Fault::new(Code::BadRequest, "a message must be an object"));
        }
        if let Some(id) = &fields.id {
            id.check()?;
        }
        match fields.event.as_deref() {
            None | Some("request") => fields.ask(limits).map(Box::new).map(Self::Ask),
            Some("metrics") => Ok(Self::Metrics),
            Some("cancel") => fields.id.map(Self::Cancel).ok_or_else(|| missing("id", None)),
            Some(other) => {
                let text = format!("event is {other:?}; it must be request, cancel or metrics");
                Err(Fault::new(Code::BadRequest, text).about(fields.id))
            }
        }
    }
}

impl Id {
    fn check(&self) -> Result<(), Fault> {
        match self {
            Self::Text(text) if text.len() > MAX_ID_BYTES => {
                let text = format!("id has {} bytes; the limit is {MAX_ID_BYTES}", text.len());
                Err(Fault::new(Code::BadRequest, text))
            }
            _ => Ok(()),
        }
    }
}

impl Fields {
    fn ask(self, limits: &UdsLimits) -> Result<Ask, Fault> {
        let id = self.id.clone().ok_or_else(|| missing("id", None))?;
        let about = Some(id.clone());
        if let Some(prompt) = self.prompt.as_ref().filter(|p| p.len() > limits.max_prompt_bytes) {
            let (bytes, limit) = (prompt.len(), limits.max_prompt_bytes);
            let text = format!("prompt has {bytes} bytes; the limit is {limit} (max_prompt_bytes)");
            return Err(Fault::new(Code::PromptTooLarge, text).about(about));
        }
        let terms = self.terms().map_err(|error| Fault::from(error).about(about.clone()))?;
        let params = self.params();
        let (adapter, stream) = (self.adapter, self.stream.unwrap_or(true));
        let prompt = self.prompt.ok_or_else(|| missing("prompt", about))?;
        Ok(Ask { id, prompt, params, terms, adapter, stream })
    }

    fn terms(&self) -> Result<Terms, Error> {
        let class = self.priority.as_deref().unwrap_or(Class::default().as_str());
        let tenant = self.user.as_deref().unwrap_or_default();
        let (ttft, tbt) =
            self.slo.as_ref().map_or((None, None), |slo| (slo.target_ttft_ms, slo.target_tbt_ms));
        Terms::new(class, ttft, tbt, tenant, self.deadline_ms)
    }

    /// A field that is absent keeps the engine's default, but for the temperature: greedy.
    fn params(&self) -> SamplingParams {
        let default = SamplingParams::greedy();
        SamplingParams {
            max_tokens: self.max_tokens,
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            seed: self.seed.map(i64::cast_unsigned),
            stop: match &self.stop {
                None => Vec::new(),
                Some(Stop::One(text)) => vec![text.clone()],
                Some(Stop::Many(texts)) => texts.clone(),
            },
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            grammar: self.grammar.clone(),
            ignore_eos: self.ignore_eos.unwrap_or(default.ignore_eos),
            ..default
        }
    }
}

fn missing(field: &str, id: Option<Id>) -> Fault {
    Fault::new(Code::BadRequest, format!("{field} is missing")).about(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Message, Fault> {
        Message::parse(json.as_bytes(), &UdsLimits { max_prompt_bytes: 8, ..UdsLimits::default() })
    }

    fn ask(json: &str) -> Ask {
        match parse(json) {
            Ok(Message::Ask(ask)) => *ask,
            other => panic!("{other:?}"),
        }
    }

    fn fault(json: &str) -> (Code, String, Option<Id>) {
        let fault = parse(json).unwrap_err();
        (fault.code, fault.message, fault.id)
    }

    #[test]
    fn every_field_reaches_the_engine() {
        let ask = ask(r#"{"id": 7, "prompt": "h\u00e9", "max_tokens": 5, "temperature": 0.5,
            "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -1, "stop": "x", "stream": false,
            "slo": {"target_ttft_ms": 150, "tbt_ms": 80}, "priority": "background", "user": "bob",
            "deadline_ms": 1000, "adapter": "formal", "metadata": {"any": [1]}, "unknown": null, "ignore_eos": null}"#);
        assert_eq!((ask.id, &*ask.prompt, ask.stream), (Id::Number(7), "hé", false));
        assert_eq!(ask.adapter.as_deref(), Some("formal"));
        let (ttft, tbt) = (Some(150_000_000), Some(80_000_000));
        let (class, deadline) = (Class::Background, Some(1_000_000_000));
        assert_eq!(
            ask.terms,
            Terms { class, ttft, tbt, tenant: "bob".into(), deadline, adapter: 0 }
        );
        let params = SamplingParams {
            max_tokens: Some(5),
            temperature: 0.5,
            top_p: 0.9,
            top_k: 40,
            min_p: 0.1,
            seed: Some(u64::MAX),
            stop: vec!["x".to_owned()],
            ..SamplingParams::default()
        };
        assert_eq!(ask.params, params);
    }

    #[test]
    fn without_options_an_answer_is_greedy_and_streamed() {
        let ask = ask(r#"{"type": "request", "id": "a", "prompt": ""}"#);
        assert_eq!((ask.params, ask.terms), (SamplingParams::greedy(), Terms::default()));
        assert!(ask.stream);
    }

    #[test]
    fn messages_are_told_apart_by_event_or_type() {
        for key in ["event", "type"] {
            let metrics = parse(&format!(r#"{{"{key}": "metrics"}}"#));
            assert!(matches!(metrics, Ok(Message::Metrics)));
            let cancel = parse(&format!(r#"{{"{key}": "cancel", "id": "a"}}"#));
            assert!(matches!(cancel, Ok(Message::Cancel(Id::Text(id))) if id == "a"));
        }
    }

    #[test]
    fn what_is_wrong_has_a_code_a_sentence_and_the_request() {
        use Code::{BadRequest, InvalidJson, PromptTooLarge};
        let id = |text: &str| Some(Id::Text(text.to_owned()));
        let list = format!("[{}]", ["null"; 21].join(",")); // as many as there are fields
        let long = format!(r#"{{"id": "{}", "prompt": ""}}"#, "x".repeat(257));
        for (json, code, part, about) in [
            ("", InvalidJson, "EOF", None),
            (r#"{"id": "a", "prompt": "#, InvalidJson, "EOF", None),
            (r#"{"id": "a", "prompt": "\ud800"}"#, InvalidJson, "hex escape", id("a")),
            ("[1]", BadRequest, "invalid", None),
            (&*list, BadRequest, "must be an object", None),
            ("{}", BadRequest, "id is missing", None),
            (r#"{"id": "a"}"#, BadRequest, "prompt is missing", id("a")),
            (r#"{"id": ["a"], "prompt": ""}"#, BadRequest, "a string or an integer", None),
            (r#"{"id": "a", "prompt": 5}"#, BadRequest, "expected a string", id("a")),
            (r#"{"id": "a", "prompt": "", "max_tokens": -1}"#, BadRequest, "-1", id("a")),
            (r#"{"id": "a", "prompt": "", "priority": "x"}"#, BadRequest, "background", id("a")),
            (r#"{"id": "a", "prompt": "", "slo": {"ttft_ms": 0}}"#, BadRequest, "above 0", id("a")),
            (
                r#"{"id": "a", "prompt": "too large"}"#,
                PromptTooLarge,
                "9 bytes; the limit is 8",
                id("a"),
            ),
            (r#"{"event": "cancel"}"#, BadRequest, "id is missing", None),
            (r#"{"event": "jump", "id": "a"}"#, BadRequest, "\"jump\"", id("a")),
            (&*long, BadRequest, "257 bytes; the limit is 256", None),
        ] {
            let fault = fault(json);
            assert_eq!((fault.0, &fault.2), (code, &about), "{json}");
            assert!(fault.1.contains(part), "{json}: {}", fault.1);
        }
        let fault = Message::parse(b"{\"id\": \"\xff\"}", &UdsLimits::default()).unwrap_err();
        assert_eq!(fault.code, Code::InvalidUtf8);
        let deep = "[".repeat(100_000);
        assert_eq!(parse(&deep).unwrap_err().code, BadRequest);
    }
}
