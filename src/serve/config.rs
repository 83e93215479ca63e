//! How a scrape server is set up: its address, its limits, its certificates.
//!
//! Every limit has a name and a default here, and its error text names both.

use std::fmt::{self, Debug};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};

use crate::clock::{Clock, MonotonicClock};
use crate::error::{Error, Result};
use crate::metrics::Format;

/// The least that `max_header_bytes` may be: what the HTTP library reads at once.
const LEAST_HEADER_BYTES: usize = 8 * 1024;

/// The most that a timeout may be: a day. Far more would overflow clocks.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// A TCP port.
    Tcp {
        /// A name or an address, of IPv4 or IPv6 (`::1`, without brackets).
        host: String,
        /// The port; 0 lets the system choose.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// The socket's file. One that a dead server left is replaced.
        path: PathBuf,
        /// The file's permissions. Who may write to it may connect.
        mode: u32,
    },
}

/// The files that turn HTTP into HTTPS, all PEM. They are read once, at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities whose client certificates are good; a client's certificate is looked at
    /// only if there are some.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub client_auth_required: bool,
}

/// What clients may use up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. One more closes the one that has been quiet the longest, and before
    /// it those that never asked anything.
    pub max_connections: usize,
    /// Bytes of a request's line and headers, at least 8 KiB. More is answered with 431.
    pub max_header_bytes: usize,
    /// How long a connection may take to send a request's head, idle time included; also how long
    /// a TLS handshake may take. Then it is closed.
    pub read_timeout: Duration,
    /// How long a client may leave an answer unread before its connection is closed.
    pub write_timeout: Duration,
    /// Bytes below which a page is not compressed.
    pub compress_min_bytes: usize,
}

impl Default for Limits {
    /// 128 connections, 16 KiB of headers, 30 s to read, 10 s to write, compressed from 1 KiB.
    fn default() -> Self {
        Self {
            max_connections: 128,
            max_header_bytes: 16 * 1024,
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
            compress_min_bytes: 1024,
        }
    }
}

/// One answered scrape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scrape {
    /// How long the page took to collect, write and compress, in seconds.
    pub seconds: f64,
    /// The page's size in bytes, before compression.
    pub page_bytes: usize,
    /// The answer's size in bytes, as sent.
    pub sent_bytes: usize,
    /// The page's format.
    pub format: Format,
}

/// Hears of every answered scrape, on the server's thread; it should be quick.
pub trait ScrapeObserver: Debug + Send + Sync {
    /// A page is ready to be sent.
    fn scraped(&self, scrape: &Scrape);
}

/// An observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ignore;

impl ScrapeObserver for Ignore {
    fn scraped(&self, _: &Scrape) {}
}

/// A page that stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticPage {
    /// Its path.
    pub path: String,
    /// Headers of its answer, beside `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The page.
    pub body: Bytes,
}

/// A page that is made anew for every answer, on the server's thread; it should be quick.
#[derive(Clone)]
pub struct LivePage {
    /// Its path.
    pub path: String,
    /// The type of its body.
    pub content_type: &'static str,
    /// What makes the body.
    pub body: Arc<dyn Fn() -> Bytes + Send + Sync>,
}

impl Debug for LivePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LivePage").field("path", &self.path).finish_non_exhaustive()
    }
}

impl StaticPage {
    fn validate(&self) -> Result<()> {
        check_path(&self.path)?;
        let valid = |(name, value): &&(String, String)| {
            HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
        };
        self.headers.iter().find(|header| !valid(header)).map_or(Ok(()), |(name, value)| {
            let text = format!("{name}: {value} is no header");
            Err(Error::InvalidArgument(text))
        })
    }
}

/// How a scrape server is set up.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Where it listens. Default: `127.0.0.1`, a free port.
    pub bind: Bind,
    /// The one path that has the page; all others of them if `None`, which is the default.
    pub path: Option<String>,
    /// Pages beside it. Default: none.
    pub pages: Vec<StaticPage>,
    /// Pages beside it that are made anew for every answer. Default: none.
    pub live_pages: Vec<LivePage>,
    /// The profile of a page whose query names none; None: the registry's own.
    pub profile: Option<String>,
    /// Its certificates. Default: none, plain HTTP.
    pub tls: Option<TlsFiles>,
    /// What clients may use up.
    pub limits: Limits,
    /// Who hears of scrapes. Default: nobody.
    pub observer: Arc<dyn ScrapeObserver>,
    /// What scrapes are timed by.
    pub clock: Arc<dyn Clock>,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            bind: Bind::Tcp { host: "127.0.0.1".to_owned(), port: 0 },
            path: None,
            pages: Vec::new(),
            live_pages: Vec::new(),
            profile: None,
            tls: None,
            limits: Limits::default(),
            observer: Arc::new(Ignore),
            clock: Arc::new(MonotonicClock),
        }
    }
}

impl ServeConfig {
    /// Whether all values are within their ranges.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`], with name, value and range.
    pub fn validate(&self) -> Result<()> {
        let Limits { max_connections, max_header_bytes, read_timeout, write_timeout, .. } =
            self.limits;
        let least = |name, value: usize, least: usize| {
            let text = || format!("{name} is {value}; it must be at least {least}");
            if value < least { Err(Error::InvalidArgument(text())) } else { Ok(()) }
        };
        least("max_connections", max_connections, 1)?;
        least("max_header_bytes", max_header_bytes, LEAST_HEADER_BYTES)?;
        check_timeout("read_timeout", read_timeout)?;
        check_timeout("write_timeout", write_timeout)?;
        self.path.as_deref().map_or(Ok(()), check_path)?;
        self.pages.iter().try_for_each(StaticPage::validate)?;
        self.live_pages.iter().try_for_each(|page| check_path(&page.path))?;
        if let Some(page) = self.pages.iter().find(|it| Some(&it.path) == self.path.as_ref()) {
            let text = format!("path is {:?}; another page is there", page.path);
            return Err(Error::InvalidArgument(text));
        }
        match &self.tls {
            Some(TlsFiles { client_ca: None, client_auth_required: true, .. }) => {
                let text = "client_auth_required is true; it needs client_ca, the authorities \
                            whose certificates are good";
                Err(Error::InvalidArgument(text.to_owned()))
            }
            _ => Ok(()),
        }
    }
}

fn check_path(path: &str) -> Result<()> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("path is {path:?}; it must begin with a slash")))
}

/// Whether a limit of time is within its range.
pub(super) fn check_timeout(name: &str, value: Duration) -> Result<()> {
    if !value.is_zero() && value <= LONGEST_TIMEOUT {
        return Ok(());
    }
    let (value, most) = (value.as_secs_f64(), LONGEST_TIMEOUT.as_secs());
    let text = format!("{name} is {value} s; it must be above 0 and at most {most} s");
    Err(Error::InvalidArgument(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_value_and_its_range() {
        let limits = Limits::default;
        let tls = TlsFiles {
            cert: "c".into(),
            key: "k".into(),
            client_ca: None,
            client_auth_required: true,
        };
        let with = |limits| ServeConfig { limits, ..ServeConfig::default() };
        let with_page = |page| {
            let path = Some("/x".to_owned());
            ServeConfig { path, pages: vec![page], ..ServeConfig::default() }
        };
        let table = [
            (with(Limits { max_connections: 0, ..limits() }), "max_connections is 0"),
            (with(Limits { max_header_bytes: 1, ..limits() }), "must be at least 8192"),
            (with(Limits { read_timeout: Duration::ZERO, ..limits() }), "read_timeout is 0 s"),
            (with(Limits { write_timeout: Duration::MAX, ..limits() }), "at most 86400 s"),
            (ServeConfig { path: Some("x".into()), ..ServeConfig::default() }, "path is \"x\""),
            (with_page(StaticPage { path: "y".into(), ..StaticPage::default() }), "path is \"y\""),
            (with_page(StaticPage { path: "/x".into(), ..StaticPage::default() }), "another page"),
            (
                with_page(StaticPage {
                    path: "/y".into(),
                    headers: vec![("X".into(), "a\nb".into())],
                    ..StaticPage::default()
                }),
                "is no header",
            ),
            (ServeConfig { tls: Some(tls), ..ServeConfig::default() }, "needs client_ca"),
        ];
        for (config, part) in table {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        ServeConfig::default().validate().unwrap();
    }
}
