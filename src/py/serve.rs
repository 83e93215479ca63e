//! The scrape server in Python.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::boundary::detached;
use super::registry::PyRegistry;
use crate::error::{Error, Result};
use crate::serve::{Bind, Coding, Limits, ServeConfig, Server, StaticPage, TlsFiles};

/// A path, headers and a body.
type Page = (String, Vec<(String, String)>, Vec<u8>);

/// A thread that answers scrapes without the interpreter.
///
/// `ryot_metrics.scrape.serve_metrics` starts one and says what the arguments mean.
///
/// Args:
///     registry: Whose families the page shows.
///     host: A name or an address, of IPv4 or IPv6.
///     port: The port; 0 lets the system choose.
///     unix_socket: The file of a Unix socket, which then takes the place of host and port.
///     unix_mode: The permissions of that file. Default 0o600.
///     path: The one path that has the page; by default, all others have it.
///     pages: Pages beside it: the path, headers and body of each.
///     certfile: A PEM file with the server's certificate and its chain.
///     keyfile: A PEM file with its private key; by default it is in `certfile`.
///     client_cafile: A PEM file with the authorities whose client certificates are good.
///     client_auth_required: Whether a client without a certificate is turned away.
///     max_connections: Connections at a time. Default 128.
///     max_header_bytes: Bytes of a request's line and headers. Default 16384.
///     read_timeout: Seconds that a connection may take to ask something. Default 30.
///     write_timeout: Seconds that a client may leave an answer unread. Default 10.
///     compress_min_bytes: Bytes below which a page is not compressed. Default 1024.
///
/// Raises:
///     ValueError: If a value is outside its range, or a file holds no certificate or key.
///     OSError: If the address is taken or not allowed, or a file cannot be read.
#[pyclass(frozen, name = "NativeServer", module = "ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyServer(Server);

#[pymethods]
impl PyServer {
    #[new]
    #[pyo3(signature = (
        registry, host, port, *, unix_socket=None, unix_mode=0o600, path=None,
        pages=Vec::new(), certfile=None, keyfile=None, client_cafile=None, client_auth_required=false, max_connections=None,
        max_header_bytes=None, read_timeout=None, write_timeout=None, compress_min_bytes=None
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn new(
        py: Python<'_>,
        registry: &PyRegistry,
        host: String,
        port: i64,
        unix_socket: Option<PathBuf>,
        unix_mode: u32,
        path: Option<String>,
        pages: Vec<Page>,
        certfile: Option<PathBuf>,
        keyfile: Option<PathBuf>,
        client_cafile: Option<PathBuf>,
        client_auth_required: bool,
        max_connections: Option<usize>,
        max_header_bytes: Option<usize>,
        read_timeout: Option<f64>,
        write_timeout: Option<f64>,
        compress_min_bytes: Option<usize>,
    ) -> PyResult<Self> {
        let default = Limits::default();
        let limits = Limits {
            max_connections: max_connections.unwrap_or(default.max_connections),
            max_header_bytes: max_header_bytes.unwrap_or(default.max_header_bytes),
            read_timeout: seconds("read_timeout", read_timeout, default.read_timeout)?,
            write_timeout: seconds("write_timeout", write_timeout, default.write_timeout)?,
            compress_min_bytes: compress_min_bytes.unwrap_or(default.compress_min_bytes),
        };
        let bind = match unix_socket {
            Some(path) => Bind::Unix { path, mode: unix_mode },
            None => Bind::Tcp { host, port: port_of(port)? },
        };
        let tls = tls_files(certfile, keyfile, client_cafile, client_auth_required)?;
        let profile = registry.profile().map(str::to_owned);
        let pages = pages.into_iter().map(|(path, headers, body)| StaticPage {
            path,
            headers,
            body: body.into(),
        });
        let pages = pages.collect();
        let config =
            ServeConfig { bind, path, pages, profile, tls, limits, ..ServeConfig::default() };
        let registry = Arc::clone(registry.core());
        Ok(Self(detached(py, || Server::start(registry, config))?))
    }

    /// Where it listens: `127.0.0.1:9464`, `[::1]:9464`, or the path of the Unix socket.
    #[getter]
    fn address(&self) -> PyResult<String> {
        Ok(self.0.address()?.to_string())
    }

    /// The port, or None for a Unix socket.
    #[getter]
    fn port(&self) -> PyResult<Option<u16>> {
        Ok(self.0.address()?.port())
    }

    /// Stops to listen, finishes answers that are on their way within half a second, and frees
    /// the address. Without effect the second time.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        Ok(detached(py, || self.0.shutdown())?)
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
        self.shutdown(py)
    }
}

pub(super) fn port_of(port: i64) -> Result<u16> {
    u16::try_from(port)
        .map_err(|_| Error::InvalidArgument(format!("port is {port}; it must be 0 to 65535")))
}

pub(super) fn seconds(name: &str, value: Option<f64>, default: Duration) -> Result<Duration> {
    let Some(value) = value else { return Ok(default) };
    Duration::try_from_secs_f64(value).map_err(|error| {
        Error::InvalidArgument(format!("{name} is {value}; it must be above 0 s: {error}"))
    })
}

fn tls_files(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    client_auth_required: bool,
) -> Result<Option<TlsFiles>> {
    if let Some(cert) = cert {
        let key = key.unwrap_or_else(|| cert.clone());
        return Ok(Some(TlsFiles { cert, key, client_ca, client_auth_required }));
    }
    if key.is_some() || client_ca.is_some() || client_auth_required {
        let text = "certfile is missing; keyfile, client_cafile and client_auth_required need it";
        return Err(Error::InvalidArgument(text.to_owned()));
    }
    Ok(None)
}

/// Which of the offered content codings an `Accept-Encoding` header likes best, or None.
#[pyfunction]
pub(super) fn choose_coding(
    accept_encoding: &str,
    offered: &Bound<'_, PyAny>,
) -> PyResult<Option<&'static str>> {
    let offered: Vec<String> = offered.extract()?;
    let offered: Vec<_> = offered.iter().filter_map(|name| Coding::parse(name)).collect();
    Ok(Coding::choose(accept_encoding, &offered).map(Coding::as_str))
}

/// The body in a content coding.
///
/// Raises:
///     ValueError: For a coding that is neither `zstd` nor `gzip`.
#[pyfunction]
pub(super) fn compress<'py>(
    py: Python<'py>,
    body: &[u8],
    coding: &str,
) -> PyResult<Bound<'py, PyBytes>> {
    let unknown = || Error::InvalidArgument(format!("coding is {coding:?}; zstd and gzip exist"));
    let coding = Coding::parse(coding).ok_or_else(unknown)?;
    Ok(PyBytes::new(py, &detached(py, || coding.compress(body))))
}
