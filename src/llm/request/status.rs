//! How a request ended, as a word; knows nothing of requests.

/// How a request ended, as the label `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It returned, or its stream ran to its end.
    Success,
    /// It raised before the first token.
    Error,
    /// It ran into a time limit.
    Timeout,
    /// Its stream raised after the first token.
    Partial,
    /// The caller gave up.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Success, Self::Error, Self::Timeout, Self::Partial, Self::Cancelled];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Partial => "partial",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status with this label value, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "success" => Some(Self::Success),
            "error" => Some(Self::Error),
            "timeout" => Some(Self::Timeout),
            "partial" => Some(Self::Partial),
            "cancelled" => Some(Self::Cancelled),
            _ => None,
        }
    }
}
