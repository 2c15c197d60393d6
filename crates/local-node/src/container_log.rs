//! The output of one run of one container: a file in the format of the container runtime interface, rotated by size.
//! Readers follow it by notification, never by polling.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Mutex,
};

use jiff::Timestamp;
use tokio::sync::watch;

/// A file is set aside when it has reached this size; one older file is kept.
pub(crate) const ROTATION_BYTES: u64 = 10 * 1024 * 1024;
/// Longer lines are split, marked as partial, as container runtimes do.
const LINE_BYTES: usize = 16 * 1024;

/// A log that is being written or has been written by an earlier nodes process.
#[derive(Debug)]
pub(crate) struct ContainerLog {
    path: PathBuf,
    rotation_bytes: u64,
    writer: Mutex<Option<Writer>>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Writer {
    file: File,
    size: u64,
}

/// How far the log has been written; `ended` once the process and all holders of its output are gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    rotation: u64,
    bytes: u64,
    pub(crate) ended: bool,
}

/// One line as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at: Timestamp,
    pub(crate) text: Vec<u8>,
    pub(crate) partial: bool,
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Position {
    rotation: u64,
    offset: u64,
}

impl ContainerLog {
    /// A new, empty log at `path`.
    pub(crate) fn create(path: PathBuf) -> std::io::Result<Self> {
        Self::create_rotating_at(path, ROTATION_BYTES)
    }

    fn create_rotating_at(path: PathBuf, rotation_bytes: u64) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
        let writer = Mutex::new(Some(Writer { file, size: 0 }));
        Ok(Self { path, rotation_bytes, writer, progress: watch::channel(Progress::default()).0 })
    }

    /// A log that was written before this process started; it will not grow.
    pub(crate) fn finished(path: PathBuf) -> Self {
        let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let progress = Progress { rotation: 0, bytes, ended: true };
        Self { path, rotation_bytes: ROTATION_BYTES, writer: Mutex::new(None), progress: watch::channel(progress).0 }
    }

    /// Appends one line (without its newline) of `stream`, which is `stdout` or `stderr`.
    pub(crate) fn append(&self, stream: &str, text: &[u8], partial: bool) -> std::io::Result<()> {
        let mut line = format!("{:.9} {stream} {} ", Timestamp::now(), if partial { 'P' } else { 'F' }).into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        let mut guard = self.writer.lock().map_err(|_| std::io::Error::other("log writer is broken"))?;
        let Some(writer) = guard.as_mut() else { return Ok(()) };
        let rotates = writer.size >= self.rotation_bytes;
        if rotates {
            std::fs::rename(&self.path, rotated(&self.path))?;
            *writer = Writer { file: File::create(&self.path)?, size: 0 };
        }
        writer.file.write_all(&line)?;
        writer.size += line.len() as u64;
        let bytes = writer.size;
        self.progress.send_modify(|progress| {
            progress.rotation += u64::from(rotates);
            progress.bytes = bytes;
        });
        Ok(())
    }

    /// Copies everything from `source` into the log until it ends.
    pub(crate) async fn copy_from(
        &self,
        stream: &str,
        source: impl tokio::io::AsyncRead + Unpin,
    ) -> std::io::Result<()> {
        use tokio::io::AsyncBufReadExt;
        let mut reader = tokio::io::BufReader::with_capacity(LINE_BYTES, source);
        let mut line = Vec::new();
        loop {
            let available = reader.fill_buf().await?;
            if available.is_empty() {
                if !line.is_empty() {
                    self.append(stream, &line, true)?;
                }
                return Ok(());
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let taken = newline.map_or(available.len(), |end| end + 1);
            line.extend_from_slice(&available[..newline.unwrap_or(taken)]);
            reader.consume(taken);
            if newline.is_some() || line.len() >= LINE_BYTES {
                self.append(stream, &line, newline.is_none())?;
                line.clear();
            }
        }
    }

    /// Marks the end; followers return once they have read everything.
    pub(crate) fn end(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
        if let Ok(mut writer) = self.writer.lock() {
            *writer = None;
        }
    }

    /// Notifies of every append and of the end.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// All lines after `position`, and the new position.
    pub(crate) fn read(&self, position: Position) -> std::io::Result<(Vec<Line>, Position)> {
        let mut lines = Vec::new();
        let (progress, older, current) = {
            // Opened under the writer's lock, so that no rotation falls between.
            let _writer = self.writer.lock().map_err(|_| std::io::Error::other("log writer is broken"))?;
            let progress = *self.progress.borrow();
            let is_start = position.rotation == 0 && position.offset == 0;
            let needs_older = position.rotation != progress.rotation || is_start;
            let older = if needs_older { File::open(rotated(&self.path)).ok() } else { None };
            (progress, older, File::open(&self.path)?)
        };
        if let Some(file) = older {
            let skip = if position.rotation + 1 == progress.rotation { position.offset } else { 0 };
            read_lines(file, skip, u64::MAX, &mut lines)?;
        }
        let offset = if position.rotation == progress.rotation { position.offset } else { 0 };
        read_lines(current, offset, progress.bytes, &mut lines)?;
        Ok((lines, Position { rotation: progress.rotation, offset: progress.bytes }))
    }

    /// The last output, at most `bytes` long, for termination messages.
    pub(crate) fn tail(&self, lines: usize, bytes: usize) -> String {
        let Ok((all, _)) = self.read(Position::default()) else { return String::new() };
        let kept = &all[all.len().saturating_sub(lines)..];
        let mut text = Vec::new();
        for line in kept {
            text.extend_from_slice(&line.text);
            text.push(b'\n');
        }
        String::from_utf8_lossy(&text[text.len().saturating_sub(bytes)..]).into_owned()
    }
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn read_lines(mut file: File, from: u64, to: u64, lines: &mut Vec<Line>) -> std::io::Result<()> {
    if from >= to {
        return Ok(());
    }
    file.seek(SeekFrom::Start(from))?;
    let mut reader = BufReader::new(file.take(to - from));
    let mut raw = Vec::new();
    while reader.read_until(b'\n', &mut raw)? > 0 {
        lines.extend(parse(&raw));
        raw.clear();
    }
    Ok(())
}

fn parse(raw: &[u8]) -> Option<Line> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |byte| *byte == b' ');
    let at = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let _stream = parts.next()?;
    let partial = parts.next()? == b"P";
    Some(Line { at, text: parts.next().unwrap_or_default().to_vec(), partial })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()).collect()
    }

    #[tokio::test]
    async fn lines_are_kept_in_order_and_an_unfinished_one_is_partial() {
        let folder = tempfile::tempdir().unwrap();
        let log = ContainerLog::create(folder.path().join("0.log")).unwrap();
        log.copy_from("stdout", &b"one\n\ntwo words\nrest"[..]).await.unwrap();
        let (lines, _) = log.read(Position::default()).unwrap();
        assert_eq!(texts(&lines), ["one", "", "two words", "rest"]);
        assert!(lines[3].partial && !lines[0].partial);
    }

    #[test]
    fn a_follower_misses_nothing_across_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let log = ContainerLog::create_rotating_at(folder.path().join("0.log"), 100).unwrap();
        let mut position = Position::default();
        let mut seen = Vec::new();
        for number in 0..10 {
            log.append("stdout", number.to_string().as_bytes(), false).unwrap();
            if number % 2 == 1 {
                let (lines, next) = log.read(position).unwrap();
                position = next;
                seen.extend(texts(&lines));
            }
        }
        assert_eq!(seen, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn the_tail_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let log = ContainerLog::create(folder.path().join("0.log")).unwrap();
        for number in 0..5 {
            log.append("stderr", format!("line {number}").as_bytes(), false).unwrap();
        }
        assert_eq!(log.tail(2, 100), "line 3\nline 4\n");
        assert_eq!(log.tail(80, 3), " 4\n");
    }
}
