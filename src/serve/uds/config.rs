//! How the socket is set up. Every limit has a name and a default here, and its error text names
//! both.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::serve::config::check_timeout;

/// The permissions of the socket's file: its owner alone may connect.
pub(super) const MODE: u32 = 0o600;

/// The most bytes in a request's `id`, which stands in each of its events.
pub(super) const MAX_ID_BYTES: usize = 256;

/// The most that `max_frame_bytes` may be: the fourth byte of every length is 0 up to it.
const LARGEST_FRAME: usize = (1 << 24) - 1;

/// What clients may use up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdsLimits {
    /// Connections at a time. One more takes the place of one that never asked anything, and is
    /// refused if there is none.
    pub max_connections: usize,
    /// Bytes of JSON in a frame of a client.
    pub max_frame_bytes: usize,
    /// Bytes in a line of a client.
    pub max_line_bytes: usize,
    /// Bytes of UTF-8 in a prompt.
    pub max_prompt_bytes: usize,
    /// Bytes of an answer that wait for a slow reader; then its further tokens wait in the engine,
    /// which is bounded by the answer's length.
    pub max_unsent_bytes: usize,
    /// How long a connection may be silent between two requests, and before the first.
    pub idle_timeout: Duration,
    /// How long a client may take over one frame.
    pub frame_timeout: Duration,
    /// How long a client may read nothing of what waits for it.
    pub write_timeout: Duration,
}

impl Default for UdsLimits {
    /// 64 connections; frames of 1 MiB, lines of 1 KiB, prompts of 256 KiB; 256 KiB unsent; 300 s
    /// idle, 10 s for a frame, 10 s without reading.
    fn default() -> Self {
        Self {
            max_connections: 64,
            max_frame_bytes: 1024 * 1024,
            max_line_bytes: 1024,
            max_prompt_bytes: 256 * 1024,
            max_unsent_bytes: 256 * 1024,
            idle_timeout: Duration::from_secs(300),
            frame_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// How the socket is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdsConfig {
    /// The socket's file. One that a dead server left is replaced.
    pub path: PathBuf,
    /// What clients may use up.
    pub limits: UdsLimits,
}

impl UdsConfig {
    /// This file, and the default limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), limits: UdsLimits::default() }
    }
}

impl UdsLimits {
    /// Whether all values are within their ranges.
    ///
    /// ```
    /// use ryot_metrics::serve::uds::UdsLimits;
    /// let limits = UdsLimits { max_frame_bytes: 1 << 30, ..UdsLimits::default() };
    /// let error = limits.validate().unwrap_err().to_string();
    /// assert_eq!(error, "max_frame_bytes is 1073741824; it must be from 1 to 16777215");
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`], with name, value and range.
    pub fn validate(&self) -> Result<()> {
        for (name, value, most) in [
            ("max_connections", self.max_connections, 1 << 20),
            ("max_frame_bytes", self.max_frame_bytes, LARGEST_FRAME),
            ("max_line_bytes", self.max_line_bytes, LARGEST_FRAME),
            ("max_prompt_bytes", self.max_prompt_bytes, LARGEST_FRAME),
            ("max_unsent_bytes", self.max_unsent_bytes, 1 << 30),
        ] {
            if value == 0 || value > most {
                let text = format!("{name} is {value}; it must be from 1 to {most}");
                return Err(Error::InvalidArgument(text));
            }
        }
        for (name, value) in [
            ("idle_timeout", self.idle_timeout),
            ("frame_timeout", self.frame_timeout),
            ("write_timeout", self.write_timeout),
        ] {
            check_timeout(name, value)?;
        }
        Ok(())
    }
}
