//! Storage products for the registry to stand on: local processes, containers and vendors' endpoints, each a file in `backends/`.
//! However a product was started, what comes out is one `StorageEndpoint`, with a view into it that does not pass through the registry.

mod azure;
mod azure_view;
mod backend;
mod container;
mod copy_source;
mod error;
mod gcs;
mod gcs_front;
mod gcs_view;
mod hosts;
mod possible;
mod reach;
mod s3;
mod s3_view;
mod served;
mod server;
mod service_account;
mod started;

pub use azure::AzureProcess;
pub use azure_view::AzureView;
pub use backend::{Backend, ContainerRun, ContainerTls, EndpointRun, Program, Run};
pub use container::StorageContainer;
pub use error::Error;
pub use gcs::GcsProcess;
pub use gcs_view::GcsView;
pub use hosts::server_names;
pub use possible::possible;
pub use s3::{Access, S3Process};
pub use s3_view::S3View;
pub use server::ServerOptions;
pub use service_account::{ServiceAccount, can_be_made as service_accounts_can_be_made};
pub use started::{Preferred, ServerCertificate, StorageBackends, StorageOptions};
