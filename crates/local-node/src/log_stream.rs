//! Serves the log of a container the way `kubectl logs` asks for it: the tail, since when, with timestamps, followed.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use jiff::Timestamp;
use serde::Deserialize;

use crate::container_log::{ContainerLog, Line, Position};

/// The query of a log request. Source: Kubernetes API, PodLogOptions.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LogQuery {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    timestamps: bool,
    tail_lines: Option<usize>,
    since_seconds: Option<u64>,
    since_time: Option<Timestamp>,
    limit_bytes: Option<usize>,
}

/// The bytes to send: what there is, and with `follow` what comes until the container ends.
pub(crate) fn stream(log: Arc<ContainerLog>, query: LogQuery) -> impl Stream<Item = std::io::Result<Bytes>> {
    let state = State { progress: log.progress(), log, left: query.limit_bytes, query, position: None };
    futures::stream::try_unfold(state, |mut state| async move {
        let chunk = state.next().await?;
        Ok(chunk.map(|chunk| (chunk, state)))
    })
}

struct State {
    log: Arc<ContainerLog>,
    progress: tokio::sync::watch::Receiver<crate::container_log::Progress>,
    query: LogQuery,
    left: Option<usize>,
    /// None before the first read.
    position: Option<Position>,
}

impl State {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            // Marked as seen before reading: what is appended meanwhile wakes us again.
            let ended = self.progress.borrow_and_update().ended;
            let (mut lines, position) = self.log.read(self.position.unwrap_or_default())?;
            if self.position.replace(position).is_none() {
                self.query.choose(&mut lines);
            }
            if !lines.is_empty() {
                return Ok(Some(self.render(&lines)));
            }
            if !self.query.follow || ended {
                return Ok(None);
            }
            if self.progress.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    fn render(&mut self, lines: &[Line]) -> Bytes {
        let mut bytes = BytesMut::new();
        for line in lines {
            if self.query.timestamps {
                bytes.extend_from_slice(format!("{:.9} ", line.at).as_bytes());
            }
            bytes.extend_from_slice(&line.text);
            if !line.partial {
                bytes.extend_from_slice(b"\n");
            }
        }
        if let Some(left) = &mut self.left {
            bytes.truncate(*left);
            *left -= bytes.len();
        }
        bytes.freeze()
    }
}

impl LogQuery {
    fn choose(&self, lines: &mut Vec<Line>) {
        let since = self.since_time.or_else(|| {
            let seconds = self.since_seconds?;
            Timestamp::now().checked_sub(Duration::from_secs(seconds)).ok()
        });
        if let Some(since) = since {
            lines.retain(|line| line.at >= since);
        }
        if let Some(tail) = self.tail_lines {
            lines.drain(..lines.len().saturating_sub(tail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use rstest::rstest;

    async fn text(log: &Arc<ContainerLog>, query: LogQuery) -> String {
        let chunks: Vec<Bytes> = stream(log.clone(), query).try_collect().await.unwrap();
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[rstest]
    #[case(LogQuery::default(), "a\nb\nc\n")]
    #[case(LogQuery { tail_lines: Some(2), ..LogQuery::default() }, "b\nc\n")]
    #[case(LogQuery { tail_lines: Some(0), ..LogQuery::default() }, "")]
    #[case(LogQuery { limit_bytes: Some(3), ..LogQuery::default() }, "a\nb")]
    #[case(LogQuery { since_seconds: Some(60), ..LogQuery::default() }, "a\nb\nc\n")]
    #[case(LogQuery { since_time: Some(Timestamp::MAX), ..LogQuery::default() }, "")]
    #[tokio::test]
    async fn choices(#[case] query: LogQuery, #[case] expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(ContainerLog::create(folder.path().join("0.log")).unwrap());
        for line in ["a", "b", "c"] {
            log.append("stdout", line.as_bytes(), false).unwrap();
        }
        assert_eq!(text(&log, query).await, expected);
    }

    #[tokio::test]
    async fn following_ends_with_the_container_and_misses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(ContainerLog::create(folder.path().join("0.log")).unwrap());
        log.append("stdout", b"first", false).unwrap();
        let follower = tokio::spawn({
            let log = log.clone();
            async move { text(&log, LogQuery { follow: true, ..LogQuery::default() }).await }
        });
        for number in 0..100 {
            log.append("stdout", number.to_string().as_bytes(), false).unwrap();
            tokio::task::yield_now().await;
        }
        log.end();
        let seen = tokio::time::timeout(Duration::from_secs(5), follower).await.unwrap().unwrap();
        assert_eq!(seen.lines().count(), 101);
    }
}
