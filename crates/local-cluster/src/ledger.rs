//! The on-disk record of what a run started and made, written before the fact, so that the next start can remove what a kill -9 left.
//! A process is only ever killed when its start time or its run variable proves that it is the recorded one.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::process::RUN_VARIABLE;
use crate::{Error, containers, secret_file};

const SUFFIX: &str = "ndjson";
/// How long `gc` waits for killed processes to vanish before it removes their folders.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// The ledger of one run. Clones share one file.
#[derive(Clone, Debug)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    run: String,
    path: PathBuf,
    file: Mutex<File>,
}

/// A process that is identified beyond its number, which the system reuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
    /// The boot it belongs to, from `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}

impl ProcessIdentity {
    /// The identity of a running process; `None` if there is none with that number.
    pub fn of(pid: u32) -> Option<ProcessIdentity> {
        Some(ProcessIdentity { pid, start_ticks: start_ticks(pid)?, boot: boot_id() })
    }

    /// Whether exactly this process still runs. A zombie has ended.
    pub fn is_alive(&self) -> bool {
        self.boot == boot_id() && start_ticks(self.pid) == Some(self.start_ticks)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "entry")]
enum Entry {
    Owner { run: String, owner: ProcessIdentity },
    Intended { name: String, executable: PathBuf },
    Process { name: String, executable: PathBuf, process: ProcessIdentity },
    Ended { pid: u32 },
    Folder { path: PathBuf },
    FolderRemoved { path: PathBuf },
    Containers { engine: PathBuf },
    Image { name: String },
}

impl Ledger {
    /// Opens the ledger of a new run of this process in [`folder`].
    ///
    /// # Errors
    /// [`Error::File`] when the folder cannot be written.
    pub fn open() -> Result<Ledger, Error> {
        Ledger::open_in(&folder())
    }

    /// As [`Ledger::open`], in a folder of the caller's choice.
    ///
    /// # Errors
    /// [`Error::File`] when the folder cannot be written.
    pub fn open_in(folder: &Path) -> Result<Ledger, Error> {
        secret_file::make_private_folder(folder)?;
        let run = uuid::Uuid::new_v4().simple().to_string();
        let path = folder.join(format!("{run}.{SUFFIX}"));
        let owner = ProcessIdentity::of(std::process::id()).ok_or_else(|| {
            Error::file("read", Path::new("/proc/self/stat"))(std::io::Error::other("our own process is not listed"))
        })?;
        // Written whole and then renamed: a ledger without its owner could not be judged by `gc`.
        let first = line(&Entry::Owner { run: run.clone(), owner });
        secret_file::write(&path, first.as_bytes())?;
        let file =
            OpenOptions::new().append(true).mode(0o600).open(&path).map_err(Error::file("open the ledger", &path))?;
        Ok(Ledger { inner: Arc::new(Inner { run, path, file: Mutex::new(file) }) })
    }

    /// Name of the run; every child carries it in its environment.
    pub fn run(&self) -> &str {
        &self.inner.run
    }

    /// Notes that a program is about to be started.
    ///
    /// # Errors
    /// [`Error::File`] when the ledger cannot be written; the program must then not be started.
    pub fn intend(&self, name: &str, executable: &Path) -> Result<(), Error> {
        self.append(&Entry::Intended { name: name.to_owned(), executable: executable.to_owned() })
    }

    /// Notes a process of this run that is running now. A process that has ended meanwhile needs no entry.
    ///
    /// # Errors
    /// [`Error::File`] when the ledger cannot be written.
    pub fn record_process(&self, name: &str, pid: u32, executable: &Path) -> Result<(), Error> {
        let Some(process) = ProcessIdentity::of(pid) else { return Ok(()) };
        self.append(&Entry::Process { name: name.to_owned(), executable: executable.to_owned(), process })
    }

    /// Notes that a process has ended. A failure is only logged: `gc` recognises ended processes by itself.
    pub fn ended(&self, pid: u32) {
        if let Err(error) = self.append(&Entry::Ended { pid }) {
            tracing::debug!(%error, "the end of a process was not recorded");
        }
    }

    /// Hands a new folder to the run: it is recorded, then made with mode 0700. `gc` removes it with all content.
    ///
    /// # Errors
    /// [`Error::FolderInUse`] when it exists and has content, [`Error::File`] when it cannot be made.
    pub fn record_folder(&self, path: &Path) -> Result<(), Error> {
        let path = std::path::absolute(path).map_err(Error::file("find", path))?;
        if std::fs::read_dir(&path).is_ok_and(|mut content| content.next().is_some()) {
            return Err(Error::FolderInUse { path });
        }
        self.append(&Entry::Folder { path: path.clone() })?;
        secret_file::make_private_folder(&path)
    }

    /// Takes a folder out of the run's hands, because it was removed or shall stay.
    ///
    /// # Errors
    /// [`Error::File`] when the ledger cannot be written.
    pub fn release_folder(&self, path: &Path) -> Result<(), Error> {
        let path = std::path::absolute(path).map_err(Error::file("find", path))?;
        self.append(&Entry::FolderRemoved { path })
    }

    /// Notes that the run uses a container engine from now on. `gc` removes what carries the run's label there
    /// ([`containers::LABEL`]), containers on networks that carry it, and the images noted.
    ///
    /// # Errors
    /// [`Error::File`] when the ledger cannot be written; nothing may then be made.
    pub fn record_containers(&self, engine: &Path) -> Result<(), Error> {
        self.append(&Entry::Containers { engine: engine.to_owned() })
    }

    /// Notes an image that is about to be loaded into the engine and was not there before.
    ///
    /// # Errors
    /// As [`Ledger::record_containers`].
    pub fn record_image(&self, name: &str) -> Result<(), Error> {
        self.append(&Entry::Image { name: name.to_owned() })
    }

    /// Ends the run in good order: the ledger's file is removed. Folders that were not released stay where they are.
    pub fn close(&self) {
        if let Err(error) = std::fs::remove_file(&self.inner.path) {
            tracing::debug!(%error, ledger = %self.inner.path.display(), "the ledger was not removed");
        }
    }

    fn append(&self, entry: &Entry) -> Result<(), Error> {
        let mut file = self.inner.file.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        file.write_all(line(entry).as_bytes()).map_err(Error::file("write the ledger", &self.inner.path))
    }
}

/// Where ledgers lie: `REGISTRY_CONFORMANCE_STATE`, else `XDG_STATE_HOME/registry-conformance`,
/// else `~/.local/state/registry-conformance`, each followed by `ledger`.
pub fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("REGISTRY_CONFORMANCE_STATE")
        .or_else(|| set("XDG_STATE_HOME").map(|state| state.join("registry-conformance")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/registry-conformance")))
        .unwrap_or_else(|| std::env::temp_dir().join(format!("registry-conformance-{}", nix::unistd::getuid())))
        .join("ledger")
}

/// What `gc` found and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcReport {
    /// Runs whose owner was gone.
    pub runs: Vec<String>,
    /// Processes that were ended, as "name (pid)".
    pub processes: Vec<String>,
    /// Folders that were removed.
    pub folders: Vec<PathBuf>,
    /// Containers, networks, volumes and images that were removed.
    pub containers: Vec<String>,
    /// What could not be removed, and why.
    pub failures: Vec<String>,
}

impl GcReport {
    /// Whether there was nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == GcReport::default()
    }
}

/// Ends every process and removes every folder of runs whose owner is gone. Runs with a living owner are not touched.
///
/// # Errors
/// [`Error::File`] when the ledger folder cannot be read or locked. What cannot be removed is in the report instead.
pub fn gc() -> Result<GcReport, Error> {
    gc_in(&folder())
}

/// As [`gc`], in a folder of the caller's choice.
///
/// # Errors
/// As [`gc`].
pub fn gc_in(folder: &Path) -> Result<GcReport, Error> {
    let mut report = GcReport::default();
    if !folder.exists() {
        return Ok(report);
    }
    let lock_path = folder.join("gc.lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(Error::file("open", &lock_path))?;
    lock.lock().map_err(Error::file("lock", &lock_path))?;
    // Ending one run can orphan another (a child may keep a ledger of its own), so go on until nothing is found.
    while collect_orphans(folder, &mut report)? {}
    Ok(report)
}

fn collect_orphans(folder: &Path, report: &mut GcReport) -> Result<bool, Error> {
    let mut found = false;
    let listing = std::fs::read_dir(folder).map_err(Error::file("list", folder))?;
    for file in listing.filter_map(Result::ok).map(|file| file.path()) {
        if file.extension().is_none_or(|suffix| suffix != SUFFIX) {
            continue;
        }
        let Some(orphan) = Orphan::read(&file) else { continue };
        found = true;
        let failures_before = report.failures.len();
        orphan.remove(report);
        if report.failures.len() == failures_before {
            std::fs::remove_file(&file).map_err(Error::file("remove", &file))?;
        } else {
            // Kept for the next try; without progress this round must be the last.
            return Ok(false);
        }
    }
    Ok(found)
}

struct Orphan {
    run: String,
    processes: BTreeMap<u32, (String, ProcessIdentity)>,
    folders: Vec<PathBuf>,
    engine: Option<PathBuf>,
    images: Vec<String>,
}

impl Orphan {
    /// Reads a ledger; `None` when its owner lives, or when the file is gone or was never ours.
    fn read(path: &Path) -> Option<Orphan> {
        let text = std::fs::read_to_string(path).ok()?;
        // A last line cut off by a crash is not an entry: what it names had not been started or made yet.
        let mut entries = text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let Some(Entry::Owner { run, owner }) = entries.next() else { return None };
        if owner.is_alive() {
            return None;
        }
        let mut orphan =
            Orphan { run, processes: BTreeMap::new(), folders: Vec::new(), engine: None, images: Vec::new() };
        for entry in entries {
            match entry {
                Entry::Process { name, process, .. } => {
                    orphan.processes.insert(process.pid, (name, process));
                }
                Entry::Ended { pid } => {
                    orphan.processes.remove(&pid);
                }
                Entry::Folder { path } => orphan.folders.push(path),
                Entry::FolderRemoved { path } => orphan.folders.retain(|folder| *folder != path),
                Entry::Containers { engine } => orphan.engine = Some(engine),
                Entry::Image { name } => orphan.images.push(name),
                Entry::Owner { .. } | Entry::Intended { .. } => {}
            }
        }
        Some(orphan)
    }

    fn remove(self, report: &mut GcReport) {
        let mut killed = Vec::new();
        for (name, process) in self.processes.values().filter(|(_, process)| process.is_alive()) {
            let pid = Pid::from_raw(process.pid.cast_signed());
            // The group first, for the child's own children; a child that left its group is hit by the second signal.
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = kill(pid, Signal::SIGKILL);
            report.processes.push(format!("{name} ({})", process.pid));
            killed.push(process.clone());
        }
        for (pid, name) in carriers(&self.run) {
            let Some(process) = ProcessIdentity::of(pid).filter(|process| !killed.contains(process)) else { continue };
            if kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok() {
                report.processes.push(format!("{name} ({pid})"));
                killed.push(process);
            }
        }
        wait_until_gone(&killed, report);
        // Before the folders: containers have them mounted.
        if let Some(engine) = &self.engine {
            match containers::remove(engine, &self.run, &self.images) {
                Ok(removed) => report.containers.extend(removed),
                Err(reason) => report.failures.push(reason),
            }
        }
        for folder in self.folders {
            match std::fs::remove_dir_all(&folder) {
                Ok(()) => report.folders.push(folder),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => report.failures.push(format!("cannot remove {}: {error}", folder.display())),
            }
        }
        report.runs.push(self.run);
    }
}

/// Processes whose environment carries the run: grandchildren that no ledger names.
fn carriers(run: &str) -> Vec<(u32, String)> {
    let wanted = format!("{RUN_VARIABLE}={run}");
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()))
        })
        .map(|pid| (pid, std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()))
        .collect()
}

/// SIGKILL is not instant, and a dying process can still write into a folder. The system offers no event for strangers' ends here.
fn wait_until_gone(killed: &[ProcessIdentity], report: &mut GcReport) {
    let deadline = Instant::now() + GONE_WITHIN;
    for process in killed {
        while process.is_alive() {
            if Instant::now() > deadline {
                report.failures.push(format!("process {} did not end within {GONE_WITHIN:?} of SIGKILL", process.pid));
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn line(entry: &Entry) -> String {
    let mut line = serde_json::to_string(entry).expect("a ledger entry has only plain fields");
    line.push('\n');
    line
}

/// Start time of a process that has not ended; the command name in `/proc/PID/stat` may hold spaces and parentheses.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    // The state is field 3, the start time field 22.
    fields.nth(18)?.parse().ok()
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of a process that certainly has ended: a child that was waited for.
    fn ended_owner() -> ProcessIdentity {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let identity = ProcessIdentity::of(child.id()).expect("a sleeping child is listed");
        child.kill().unwrap();
        child.wait().unwrap();
        identity
    }

    fn orphaned_ledger(folder: &Path, run: &str, entries: &[Entry]) -> PathBuf {
        std::fs::create_dir_all(folder).unwrap();
        let path = folder.join("orphan.ndjson");
        let owner = Entry::Owner { run: run.to_owned(), owner: ended_owner() };
        let text: String = std::iter::once(&owner).chain(entries).map(line).collect();
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_living_owner_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open_in(folder.path()).unwrap();
        let owned = folder.path().join("lane");
        ledger.record_folder(&owned).unwrap();
        assert!(gc_in(folder.path()).unwrap().is_empty());
        assert!(owned.exists());
        ledger.close();
        assert_eq!(
            std::fs::read_dir(folder.path())
                .unwrap()
                .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|s| s == SUFFIX))
                .count(),
            0
        );
    }

    #[test]
    fn an_orphans_folders_are_removed_and_released_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (lost, released) = (folder.path().join("lost"), folder.path().join("released"));
        std::fs::create_dir_all(lost.join("deep")).unwrap();
        std::fs::create_dir_all(&released).unwrap();
        let ledger = orphaned_ledger(
            &folder.path().join("ledger"),
            "run-with-folders",
            &[
                Entry::Folder { path: lost.clone() },
                Entry::Folder { path: released.clone() },
                Entry::FolderRemoved { path: released.clone() },
            ],
        );
        let report = gc_in(&folder.path().join("ledger")).unwrap();
        assert_eq!(report.folders, std::slice::from_ref(&lost));
        assert!(!lost.exists() && released.exists() && !ledger.exists());
    }

    #[test]
    fn a_reused_number_is_not_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut bystander = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut process = ProcessIdentity::of(bystander.id()).unwrap();
        process.start_ticks -= 1;
        orphaned_ledger(
            folder.path(),
            "run-with-a-reused-number",
            &[Entry::Process { name: "gone".to_owned(), executable: PathBuf::from("/bin/gone"), process }],
        );
        let report = gc_in(folder.path()).unwrap();
        assert_eq!(report.processes, Vec::<String>::new());
        assert!(bystander.try_wait().unwrap().is_none(), "the bystander must live");
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }

    #[test]
    fn grandchildren_are_found_by_the_run_in_their_environment() {
        let folder = tempfile::tempdir().unwrap();
        let mut grandchild =
            std::process::Command::new("sleep").arg("60").env(RUN_VARIABLE, "run-with-a-grandchild").spawn().unwrap();
        orphaned_ledger(folder.path(), "run-with-a-grandchild", &[]);
        let report = gc_in(folder.path()).unwrap();
        assert_eq!(report.processes, [format!("sleep ({})", grandchild.id())]);
        grandchild.wait().unwrap();
    }

    #[test]
    fn a_folder_with_content_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open_in(&folder.path().join("ledger")).unwrap();
        let mine = folder.path().join("mine");
        std::fs::create_dir_all(mine.join("precious")).unwrap();
        assert!(matches!(ledger.record_folder(&mine), Err(Error::FolderInUse { .. })));
    }
}
