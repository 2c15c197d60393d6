//! Removal of blob data for good, as the pruner asks for it (registry source pkg/dockerregistry/server/admin.go:76-116).
//! Not covered by read-only mode, as on the real registry.

use http::{Response, StatusCode};

use crate::{
    body::{self, Body},
    digest::Digest,
    error::{Code, Refusal},
    registry::Registry,
    storage::layout,
};

impl Registry {
    /// DELETE of a blob's data; a blob that is not there is no failure.
    pub async fn remove_blob(&self, digest: &Digest) -> Result<Response<Body>, Refusal> {
        self.cache.forget(digest);
        match self.storage.remove(&layout::blob_folder(digest)).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(Code::Unknown.because(error)),
        }
        let mut response = body::nothing();
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
        Ok(response)
    }
}
