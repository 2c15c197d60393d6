//! A storage server as a child process: a free port, another try when a stranger takes it, and a look until it answers.
//! What the server is told and how one looks is said by the product's own file.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use local_cluster::port::ReservedPort;
use local_cluster::{Child, ChildOptions, Exit, Ledger};

use crate::Error;
use crate::reach::file;
use crate::started::ServerCertificate;

/// First port that is tried; below the ephemeral ports.
const PORT: u16 = 23000;
/// Starts after the first when another program took the port in between.
const STARTS: u16 = 5;

/// What a server is made from, whichever it is.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The executable, or the script for those that have an interpreter.
    pub program: PathBuf,
    /// Folder for data and logs.
    pub dir: PathBuf,
    /// Loopback address to listen on.
    pub listen: IpAddr,
    /// Region, for products whose signatures have one.
    pub region: String,
    /// Certificate that is valid for `listen` and for the product's host names.
    pub certificate: ServerCertificate,
    /// Where the child is recorded.
    pub ledger: Option<Ledger>,
    /// Limit from start to healthy.
    pub ready_within: Duration,
}

/// A running server. Dropping it kills the process; the data stay until [`Server::stop`].
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    dir: PathBuf,
    address: SocketAddr,
}

/// What is made before the first start.
pub(crate) struct Place {
    /// The server's folder.
    pub dir: PathBuf,
    /// Where it keeps objects.
    pub data: PathBuf,
    /// Copies that it may read as long as it runs.
    pub certificate: ServerCertificate,
}

impl Place {
    /// Makes the folders of a server.
    pub(crate) fn make(options: &ServerOptions) -> Result<Place, Error> {
        let dir = std::path::absolute(&options.dir).map_err(file("find", &options.dir))?;
        let data = dir.join("data");
        std::fs::create_dir_all(&data).map_err(file("make", &data))?;
        let certificate = options.certificate.write(&dir)?;
        Ok(Place { dir, data, certificate })
    }
}

impl Server {
    /// Starts a server as `child` says for an address, and waits until `look` says that it answers there.
    pub(crate) async fn start<L>(
        options: &ServerOptions,
        place: &Place,
        child: impl Fn(SocketAddr) -> ChildOptions,
        look: impl Fn(SocketAddr) -> L,
    ) -> Result<Server, Error>
    where
        L: Future<Output = Result<(), Error>>,
    {
        // Starts of one process wish for different ports, so that only strangers can get into each other's way.
        static WISHES: AtomicU16 = AtomicU16::new(0);
        let mut start = 1;
        loop {
            let wish = PORT + WISHES.fetch_add(1, Ordering::Relaxed) % 256;
            let port = ReservedPort::near(options.listen, wish)?;
            let address = port.address();
            let mut child = child(address);
            child.dir = Some(place.dir.clone());
            child.ledger = options.ledger.clone();
            port.release();
            let child = Child::spawn(child).await?;
            let exit = tokio::select! {
                biased;
                exit = child.wait_exit() => exit,
                healthy = look(address) => {
                    healthy?;
                    return Ok(Server { child, dir: place.dir.clone(), address });
                }
            };
            if start == STARTS || !exit.port_was_taken() {
                let log = child.log().to_owned();
                return Err(Error::Process(local_cluster::Error::Exited { exit: Box::new(exit), log }));
            }
            start += 1;
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The child process.
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// Ends the server and removes its data and keys; the logs stay. Returns how it ended.
    ///
    /// # Errors
    /// [`Error::File`] when the data cannot be removed; the process has ended also then.
    pub(crate) async fn stop(self, grace: Duration) -> Result<Exit, Error> {
        let exit = self.child.stop(grace).await;
        remove(&self.dir.join("data"))?;
        remove(&self.dir.join("tls"))?;
        Ok(exit)
    }
}

fn remove(folder: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(file("remove", folder)(error)),
        _ => Ok(()),
    }
}
