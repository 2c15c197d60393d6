//! The Azure Blob Storage server as a child process: Azurite with TLS, an account made at run time and data in the run's folder.
//! Flags and traits as seen at 3.35.0: it checks signatures, and is ready when it lists the account's containers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::storage::{Secret, StorageEndpoint};
use local_cluster::{Child, ChildOptions, Exit};

use crate::Error;
use crate::azure_view::AzureView;
use crate::copy_source::CopySource;
use crate::reach;
use crate::server::{Place, Server, ServerOptions};
use crate::started::ServerCertificate;

/// Endings of the host names under which accounts answer, one per cloud (operator source
/// pkg/storage/azure/azure.go:146-167, main).
pub(crate) const REALMS: [&str; 4] =
    ["core.windows.net", "core.usgovcloudapi.net", "core.chinacloudapi.cn", "core.cloudapi.de"];

/// A running server. Dropping it kills the process; the data stay until [`AzureProcess::stop`].
#[derive(Debug)]
pub struct AzureProcess {
    server: Server,
    _copy_source: CopySource,
    endpoint: StorageEndpoint,
}

/// An account of one run: a name and a key of 64 bytes.
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) key: Secret,
}

impl Account {
    pub(crate) fn new() -> Account {
        let random = || uuid::Uuid::new_v4().into_bytes();
        let name = format!("account{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        Account { name, key: Secret::new(STANDARD.encode([random(), random(), random(), random()].concat())) }
    }

    /// The account as Azurite is told it.
    pub(crate) fn told(&self) -> String {
        format!("{}:{}", self.name, self.key.reveal())
    }

    /// The account on the server at `address`.
    pub(crate) fn endpoint(
        self,
        address: SocketAddr,
        region: &str,
        certificate: &ServerCertificate,
        view: AzureView,
    ) -> StorageEndpoint {
        StorageEndpoint {
            kind: "azure".to_owned(),
            url: format!("https://{}.blob.{}", self.name, REALMS[0]),
            hosts: REALMS.map(|realm| format!("{}.blob.{realm}:443", self.name)).into(),
            address: Some(address),
            region: region.to_owned(),
            access_key: self.name,
            secret_key: self.key,
            ca: Some(certificate.authority.clone()),
            view: Arc::new(view),
        }
    }
}

impl AzureProcess {
    /// Starts the server, whose `program` is Azurite's script, with an account of its own and waits until it answers.
    ///
    /// # Errors
    /// [`Error::Process`] when it cannot start or ends, [`Error::NotHealthy`] when it does not answer in time.
    pub async fn start(options: ServerOptions) -> Result<AzureProcess, Error> {
        let place = Place::make(&options)?;
        let authority = place.dir.join("tls/authority.crt");
        std::fs::write(&authority, &options.certificate.authority).map_err(reach::file("write", &authority))?;
        let account = Account::new();
        let client = reach::client("the Azure server", Some(&options.certificate.authority))?;
        let copy_source = CopySource::start(options.listen, client.clone())?;
        let child = |address: SocketAddr| {
            copy_source.lead_to(address);
            let mut child = ChildOptions::new("azurite", PathBuf::from("node"), place.dir.join("azurite.log"));
            let (host, port) = (address.ip().to_string(), address.port().to_string());
            child.args = vec![(&options.program).into()];
            child.args.extend(["--blobHost", &host, "--blobPort", &port].map(Into::into));
            child.args.extend(["--disableTelemetry", "--skipApiVersionCheck"].map(Into::into));
            let tls = &place.certificate;
            child.args.extend(["--cert".into(), (&tls.certificate).into(), "--key".into(), (&tls.key).into()]);
            child.args.extend(["--location".into(), (&place.data).into()]);
            child.env_clear = true;
            child.env = vec![
                ("AZURITE_ACCOUNTS".into(), account.told().into()),
                // A copy is fetched from the source's address, which is its own.
                ("NODE_EXTRA_CA_CERTS".into(), (&authority).into()),
                ("https_proxy".into(), copy_source.url().into()),
                ("PATH".into(), std::env::var_os("PATH").unwrap_or_default()),
                ("HOME".into(), (&place.dir).into()),
            ];
            child
        };
        let view = |address: SocketAddr| {
            AzureView::new(&format!("https://{address}"), &account.name, &account.key, client.clone())
        };
        let server = Server::start(&options, &place, child, |address| {
            let view = view(address);
            let what = format!("azurite at https://{address}");
            async move {
                let view = view?;
                reach::answers(what, options.ready_within, || view.answers()).await
            }
        })
        .await?;
        let view = view(server.address())?;
        let endpoint = account.endpoint(server.address(), &options.region, &options.certificate, view);
        Ok(AzureProcess { server, _copy_source: copy_source, endpoint })
    }

    /// Where and as whom it is reached, and the view into it.
    pub fn endpoint(&self) -> &StorageEndpoint {
        &self.endpoint
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
