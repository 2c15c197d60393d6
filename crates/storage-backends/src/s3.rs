//! The S3 server as a child process: versitygw over a folder, with TLS, signature checks, an access log and credentials made at run time.
//! Flags and traits as seen at v1.8.0: `/health` for readiness, SIGTERM ends it with status 0 within a tenth of a second.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use harness::storage::{Secret, StorageEndpoint};
use local_cluster::port::ReservedPort;
use local_cluster::{Child, ChildOptions, Exit, Ledger};

use crate::Error;
use crate::reach::{self, file};
use crate::s3_view::S3View;
use crate::started::ServerCertificate;

/// First port that is tried; below the ephemeral ports.
const PORT: u16 = 23000;
/// Starts after the first when another program took the port in between.
const STARTS: u16 = 5;

/// What the server is made from.
#[derive(Clone, Debug)]
pub struct S3ProcessOptions {
    /// The versitygw executable.
    pub program: PathBuf,
    /// Folder for data and logs; its file system must have extended attributes.
    pub dir: PathBuf,
    /// Loopback address to listen on.
    pub listen: IpAddr,
    /// Region, part of every signature.
    pub region: String,
    /// Certificate that is valid for `listen`.
    pub certificate: ServerCertificate,
    /// Where the child is recorded.
    pub ledger: Option<Ledger>,
    /// Limit from start to healthy.
    pub ready_within: Duration,
}

/// A running server. Dropping it kills the process; the data stay until [`S3Process::stop`].
#[derive(Debug)]
pub struct S3Process {
    child: Child,
    dir: PathBuf,
    endpoint: StorageEndpoint,
}

/// One line of the server's access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Operation as the server names it, such as `s3_PutObject`.
    pub operation: String,
    /// Bucket, if the operation had one.
    pub bucket: Option<String>,
    /// Key, if the operation had one.
    pub key: Option<String>,
    /// HTTP status of the answer.
    pub status: u16,
    /// Error code of the answer, if it was one.
    pub error: Option<String>,
}

impl S3Process {
    /// Starts the server with credentials of its own and waits until it is healthy.
    ///
    /// # Errors
    /// [`Error::Process`] when it cannot start or ends, [`Error::NotHealthy`] when it does not answer in time.
    pub async fn start(options: S3ProcessOptions) -> Result<S3Process, Error> {
        // Starts of one process wish for different ports, so that only strangers can get into each other's way.
        static WISHES: AtomicU16 = AtomicU16::new(0);
        let mut start = 1;
        loop {
            let wish = PORT + WISHES.fetch_add(1, Ordering::Relaxed) % 256;
            match S3Process::start_at(options.clone(), wish).await {
                Err(Error::Process(local_cluster::Error::Exited { exit, .. }))
                    if start < STARTS && exit.port_was_taken() =>
                {
                    start += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn start_at(options: S3ProcessOptions, wish: u16) -> Result<S3Process, Error> {
        let dir = std::path::absolute(&options.dir).map_err(file("find", &options.dir))?;
        let data = dir.join("data");
        std::fs::create_dir_all(&data).map_err(file("make", &data))?;
        let certificate = options.certificate.write(&dir)?;
        let access_key = format!("AK{}", uuid::Uuid::new_v4().simple().to_string().to_uppercase());
        let secret_key = Secret::new(uuid::Uuid::new_v4().simple().to_string());
        let port = ReservedPort::near(options.listen, wish)?;
        let address: SocketAddr = port.address();

        let mut child = ChildOptions::new("versitygw", &options.program, dir.join("versitygw.log"));
        child.args = ["--port", &address.to_string(), "--region", &options.region, "--health", "/health", "--quiet"]
            .map(Into::into)
            .into();
        child.args.extend(["--cert".into(), certificate.certificate.into(), "--key".into(), certificate.key.into()]);
        child.args.extend(["--access-log".into(), dir.join("access.log").into(), "posix".into(), data.into()]);
        child.env_clear = true;
        child.env = vec![
            ("ROOT_ACCESS_KEY".into(), access_key.clone().into()),
            ("ROOT_SECRET_KEY".into(), secret_key.reveal().into()),
            ("HOME".into(), dir.clone().into()),
        ];
        child.dir = Some(dir.clone());
        child.ledger = options.ledger;
        port.release();
        let child = Child::spawn(child).await?;

        let url = format!("https://{address}");
        let client = reach::client(&url, Some(&options.certificate.authority))?;
        let health = format!("{url}/health");
        tokio::select! {
            biased;
            exit = child.wait_exit() => {
                let log = child.log().to_owned();
                return Err(Error::Process(local_cluster::Error::Exited { exit: Box::new(exit), log }));
            }
            healthy = reach::healthy(&client, "versitygw", &health, options.ready_within) => healthy?,
        }
        let view = S3View::new(&url, &options.region, &access_key, &secret_key, client);
        let endpoint = StorageEndpoint {
            kind: "s3".to_owned(),
            url,
            region: options.region,
            access_key,
            secret_key,
            ca: Some(options.certificate.authority),
            view: Arc::new(view),
        };
        Ok(S3Process { child, dir, endpoint })
    }

    /// Where and as whom it is reached, and the view into it.
    pub fn endpoint(&self) -> &StorageEndpoint {
        &self.endpoint
    }

    /// The child process.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The access log.
    pub fn access_log(&self) -> PathBuf {
        self.dir.join("access.log")
    }

    /// Every request so far, oldest first, as the server itself recorded it.
    ///
    /// # Errors
    /// [`Error::File`] when the log cannot be read.
    pub fn accesses(&self) -> Result<Vec<Access>, Error> {
        let path = self.access_log();
        let text = std::fs::read_to_string(&path).map_err(file("read", &path))?;
        Ok(text.lines().filter_map(access).collect())
    }

    /// Ends the server and removes its data and keys; the logs stay. Returns how it ended.
    ///
    /// # Errors
    /// [`Error::File`] when the data cannot be removed; the process has ended also then.
    pub async fn stop(self, grace: Duration) -> Result<Exit, Error> {
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

/// Fields of the S3 server access log format: owner, bucket, time, address, requester, request, operation, key, URI, status, error code.
fn access(line: &str) -> Option<Access> {
    let (head, tail) = line.split_once('[')?;
    let (_, tail) = tail.split_once("] ")?;
    let given = |text: &str| (text != "-").then(|| text.to_owned());
    let bucket = head.split_whitespace().nth(1).and_then(given);
    let fields: Vec<&str> = tail.split(' ').collect();
    let [_address, _requester, _request, operation, key, _uri, status, error, ..] = fields[..] else { return None };
    Some(Access {
        operation: operation.to_owned(),
        bucket,
        key: given(key),
        status: status.parse().ok()?,
        error: given(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_log_lines_are_read() {
        let line = "- images [21/November/2026:09:17:56 +0000] 127.0.0.1 AK1 XOB2 s3_PutObject a/b /images/a/b 403 AccessDenied 0 0 0 0 - curl - x SigV4";
        let expected = Access {
            operation: "s3_PutObject".to_owned(),
            bucket: Some("images".to_owned()),
            key: Some("a/b".to_owned()),
            status: 403,
            error: Some("AccessDenied".to_owned()),
        };
        assert_eq!(access(line), Some(expected));
        assert_eq!(access("log starts 2026-11-21"), None);
    }
}
