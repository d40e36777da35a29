//! Answers as hosts give them: errors, pages, and bodies that come slowly, stop or break off.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde_json::Value as Json;

/// An answer that says no.
pub(super) type Refusal = Box<Response>;

/// The parameters of a request.
pub(super) struct Query(HashMap<String, String>);

impl Query {
    pub(super) fn of(uri: &Uri) -> Self {
        let query = axum::extract::Query::try_from_uri(uri);
        Self(query.map(|query| query.0).unwrap_or_default())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn need(&self, name: &str) -> Result<&str, Refusal> {
        let missing = || {
            let text = format!("Error: Params must have the property \"{name}\"");
            refusal(StatusCode::BAD_REQUEST, "InvalidRequest", &text)
        };
        self.get(name).ok_or_else(missing)
    }

    /// `limit`, which must lie between 1 and `most`.
    pub(super) fn limit(&self, default: usize, most: usize) -> Result<usize, Refusal> {
        let limit = self.get("limit").map(str::parse).transpose();
        match limit {
            Ok(None) => Ok(default),
            Ok(Some(limit)) if (1..=most).contains(&limit) => Ok(limit),
            _ => {
                let text = format!("Error: limit must be between 1 and {most}");
                Err(refusal(StatusCode::BAD_REQUEST, "InvalidRequest", &text))
            }
        }
    }

    /// A numeric cursor; 0 where there is none.
    pub(super) fn cursor(&self) -> Result<usize, Refusal> {
        let cursor = self.get("cursor").map_or(Ok(0), str::parse);
        let text = "Malformed cursor";
        cursor.map_err(|_| refusal(StatusCode::BAD_REQUEST, "InvalidRequest", text))
    }
}

/// An XRPC error.
pub(super) fn error(status: StatusCode, name: &str, message: &str) -> Response {
    let body = serde_json::json!({ "error": name, "message": message });
    (status, axum::Json(body)).into_response()
}

/// The same, to return early with.
pub(super) fn refusal(status: StatusCode, name: &str, message: &str) -> Refusal {
    error(status, name, message).into()
}

/// A page of a list, with a cursor if there is more.
pub(super) fn page(name: &str, items: Vec<Json>, cursor: Option<String>) -> Response {
    let mut body = serde_json::json!({ name: items });
    if let Some(cursor) = cursor {
        body["cursor"] = cursor.into();
    }
    axum::Json(body).into_response()
}

/// A gateway's page.
pub(super) fn html() -> Response {
    let page = "<html><body><h1>502 Bad Gateway</h1></body></html>";
    (StatusCode::BAD_GATEWAY, axum::response::Html(page)).into_response()
}

pub(super) fn redirect(to: String) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
}

/// No answer, for ever.
pub(super) async fn never() -> Response {
    std::future::pending().await
}

/// The connection breaks off without an answer: nothing has left when the body fails at once.
pub(super) fn abort() -> Response {
    car_stream(Body::from_stream(stream::iter([reset()])))
}

/// The body breaks off after these bytes.
pub(super) fn broken_off(bytes: Vec<u8>) -> Response {
    let end = stream::once(async {
        // What is before it must have left first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        reset()
    });
    let start = stream::iter([Ok(Bytes::from(bytes))]);
    car_stream(Body::from_stream(start.chain(end)))
}

fn reset() -> io::Result<Bytes> {
    Err(io::ErrorKind::ConnectionReset.into())
}

fn car_stream(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/vnd.ipld.car")], body).into_response()
}

/// A CAR piece by piece.
pub(super) fn car(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Response {
    let pieces = pieces.map(Ok::<_, io::Error>);
    car_stream(Body::from_stream(stream::iter(pieces)))
}

/// These bytes, in 20 parts over all of the time.
pub(super) fn dribble(bytes: Vec<u8>, time: Duration) -> Response {
    let bytes = Bytes::from(bytes);
    let part = bytes.len().div_ceil(20).max(1);
    let parts: Vec<Bytes> = (0..bytes.len())
        .step_by(part)
        .map(|at| bytes.slice(at..bytes.len().min(at + part)))
        .collect();
    let slow = stream::iter(parts).then(move |part| async move {
        tokio::time::sleep(time / 20).await;
        Ok::<_, io::Error>(part)
    });
    car_stream(Body::from_stream(slow))
}

/// These bytes, and no end.
pub(super) fn stall(bytes: Vec<u8>) -> Response {
    let start = stream::iter([Ok::<_, io::Error>(Bytes::from(bytes))]);
    car_stream(Body::from_stream(start.chain(stream::pending())))
}

/// These bytes, then others for ever.
pub(super) fn endless(start: Vec<u8>, again: Bytes) -> Response {
    let again = stream::repeat_with(move || Ok::<_, io::Error>(again.clone()));
    let start = stream::iter([Ok(Bytes::from(start))]);
    // Lets other connections of this thread have their turn.
    let paced = again.then(|piece| async move {
        tokio::task::yield_now().await;
        piece
    });
    car_stream(Body::from_stream(start.chain(paced)))
}
