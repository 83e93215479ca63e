//! The client of workers' pages, of lists of workers, and of a Pushgateway.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::ring::default_provider;

use crate::error::{Error, Result};

/// Asks, within limits.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    max_bytes: usize,
}

/// Why there is no answer that is of use.
#[derive(Debug)]
pub(super) struct Failure {
    /// In one word, for a label.
    pub(super) reason: &'static str,
    /// In more words, for the log.
    pub(super) text: String,
}

impl Failure {
    pub(super) fn nonsense(text: impl Into<String>) -> Self {
        Self { reason: "nonsense", text: text.into() }
    }
}

/// An answer.
pub(super) struct Page {
    pub(super) content_type: String,
    pub(super) body: Bytes,
}

impl Http {
    /// # Errors
    /// [`Error::Io`] if the system's certificates cannot be read.
    pub(super) fn new(timeout: Duration, max_bytes: usize) -> Result<Self> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(default_provider())
            .map_err(Error::io("read the system's certificates"))?
            .https_or_http()
            .enable_http1()
            .build();
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(Self { client, timeout, max_bytes })
    }

    pub(super) async fn get(&self, uri: &Uri, accept: &str) -> std::result::Result<Page, Failure> {
        let request = Request::get(uri.clone()).header(ACCEPT, accept);
        let request = request.header(ACCEPT_ENCODING, "gzip");
        self.send(request.body(Full::default()).expect("a URL and a word are a request")).await
    }

    pub(super) async fn put(
        &self,
        uri: &Uri,
        content_type: &str,
        body: Vec<u8>,
    ) -> std::result::Result<Page, Failure> {
        let request = Request::builder().method(Method::PUT).uri(uri.clone());
        let request = request.header(CONTENT_TYPE, content_type).body(Full::from(body));
        self.send(request.expect("a URL and a word are a request")).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> std::result::Result<Page, Failure> {
        let limit = self.timeout;
        timeout(limit, self.answer(request)).await.unwrap_or_else(|_| {
            let text = format!("no answer within {} s", limit.as_secs_f64());
            Err(Failure { reason: "timeout", text })
        })
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> std::result::Result<Page, Failure> {
        let unreachable = |error: &dyn std::error::Error| Failure {
            reason: "unreachable",
            text: root(error).to_string(),
        };
        let answer = self.client.request(request).await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        let header = |name: HeaderName| {
            let value = answer.headers().get(name);
            value.and_then(|it| it.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
        };
        let (content_type, coding) = (header(CONTENT_TYPE), header(CONTENT_ENCODING));
        if !status.is_success() {
            return Err(Failure { reason: "status", text: format!("it answers with {status}") });
        }
        let body = Limited::new(answer.into_body(), self.max_bytes).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() { self.too_long() } else { unreachable(&*error) }
        });
        let body = body?.to_bytes();
        let body = match &*coding {
            "" | "identity" => body,
            "gzip" | "x-gzip" => self.unpacked(&body)?,
            other => return Err(Failure::nonsense(format!("it is encoded as {other:?}"))),
        };
        Ok(Page { content_type, body })
    }

    /// The limit holds for what a page unpacks to.
    fn unpacked(&self, packed: &[u8]) -> std::result::Result<Bytes, Failure> {
        let mut body = Vec::new();
        let mut reader = MultiGzDecoder::new(packed).take(self.max_bytes as u64 + 1);
        let done = reader.read_to_end(&mut body);
        done.map_err(|error| Failure::nonsense(format!("it is no gzip: {error}")))?;
        if body.len() > self.max_bytes { Err(self.too_long()) } else { Ok(body.into()) }
    }

    fn too_long(&self) -> Failure {
        let limit = self.max_bytes;
        Failure::nonsense(format!("it has more than {limit} bytes (max_page_bytes)"))
    }
}

/// The error that caused the others.
fn root(error: &dyn std::error::Error) -> &dyn std::error::Error {
    error.source().map_or(error, root)
}
