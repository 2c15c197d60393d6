//! The S3 server as a container, when the environment has a container engine.
//! A missing engine is an error value of its own, so that scenarios can be reported as not run with that reason.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use harness::storage::{Secret, StorageEndpoint};
use testcontainers::core::IntoContainerPort;
use testcontainers::core::error::TestcontainersError;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

use crate::reach;
use crate::s3_view::S3View;
use crate::started::ServerCertificate;
use crate::{Backend, ContainerRun, Error};
use local_cluster::chain;

/// Label of every container of ours; there is no reaper, so leftovers of a kill -9 are found by it.
const LABEL: &str = "registry-conformance.run";

/// A running container. Dropping it removes it.
pub struct S3Container {
    container: ContainerAsync<GenericImage>,
    endpoint: StorageEndpoint,
}

impl std::fmt::Debug for S3Container {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "S3Container({}, {:?})", self.container.id(), self.endpoint)
    }
}

impl S3Container {
    /// Starts the container and waits until the server in it is healthy.
    ///
    /// The certificate must be valid for the address on which the engine publishes ports, 127.0.0.1 for a local one.
    ///
    /// # Errors
    /// [`Error::NoContainers`] without an engine, [`Error::Container`] when it refuses, [`Error::NotHealthy`] when time is up.
    pub async fn start(
        backend: &Backend,
        run: &ContainerRun,
        certificate: &ServerCertificate,
        label: &str,
        ready_within: Duration,
    ) -> Result<S3Container, Error> {
        let access_key = format!("AK{}", uuid::Uuid::new_v4().simple().to_string().to_uppercase());
        let secret_key = Secret::new(uuid::Uuid::new_v4().simple().to_string());
        let read = |path: &Path| std::fs::read(path).map_err(reach::file("read", path));
        let mut request = GenericImage::new(&run.image, &run.tag)
            .with_exposed_port(run.port.tcp())
            .with_cmd(run.args.clone())
            .with_env_var(&run.access_key_variable, &access_key)
            .with_env_var(&run.secret_key_variable, secret_key.reveal())
            .with_copy_to(run.certificate.clone(), read(&certificate.certificate)?)
            .with_copy_to(run.key.clone(), read(&certificate.key)?)
            .with_label(LABEL, label);
        for (name, value) in &run.env {
            request = request.with_env_var(name, value);
        }
        let image = format!("{}:{}", run.image, run.tag);
        let container = request.start().await.map_err(|error| refused(&image, &error))?;
        let host = container.get_host().await.map_err(|error| refused(&image, &error))?.to_string();
        // A published port on "localhost" is one on 127.0.0.1, for which the certificate is made.
        let host = if host == "localhost" { "127.0.0.1".to_owned() } else { host };
        let port = container.get_host_port_ipv4(run.port.tcp()).await.map_err(|error| refused(&image, &error))?;
        let url = format!("https://{host}:{port}");
        let client = reach::client(&url, Some(&certificate.authority))?;
        reach::healthy(&client, &image, &format!("{url}{}", run.health), ready_within).await?;
        let view = S3View::new(&url, &backend.region, &access_key, &secret_key, client);
        let endpoint = StorageEndpoint {
            kind: backend.kind.name().to_owned(),
            url,
            region: backend.region.clone(),
            access_key,
            secret_key,
            ca: Some(certificate.authority.clone()),
            view: Arc::new(view),
        };
        Ok(S3Container { container, endpoint })
    }

    /// Where and as whom it is reached, and the view into it.
    pub fn endpoint(&self) -> &StorageEndpoint {
        &self.endpoint
    }

    /// Removes the container with its data.
    ///
    /// # Errors
    /// [`Error::Container`] when the engine refuses.
    pub async fn stop(self) -> Result<(), Error> {
        let name = self.container.id().to_owned();
        self.container.rm().await.map_err(|error| refused(&name, &error))
    }
}

fn refused(image: &str, error: &TestcontainersError) -> Error {
    let reason = chain(error);
    match error {
        // The client fails in this way with and without an engine; what it says of the way to the engine tells them apart.
        TestcontainersError::Client(_)
            if ["failed to initialize a docker client", "failed to list networks", "(Connect)", "Socket not found"]
                .iter()
                .any(|sign| reason.contains(sign)) =>
        {
            Error::NoContainers { reason }
        }
        _ => Error::Container { image: image.to_owned(), reason },
    }
}
