//! One error type for the whole crate. Each message names the value and the limit it broke.
//!
//! Must not know: Python. `py/errors.rs` maps each variant to an exception, in one place.

use std::fmt;
use std::path::PathBuf;

/// What can go wrong, as a caller needs to tell it apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// A parameter is outside its range; the text names it, its value and the range.
    InvalidArgument(String),
    /// A registry has these names of samples already.
    Duplicate(Vec<String>),
    /// A prompt holds no token.
    EmptyPrompt,
    /// A prompt does not fit into the context.
    PromptTooLong {
        /// Tokens in the prompt.
        tokens: usize,
        /// The most tokens a prompt may have.
        limit: usize,
        /// What the context's size is called in a configuration.
        size: &'static str,
    },
    /// The model file does not exist.
    ModelNotFound(PathBuf),
    /// The model file exists and cannot be used.
    ModelLoad {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
    /// The waiting queue is at its limit.
    QueueFull {
        /// The limit, `EngineConfig::max_queue`.
        limit: usize,
        /// An estimate of when a place will be free, in seconds.
        retry_after: f64,
    },
    /// The first token of a request could not come as promised, and the engine is set up to refuse
    /// such requests.
    Unattainable {
        /// The promise, in seconds from queued.
        promised: f64,
        /// When it would come, in seconds from queued.
        expected: f64,
    },
    /// The engine was shut down.
    EngineClosed,
    /// The backend failed to compute a step.
    Decode(String),
    /// Memory for the model or its context could not be had.
    OutOfMemory(String),
    /// The operating system refused something; the text names what.
    Io {
        /// What was tried, with its object: `listen on 127.0.0.1:9464`.
        action: String,
        /// The system's own words.
        reason: String,
        /// The system's number for it, where it has one.
        code: Option<i32>,
    },
    /// An object that owns a thread was used in a forked child.
    Forked {
        /// What was asked for.
        action: &'static str,
        /// The process that made the object.
        owner: u32,
        /// The process that used it.
        current: u32,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// The closed vocabulary of `error_type`: the same words in the label, the Python attribute
/// and the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Out of memory, on the host or a device.
    Oom,
    /// A time limit passed.
    Timeout,
    /// A CUDA failure other than memory.
    CudaError,
    /// A prompt that cannot be served: empty, too long, malformed.
    InvalidPrompt,
    /// A model that is not there or not usable.
    ModelNotFound,
    /// Any other failure while serving.
    InferenceError,
    /// Text that could not be turned into tokens.
    TokenizationError,
}

impl ErrorKind {
    /// All kinds, in the order of the catalogue.
    pub const ALL: [Self; 7] = [
        Self::Oom,
        Self::Timeout,
        Self::CudaError,
        Self::InvalidPrompt,
        Self::ModelNotFound,
        Self::InferenceError,
        Self::TokenizationError,
    ];

    /// The label value.
    ///
    /// ```
    /// use ryot_metrics::error::ErrorKind;
    /// assert_eq!(ErrorKind::CudaError.as_str(), "cuda_error");
    /// ```
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oom => "oom",
            Self::Timeout => "timeout",
            Self::CudaError => "cuda_error",
            Self::InvalidPrompt => "invalid_prompt",
            Self::ModelNotFound => "model_not_found",
            Self::InferenceError => "inference_error",
            Self::TokenizationError => "tokenization_error",
        }
    }

    /// The kind with this label value, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// How bad one such error is: failures of memory, of a device and of the service are
    /// `critical`, what a request asks for in vain is a `warning`. That includes a model that is
    /// not there: a client mistyped its name. A server that cannot load its own model counts no
    /// error of a request, but a failed load.
    pub const fn severity(self) -> &'static str {
        match self {
            Self::Oom | Self::CudaError | Self::InferenceError => "critical",
            Self::Timeout | Self::InvalidPrompt | Self::ModelNotFound | Self::TokenizationError => {
                "warning"
            }
        }
    }
}

impl Error {
    /// The kind that the metrics count this error under.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidArgument(_) | Self::EmptyPrompt | Self::PromptTooLong { .. } => {
                ErrorKind::InvalidPrompt
            }
            Self::ModelNotFound(_) | Self::ModelLoad { .. } => ErrorKind::ModelNotFound,
            Self::OutOfMemory(_) => ErrorKind::Oom,
            Self::QueueFull { .. }
            | Self::Unattainable { .. }
            | Self::EngineClosed
            | Self::Decode(_)
            | Self::Io { .. }
            | Self::Duplicate(_)
            | Self::Forked { .. } => ErrorKind::InferenceError,
        }
    }

    /// What the system answered when this was tried, for `map_err`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |error| Self::Io { action, reason: error.to_string(), code: error.raw_os_error() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidArgument(text) | Self::Decode(text) | Self::OutOfMemory(text) => {
                f.write_str(text)
            }
            Self::Duplicate(names) => {
                write!(f, "Duplicated timeseries in CollectorRegistry: {names:?}")
            }
            Self::EmptyPrompt => f.write_str("prompt has 0 tokens; at least 1 is needed"),
            Self::PromptTooLong { tokens, limit, size } => write!(
                f,
                "prompt has {tokens} tokens; the context ({size}) leaves room for {limit}"
            ),
            Self::ModelNotFound(path) => write!(f, "no model file at {}", path.display()),
            Self::ModelLoad { path, reason } => {
                write!(f, "cannot load the model {}: {reason}", path.display())
            }
            Self::QueueFull { limit, retry_after } => write!(
                f,
                "the queue holds its limit of {limit} requests (max_queue); \
                 try again in {retry_after:.1} s"
            ),
            Self::Unattainable { promised, expected } => write!(
                f,
                "the first token would come after {expected:.1} s and was promised after \
                 {promised:.1} s (ttft_ms); try again in {:.1} s",
                expected - promised
            ),
            Self::EngineClosed => f.write_str("the engine was shut down"),
            Self::Io { action, reason, .. } => write!(f, "cannot {action}: {reason}"),
            Self::Forked { action, owner, current } => write!(
                f,
                "cannot {action} in a forked process: it belongs to process {owner}, \
                 this is process {current}"
            ),
        }
    }
}

impl std::error::Error for Error {}
