//! The tags of a repository, which are the tags of its image stream that ever had an image.
//! Sorted, so that paging by `last` is reliable, as the distribution specification asks ("Content Discovery").

use std::time::Instant;

use http::{HeaderValue, Response, header};
use serde_json::json;

use crate::{
    body::{self, Body},
    digest::Repository,
    error::{Code, Refusal},
    registry::Registry,
    request::Request,
    router,
};

impl Registry {
    /// GET of `tags/list`.
    pub async fn list_tags(&self, request: &Request, repository: &Repository) -> Result<Response<Body>, Refusal> {
        let start = Instant::now();
        let limit = page_size(request, usize::MAX)?;
        let stream = self.stream(repository).await?;
        let history = stream.status.tags.iter().filter(|events| !events.items.is_empty());
        let mut tags: Vec<_> = history.map(|events| events.tag.clone()).collect();
        tags.sort();
        self.metrics.operation("TagService.All", start.elapsed());
        if let Some(last) = router::query(&request.uri, "last") {
            tags.retain(|tag| *tag > last);
        }
        let more = limit.is_some_and(|limit| tags.len() > limit);
        tags.truncate(limit.unwrap_or(usize::MAX));
        let mut response = body::json(&json!({"name": repository.to_string(), "tags": tags}));
        if let (true, Some(last), Some(limit)) = (more, tags.last(), limit) {
            next_page(&mut response, request, last, limit);
        }
        Ok(response)
    }
}

/// The `n` of a page; `None` when the client does not say.
pub fn page_size(request: &Request, max: usize) -> Result<Option<usize>, Refusal> {
    let Some(text) = router::query(&request.uri, "n").filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse::<usize>() {
        Ok(n) if n <= max => Ok(Some(n)),
        _ => {
            let mut entry = Code::PaginationNumberInvalid.entry();
            entry.detail = Some(json!({"n": text}));
            Err(entry.into())
        }
    }
}

/// Adds the `Link` to the next page.
pub fn next_page(response: &mut Response<Body>, request: &Request, last: &str, limit: usize) {
    let link = format!("<{}?last={}&n={limit}>; rel=\"next\"", request.uri.path(), router::escape(last));
    if let Ok(link) = HeaderValue::try_from(link) {
        response.headers_mut().insert(header::LINK, link);
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use rstest::rstest;

    use super::*;
    use crate::request::tests::request;

    #[rstest]
    #[case("/", Ok(None))]
    #[case("/?n=0", Ok(Some(0)))]
    #[case("/?n=1000", Ok(Some(1000)))]
    #[case("/?n=1001", Err(400))]
    #[case("/?n=-1", Err(400))]
    #[case("/?n=many", Err(400))]
    fn page_sizes(#[case] uri: &str, #[case] expected: Result<Option<usize>, u16>) {
        let seen = page_size(&request(Method::GET, uri, &[]), 1000);
        assert_eq!(seen.map_err(|refusal| refusal.status().as_u16()), expected);
    }
}
