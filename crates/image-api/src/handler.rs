//! From a request to its answer: is it a known resource and verb, may the caller do it, who answers it.

use axum::body::Body;
use http::StatusCode;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authorize::authorize;
use crate::discovery;
use crate::hostname::Hostnames;
use crate::remote::Remote;
use crate::request::Call;
use crate::status::StatusError;
use crate::store::{Kind, Store};
use crate::tag::{self, View};
use crate::turns::Turns;
use crate::{collection, import, layers, mapping, secrets, signature};

/// What all handlers share; cheap to clone.
#[derive(Clone)]
pub struct ImageApi {
    pub store: Store,
    pub hostnames: watch::Receiver<Hostnames>,
    /// The outside world, for imports.
    pub remote: Remote,
    /// Queues of writers.
    pub turns: Turns,
    /// Ends open watches.
    pub stop: CancellationToken,
}

/// A good answer.
pub enum Reply {
    /// One object, list or Status.
    Object(StatusCode, Value),
    /// A watch.
    Stream(Body),
}

impl Reply {
    /// 200 with `object`.
    pub fn ok(object: Value) -> Self {
        Self::Object(StatusCode::OK, object)
    }

    /// 201 with `object`.
    pub fn created(object: Value) -> Self {
        Self::Object(StatusCode::CREATED, object)
    }
}

impl ImageApi {
    /// Fills the parts of a stream that are worked out when it is read.
    pub fn decorate(&self, stream: &mut Value) {
        self.hostnames.borrow().decorate(stream);
    }

    /// Answers one request of an authenticated caller.
    ///
    /// # Errors
    /// 404 for an unknown resource, 403 if the caller may not, 405 for a verb the resource lacks, and whatever the
    /// resource itself refuses.
    pub async fn answer(&self, call: &Call) -> Result<Reply, StatusError> {
        let name = call.target.full_resource();
        let resource = discovery::find(&name).ok_or_else(StatusError::no_such_path)?;
        if !resource.namespaced && call.target.namespace.is_some() {
            return Err(StatusError::no_such_path());
        }
        authorize(&self.store, call).await?;
        if !resource.verbs.contains(&call.verb) {
            return Err(StatusError::method_not_supported(resource.name, call.verb.as_str()));
        }
        match name.as_str() {
            "images" => collection::handle(self, call, Kind::Image).await,
            "imagestreams" | "imagestreams/status" => collection::handle(self, call, Kind::ImageStream).await,
            "imagestreams/layers" => layers::handle(self, call).await,
            "imagestreams/secrets" => secrets::handle(self, call).await,
            "imagestreamimages" => layers::handle_image(self, call).await,
            "imagestreammappings" => mapping::handle(self, call).await,
            "imagestreamimports" => import::handle(self, call).await,
            "imagesignatures" => signature::handle(self, call).await,
            "imagestreamtags" => tag::handle(self, call, View::ImageStreamTag).await,
            "imagetags" => tag::handle(self, call, View::ImageTag).await,
            _ => Err(StatusError::no_such_path()),
        }
    }
}
