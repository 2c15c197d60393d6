//! The image API of OpenShift, `image.openshift.io/v1`, as an aggregated API server for a plain Kubernetes control
//! plane: images and image streams with all their views, good enough for the real registry.
//! Objects rest in the API server itself (see [`store`]); this process keeps nothing.

pub mod authorize;
pub mod certificate;
pub mod client;
pub mod collection;
pub mod credentials;
pub mod discovery;
pub mod handler;
pub mod history;
pub mod hostname;
pub mod image;
pub mod image_stream;
pub mod import;
pub mod layers;
pub mod limits;
pub mod mapping;
pub mod openapi;
pub mod patch;
pub mod reference;
pub mod registration;
pub mod remote;
pub mod request;
pub mod secrets;
pub mod server;
pub mod signature;
pub mod status;
pub mod store;
pub mod table;
pub mod tag;
pub mod turns;
pub mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::certificate::{CertificateError, ServingCertificate};
use crate::client::{ClientError, Clients};
use crate::handler::ImageApi;
use crate::registration::{RegistrationError, service_dns_name};
use crate::remote::{Remote, RemoteError};
use crate::store::Store;
use crate::turns::Turns;

/// How the image API is served.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "image-api")]
pub struct Options {
    /// Kubeconfig of a user in `system:masters`; empty means that the program's own is to be filled in before
    /// [`run`].
    #[arg(skip)]
    pub kubeconfig: PathBuf,

    /// Address to listen on; kube-apiserver must reach it. Port 0 takes a free one.
    #[arg(long, env = "IMAGE_API_ADDRESS", default_value = "127.0.0.1:0")]
    pub image_api_address: SocketAddr,

    /// How kube-apiserver finds this server.
    #[arg(long, env = "IMAGE_API_FRONT", value_enum, default_value_t)]
    pub image_api_front: Front,

    /// CA of the certificates with which kube-apiserver's aggregator identifies itself.
    #[arg(long, env = "IMAGE_API_FRONT_PROXY_CA", value_name = "FILE")]
    pub image_api_front_proxy_ca: PathBuf,

    /// Host name of the registry in pull specs as long as image.config.openshift.io/cluster names none; empty for
    /// none.
    #[arg(
        long,
        env = "IMAGE_API_REGISTRY_HOSTNAME",
        default_value = "image-registry.openshift-image-registry.svc:5000"
    )]
    pub image_api_registry_hostname: String,

    /// CA certificates to trust when images are imported, besides the machine's own.
    #[arg(long, env = "IMAGE_API_TRUST_BUNDLE", value_name = "FILE")]
    pub image_api_trust_bundle: Option<PathBuf>,

    /// Proxy for imports; without it HTTPS_PROXY and NO_PROXY count.
    #[arg(long, env = "IMAGE_API_PROXY", value_name = "URL")]
    pub image_api_proxy: Option<String>,
}

/// What stands before this server in the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Front {
    /// A Service of type ExternalName that we make, for a server that runs beside kube-apiserver.
    #[default]
    ExternalName,
    /// The Service openshift-apiserver/api that whoever installed this server as a pod has made, with the same port.
    Given,
}

/// Why the image API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the image API cannot listen on {address}: {source}; choose another with --image-api-address")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
}

/// Serves the image API until `stop`; `ready` is told once requests through kube-apiserver are answered.
///
/// # Errors
/// If the kubeconfig leads nowhere, the address is taken, or kube-apiserver does not accept this server.
pub async fn run(options: Options, stop: CancellationToken, ready: oneshot::Sender<()>) -> Result<(), Error> {
    let stop = stop.child_token();
    // Whatever was started ends with this function, also when it fails.
    let _ends_with_us = stop.clone().drop_guard();
    let clients = Clients::of(&options.kubeconfig).await?;
    let client = clients.watches.clone();
    let store = Store::new(clients);
    let remote = Remote::new(options.image_api_trust_bundle.as_deref(), options.image_api_proxy.as_deref())?;
    let (wanted, front) = (options.image_api_address, options.image_api_front);
    let listen = |source| Error::Listen { address: wanted, source };
    let listener = TcpListener::bind(wanted).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let names = [service_dns_name(), format!("{}.cluster.local", service_dns_name()), address.ip().to_string()];
    let certificate = ServingCertificate::make(&names)?;
    let ca_pem = certificate.ca_pem.clone();
    let tls = certificate.server_config(&options.image_api_front_proxy_ca)?;

    let hostnames = hostname::follow(client.clone(), options.image_api_registry_hostname, stop.child_token());
    let api = ImageApi { store: store.clone(), hostnames, remote, turns: Turns::default(), stop: stop.clone() };
    let serving = server::serve(listener, tls, api, stop.clone());
    let registering = async {
        registration::define_storage(&client, &store).await?;
        registration::register(&client, &store, address, &ca_pem, front).await?;
        tracing::info!(%address, "the image API is served");
        // Nobody has to be waiting.
        let _ = ready.send(());
        Ok::<(), Error>(())
    };
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => Ok(()),
        outcome = registering => match outcome {
            Ok(()) => {
                serving.await;
                Ok(())
            }
            Err(error) => Err(error),
        },
    }
}
