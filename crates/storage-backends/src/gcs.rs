//! The Google Cloud Storage server as a child process: fake-gcs-server over a folder, for us alone, and before it the front
//! that asks for credentials. Flags as seen at v1.56.1; it is ready when it lists buckets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use harness::storage::StorageEndpoint;
use local_cluster::{Child, ChildOptions, Exit};

use crate::Error;
use crate::gcs_front::{GcsFront, SESSION_HOST, STORAGE_HOST, TOKEN_HOST};
use crate::gcs_view::GcsView;
use crate::reach;
use crate::server::{Place, Server, ServerOptions};
use crate::service_account::ServiceAccount;
use crate::started::ServerCertificate;

/// The project of the service account and of buckets made from beside the registry.
pub(crate) const PROJECT: &str = "registry-conformance";

/// A running server behind its front. Dropping it ends both; the data stay until [`GcsProcess::stop`].
#[derive(Debug)]
pub struct GcsProcess {
    server: Server,
    front: FrontedGcs,
}

/// What a Google Cloud Storage server is to others, however it was started: the front and the endpoint it makes.
#[derive(Debug)]
pub(crate) struct FrontedGcs {
    pub(crate) endpoint: StorageEndpoint,
    _front: GcsFront,
}

impl FrontedGcs {
    /// Opens a front with a new service account before the server at `server`.
    pub(crate) async fn open(
        server: &str,
        region: &str,
        listen: std::net::IpAddr,
        certificate: &ServerCertificate,
        dir: &std::path::Path,
    ) -> Result<FrontedGcs, Error> {
        let account = ServiceAccount::make(PROJECT, &format!("https://{TOKEN_HOST}/token")).await?;
        let front = GcsFront::start(listen, server, account.clone(), certificate, &dir.join("front.log")).await?;
        let view = GcsView::new(server, PROJECT, reach::client(server, None)?)?;
        let endpoint = StorageEndpoint {
            kind: "gcs".to_owned(),
            url: format!("https://{STORAGE_HOST}"),
            hosts: [STORAGE_HOST, SESSION_HOST, TOKEN_HOST].map(|host| format!("{host}:443")).into(),
            address: Some(front.address()),
            region: region.to_owned(),
            access_key: account.email().to_owned(),
            secret_key: account.key_file().clone(),
            ca: Some(certificate.authority.clone()),
            view: Arc::new(view),
        };
        Ok(FrontedGcs { endpoint, _front: front })
    }
}

impl GcsProcess {
    /// Starts the server and its front, with a service account of its own, and waits until the server is healthy.
    ///
    /// # Errors
    /// [`Error::NoKey`] when no service account can be made, [`Error::Process`] when the server cannot start or ends,
    /// [`Error::NotHealthy`] when it does not answer in time.
    pub async fn start(options: ServerOptions) -> Result<GcsProcess, Error> {
        let place = Place::make(&options)?;
        let client = reach::client("the GCS server", None)?;
        let child = |address: SocketAddr| {
            let mut child =
                ChildOptions::new("fake-gcs-server", &options.program, place.dir.join("fake-gcs-server.log"));
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            let fixed = ["-scheme", "http", "-host", &host, "-port", &port, "-public-host", STORAGE_HOST];
            child.args = fixed.map(Into::into).into();
            child.args.extend(["-backend".into(), "filesystem".into()]);
            child.args.extend(["-filesystem-root".into(), (&place.data).into(), "-log-level".into(), "info".into()]);
            child.env_clear = true;
            child.env = vec![("HOME".into(), (&place.dir).into()), ("TMPDIR".into(), (&place.dir).into())];
            child
        };
        let server = Server::start(&options, &place, child, |address| {
            let url = format!("http://{address}");
            let view = GcsView::new(&url, PROJECT, client.clone());
            async move {
                let view = view?;
                reach::answers(format!("fake-gcs-server at {url}"), options.ready_within, || view.answers()).await
            }
        })
        .await?;
        let url = format!("http://{}", server.address());
        let front = FrontedGcs::open(&url, &options.region, options.listen, &place.certificate, &place.dir).await?;
        Ok(GcsProcess { server, front })
    }

    /// Where and as whom it is reached, and the view into it.
    pub fn endpoint(&self) -> &StorageEndpoint {
        &self.front.endpoint
    }

    /// The child process.
    pub fn child(&self) -> &Child {
        self.server.child()
    }

    /// Ends the server and removes its data and keys; the logs stay. Returns how it ended.
    ///
    /// # Errors
    /// [`Error::File`] when the data cannot be removed; the process has ended also then.
    pub async fn stop(self, grace: Duration) -> Result<Exit, Error> {
        self.server.stop(grace).await
    }
}
