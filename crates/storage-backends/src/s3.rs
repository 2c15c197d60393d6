//! The S3 server as a child process: versitygw over a folder, with TLS, signature checks, an access log and credentials made at run time.
//! Flags and traits as seen at v1.8.0: ready when it lists buckets, SIGTERM ends it with status 0 within a tenth of a second.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use harness::storage::{Secret, StorageEndpoint};
use local_cluster::{Child, ChildOptions, Exit};

use crate::Error;
use crate::reach::{self, file};
use crate::s3_view::S3View;
use crate::server::{Place, Server, ServerOptions};

/// A running server. Dropping it kills the process; the data stay until [`S3Process::stop`].
#[derive(Debug)]
pub struct S3Process {
    server: Server,
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
    /// Starts the server with credentials of its own and waits until it is healthy. The file system of its folder must
    /// have extended attributes.
    ///
    /// # Errors
    /// [`Error::Process`] when it cannot start or ends, [`Error::NotHealthy`] when it does not answer in time.
    pub async fn start(options: ServerOptions) -> Result<S3Process, Error> {
        let place = Place::make(&options)?;
        let access_key = format!("AK{}", uuid::Uuid::new_v4().simple().to_string().to_uppercase());
        let secret_key = Secret::new(uuid::Uuid::new_v4().simple().to_string());
        let client = reach::client("the S3 server", Some(&options.certificate.authority))?;
        let child = |address: SocketAddr| {
            let mut child = ChildOptions::new("versitygw", &options.program, place.dir.join("versitygw.log"));
            child.args =
                ["--port", &address.to_string(), "--region", &options.region, "--quiet"].map(Into::into).into();
            let tls = &place.certificate;
            child.args.extend(["--cert".into(), (&tls.certificate).into(), "--key".into(), (&tls.key).into()]);
            child.args.extend(["--access-log".into(), place.dir.join("access.log").into()]);
            child.args.extend(["posix".into(), (&place.data).into()]);
            child.env_clear = true;
            child.env = vec![
                ("ROOT_ACCESS_KEY".into(), access_key.clone().into()),
                ("ROOT_SECRET_KEY".into(), secret_key.reveal().into()),
                ("HOME".into(), (&place.dir).into()),
            ];
            child
        };
        let view = |url: &str| S3View::new(url, &options.region, &access_key, &secret_key, client.clone());
        let server = Server::start(&options, &place, child, |address| {
            let url = format!("https://{address}");
            let view = view(&url);
            async move { reach::answers(format!("versitygw at {url}"), options.ready_within, || view.answers()).await }
        })
        .await?;
        let url = format!("https://{}", server.address());
        let view = view(&url);
        let endpoint = StorageEndpoint {
            kind: "s3".to_owned(),
            url,
            hosts: Vec::new(),
            address: Some(server.address()),
            region: options.region,
            access_key,
            secret_key,
            ca: Some(options.certificate.authority),
            view: Arc::new(view),
        };
        Ok(S3Process { server, dir: place.dir, endpoint })
    }

    /// Where and as whom it is reached, and the view into it.
    pub fn endpoint(&self) -> &StorageEndpoint {
        &self.endpoint
    }

    /// The child process.
    pub fn child(&self) -> &Child {
        self.server.child()
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
        self.server.stop(grace).await
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
