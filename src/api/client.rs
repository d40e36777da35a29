//! The routes as commands call them: over the daemon's Unix socket, by TCP with a token, or, without a daemon, in the command's
//! own process. All ways run the same router.

use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode, header};
use reqwest::Url;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tower::ServiceExt;

use super::TRUSTED_REQUEST;
use crate::config::Secret;

/// Host part of the URLs; it names nothing.
const ORIGIN: &str = "http://penstock";
/// Most bytes of an answer: a quarantined frame of 16 MiB in base64, with room to spare.
const ANSWER_MAX: usize = 256 << 20;
/// How long the daemon may take to take the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Calls routes.
#[derive(Debug, Clone)]
pub struct Client(Way);

#[derive(Debug, Clone)]
enum Way {
    Http(Box<Http>),
    Local(Router),
}

/// A daemon, wherever it is.
#[derive(Debug, Clone)]
struct Http {
    client: reqwest::Client,
    origin: Url,
    token: Option<Secret>,
    /// What is said where it does not answer.
    silence: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The route answered with an error.
    #[error("{message} ({name})")]
    Refused {
        /// The status.
        status: u16,
        /// The error's name.
        name: String,
        /// Its message.
        message: String,
    },
    /// The daemon can't be reached, or went away.
    #[error("{0}")]
    Unreachable(String),
    /// What came is no answer of a Penstock.
    #[error("an answer that can't be understood: {0}")]
    Garbled(String),
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    message: String,
}

impl Client {
    /// Over the socket of a running daemon.
    pub fn socket(path: &Path) -> Result<Self, ClientError> {
        // The client's builder asks for a provider of cryptography even where it needs none; the first one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().unix_socket(path);
        Self::over(
            client,
            url("/")?,
            None,
            "the daemon does not answer on its socket",
        )
    }

    /// By TCP, at an origin such as `https://penstock.example.com`.
    pub fn remote(
        origin: Url,
        token: Option<Secret>,
        tls: ClientConfig,
    ) -> Result<Self, ClientError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            // A redirect could carry the token elsewhere.
            .redirect(reqwest::redirect::Policy::none());
        let silence = format!("no daemon answers at {origin}");
        Self::over(client, origin, token, &silence)
    }

    fn over(
        client: reqwest::ClientBuilder,
        origin: Url,
        token: Option<Secret>,
        silence: &str,
    ) -> Result<Self, ClientError> {
        let client = client
            .no_proxy()
            // A connection of its own for each request: none is closed by its age under a request that is on its way.
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT)
            .timeout(TRUSTED_REQUEST + CONNECT)
            .build();
        let client = client
            .map_err(|error| ClientError::Unreachable(format!("{silence}: {}", chain(&error))))?;
        Ok(Self(Way::Http(Box::new(Http {
            client,
            origin,
            token,
            silence: silence.to_owned(),
        }))))
    }

    /// In this process.
    pub fn local(router: Router) -> Self {
        Self(Way::Local(router))
    }

    /// The body of a success.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Bytes, ClientError> {
        let mut url = url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.call(Method::GET, url, None).await
    }

    /// The body of a success for one item below `path`, whatever characters its name has.
    pub async fn get_item(&self, path: &str, item: &str) -> Result<Bytes, ClientError> {
        let mut url = url(path)?;
        // Of these a URL would make another path.
        let item = if matches!(item, "" | "." | "..") {
            "-"
        } else {
            item
        };
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.push(item);
        }
        self.call(Method::GET, url, None).await
    }

    /// Sends JSON; the body of a success.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Bytes, ClientError> {
        let body = serde_json::to_vec(body);
        let body = body.map_err(|error| ClientError::Garbled(error.to_string()))?;
        self.call(Method::POST, url(path)?, Some(body)).await
    }

    async fn call(
        &self,
        method: Method,
        url: Url,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, ClientError> {
        let (status, answer) = match &self.0 {
            Way::Http(http) => http.call(method, &url, body).await?,
            Way::Local(router) => in_process(router, method, &url, body).await?,
        };
        if status.is_success() {
            return Ok(answer);
        }
        let refusal: Refusal = serde_json::from_slice(&answer)
            .map_err(|_| ClientError::Garbled(format!("status {status} without a reason")))?;
        Err(ClientError::Refused {
            status: status.as_u16(),
            name: refusal.error,
            message: refusal.message,
        })
    }
}

fn url(path: &str) -> Result<Url, ClientError> {
    let mut url = Url::parse(ORIGIN).map_err(|error| ClientError::Garbled(error.to_string()))?;
    url.set_path(path);
    Ok(url)
}

impl Http {
    async fn call(
        &self,
        method: Method,
        url: &Url,
        body: Option<Vec<u8>>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let lost = |error: reqwest::Error| {
            ClientError::Unreachable(format!("{}: {}", self.silence, chain(&error)))
        };
        let mut request = self.client.request(method, self.locate(url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(body) = body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        Ok((status, response.bytes().await.map_err(lost)?))
    }

    /// A route at the origin, below its path if it has one.
    fn locate(&self, route: &Url) -> Url {
        let mut url = self.origin.clone();
        let below = self.origin.path().trim_end_matches('/');
        url.set_path(&format!("{below}{}", route.path()));
        url.set_query(route.query());
        url
    }
}

async fn in_process(
    router: &Router,
    method: Method,
    url: &Url,
    body: Option<Vec<u8>>,
) -> Result<(StatusCode, Bytes), ClientError> {
    let garbled = |error: axum::Error| ClientError::Garbled(error.to_string());
    let request = Request::builder()
        .method(method)
        .uri(url.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.unwrap_or_default()))
        .map_err(|error| ClientError::Garbled(error.to_string()))?;
    let response = match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), ANSWER_MAX).await;
    Ok((status, body.map_err(garbled)?))
}

/// An error with all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
