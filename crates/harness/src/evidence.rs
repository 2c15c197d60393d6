//! The record of a run: an append-only file of events, one write per line, from which every report is made. A line is
//! whole or not there, also after a kill or on a full disk; what an event may say is cleaned of secrets here.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;

use crate::{
    event::{Event, What},
    redact::Redactor,
};

/// The file's name in the folder of a run.
pub const FILE: &str = "events.ndjson";

/// A handle to the record; clones write to the same one. The events of a handle of [`Evidence::lane`] and of all its
/// clones say which scenario is going on in the lane.
#[derive(Clone)]
pub struct Evidence {
    record: Arc<Record>,
    lane: Option<usize>,
    scope: Arc<Mutex<Scope>>,
}

/// What is going on in a lane while an event is recorded: one scenario at a time, under one fault at a time.
#[derive(Debug, Clone, Default)]
struct Scope {
    scenario: Option<String>,
    fault: Option<String>,
}

struct Record {
    folder: PathBuf,
    redactor: Redactor,
    writer: Mutex<Writer>,
}

struct Writer {
    sink: Sink,
    sequence: u64,
    /// Bytes of whole lines written.
    length: u64,
    broken: Option<String>,
    alarm: Option<Alarm>,
    listeners: Vec<Listener>,
}

enum Sink {
    File(File),
    Memory(Vec<Event>),
}

/// Called with every event, in order, as it is recorded.
pub type Listener = Box<dyn FnMut(&Event) + Send>;

/// Called once when the record cannot be written any more.
pub type Alarm = Box<dyn FnOnce(&EvidenceError) + Send>;

/// Less free disk than this is none: what a system under test writes fails then.
const FULL: u64 = 1 << 20;

/// The record could not be made, written or read.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The folder of the run could not be made.
    #[error("cannot write results to {}: {source}; choose another folder with --out", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    /// A write failed in mid-run. What was recorded before is whole.
    #[error("cannot go on recording in {}: {problem}; what is recorded so far is readable there", file.display())]
    Write { file: PathBuf, problem: String },
    /// The record could not be read.
    #[error("cannot read {}: {source}; name a folder that `run` has written, or `latest`", file.display())]
    Read { file: PathBuf, source: io::Error },
    /// A line in the middle is no event.
    #[error("{}:{line}: not an event of this version ({problem})", file.display())]
    Line { file: PathBuf, line: usize, problem: String },
}

impl Evidence {
    /// Makes the folder and an empty record in it.
    ///
    /// # Errors
    /// [`EvidenceError::Folder`] when the folder cannot be made or written.
    pub fn create(folder: &Path) -> Result<Self, EvidenceError> {
        let wrong = |source| EvidenceError::Folder { folder: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(wrong)?;
        let file = OpenOptions::new().create_new(true).append(true).open(folder.join(FILE)).map_err(wrong)?;
        Ok(Self::over(folder.to_owned(), Sink::File(file)))
    }

    /// A record that is only kept in memory, for tests and for proofs of single steps.
    pub fn in_memory() -> Self {
        Self::over(PathBuf::new(), Sink::Memory(Vec::new()))
    }

    fn over(folder: PathBuf, sink: Sink) -> Self {
        let writer = Writer { sink, sequence: 0, length: 0, broken: None, alarm: None, listeners: Vec::new() };
        let record = Record { folder, redactor: Redactor::default(), writer: Mutex::new(writer) };
        Self { record: Arc::new(record), lane: None, scope: Arc::default() }
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        &self.record.folder
    }

    /// A handle whose events belong to a lane.
    pub fn lane(&self, lane: usize) -> Self {
        Self { record: self.record.clone(), lane: Some(lane), scope: Arc::default() }
    }

    /// From now on, events of this handle and its clones belong to that [`crate::scenario::Scenario::id`].
    pub fn enter_scenario(&self, id: Option<String>) {
        self.scope().scenario = id;
    }

    /// From now on, events of this handle and its clones happen under that fault.
    pub fn enter_fault(&self, id: Option<String>) {
        self.scope().fault = id;
    }

    /// The scenario that is going on in this handle's lane.
    pub fn scenario(&self) -> Option<String> {
        self.scope().scenario.clone()
    }

    fn scope(&self) -> std::sync::MutexGuard<'_, Scope> {
        self.scope.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a secret of this run; no later event shows it.
    pub fn secret(&self, secret: &str) {
        self.record.redactor.add(secret);
    }

    /// The redactor, for texts that go elsewhere than into events, like copies of component logs.
    pub fn redactor(&self) -> &Redactor {
        &self.record.redactor
    }

    /// Calls `listener` with every later event.
    pub fn listen(&self, listener: Listener) {
        self.writer().listeners.push(listener);
    }

    /// Records that something was seen.
    pub fn note(&self, text: impl Into<String>) {
        self.record(What::Note { text: text.into() });
    }

    /// Records an event. A failed write is remembered and shown by [`Evidence::broken`]; later events are dropped, so
    /// that the record has no hole in its middle.
    pub fn record(&self, what: What) {
        let scope = self.scope().clone();
        self.append(scope, what);
    }

    /// Records an event of a scenario other than the one that is going on, such as one that will not run.
    pub fn record_of(&self, scenario: String, what: What) {
        let fault = self.scope().fault.clone();
        self.append(Scope { scenario: Some(scenario), fault }, what);
    }

    fn append(&self, scope: Scope, what: What) {
        let mut writer = self.writer();
        if writer.broken.is_some() {
            return;
        }
        let event = Event {
            sequence: writer.sequence + 1,
            at: Timestamp::now(),
            lane: self.lane,
            scenario: scope.scenario,
            fault: scope.fault,
            what,
        };
        match writer.append(&event, &self.record.redactor) {
            Ok(event) => {
                let mut listeners = std::mem::take(&mut writer.listeners);
                listeners.iter_mut().for_each(|listener| listener(&event));
                writer.listeners.splice(0..0, listeners);
            }
            Err(problem) => {
                writer.broken = Some(problem.clone());
                let alarm = writer.alarm.take();
                drop(writer);
                if let Some(alarm) = alarm {
                    alarm(&self.cannot_write(problem));
                }
            }
        }
    }

    /// Why recording stopped, if it did.
    pub fn broken(&self) -> Option<EvidenceError> {
        let problem = self.writer().broken.clone()?;
        Some(self.cannot_write(problem))
    }

    /// Calls `alarm` as soon as recording stops; at once when it has.
    pub fn when_broken(&self, alarm: Alarm) {
        match self.broken() {
            Some(broken) => alarm(&broken),
            None => self.writer().alarm = Some(alarm),
        }
    }

    /// Whether the disk of the record is full, so that a failure seen now may be the machine's.
    pub fn disk_is_full(&self) -> bool {
        let free = nix::sys::statvfs::statvfs(&self.record.folder)
            .map(|status| status.blocks_available().saturating_mul(status.fragment_size()));
        free.is_ok_and(|free| free < FULL)
    }

    fn cannot_write(&self, problem: String) -> EvidenceError {
        EvidenceError::Write { file: self.record.folder.join(FILE), problem }
    }

    /// All events recorded so far.
    ///
    /// # Errors
    /// As [`read`].
    pub fn events(&self) -> Result<Vec<Event>, EvidenceError> {
        if let Sink::Memory(events) = &self.writer().sink {
            return Ok(events.clone());
        }
        read(&self.record.folder)
    }

    fn writer(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.record.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Evidence({}, lane {:?}, {:?})", self.record.folder.display(), self.lane, self.scope())
    }
}

impl Writer {
    /// Appends the event, cleaned, and returns what was written.
    fn append(&mut self, event: &Event, redactor: &Redactor) -> Result<Event, String> {
        let mut value = serde_json::to_value(event).map_err(|error| error.to_string())?;
        redactor.value(&mut value);
        let mut line = value.to_string();
        line.push('\n');
        let clean: Event = serde_json::from_value(value).map_err(|error| error.to_string())?;
        match &mut self.sink {
            Sink::Memory(events) => events.push(clean.clone()),
            Sink::File(file) => {
                if let Err(error) = file.write_all(line.as_bytes()) {
                    // A part of the line may be there; cut it off so that the file ends with a whole one.
                    let cut = file.set_len(self.length);
                    return Err(match cut {
                        Ok(()) => error.to_string(),
                        Err(cut) => format!("{error} (and the half-written line could not be removed: {cut})"),
                    });
                }
            }
        }
        self.length += line.len() as u64;
        self.sequence += 1;
        Ok(clean)
    }
}

/// Reads the record of a run from its folder. A last line without its end, as a kill in mid-write leaves it, is
/// ignored.
///
/// # Errors
/// [`EvidenceError::Read`] when there is none, [`EvidenceError::Line`] when a whole line is no event.
pub fn read(folder: &Path) -> Result<Vec<Event>, EvidenceError> {
    let file = folder.join(FILE);
    let text = std::fs::read(&file).map_err(|source| EvidenceError::Read { file: file.clone(), source })?;
    let text = String::from_utf8_lossy(&text);
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    whole
        .lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| EvidenceError::Line {
                file: file.clone(),
                line: index + 1,
                problem: error.to_string(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_back_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let evidence = Evidence::create(&folder.path().join("run")).unwrap();
        evidence.secret("s3cr3t-value");
        let lane = evidence.lane(1);
        let client = lane.clone();
        lane.enter_scenario(Some("a.feature:3".into()));
        client.note("got s3cr3t-value and Bearer abcdefgh");
        let events = evidence.events().unwrap();
        assert_eq!(events[0].sequence, 1);
        assert_eq!(events[0].lane, Some(1));
        assert_eq!(events[0].scenario.as_deref(), Some("a.feature:3"));
        assert_eq!(events[0].what, What::Note { text: "got [redacted] and Bearer [redacted]".into() });
        let raw = std::fs::read_to_string(folder.path().join("run").join(FILE)).unwrap();
        assert!(!raw.contains("s3cr3t"), "{raw}");
    }

    #[test]
    fn a_line_cut_by_a_kill_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let evidence = Evidence::create(folder.path()).unwrap();
        evidence.note("whole");
        let mut file = OpenOptions::new().append(true).open(folder.path().join(FILE)).unwrap();
        file.write_all(b"{\"sequence\":2,\"at\":\"20").unwrap();
        assert_eq!(read(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn listeners_see_what_is_written() {
        let evidence = Evidence::in_memory();
        let (sender, receiver) = std::sync::mpsc::channel();
        evidence.listen(Box::new(move |event| sender.send(event.clone()).unwrap()));
        evidence.note("token sha256~abcdefghijkl");
        assert_eq!(receiver.recv().unwrap().what, What::Note { text: "token sha256~[redacted]".into() });
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_one_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Evidence::create(&file.join("run")).unwrap_err().to_string();
        assert!(error.starts_with("cannot write results to "), "{error}");
        assert!(error.ends_with("choose another folder with --out"), "{error}");
    }

    #[test]
    fn a_full_disk_stops_recording_and_keeps_what_was_there() {
        // /dev/full takes every open and refuses every write, as a full disk does.
        let Ok(full) = OpenOptions::new().append(true).open("/dev/full") else { return };
        let evidence = Evidence::over(PathBuf::from("/results/run"), Sink::File(full));
        let (sender, receiver) = std::sync::mpsc::channel();
        evidence.when_broken(Box::new(move |error| sender.send(error.to_string()).unwrap()));
        evidence.note("first");
        evidence.note("second");
        let error = evidence.broken().unwrap().to_string();
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [error.as_str()], "it is told once");
        assert!(
            error.starts_with("cannot go on recording in /results/run/events.ndjson: No space left on device"),
            "{error}"
        );
    }
}
