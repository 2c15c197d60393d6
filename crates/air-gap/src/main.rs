//! The command line of the builder; `ci/air-gap/build` and `ci/air-gap/engine` call it.

use std::path::PathBuf;
use std::process::ExitCode;

use air_gap::engine::{self, Engine, Started};
use air_gap::{Error, Group, Order};
use clap::{Parser, Subcommand};
use local_cluster::tool::{self, Tool};

#[derive(Parser)]
#[command(name = "air-gap", about = "Images and an engine for runs on kind, without pulling anything")]
struct CommandLine {
    #[command(subcommand)]
    act: Act,
}

#[derive(Subcommand)]
enum Act {
    /// Make the archives of the node image and of the emulators; the folder is what `run --images DIR` takes
    Build {
        /// Folder for the archives
        #[arg(long)]
        out: PathBuf,
        /// Only these
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<Group>,
        /// The program for nodes [default: kind-node beside this program]
        #[arg(long)]
        helper: Option<PathBuf>,
    },
    /// Print where kind is; it is built when it is neither in PATH nor in the cache
    Kind,
    /// Measure a folder of archives against its list
    Check {
        /// The folder
        folder: PathBuf,
    },
    /// A container engine of our own
    Engine {
        #[command(subcommand)]
        act: EngineAct,
        /// Its folder [default: `engine` in the cache]
        #[arg(long, global = true)]
        folder: Option<PathBuf>,
        /// Its socket [default: `docker.sock` in its folder]
        #[arg(long, global = true)]
        socket: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum EngineAct {
    /// Start it and print the value for DOCKER_HOST
    Start {
        /// The program for nodes [default: kind-node beside this program]
        #[arg(long)]
        helper: Option<PathBuf>,
    },
    /// Stop it
    Stop {
        /// Remove its images and containers too
        #[arg(long)]
        purge: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    match act(CommandLine::parse().act).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn act(act: Act) -> Result<(), Error> {
    let progress = |line: &str| eprintln!("{line}");
    match act {
        Act::Build { out, only, helper } => {
            let order = Order { out, only, helper: helper.unwrap_or_else(beside) };
            let collection = air_gap::build(&order, progress).await?;
            println!("{}", collection.names().join("\n"));
        }
        Act::Kind => {
            let tools = tool::locate_all(&[Tool::Kind], progress).await?;
            println!("{}", tools.path(Tool::Kind)?.display());
        }
        Act::Check { folder } => {
            let collection = air_gap::Collection::open(&folder)?;
            for entry in &collection.archives {
                println!("{} is whole", collection.measured(entry)?.display());
            }
        }
        Act::Engine { act, folder, socket } => {
            let folder = folder.unwrap_or_else(|| local_cluster::cache::folder().join("engine"));
            let engine = Engine::new(folder, socket);
            match act {
                EngineAct::Start { helper } => {
                    if engine.start(&helper.unwrap_or_else(beside))? == Started::WasThere {
                        progress("an engine answers there already");
                    } else if engine::lacks_sys_resource() {
                        progress("this machine lacks CAP_SYS_RESOURCE: containers are started by our runtime");
                    }
                    println!("{}", engine.address());
                }
                EngineAct::Stop { purge } => {
                    if !engine.stop()? {
                        progress("no engine of ours runs there");
                    }
                    if purge {
                        engine.purge()?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// cargo puts both programs into one folder.
fn beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.with_file_name("kind-node")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::CommandLine::command().debug_assert();
    }
}
