//! The one thread from which every container and exec process is started, and the guard that outlives it.
//! Linux sends the parent-death signal when the *thread* that forked ends, so children must not be forked from pool threads.
//!
//! What holds after `kill -9` of the nodes: direct children die by PR_SET_PDEATHSIG; the rest of their process groups, and
//! whoever has left its group but still has our mark in its environment, is killed within moments by the guard, a shell that
//! waits for the end of a pipe only we hold. If that shell is killed as well, what is left is found by its `CONTAINER_ROOT`
//! when nodes start again on the same folder (see `orphans`). A process that changes group *and* environment escapes.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{process::Child, sync::oneshot};

use crate::own_root::Entrance;

/// Everything needed to start a process: nothing is inherited but what stands here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) directory: PathBuf,
    /// A root of its own, in which `command` and `directory` are paths then.
    pub(crate) root: Option<PathBuf>,
    /// Whether stdin is a pipe; otherwise it is empty.
    pub(crate) stdin: bool,
}

/// A started process that leads its own process group.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) group: Group,
}

/// A process group of ours; what is left of it is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Group {
    leader: Pid,
    guard: Arc<Guard>,
}

/// Starts processes; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    orders: std::sync::mpsc::Sender<Order>,
}

struct Order {
    launch: Launch,
    answer: oneshot::Sender<std::io::Result<Process>>,
}

/// A shell that knows our process groups and kills them when our end of its pipe closes, however we end.
#[derive(Debug)]
struct Guard {
    pipe: Mutex<std::process::ChildStdin>,
    shell: Mutex<std::process::Child>,
    mark: String,
}

const GUARD_SCRIPT: &str = r#"trap '' HUP INT TERM
all=' '
while read -r sign group; do
  case "$sign" in
    +) all="$all$group " ;;
    -) case "$all" in *" $group "*) all="${all%% $group *} ${all#* $group }" ;; esac ;;
  esac
done
for group in $all; do kill -KILL "-$group" 2>/dev/null; done
for environment in $(grep -lsF "$1" /proc/[0-9]*/environ); do
  id=${environment#/proc/}
  kill -KILL "${id%/environ}" 2>/dev/null
done"#;

/// Marks the processes of one run of the nodes in their environment.
const MARK: &str = "LOCAL_NODE_RUN";

impl Spawner {
    /// Starts the guard and the thread; both end when the last clone and the last [`Group`] are gone.
    pub(crate) fn start() -> std::io::Result<Self> {
        let guard = Arc::new(Guard::start()?);
        let (orders, inbox) = std::sync::mpsc::channel::<Order>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("spawner".into()).spawn(move || {
            let _runtime = runtime.enter();
            while let Ok(order) = inbox.recv() {
                // An answer nobody waits for drops the process, which kills its group.
                let _ = order.answer.send(spawn(&order.launch, &guard));
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts a process with piped stdout and stderr in its own process group.
    pub(crate) async fn spawn(&self, launch: Launch) -> std::io::Result<Process> {
        let gone = || std::io::Error::other("the thread that starts processes has ended");
        let (answer, result) = oneshot::channel();
        self.orders.send(Order { launch, answer }).map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

fn spawn(launch: &Launch, guard: &Arc<Guard>) -> std::io::Result<Process> {
    let (program, args) =
        launch.command.split_first().ok_or_else(|| std::io::Error::other("no command given for the container"))?;
    let mut command = std::process::Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .env(MARK, &guard.mark)
        .current_dir(launch.root.as_ref().unwrap_or(&launch.directory))
        .stdin(if launch.stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(root) = &launch.root {
        enter(&mut command, Entrance::new(root, &launch.directory)?);
    }
    // After a change of namespaces, which would take the parent-death signal away.
    die_with_us(&mut command);
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let id = child.id().ok_or_else(|| std::io::Error::other("the process ended before it had an id"))?;
    let leader = Pid::from_raw(i32::try_from(id).map_err(std::io::Error::other)?);
    guard.tell('+', leader);
    Ok(Process { child, group: Group { leader, guard: guard.clone() } })
}

#[expect(unsafe_code, reason = "pre_exec is the only way to enter a root; the entrance makes system calls only")]
fn enter(command: &mut std::process::Command, entrance: Entrance) {
    // SAFETY: entering allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || entrance.enter()) };
}

#[expect(unsafe_code, reason = "pre_exec is the only way to set the parent-death signal; it makes two system calls")]
fn die_with_us(command: &mut std::process::Command) {
    let parent = std::process::id();
    let die = move || {
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory of ours.
        let (armed, alive) = unsafe {
            (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0), libc::getppid().cast_unsigned() == parent)
        };
        if armed == 0 && alive { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(die) };
}

impl Group {
    /// Signals every process of the group; a group that has ended already is fine.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = killpg(self.leader, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        self.guard.tell('-', self.leader);
    }
}

impl Guard {
    fn start() -> std::io::Result<Self> {
        let mark = uuid::Uuid::new_v4().to_string();
        let mut shell = std::process::Command::new("/bin/sh")
            .args(["-c", GUARD_SCRIPT, "guard", &format!("{MARK}={mark}")])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir(Path::new("/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = shell.stdin.take().ok_or_else(|| std::io::Error::other("the guard has no stdin"))?;
        Ok(Self { pipe: Mutex::new(pipe), shell: Mutex::new(shell), mark })
    }

    fn tell(&self, sign: char, group: Pid) {
        if let Ok(mut pipe) = self.pipe.lock()
            && let Err(error) = writeln!(pipe, "{sign} {group}")
        {
            tracing::warn!(%error, "the guard of the process groups is gone; grandchildren may outlive a kill -9 of the nodes");
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // All groups are gone when the last handle is; nothing is left for the shell to do.
        if let Ok(shell) = self.shell.get_mut() {
            let _ = shell.kill();
            let _ = shell.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn shell(script: &str) -> Launch {
        Launch {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            directory: "/".into(),
            root: None,
            stdin: false,
        }
    }

    #[tokio::test]
    async fn a_process_gets_only_its_own_environment() {
        let spawner = Spawner::start().unwrap();
        let mut process = spawner.spawn(shell("env | sort | tr '\\n' ' '")).await.unwrap();
        let mut text = String::new();
        process.child.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
        let names: Vec<_> = text.split_whitespace().map(|pair| pair.split('=').next().unwrap()).collect();
        assert!(names.iter().all(|name| ["PATH", "PWD", "OLDPWD", "SHLVL", "_", MARK].contains(name)), "{text}");
    }

    #[tokio::test]
    async fn a_root_of_its_own_shows_mounts_at_documented_paths() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "there").unwrap();
        let root = folder.path().join("root");
        crate::own_root::build(&root, &[("/etc/secrets".to_owned(), folder.path().to_owned())]).unwrap();
        let spawner = Spawner::start().unwrap();
        let launch = Launch { root: Some(root), ..shell("cat /etc/secrets/f; test -e /etc/passwd && pwd") };
        // A machine may forbid namespaces; what holds then is that nothing runs outside.
        let Ok(mut process) = spawner.spawn(launch).await else { return };
        let mut text = String::new();
        process.child.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "there/\n");
    }

    #[tokio::test]
    async fn grandchildren_end_with_the_group() {
        let spawner = Spawner::start().unwrap();
        let mut process = spawner.spawn(shell("sleep 600 & echo $!; wait")).await.unwrap();
        let mut stdout = process.child.stdout.take().unwrap();
        let mut byte = [0u8; 16];
        let read = stdout.read(&mut byte).await.unwrap();
        let grandchild: i32 = std::str::from_utf8(&byte[..read]).unwrap().trim().parse().unwrap();
        drop(process);
        // The pipe ends when the last process that holds it is gone.
        let mut rest = Vec::new();
        tokio::time::timeout(std::time::Duration::from_secs(5), stdout.read_to_end(&mut rest)).await.unwrap().unwrap();
        // A process lets go of its files a moment before it counts as ended.
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            let state = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z") {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{state}");
            tokio::task::yield_now().await;
        }
    }
}
