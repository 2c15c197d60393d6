//! HTTP bodies of the registry: one boxed type in both directions, so that handlers stream without knowing the transport.
//! Only construction lives here; what is in a body is decided by the handlers.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, Response, header};
use http_body_util::{
    BodyExt, Empty, Full, LengthLimitError, Limited, StreamBody,
    combinators::{BoxBody, UnsyncBoxBody},
};
use hyper::body::Frame;

/// The body of a request.
pub type Received = BoxBody<Bytes, io::Error>;

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A received body of known bytes.
pub fn received(bytes: impl Into<Bytes>) -> Received {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is read as it is sent.
pub fn stream(bytes: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(bytes.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// 200 without a body.
pub fn nothing() -> Response<Body> {
    let mut response = Response::new(empty());
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// 200 with a JSON document.
pub fn json(document: &impl serde::Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(document).expect("answers have only text keys");
    let mut response = Response::new(full(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// 200 with plain text.
pub fn text(text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Why a whole body could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More bytes than the limit.
    #[error("http: request body too large")]
    TooLarge,
    /// The client went away or sent nonsense.
    #[error("reading the request body: {0}")]
    Broken(String),
}

/// Reads a stream whole, at most `limit` bytes.
pub async fn collect_stream(
    bytes: impl Stream<Item = io::Result<Bytes>> + Send,
    limit: usize,
) -> Result<Bytes, ReadError> {
    let body = StreamBody::new(bytes.map(|chunk| chunk.map(Frame::data)));
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ReadError::TooLarge),
        Err(error) => Err(ReadError::Broken(error.to_string())),
    }
}

/// Reads a body whole, at most `limit` bytes.
pub async fn collect(body: Received, limit: usize) -> Result<Bytes, ReadError> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ReadError::TooLarge),
        Err(error) => Err(ReadError::Broken(error.to_string())),
    }
}
