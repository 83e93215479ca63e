//! The client of workers' pages, of lists of workers, and of a Pushgateway.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE};
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
        let content_type = answer.headers().get(CONTENT_TYPE);
        let content_type =
            content_type.and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        if !status.is_success() {
            return Err(Failure { reason: "status", text: format!("it answers with {status}") });
        }
        let body = Limited::new(answer.into_body(), self.max_bytes).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let limit = self.max_bytes;
                return Failure::nonsense(format!(
                    "it has more than {limit} bytes (max_page_bytes)"
                ));
            }
            unreachable(&*error)
        });
        Ok(Page { content_type, body: body?.to_bytes() })
    }
}

/// The error that caused the others.
fn root(error: &dyn std::error::Error) -> &dyn std::error::Error {
    error.source().map_or(error, root)
}
