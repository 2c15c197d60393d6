//! The container engine of this machine, through its command-line client: the one interface that kind uses too. What is
//! made carries the run's label; removing it is left to the ledger of the run.

use std::{
    ffi::OsStr,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use harness::failure::{Failure, Tried as _};
use local_cluster::{Ledger, containers::LABEL, process::RUN_VARIABLE};
use tokio::process::Command;

use super::program;

/// How long the engine may take to say that it is there.
const ANSWER: Duration = Duration::from_secs(10);

/// A container engine that answers.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    client: PathBuf,
    /// The run's name, once it has one.
    run: Option<String>,
}

impl Engine {
    /// The engine behind `docker` on PATH.
    ///
    /// # Errors
    /// When there is no client, or no engine answers it.
    pub(super) async fn find() -> Result<Self, Failure> {
        let tried = "finding a container engine";
        let remedy =
            "install Docker and start its daemon (`doctor` says what is missing), or run with --target embedded";
        let client = program::on_path("docker")
            .ok_or_else(|| Failure::error(tried, "docker is not on this machine's PATH").next(remedy))?;
        let engine = Self { client, run: None };
        let asked = tokio::time::timeout(ANSWER, engine.run(["version", "--format", "{{.Server.Version}}"])).await;
        match asked {
            Ok(Ok(_)) => Ok(engine),
            Ok(Err(failure)) => {
                Err(Failure::error(tried, failure.seen.unwrap_or_default().replace('\n', " ")).next(remedy))
            }
            Err(_) => Err(Failure::error(tried, format!("docker did not answer within {ANSWER:?}")).next(remedy)),
        }
    }

    /// The engine behind a client, whether it answers or not.
    #[cfg(test)]
    pub(super) fn of(client: PathBuf) -> Self {
        Self { client, run: None }
    }

    /// The same engine, asked by a run: what is started from here on is ended by the next start if the run is killed, before
    /// it can make something that nobody would remove.
    pub(super) fn of_run(self, ledger: &Ledger) -> Self {
        Self { run: Some(ledger.run().to_owned()), ..self }
    }

    /// A program that works on the engine, as a process of the run.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.envs(self.run.iter().map(|run| (RUN_VARIABLE, run)));
        command
    }

    /// The client program.
    pub(super) fn client(&self) -> &Path {
        &self.client
    }

    /// Runs the client and returns what it printed.
    ///
    /// # Errors
    /// With what it said, when it cannot be run or fails.
    pub(super) async fn run<I, S>(&self, args: I) -> Result<String, Failure>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
        let tried = format!("running `docker {}`", words.join(" "));
        let mut command = self.command(&self.client);
        output(command.args(&args), &tried).await
    }

    /// Makes a network of the run's own, on which containers meet.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) async fn make_network(&self, name: &str, ledger: &Ledger) -> Result<(), Failure> {
        let label = format!("{LABEL}={}", ledger.run());
        self.run(["network", "create", "--driver", "bridge", "--label", &label, name]).await.map(drop)
    }

    /// Makes a volume of the run's own and says where the engine keeps it.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) async fn make_volume(&self, name: &str, ledger: &Ledger) -> Result<PathBuf, Failure> {
        let label = format!("{LABEL}={}", ledger.run());
        self.run(["volume", "create", "--label", &label, name]).await?;
        let printed = self.run(["volume", "inspect", "--format", "{{.Mountpoint}}", name]).await?;
        Ok(PathBuf::from(printed.trim()))
    }

    /// The address by which containers on a network reach this machine.
    ///
    /// # Errors
    /// When the network has none.
    pub(super) async fn gateway(&self, network: &str) -> Result<IpAddr, Failure> {
        let form = "{{range .IPAM.Config}}{{.Gateway}} {{.Subnet}}\n{{end}}";
        let printed = self.run(["network", "inspect", "--format", form, network]).await?;
        let found = printed.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let first = words.next()?;
            // A network that no container has joined yet may name its subnet only; its gateway is the first address.
            first.parse::<Ipv4Addr>().ok().or_else(|| first_of(first)).or_else(|| first_of(words.next()?))
        });
        found.map(IpAddr::V4).ok_or_else(|| {
            Failure::error(format!("finding the gateway of the network {network}"), format!("{printed:?}"))
        })
    }

    /// The names of containers, running or not, that match every filter, such as `label=x`.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) async fn containers(&self, filters: &[&str]) -> Result<Vec<String>, Failure> {
        let filters = filters.iter().flat_map(|filter| ["--filter", *filter]);
        let printed = self.run(["ps", "--all", "--format", "{{.Names}}"].into_iter().chain(filters)).await?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    /// The id of an image, if the engine has it.
    pub(super) async fn image_id(&self, name: &str) -> Option<String> {
        let printed = self.run(["image", "inspect", "--format", "{{.Id}}", name]).await.ok()?;
        Some(printed.trim().to_owned())
    }
}

/// The first address of a subnet in CIDR form.
fn first_of(subnet: &str) -> Option<Ipv4Addr> {
    let base: Ipv4Addr = subnet.split_once('/')?.0.parse().ok()?;
    Some(Ipv4Addr::from(u32::from(base) + 1))
}

/// Runs a command to its end and returns what it printed; `Error` with its last words when it fails.
pub(super) async fn output(command: &mut Command, tried: &str) -> Result<String, Failure> {
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output().await.tried(tried)?;
    if ran.status.success() {
        return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    let last: Vec<_> = said.lines().rev().take(20).collect();
    let said: Vec<_> = last.into_iter().rev().collect();
    Err(Failure::error(tried, format!("{}: {}", ran.status, said.join("\n"))))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("172.19.0.0/16", Some(Ipv4Addr::new(172, 19, 0, 1)))]
    #[case("fc00::/64", None)]
    fn a_subnets_first_address_is_its_gateway(#[case] subnet: &str, #[case] expected: Option<Ipv4Addr>) {
        assert_eq!(first_of(subnet), expected);
    }
}
