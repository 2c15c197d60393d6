//! Kubernetes watch streams: one JSON event per line, changed as they pass, and cut when the faults change.
//! A client whose stream was cut is told once that its resource version is too old, so that it lists anew and sees the changed world.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::request::Parts;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::watch;

use crate::body::{Body, Failure};
use crate::edit::Edit;

/// What a watch answers when its resource version is gone (Kubernetes API concepts, "410 Gone responses").
const EXPIRED: &str = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\
    \"status\":\"Failure\",\"message\":\"too old resource version\",\"reason\":\"Expired\",\"code\":410}}\n";

/// Watch streams that were cut and whose clients have not come back yet, by what they watched.
#[derive(Clone, Debug, Default)]
pub(crate) struct CutStreams(Arc<Mutex<HashMap<String, usize>>>);

impl CutStreams {
    fn note(&self, subject: &str) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).entry(subject.to_owned()).or_default() += 1;
    }

    /// The answer to a client that would go on where its cut stream ended; `None` when it starts afresh anyway.
    pub(crate) fn come_back(&self, parts: &Parts) -> Option<&'static str> {
        let mut cut = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = cut.get_mut(&subject(parts)).filter(|count| **count > 0)?;
        *count -= 1;
        let goes_on = parameter(parts, "resourceVersion").is_some_and(|version| !matches!(version, "" | "0"));
        (goes_on && parameter(parts, "sendInitialEvents") != Some("true")).then_some(EXPIRED)
    }
}

/// Whether the request asks for a watch.
pub(crate) fn is_watch(parts: &Parts) -> bool {
    matches!(parameter(parts, "watch"), Some("true" | "1"))
}

fn parameter<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    let pairs = parts.uri.query()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// What is watched, without from where on and for how long.
pub(crate) fn subject(parts: &Parts) -> String {
    let selector = |name| parameter(parts, name).unwrap_or_default();
    format!("{}?{}&{}", parts.uri.path(), selector("labelSelector"), selector("fieldSelector"))
}

struct Watching {
    inner: Body,
    edits: Vec<Edit>,
    unfinished: BytesMut,
    change: watch::Receiver<u64>,
    cut: CutStreams,
    subject: String,
}

/// Wraps the body of a watch.
pub(crate) fn wrap(
    inner: Body,
    edits: Vec<Edit>,
    change: watch::Receiver<u64>,
    cut: CutStreams,
    subject: String,
) -> Body {
    let state = Watching { inner, edits, unfinished: BytesMut::new(), change, cut, subject };
    let frames = stream::try_unfold(state, |mut state| async move {
        let frame = state.next().await?;
        Ok::<_, Failure>(frame.map(|data| (Frame::data(data), state)))
    });
    StreamBody::new(frames).boxed_unsync()
}

impl Watching {
    /// The next bytes; `None` at the end of the stream or when the faults change.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::select! {
                biased;
                // The sender lives as long as the proxy; without it the stream ends as well.
                _ = self.change.changed() => {
                    self.cut.note(&self.subject);
                    return Ok(None);
                }
                frame = self.inner.frame() => frame,
            };
            let Some(frame) = frame else {
                return Ok((!self.unfinished.is_empty()).then(|| self.unfinished.split().freeze()));
            };
            let Ok(data) = frame?.into_data() else { continue };
            if self.edits.is_empty() {
                return Ok(Some(data));
            }
            self.unfinished.extend_from_slice(&data);
            let whole_lines = self.take_lines();
            if !whole_lines.is_empty() {
                return Ok(Some(whole_lines));
            }
        }
    }

    fn take_lines(&mut self) -> Bytes {
        let Some(last) = self.unfinished.iter().rposition(|byte| *byte == b'\n') else { return Bytes::new() };
        let lines = self.unfinished.split_to(last + 1);
        let mut changed = BytesMut::with_capacity(lines.len());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let mut current: Option<Vec<u8>> = None;
            for edit in &self.edits {
                current = edit.apply_to_event(current.as_deref().unwrap_or(line)).or(current);
            }
            match current {
                Some(line) => {
                    changed.extend_from_slice(&line);
                    changed.extend_from_slice(b"\n");
                }
                None => changed.extend_from_slice(line),
            }
        }
        changed.freeze()
    }
}
