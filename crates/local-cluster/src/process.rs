//! A child process that dies with us: own process group, parent-death signal, log file, ledger entry, exit noticed at once.
//! All children are forked from one thread that never ends, because the parent-death signal follows the forking thread.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use crate::{Error, Ledger};

/// Lines of output that are kept in memory for messages; the log file keeps all of them.
const KEPT_LINES: usize = 200;
/// Lines that a message shows.
const SHOWN_LINES: usize = 12;
/// How long an exit waits for the last lines of output to be read.
const LAST_LINES_WITHIN: Duration = Duration::from_millis(250);
/// Environment variable that every child carries, so that a grandchild can be traced to its run.
pub const RUN_VARIABLE: &str = "REGISTRY_CONFORMANCE_RUN";

/// What to start and how to watch it.
#[derive(Clone, Debug)]
pub struct ChildOptions {
    /// Name in messages, in the ledger and of nothing else.
    pub name: String,
    /// Executable.
    pub program: PathBuf,
    /// Arguments; they are visible to every user of the machine, so no secret belongs here.
    pub args: Vec<OsString>,
    /// Variables that are added to, or replace those of, the environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whether the child starts from an empty environment instead of ours.
    pub env_clear: bool,
    /// Working folder; ours if none.
    pub dir: Option<PathBuf>,
    /// File that receives standard output and error, appended.
    pub log: PathBuf,
    /// A line of output to wait for before the child counts as started.
    pub ready: Option<ReadyLine>,
    /// Where the child is recorded before it is started.
    pub ledger: Option<Ledger>,
}

impl ChildOptions {
    /// A child with our environment, no ready line and no ledger.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> ChildOptions {
        ChildOptions {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            env_clear: false,
            dir: None,
            log: log.into(),
            ready: None,
            ledger: None,
        }
    }
}

/// Text in the output that says "ready", and how long it may take.
#[derive(Clone, Debug)]
pub struct ReadyLine {
    /// Any line that contains this text will do.
    pub text: String,
    /// Limit from the start of the child.
    pub within: Duration,
}

/// How a child ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Name of the child.
    pub name: String,
    /// Status or signal.
    pub status: ExitStatus,
    /// The last lines it wrote, oldest first.
    pub last_lines: Vec<String>,
}

impl Exit {
    /// Whether its last lines say that another program listens on its port, so that another port may help.
    pub fn port_was_taken(&self) -> bool {
        self.last_lines.iter().any(|line| line.contains("address already in use"))
    }

    /// The line that says most of why it ended, and the lines to be shown with it. A program that panics says why
    /// before it shows its stack.
    fn last_words(&self) -> Option<(&str, &[String])> {
        let dying = |line: &String| line.starts_with("panic: ") || line.starts_with("fatal error: ");
        let (words, first) = match self.last_lines.iter().rposition(dying) {
            Some(at) => (at, at.saturating_sub(SHOWN_LINES / 2)),
            None => (
                self.last_lines.iter().rposition(|line| !line.trim().is_empty())?,
                self.last_lines.len().saturating_sub(SHOWN_LINES),
            ),
        };
        let end = self.last_lines.len().min(first + SHOWN_LINES);
        Some((&self.last_lines[words], &self.last_lines[first..end]))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(out, "{} ended with status {code}", self.name)?,
            (None, Some(number)) => match Signal::try_from(number) {
                Ok(signal) => write!(out, "{} was ended by {signal}", self.name)?,
                Err(_) => write!(out, "{} was ended by signal {number}", self.name)?,
            },
            (None, None) => write!(out, "{} ended: {}", self.name, self.status)?,
        }
        match self.last_words() {
            None => write!(out, "; it wrote nothing"),
            Some((words, lines)) => {
                write!(out, ": {}\nits last lines:", words.trim())?;
                lines.iter().try_for_each(|line| write!(out, "\n  | {line}"))
            }
        }
    }
}

/// A running (or ended) child. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct Child {
    state: Arc<State>,
    exit: watch::Receiver<Option<Exit>>,
}

#[derive(Debug)]
struct State {
    name: String,
    pid: Pid,
    log: PathBuf,
    lines: Mutex<VecDeque<String>>,
    /// True from the moment on when the pid may belong to somebody else.
    reaped: Mutex<bool>,
}

impl Child {
    /// Starts the program and waits for its ready line, if one was asked for.
    ///
    /// # Errors
    /// [`Error::Spawn`] when the system refuses, [`Error::Exited`] when the child ends before its ready line,
    /// [`Error::NotReady`] when the line does not come in time; in both cases nothing is left running.
    pub async fn spawn(options: ChildOptions) -> Result<Child, Error> {
        let ready = options.ready.clone();
        let (answer, started) = oneshot::channel();
        let name = options.name.clone();
        let program = options.program.clone();
        on_spawner(Box::new(move || {
            // A caller that gave up drops the receiver; the child is then dropped, and killed, right here.
            let _ = answer.send(start(options));
        }));
        let (child, mut line) = started.await.map_err(|_| Error::Spawn {
            name,
            program,
            source: std::io::Error::other("the spawning thread is gone"),
        })??;
        if let Some(ready) = ready {
            child.wait_ready(&ready, &mut line).await?;
        }
        Ok(child)
    }

    async fn wait_ready(&self, ready: &ReadyLine, line: &mut watch::Receiver<bool>) -> Result<(), Error> {
        let mut exit = self.exit.clone();
        let seen = async {
            tokio::select! {
                biased;
                Ok(_) = line.wait_for(|seen| *seen) => Ok(()),
                exit = wait_for_exit(&mut exit) => Err(Error::Exited { exit: Box::new(exit), log: self.state.log.clone() }),
            }
        };
        match tokio::time::timeout(ready.within, seen).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::NotReady {
                name: self.state.name.clone(),
                within: ready.within,
                awaited: format!("a line with {:?}", ready.text),
                last_seen: self.last_log_lines(1).pop().unwrap_or_else(|| "no output".to_owned()),
                log: self.state.log.clone(),
            }),
        }
    }

    /// Name given at the start.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Process id, which is also the id of its process group.
    pub fn pid(&self) -> u32 {
        self.state.pid.as_raw().unsigned_abs()
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.state.log
    }

    /// A channel that turns from `None` to the exit when the child ends; it never turns back.
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.clone()
    }

    /// Waits until the child has ended.
    pub async fn wait_exit(&self) -> Exit {
        wait_for_exit(&mut self.exit.clone()).await
    }

    /// The last `count` lines of output, oldest first, at most 200.
    pub fn last_log_lines(&self, count: usize) -> Vec<String> {
        last_lines(&self.state, count)
    }

    /// Sends a signal to the child alone, not to its group. A child that has ended is left in peace.
    pub fn signal(&self, signal: Signal) {
        let reaped = self.state.reaped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !*reaped {
            report("signal", &self.state.name, kill(self.state.pid, signal));
        }
    }

    /// Ends the child: SIGTERM, up to `grace`, then SIGKILL to its process group. Returns how it ended.
    pub async fn stop(self, grace: Duration) -> Exit {
        self.signal(Signal::SIGTERM);
        if let Ok(exit) = tokio::time::timeout(grace, self.wait_exit()).await {
            return exit;
        }
        tracing::warn!(child = %self.state.name, ?grace, "did not end in time and is killed");
        self.kill();
        self.wait_exit().await
    }

    fn kill(&self) {
        let reaped = self.state.reaped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !*reaped {
            report("kill", &self.state.name, killpg(self.state.pid, Signal::SIGKILL));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits on an exit channel; a channel whose sender vanished counts as still running, which cannot happen while its waiter thread lives.
async fn wait_for_exit(exit: &mut watch::Receiver<Option<Exit>>) -> Exit {
    loop {
        if let Some(exit) = exit.borrow_and_update().clone() {
            return exit;
        }
        if exit.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

fn on_spawner(job: Job) {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .expect("a thread can be started");
        sender
    });
    // The thread never ends, so the job always finds it.
    let _ = spawner.send(job);
}

fn start(options: ChildOptions) -> Result<(Child, watch::Receiver<bool>), Error> {
    let refused = |source| Error::Spawn { name: options.name.clone(), program: options.program.clone(), source };
    if let Some(folder) = options.log.parent() {
        std::fs::create_dir_all(folder).map_err(Error::file("make the folder", folder))?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&options.log)
        .map_err(Error::file("open the log", &options.log))?;
    let (output, input) = std::io::pipe().map_err(refused)?;
    let mut command = Command::new(&options.program);
    if options.env_clear {
        command.env_clear();
    }
    command.args(&options.args).envs(options.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(input.try_clone().map_err(refused)?).stderr(input).process_group(0);
    if let Some(dir) = &options.dir {
        command.current_dir(dir);
    }
    if let Some(ledger) = &options.ledger {
        command.env(RUN_VARIABLE, ledger.run());
        ledger.intend(&options.name, &options.program)?;
    }
    die_with_parent(&mut command);
    let child = command.spawn().map_err(refused)?;
    // The command holds the writing ends of the pipe; with them open the end of the output would never be seen.
    drop(command);
    let pid = Pid::from_raw(child.id().cast_signed());
    let state = Arc::new(State {
        name: options.name.clone(),
        pid,
        log: options.log.clone(),
        lines: Mutex::new(VecDeque::with_capacity(KEPT_LINES)),
        reaped: Mutex::new(false),
    });
    let (ready_sender, ready) = watch::channel(false);
    let (exit_sender, exit) = watch::channel(None);
    let (finished, output_ended) = mpsc::channel();
    let text = options.ready.as_ref().map(|ready| ready.text.clone());
    let reader_state = Arc::clone(&state);
    thread(&format!("log {}", options.name), move || {
        copy_output(output, log, &reader_state, text.as_deref(), &ready_sender);
        // The waiter may have stopped waiting; then nobody needs to hear this.
        let _ = finished.send(());
    });
    let waiter_state = Arc::clone(&state);
    let ledger = options.ledger.clone();
    thread(&format!("wait {}", options.name), move || {
        let status = reap(child, &waiter_state);
        if let Some(ledger) = ledger {
            ledger.ended(pid.as_raw().unsigned_abs());
        }
        // Running out of time here only shortens the message.
        let _ = output_ended.recv_timeout(LAST_LINES_WITHIN);
        let last_lines = last_lines(&waiter_state, KEPT_LINES);
        exit_sender.send_replace(Some(Exit { name: waiter_state.name.clone(), status, last_lines }));
    });
    let child = Child { state, exit };
    if let Some(ledger) = &options.ledger {
        ledger.record_process(&options.name, child.pid(), &options.program)?;
    }
    Ok((child, ready))
}

#[expect(unsafe_code, reason = "the parent-death signal can only be set between fork and exec")]
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let set = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the signal was set; then nobody would ever send it.
        if nix::unistd::getppid().as_raw().unsigned_abs() != parent {
            return Err(std::io::Error::from(Errno::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure only makes two system calls and allocates nothing, so it may run between fork and exec.
    unsafe { command.pre_exec(set) };
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 * 1024)
        .spawn(body)
        .expect("a thread can be started");
}

fn copy_output(
    output: std::io::PipeReader,
    mut log: File,
    state: &State,
    ready: Option<&str>,
    ready_sender: &watch::Sender<bool>,
) {
    let mut output = BufReader::with_capacity(64 * 1024, output);
    let mut line = Vec::new();
    let mut log_is_good = true;
    loop {
        line.clear();
        match output.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(child = %state.name, %error, "cannot read the output");
                return;
            }
        }
        if log_is_good && let Err(error) = log.write_all(&line) {
            // The child must not block on a full disk; its last lines stay readable in memory.
            tracing::error!(child = %state.name, log = %state.log.display(), %error, "cannot write the log");
            log_is_good = false;
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let is_ready = ready.is_some_and(|ready| text.contains(ready));
        let mut lines = state.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(text);
        drop(lines);
        // Last, so that whoever waited for the line also finds it.
        if is_ready {
            ready_sender.send_replace(true);
        }
    }
}

fn last_lines(state: &State, count: usize) -> Vec<String> {
    let lines = state.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
}

/// Waits for the child, kills what is left of its group while the pid still cannot be anybody else's, and collects the status.
fn reap(mut child: std::process::Child, state: &State) -> ExitStatus {
    while let Err(Errno::EINTR) = waitid(Id::Pid(state.pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {}
    let mut reaped = state.reaped.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    report("end the group of", &state.name, killpg(state.pid, Signal::SIGKILL));
    let status = child.wait();
    *reaped = true;
    status.unwrap_or_else(|error| {
        tracing::warn!(child = %state.name, %error, "its exit status is lost");
        ExitStatus::from_raw(0)
    })
}

/// A signal that found nobody is a normal race with the exit; anything else is worth a line.
fn report(act: &str, name: &str, outcome: nix::Result<()>) {
    match outcome {
        Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => {}
        Err(errno) => tracing::warn!(child = %name, %errno, "cannot {act} the child"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::ProcessIdentity;

    fn shell(folder: &tempfile::TempDir, script: &str) -> ChildOptions {
        let mut options = ChildOptions::new("script", "/bin/sh", folder.path().join("logs/script.log"));
        options.args = vec!["-c".into(), script.into()];
        options
    }

    fn ready(text: &str, within: Duration) -> Option<ReadyLine> {
        Some(ReadyLine { text: text.to_owned(), within })
    }

    #[tokio::test]
    async fn a_ready_line_ends_the_wait_and_output_is_logged() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = shell(&folder, "echo first; echo now ready >&2; exec sleep 60");
        options.ready = ready("ready", Duration::from_secs(10));
        let child = Child::spawn(options).await.unwrap();
        assert_eq!(child.last_log_lines(9), ["first", "now ready"]);
        let log = child.log().to_owned();
        let exit = child.stop(Duration::from_secs(5)).await;
        assert!(exit.to_string().starts_with("script was ended by SIGTERM"), "{exit}");
        assert_eq!(std::fs::read_to_string(log).unwrap(), "first\nnow ready\n");
    }

    #[tokio::test]
    async fn an_early_end_and_a_missing_line_say_what_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = shell(&folder, "echo cannot open the door; exit 7");
        options.ready = ready("ready", Duration::from_secs(10));
        let error = Child::spawn(options).await.unwrap_err().to_string();
        assert!(
            error.starts_with(
                "script ended with status 7: cannot open the door\nits last lines:\n  | cannot open the door"
            ),
            "{error}"
        );

        let mut options = shell(&folder, "echo still trying; exec sleep 60");
        options.ready = ready("ready", Duration::from_millis(300));
        let error = Child::spawn(options).await.unwrap_err().to_string();
        assert!(error.contains("waited for a line with \"ready\", last seen: still trying"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_is_told_by_its_words_and_not_by_its_stack() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo starting; echo 'panic: no space left on device'; seq 60; exit 2";
        let exit = Child::spawn(shell(&folder, script)).await.unwrap().wait_exit().await.to_string();
        assert!(exit.starts_with("script ended with status 2: panic: no space left on device\n"), "{exit}");
        assert!(exit.contains("  | starting\n  | panic:") && !exit.contains("| 60"), "{exit}");
    }

    #[tokio::test]
    async fn what_ignores_the_polite_signal_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = shell(&folder, "trap '' TERM; sleep 60 & echo $!; wait; sleep 60");
        options.ready = ready("", Duration::from_secs(10));
        let child = Child::spawn(options).await.unwrap();
        let grandchild: u32 = child.last_log_lines(1)[0].parse().unwrap();
        let grandchild = ProcessIdentity::of(grandchild).unwrap();
        let exit = child.stop(Duration::from_millis(200)).await;
        assert_eq!(exit.status.signal(), Some(9));
        let gone = async {
            while grandchild.is_alive() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the grandchild is killed too");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let options = ChildOptions::new("ghost", "/nowhere/ghost", folder.path().join("ghost.log"));
        let error = Child::spawn(options).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot start ghost (/nowhere/ghost): No such file"), "{error}");
    }
}
