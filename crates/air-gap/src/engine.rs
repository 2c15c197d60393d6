//! A Docker engine of our own, for machines where one is installed but nobody starts it: own data, own socket, gone when stopped.
//! Where the machine lacks a right that privileged containers ask for, the engine gets our runtime in front of runc.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::program::find;
use crate::{Error, Program};

const READY_WITHIN: Duration = Duration::from_secs(40);
const END_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Bit of CAP_SYS_RESOURCE in the masks of /proc (linux/capability.h).
const SYS_RESOURCE: u64 = 1 << 24;
/// Name of our runtime in the engine's configuration.
const RUNTIME: &str = "kind-node";

/// Where an engine of ours keeps what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Configuration, log, process id, images and containers.
    pub folder: PathBuf,
    /// Where it listens.
    pub socket: PathBuf,
}

/// What `start` found or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// An engine answers there already; it is left as it is.
    WasThere,
    /// One was started, with this process id.
    New(i32),
}

impl Engine {
    /// An engine below a folder; the socket is in it unless another is named.
    pub fn new(folder: PathBuf, socket: Option<PathBuf>) -> Engine {
        let socket = socket.unwrap_or_else(|| folder.join("docker.sock"));
        Engine { folder, socket }
    }

    /// What goes into DOCKER_HOST.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Starts the engine and waits until it answers. It outlives this process.
    ///
    /// # Errors
    /// [`Error::NoProgram`] when no engine is installed, [`Error::EngineNotReady`] with the log's last line.
    pub fn start(&self, helper: &Path) -> Result<Started, Error> {
        if answers(&self.socket).is_ok() {
            return Ok(Started::WasThere);
        }
        let dockerd = find("dockerd").ok_or(Error::NoProgram {
            program: "dockerd",
            purpose: "run containers",
            remedy: "install it: `apt-get install --no-install-recommends docker.io`",
        })?;
        std::fs::create_dir_all(&self.folder).map_err(Error::file("make", &self.folder))?;
        let runtime = if lacks_sys_resource() { Some(self.keep_runtime(helper)?) } else { None };
        let config = self.folder.join("daemon.json");
        let text = serde_json::to_vec_pretty(&self.configuration(runtime.as_deref())).expect("plain fields");
        std::fs::write(&config, text).map_err(Error::file("write", &config))?;
        let log = self.log();
        let file = std::fs::File::create(&log).map_err(Error::file("make", &log))?;
        let same = file.try_clone().map_err(Error::file("open", &log))?;
        let child = Command::new(&dockerd)
            .arg("--config-file")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(same)
            // Ctrl-C in the terminal is meant for whoever started us.
            .process_group(0)
            .spawn();
        let mut child = child.map_err(Error::file("run", &dockerd))?;
        let began = Instant::now();
        loop {
            let seen = match answers(&self.socket) {
                Ok(()) => return Ok(Started::New(i32::try_from(child.id()).expect("process ids fit"))),
                Err(seen) => seen,
            };
            let ended = child.try_wait().map_err(Error::file("watch", &dockerd))?;
            if ended.is_some() || began.elapsed() > READY_WITHIN {
                let seen = ended.map_or(seen, |status| format!("it ended with {status}: {}", last_line(&log)));
                let _ = child.kill();
                return Err(Error::EngineNotReady { seconds: began.elapsed().as_secs(), seen, log });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Ends an engine that [`Engine::start`] has started, and waits for its end. False when none runs.
    ///
    /// # Errors
    /// [`Error::EngineNotReady`] when it does not end in time.
    pub fn stop(&self) -> Result<bool, Error> {
        let Some(pid) = self.running() else {
            return Ok(false);
        };
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let began = Instant::now();
        while self.running() == Some(pid) {
            if began.elapsed() > END_WITHIN {
                let seen = format!("process {pid} was told to end and runs on");
                return Err(Error::EngineNotReady { seconds: began.elapsed().as_secs(), seen, log: self.log() });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(true)
    }

    /// Removes images, containers and everything else of an engine that has ended.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn purge(&self) -> Result<(), Error> {
        crate::distribution::remove_root(&self.folder)
    }

    /// Process id of our running engine. The file may be old and the number another process's, so its name is looked at.
    pub fn running(&self) -> Option<i32> {
        let pid: i32 = std::fs::read_to_string(self.folder.join("dockerd.pid")).ok()?.trim().parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let config = self.folder.join("daemon.json");
        String::from_utf8_lossy(&command).contains(&*config.to_string_lossy()).then_some(pid)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("dockerd.log")
    }

    fn configuration(&self, runtime: Option<&Path>) -> Value {
        let mut value = json!({
            "data-root": self.folder.join("data"),
            "exec-root": self.folder.join("exec"),
            "pidfile": self.folder.join("dockerd.pid"),
            "hosts": [self.address()],
        });
        if let Some(path) = runtime {
            value["runtimes"] = json!({ RUNTIME: { "path": path, "runtimeArgs": ["runtime"] } });
            value["default-runtime"] = json!(RUNTIME);
        }
        value
    }

    /// A copy of our program beside the engine: a later build must not take it away under running containers.
    fn keep_runtime(&self, helper: &Path) -> Result<PathBuf, Error> {
        let helper = Program::of(helper)?;
        let path = self.folder.join("kind-node");
        let unfinished = self.folder.join("kind-node.unfinished");
        std::fs::copy(&helper.path, &unfinished).map_err(Error::file("copy", &helper.path))?;
        std::fs::rename(&unfinished, &path).map_err(Error::file("rename", &unfinished))?;
        Ok(path)
    }
}

/// The socket that clients use: DOCKER_HOST, or the engine's usual one. `None` for addresses that are no sockets of this machine.
pub fn usual_socket() -> Option<PathBuf> {
    match std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()) {
        Some(host) => host.strip_prefix("unix://").map(PathBuf::from),
        None => Some(PathBuf::from("/var/run/docker.sock")),
    }
}

/// Whether an engine answers at a socket.
///
/// # Errors
/// What was seen instead.
pub fn answers(socket: &Path) -> Result<(), String> {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error: std::io::Error| error.to_string())?;
    let first = answer.lines().next().unwrap_or("nothing");
    if first.contains(" 200 ") { Ok(()) } else { Err(format!("it answers {first:?}")) }
}

/// Whether this machine may not give containers every capability (containers in containers, some virtual machines).
pub fn lacks_sys_resource() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & SYS_RESOURCE == 0)
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("its log is empty").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_put_in_front_only_where_it_is_needed() {
        let engine = Engine::new(PathBuf::from("/e"), None);
        assert!(engine.configuration(None).get("default-runtime").is_none());
        let value = engine.configuration(Some(Path::new("/e/kind-node")));
        assert_eq!(value["runtimes"]["kind-node"]["runtimeArgs"], json!(["runtime"]));
        assert_eq!(value["hosts"], json!(["unix:///e/docker.sock"]));
    }

    #[test]
    fn no_engine_is_told_and_none_is_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::new(folder.path().join("e"), None);
        assert!(answers(&engine.socket).unwrap_err().contains("No such file"));
        assert_eq!(engine.running(), None);
        assert!(!engine.stop().unwrap());
    }

    #[test]
    fn the_process_of_somebody_else_is_not_taken_for_ours() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::new(folder.path().to_owned(), None);
        std::fs::write(folder.path().join("dockerd.pid"), std::process::id().to_string()).unwrap();
        assert_eq!(engine.running(), None);
    }
}
