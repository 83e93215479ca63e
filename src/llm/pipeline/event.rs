//! What happens to a request of a pipeline, as plain data, and as a JSON object on a line.
//!
//! Must not know: tables, metrics, clocks.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::refused::Refused;
use crate::clock::Nanos;

/// The longest name of a request or a stage, in bytes.
pub const NAME_LIMIT: usize = 256;
/// The largest number of tokens, bytes or nanoseconds that one event may say: 2⁵³.
pub const NUMBER_LIMIT: u64 = 1 << 53;

/// How a request ended: completed, or the reason of its failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its last stage gave its answer.
    Completed,
    /// Its client, or whoever asked for it, gave up.
    ClientAbort,
    /// Its client's connection ended.
    ClientDisconnect,
    /// A stage failed.
    StageError,
    /// Another reason.
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Completed,
        Self::ClientAbort,
        Self::ClientDisconnect,
        Self::StageError,
        Self::Unknown,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientAbort => "client_abort",
            Self::ClientDisconnect => "client_disconnect",
            Self::StageError => "stage_error",
            Self::Unknown => "unknown",
        }
    }

    /// The outcome with this name; a reason that is none of them is unknown.
    pub fn parse(text: &str) -> Self {
        Self::ALL.into_iter().find(|it| it.as_str() == text).unwrap_or(Self::Unknown)
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Kind<'a> {
    /// The request came.
    RequestStarted,
    /// A stage began to work on it.
    StageStarted {
        /// The stage.
        stage: Cow<'a, str>,
        /// How often the stage worked on it before.
        #[serde(default)]
        visit: u64,
    },
    /// A stage has done its work.
    StageFinished {
        /// The stage.
        stage: Cow<'a, str>,
        /// How often the stage worked on it before.
        #[serde(default)]
        visit: u64,
        /// What the work was.
        #[serde(flatten)]
        work: Work,
    },
    /// A stage has sent something, or a part of it, to another one.
    TransferSent {
        /// From this stage.
        from_stage: Cow<'a, str>,
        /// To this one.
        to_stage: Cow<'a, str>,
        /// Its size.
        #[serde(default)]
        size_bytes: u64,
        /// How long sending took; it ended when the event was.
        #[serde(default)]
        tx_ns: Nanos,
    },
    /// A stage has received something, or a part of it, and decoded it.
    TransferReceived {
        /// From this stage.
        from_stage: Cow<'a, str>,
        /// To this one.
        to_stage: Cow<'a, str>,
        /// Its size; it counts if the sender said none.
        #[serde(default)]
        size_bytes: u64,
        /// How long decoding took; it ended when the event was.
        #[serde(default)]
        rx_decode_ns: Nanos,
        /// How long it was under way, if the receiver knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        in_flight_ns: Option<Nanos>,
    },
    /// The request ended.
    RequestFinished {
        /// How.
        reason: Outcome,
    },
}

/// What a stage did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Work {
    /// The number of the batch that it was part of.
    pub batch_id: u64,
    /// Requests in that batch.
    pub batch_size: u64,
    /// Tokens that went in.
    pub num_tokens_in: u64,
    /// Tokens that came out.
    pub num_tokens_out: u64,
    /// The part of its time that was preparation.
    pub preprocess_ns: Nanos,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event<'a> {
    /// The request.
    pub request: Cow<'a, str>,
    /// When, on the clock of the machine where it happened.
    pub at: Nanos,
    /// Which clock that is; instants of different ones do not compare.
    #[serde(default)]
    pub clock: u64,
    /// Who said it first, and the number of the event there: what comes twice is known by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<(u64, u64)>,
    /// What happened.
    #[serde(flatten)]
    pub kind: Kind<'a>,
}

impl Event<'_> {
    /// Reads a line of JSON.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_line(line: &str) -> Result<Event<'static>, Refused> {
        serde_json::from_str(line).map_err(|error| Refused::invalid(format!("a line is {error}")))
    }

    /// The same with texts of its own.
    pub fn into_owned(self) -> Event<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let kind = match self.kind {
            Kind::RequestStarted => Kind::RequestStarted,
            Kind::StageStarted { stage, visit } => Kind::StageStarted { stage: own(stage), visit },
            Kind::StageFinished { stage, visit, work } => {
                Kind::StageFinished { stage: own(stage), visit, work }
            }
            Kind::TransferSent { from_stage, to_stage, size_bytes, tx_ns } => {
                let (from_stage, to_stage) = (own(from_stage), own(to_stage));
                Kind::TransferSent { from_stage, to_stage, size_bytes, tx_ns }
            }
            Kind::TransferReceived {
                from_stage,
                to_stage,
                size_bytes,
                rx_decode_ns,
                in_flight_ns,
            } => {
                let (from_stage, to_stage) = (own(from_stage), own(to_stage));
                Kind::TransferReceived {
                    from_stage,
                    to_stage,
                    size_bytes,
                    rx_decode_ns,
                    in_flight_ns,
                }
            }
            Kind::RequestFinished { reason } => Kind::RequestFinished { reason },
        };
        Event { request: own(self.request), kind, ..self }
    }

    /// Writes it as a line of JSON, without the line's end.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("an event has nothing that JSON has not")
    }

    /// Whether its names and numbers are within their limits.
    ///
    /// # Errors
    /// The first that is not, with its limit.
    pub fn check(&self) -> Result<(), Refused> {
        let name = |what: &str, text: &str| match text.len() {
            1..=NAME_LIMIT => Ok(()),
            bytes => Err(Refused::invalid(format!(
                "{what} has {bytes} bytes; it must have 1 to {NAME_LIMIT}"
            ))),
        };
        let numbers = |numbers: &[(&str, u64)]| {
            let beyond = numbers.iter().find(|(_, value)| *value > NUMBER_LIMIT);
            beyond.map_or(Ok(()), |(what, value)| {
                let text = format!("{what} is {value}; it must be 0 to {NUMBER_LIMIT}");
                Err(Refused::invalid(text))
            })
        };
        name("request_id", &self.request)?;
        match &self.kind {
            Kind::RequestStarted | Kind::RequestFinished { .. } => Ok(()),
            Kind::StageStarted { stage, .. } => name("stage", stage),
            Kind::StageFinished { stage, work, .. } => {
                name("stage", stage)?;
                numbers(&[
                    ("batch_id", work.batch_id),
                    ("batch_size", work.batch_size),
                    ("num_tokens_in", work.num_tokens_in),
                    ("num_tokens_out", work.num_tokens_out),
                    ("preprocess_ns", work.preprocess_ns),
                ])
            }
            Kind::TransferSent { from_stage, to_stage, size_bytes, tx_ns } => {
                name("from_stage", from_stage)?;
                name("to_stage", to_stage)?;
                numbers(&[("size_bytes", *size_bytes), ("tx_ns", *tx_ns)])
            }
            Kind::TransferReceived {
                from_stage,
                to_stage,
                size_bytes,
                rx_decode_ns: rx,
                in_flight_ns,
            } => {
                name("from_stage", from_stage)?;
                name("to_stage", to_stage)?;
                let in_flight = in_flight_ns.unwrap_or_default();
                numbers(&[("size_bytes", *size_bytes), ("rx_decode_ns", *rx)])?;
                numbers(&[("in_flight_ns", in_flight)])
            }
        }
    }
}

/// A number for the clock of a machine, from a text that names the machine and its last start: the
/// same in all its processes. FNV-1a, in the 53 bits that every reader of JSON has.
pub fn clock_of(machine: &str) -> u64 {
    let hash = machine.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash >> 11
}
