//! Storage products for the registry to stand on: local processes, containers and vendors' endpoints, each a file in `backends/`.
//! However a product was started, what comes out is one `StorageEndpoint`, with a view into it that does not pass through the registry.

mod backend;
mod container;
mod error;
mod reach;
mod s3;
mod s3_view;
mod started;

pub use backend::{Backend, ContainerRun, EndpointRun, Program, Run};
pub use container::S3Container;
pub use error::Error;
pub use s3::{Access, S3Process, S3ProcessOptions};
pub use s3_view::S3View;
pub use started::{ServerCertificate, StorageBackends, StorageOptions};
