//! A watch: the API server's stream of backing objects, turned line by line into the objects clients see.
//! Resource versions, bookmarks and expiry are the API server's own.

use std::io;

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

use crate::hostname::Hostnames;
use crate::request::Query;
use crate::store::{Kind, outward_event};
use crate::table::Form;

/// The largest event that is passed on; the store takes no object larger than this.
const EVENT_LIMIT_BYTES: usize = 8 << 20;

/// How events of one watch are put.
pub struct Wording {
    pub kind: Kind,
    pub form: Form,
    pub query: Query,
    pub hostnames: tokio::sync::watch::Receiver<Hostnames>,
}

impl Wording {
    fn line(&self, line: &str) -> Option<Bytes> {
        let event: Value = serde_json::from_str(line).ok()?;
        let mut event = outward_event(self.kind, event);
        if self.kind == Kind::ImageStream && event["object"]["kind"] == "ImageStream" && event["type"] != "BOOKMARK" {
            self.hostnames.borrow().decorate(&mut event["object"]);
        }
        let mut line = self.form.apply_event(event, &self.query).to_string();
        line.push('\n');
        Some(Bytes::from(line))
    }
}

/// The body of a watch answer. It ends when the API server ends the watch or `stop` is cancelled.
pub fn body(upstream: kube::client::Body, wording: Wording, stop: CancellationToken) -> Body {
    Body::from_stream(events(upstream, wording).take_until(stop.cancelled_owned()))
}

fn events(upstream: kube::client::Body, wording: Wording) -> impl Stream<Item = io::Result<Bytes>> {
    let reader = StreamReader::new(upstream.into_data_stream().map_err(io::Error::other));
    FramedRead::new(reader, LinesCodec::new_with_max_length(EVENT_LIMIT_BYTES))
        .map_err(io::Error::other)
        .try_filter_map(move |line| std::future::ready(Ok(wording.line(&line))))
}
