//! A storage server as a container, when the environment has a container engine: on a named network, published on 127.0.0.1.
//! A missing engine or image is an error value of its own, so that scenarios can be reported as not run with that reason.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use harness::storage::{Secret, StorageEndpoint};
use local_cluster::{Ledger, chain};
use testcontainers::bollard::Docker;
use testcontainers::bollard::models::PortBinding;
use testcontainers::core::IntoContainerPort;
use testcontainers::core::error::TestcontainersError;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};

use crate::azure::Account;
use crate::azure_view::AzureView;
use crate::backend::Kind;
use crate::gcs::{FrontedGcs, PROJECT};
use crate::gcs_view::GcsView;
use crate::hosts::S3_HOST;
use crate::reach;
use crate::s3_view::S3View;
use crate::started::StorageOptions;
use crate::{Backend, ContainerRun, Error};

/// Status with which an engine says that it has no such image.
const NO_SUCH: u16 = 404;

/// A running container. Dropping it removes it.
pub struct StorageContainer {
    container: ContainerAsync<GenericImage>,
    endpoint: StorageEndpoint,
    log: std::path::PathBuf,
    /// Ends with the container.
    _front: Option<FrontedGcs>,
}

impl std::fmt::Debug for StorageContainer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "StorageContainer({}, {:?})", self.container.id(), self.endpoint)
    }
}

impl StorageContainer {
    /// Starts the container and waits until the server in it answers. Its log and its front's go to `dir`.
    ///
    /// # Errors
    /// [`Error::NoContainers`] without an engine, [`Error::NoImage`] when there is no image and none to pull,
    /// [`Error::Container`] when the engine refuses, [`Error::NotHealthy`] when time is up.
    pub async fn start(
        backend: &Backend,
        run: &ContainerRun,
        options: &StorageOptions,
        dir: &Path,
    ) -> Result<StorageContainer, Error> {
        std::fs::create_dir_all(dir).map_err(reach::file("make", dir))?;
        let image = available(run, options.pull).await?;
        let account = match backend.kind {
            Kind::Azure => Account::new(),
            _ => Account {
                name: format!("AK{}", uuid::Uuid::new_v4().simple().to_string().to_uppercase()),
                key: Secret::new(uuid::Uuid::new_v4().simple().to_string()),
            },
        };
        let request = request(&image, run, options, &account)?;
        let container = request.start().await.map_err(|error| refused(&image, &error))?;
        let port = container.get_host_port_ipv4(run.port.tcp()).await.map_err(|error| refused(&image, &error))?;
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let scheme = if run.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        let authority = run.tls.as_ref().map(|_| options.certificate.authority.as_str());
        let client = reach::client(&url, authority)?;
        let what = format!("{image} at {url}");
        let mut front = None;
        let endpoint = match backend.kind {
            Kind::S3 => {
                let view = S3View::new(&url, &backend.region, &account.name, &account.key, client);
                reach::answers(what, options.ready_within, || view.answers()).await?;
                StorageEndpoint {
                    kind: backend.kind.name().to_owned(),
                    view: Arc::new(view),
                    url: format!("https://{S3_HOST}"),
                    hosts: vec![format!("{S3_HOST}:443")],
                    address: Some(address),
                    region: backend.region.clone(),
                    access_key: account.name,
                    secret_key: account.key,
                    ca: Some(options.certificate.authority.clone()),
                }
            }
            Kind::Gcs => {
                let view = GcsView::new(&url, PROJECT, client)?;
                reach::answers(what, options.ready_within, || view.answers()).await?;
                let opened = FrontedGcs::open(&url, &backend.region, options.listen, &options.certificate, dir).await?;
                front.insert(opened).endpoint.clone()
            }
            Kind::Azure => {
                let view = AzureView::new(&url, &account.name, &account.key, client)?;
                reach::answers(what, options.ready_within, || view.answers()).await?;
                account.endpoint(address, &backend.region, &options.certificate, view)
            }
        };
        Ok(StorageContainer { container, endpoint, log: dir.join("container.log"), _front: front })
    }

    /// Where and as whom it is reached, and the view into it.
    pub fn endpoint(&self) -> &StorageEndpoint {
        &self.endpoint
    }

    /// Keeps the container's log and removes the container with its data.
    ///
    /// # Errors
    /// [`Error::Container`] when the engine refuses, [`Error::File`] when the log cannot be kept.
    pub async fn stop(self) -> Result<(), Error> {
        let name = self.container.id().to_owned();
        let mut log = self.container.stdout_to_vec().await.unwrap_or_default();
        log.extend(self.container.stderr_to_vec().await.unwrap_or_default());
        let kept = std::fs::write(&self.log, log).map_err(reach::file("write", &self.log));
        self.container.rm().await.map_err(|error| refused(&name, &error))?;
        kept
    }
}

/// The image that is started: the one of an archive where the engine has it, else the published one.
async fn available(run: &ContainerRun, pull: bool) -> Result<String, Error> {
    let unreachable = |error: testcontainers::bollard::errors::Error| Error::NoContainers { reason: chain(&error) };
    let engine = Docker::connect_with_defaults().map_err(unreachable)?;
    for image in [&run.archive, &run.image] {
        match engine.inspect_image(image).await {
            Ok(_) => return Ok(image.clone()),
            Err(testcontainers::bollard::errors::Error::DockerResponseServerError { status_code: NO_SUCH, .. }) => {}
            Err(error) => return Err(unreachable(error)),
        }
    }
    if run.published && pull {
        return Ok(run.image.clone());
    }
    Err(Error::NoImage { archive: run.archive.clone(), image: run.image.clone() })
}

fn request(
    image: &str,
    run: &ContainerRun,
    options: &StorageOptions,
    account: &Account,
) -> Result<ContainerRequest<GenericImage>, Error> {
    let read = |path: &Path| std::fs::read(path).map_err(reach::file("read", path));
    let port = run.port.tcp();
    // A digest belongs to the tag as far as the client is concerned.
    let named = image.split_once('@').map_or(image, |(named, _)| named);
    let colon = named.rfind(':').filter(|at| !named[*at..].contains('/')).unwrap_or(named.len());
    let tag = image.get(colon + 1..).filter(|tag| !tag.is_empty()).unwrap_or("latest");
    let program = if image == run.image { run.program.as_slice() } else { &[] };
    let words = program.iter().chain(&run.args).cloned().collect::<Vec<_>>();
    let label = options.ledger.as_ref().map_or("none", Ledger::run);
    let mut request = GenericImage::new(&image[..colon], tag)
        .with_exposed_port(port)
        .with_cmd(words)
        .with_label(local_cluster::containers::LABEL, label)
        .with_startup_timeout(START_WITHIN)
        .with_host_config_modifier(move |host| {
            // Nobody but this machine gets in; the engine chooses the port.
            let here = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: None };
            host.publish_all_ports = Some(false);
            host.port_bindings = Some(HashMap::from([(port.to_string(), Some(vec![here]))]));
        });
    if let Some(tls) = &run.tls {
        request = request
            .with_copy_to(tls.certificate.clone(), read(&options.certificate.certificate)?)
            .with_copy_to(tls.key.clone(), read(&options.certificate.key)?);
    }
    if let Some(network) = &options.network {
        request = request.with_network(network);
    }
    for (name, value) in &run.env {
        let value = value.replace("{accessKey}", &account.name).replace("{secretKey}", account.key.reveal());
        request = request.with_env_var(name, value);
    }
    Ok(request)
}

/// Limit for the engine's part of the start, a pull included.
const START_WITHIN: Duration = Duration::from_secs(180);

fn refused(image: &str, error: &TestcontainersError) -> Error {
    Error::Container { image: image.to_owned(), reason: chain(error) }
}
