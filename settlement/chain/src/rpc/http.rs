//! One JSON-RPC server over HTTP: requests that end in time, answers that fit in memory, errors by blame.
//!
//! No text that leaves here names more of the address than scheme, host and port: providers put keys into the path.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    body::Bytes,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::answer;
use crate::ChainError;

/// A server and its connections. Clones share them.
#[derive(Clone)]
pub(super) struct Server {
    url: Arc<str>,
    endpoint: Result<Endpoint, Arc<str>>,
    timeout: Duration,
}

#[derive(Clone)]
struct Endpoint {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    /// From `user:password@` in the address.
    authorization: Option<HeaderValue>,
}

impl Server {
    /// An address that cannot be one is told by the first call.
    pub(super) fn new(url: &str, timeout: Duration) -> Self {
        Self { url: url.into(), endpoint: Endpoint::new(url).map_err(Into::into), timeout }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Scheme, host and port: all that may be shown.
    pub(super) fn place(&self) -> String {
        self.endpoint.as_ref().map_or_else(|_| "an invalid address".into(), |endpoint| place(&endpoint.uri))
    }

    /// True if the address can be one.
    pub(super) fn is_valid(&self) -> bool {
        self.endpoint.is_ok()
    }

    /// Calls a method and reads its result. `max_bytes` bounds the answer.
    ///
    /// # Errors
    /// Sorted as [`ChainError`] says: not reached, refused by the server, refused by the chain, or nonsense.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
        max_bytes: usize,
    ) -> Result<T, ChainError> {
        let endpoint = self.endpoint.as_ref().map_err(|why| ChainError::Unreachable(why.to_string()))?;
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let answered = tokio::time::timeout(self.timeout, endpoint.post(body.into(), max_bytes)).await;
        let bytes = answered.map_err(|_| {
            let place = place(&endpoint.uri);
            ChainError::Unreachable(format!("{place} has not answered {method} within {:?}", self.timeout))
        })??;
        let envelope: Envelope<T> = serde_json::from_slice(&bytes)
            .map_err(|error| ChainError::Malformed(format!("the answer to {method} cannot be read: {error}")))?;
        match (envelope.result, envelope.error) {
            (_, Some(failure)) => Err(failure.into()),
            (Some(result), None) => Ok(result),
            (None, None) => Err(ChainError::Malformed(format!("neither result nor error for {method}"))),
        }
    }
}

impl Endpoint {
    fn new(url: &str) -> Result<Self, String> {
        let not_one = "its address is not like http://HOST:PORT or https://HOST/PATH";
        let uri: Uri = url.trim().parse().map_err(|_| not_one)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(not_one.into());
        }
        let userinfo = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@'));
        let authorization = match userinfo {
            Some((userinfo, _)) => {
                let value = format!("Basic {}", BASE64.encode(userinfo));
                let mut value = HeaderValue::from_str(&value).map_err(|_| not_one)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())
            .map_err(|error| error.to_string())?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        Ok(Self { client, uri, authorization })
    }

    /// The body of a good answer. A server that asks for patience gets some.
    async fn post(&self, body: Bytes, max_bytes: usize) -> Result<Bytes, ChainError> {
        let mut tries_left = RATE_LIMIT_TRIES;
        loop {
            let mut request = Request::post(&self.uri).header(CONTENT_TYPE, "application/json");
            if let Some(authorization) = &self.authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let request = request
                .body(Full::new(body.clone()))
                .map_err(|error| ChainError::Unreachable(format!("the request cannot be built: {error}")))?;
            let answer = self.client.request(request).await.map_err(|error| self.not_reached(&error))?;
            let status = answer.status();
            if status == StatusCode::TOO_MANY_REQUESTS && tries_left > 0 {
                tries_left -= 1;
                tokio::time::sleep(pause(answer.headers())).await;
                continue;
            }
            if !status.is_success() {
                return Err(self.turned_away(status));
            }
            return match Limited::new(answer.into_body(), max_bytes).collect().await {
                Ok(body) => Ok(body.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => {
                    Err(ChainError::Malformed(format!("its answer is longer than {max_bytes} bytes")))
                }
                Err(error) => Err(self.not_reached(&*error)),
            };
        }
    }

    fn not_reached(&self, error: &dyn std::error::Error) -> ChainError {
        ChainError::Unreachable(format!("{}: {}", place(&self.uri), words(error)))
    }

    fn turned_away(&self, status: StatusCode) -> ChainError {
        let message = format!("{} answered with HTTP status {status}", place(&self.uri));
        let passing = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY];
        if status.is_server_error() || passing.contains(&status) {
            ChainError::Unreachable(message)
        } else {
            ChainError::Rpc { code: i64::from(status.as_u16()), message }
        }
    }
}

#[derive(Deserialize)]
struct Envelope<T> {
    result: Option<T>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<Value>,
}

impl From<Failure> for ChainError {
    fn from(failure: Failure) -> Self {
        // Some servers (surfpool is one) put the refusal into words only.
        let told = failure.data.as_ref().and_then(|data| data.get("err")).filter(|err| !err.is_null());
        let refusal = told.and_then(|err| answer::transaction_error(err).ok());
        if let Some(refusal) = refusal.or_else(|| refusal_in_words(&failure.message)) {
            return Self::Refused(refusal);
        }
        let message = failure.message.chars().take(MAX_MESSAGE).collect();
        Self::Rpc { code: failure.code, message }
    }
}

fn refusal_in_words(message: &str) -> Option<solana_transaction_error::TransactionError> {
    use solana_transaction_error::TransactionError as E;
    [E::AlreadyProcessed, E::BlockhashNotFound].into_iter().find(|error| message.contains(&error.to_string()))
}

fn place(uri: &Uri) -> String {
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default())
}

/// What a rate limiter asks for, within reason.
fn pause(headers: &HeaderMap) -> Duration {
    let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    asked.map_or(RATE_LIMIT_PAUSE, Duration::from_secs).min(MAX_RATE_LIMIT_PAUSE)
}

/// An error and what caused it, in one line: "connection refused" lies at the bottom.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Unused connections are closed before servers and balancers do it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Unused connections that are kept.
const MAX_IDLE: usize = 16;
/// Repetitions of a request that a server was too busy for.
const RATE_LIMIT_TRIES: u32 = 4;
/// The wait before such a repetition if the server names none.
const RATE_LIMIT_PAUSE: Duration = Duration::from_millis(500);
/// The longest such wait.
const MAX_RATE_LIMIT_PAUSE: Duration = Duration::from_secs(5);
/// Characters of a server's message that are kept.
const MAX_MESSAGE: usize = 1_000;
