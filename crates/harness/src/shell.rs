//! Documented command lines, run verbatim by a shell: `oc`, `podman`, `skopeo` and what the documents pipe them into.
//! The environment is cleared and set so that every tool finds the cluster, the doorway and the test trust, and no more.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use crate::failure::Failure;

/// What commands run in.
#[derive(Debug, Clone)]
pub struct Shell {
    /// The working folder and `HOME`; private to one scenario.
    pub folder: PathBuf,
    /// Searched before the machine's own `PATH`.
    pub tools: PathBuf,
    /// `KUBECONFIG`; a log-in writes to it, so it belongs to the scenario.
    pub kubeconfig: PathBuf,
    /// The doorway's URL.
    pub proxy: String,
    /// The PEM bundle to trust.
    pub trust: PathBuf,
    /// Variables of the documents (`HOST`, `<user>` …) that the scenario has set.
    pub variables: BTreeMap<String, String>,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub command: String,
    /// The exit code; `128 + n` when signal `n` ended it, as a shell reports.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// One text for messages: exit code and both outputs.
    pub fn summary(&self) -> String {
        format!("exit code {}\n  stdout: {}\n  stderr: {}", self.code, self.stdout.trim_end(), self.stderr.trim_end())
    }

    /// Fails unless the command ended with 0.
    pub fn succeeded(self) -> Result<Self, Failure> {
        if self.code == 0 {
            return Ok(self);
        }
        Err(Failure::fail(format!("running `{}`", self.command), "exit code 0", self.summary()))
    }
}

impl Shell {
    /// Runs one command line and returns what it did; a command that outlives `limit` is ended with its whole group.
    pub async fn run(&self, command: &str, limit: Duration) -> Result<Ran, Failure> {
        let tried = || format!("running `{command}`");
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(command)
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", format!("{}:{path}", self.tools.display()))
            .env("HOME", &self.folder)
            .env("XDG_RUNTIME_DIR", &self.folder)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HTTPS_PROXY", &self.proxy)
            .env("https_proxy", &self.proxy)
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("no_proxy", "127.0.0.1,localhost")
            .env("SSL_CERT_FILE", &self.trust)
            .env("LC_ALL", "C")
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::error(tried(), error))?;
        let group = child.id();
        let mut stdout = child.stdout.take().expect("piped above");
        let mut stderr = child.stderr.take().expect("piped above");
        let (mut out, mut err) = (vec![], vec![]);
        let ended = timeout(limit, async {
            let (_, _, status) = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err), child.wait());
            status
        })
        .await;
        let status = match ended {
            Ok(status) => status.map_err(|error| Failure::error(tried(), error))?,
            Err(_) => {
                end_group(group);
                let seen = format!("still running; its output so far: {}", String::from_utf8_lossy(&out));
                return Err(Failure::fail(tried(), format!("an end within {limit:?}"), seen));
            }
        };
        Ok(Ran {
            command: command.to_owned(),
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: String::from_utf8_lossy(&out).into_owned(),
            stderr: String::from_utf8_lossy(&err).into_owned(),
        })
    }

    /// Where a program lies that a command would run, looking where the shell looks.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        let own = self.tools.join(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::iter::once(own).chain(std::env::split_paths(&path).map(|folder| folder.join(program))).find(|p| is_file(p))
    }
}

fn is_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

fn end_group(leader: Option<u32>) {
    let Some(leader) = leader.and_then(|id| i32::try_from(id).ok()) else { return };
    let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(leader), nix::sys::signal::Signal::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path) -> Shell {
        Shell {
            folder: folder.to_owned(),
            tools: folder.to_owned(),
            kubeconfig: folder.join("kubeconfig"),
            proxy: "http://127.0.0.1:1".to_owned(),
            trust: folder.join("trust.pem"),
            variables: BTreeMap::from([("HOST".to_owned(), "registry.test".to_owned())]),
        }
    }

    #[tokio::test]
    async fn reports_code_and_both_outputs() {
        let folder = tempfile::tempdir().expect("a folder");
        let ran =
            shell(folder.path()).run("echo $HOST; echo bad >&2; exit 3", Duration::from_secs(5)).await.expect("it ran");
        assert_eq!((ran.code, &*ran.stdout, &*ran.stderr), (3, "registry.test\n", "bad\n"));
        assert!(ran.succeeded().is_err());
    }

    #[tokio::test]
    async fn ends_what_takes_too_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let failure = shell(folder.path())
            .run("echo started; exec sleep 30", Duration::from_millis(300))
            .await
            .expect_err("ended");
        assert!(failure.seen.expect("an observation").contains("started"));
    }
}
