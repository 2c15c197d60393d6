//! The list of all repositories: the image streams that the caller may list, asked with the caller's own token.
//! Pages follow the API server's own paging, so memory does not grow with the cluster.

use http::Response;
use serde_json::json;

use crate::{
    body::{self, Body},
    error::{Code, Refusal},
    registry::Registry,
    request::{Identity, Request},
    router,
    tags::{next_page, page_size},
};

/// Page size when the client names none (distribution registry/handlers/catalog.go).
const DEFAULT_PAGE: usize = 100;
/// The largest page (distribution configuration/configuration.go:701-703).
const MAX_PAGE: usize = 1000;

impl Registry {
    /// GET of `_catalog`.
    pub async fn list_repositories(&self, request: &Request, identity: &Identity) -> Result<Response<Body>, Refusal> {
        let limit = page_size(request, MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
        if limit == 0 {
            return Ok(body::json(&json!({"repositories": []})));
        }
        let last = router::query(&request.uri, "last").unwrap_or_default();
        let mut names: Vec<String> = Vec::new();
        let mut next = None;
        loop {
            let page = self.cluster.streams(identity.caller.clone(), MAX_PAGE, next.as_deref()).await;
            let (page, following) =
                page.map_err(|error| Code::Unknown.because(format!("listing image streams: {error}")))?;
            names.extend(page.into_iter().filter(|name| *name > last));
            // The smallest names make the page, whatever order the API server lists in.
            names.sort();
            names.truncate(limit + 1);
            next = following;
            if next.is_none() {
                break;
            }
        }
        let more = names.len() > limit;
        names.truncate(limit);
        let mut response = body::json(&json!({"repositories": names}));
        if let (true, Some(last)) = (more, names.last()) {
            next_page(&mut response, request, last, limit);
        }
        Ok(response)
    }
}
