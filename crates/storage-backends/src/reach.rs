//! How our own clients reach a storage product: no proxy, one trusted authority, and a real request that is asked again
//! until it is answered, because a product may call itself healthy before it can store anything.

use std::path::PathBuf;
use std::time::Duration;

use object_store::client::{ClientOptions, HttpClient, HttpConnector};

use crate::Error;
use local_cluster::chain;

/// Distance between two looks at a server that has just been started; it offers nothing to watch.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A look that takes longer counts as failed.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// Our own client in the place of the one that `object_store` would make, which follows proxies of the environment.
#[derive(Clone, Debug)]
pub(crate) struct OurClient(pub(crate) reqwest::Client);

impl HttpConnector for OurClient {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// A client that trusts `authority` (PEM), or the public ones if there is none.
pub(crate) fn client(url: &str, authority: Option<&str>) -> Result<reqwest::Client, Error> {
    let failed = |error: reqwest::Error| Error::Client { url: url.to_owned(), reason: chain(&error) };
    let mut builder = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
    if let Some(pem) = authority {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(failed)?);
    }
    builder.build().map_err(failed)
}

/// Waits until a look succeeds. `what` is the product and its address.
pub(crate) async fn answers<F, L>(what: String, within: Duration, look: F) -> Result<(), Error>
where
    F: Fn() -> L,
    L: Future<Output = Result<(), String>>,
{
    let mut last_seen = "nothing".to_owned();
    let looks = async {
        loop {
            match tokio::time::timeout(LOOK_WITHIN, look()).await {
                Ok(Ok(())) => return,
                Ok(Err(seen)) => last_seen = seen,
                Err(_) => last_seen = format!("no answer within {LOOK_WITHIN:?}"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let outcome = tokio::time::timeout(within, looks).await;
    outcome.map_err(|_| Error::NotHealthy { what, within, last_seen })
}

/// Makes a closure for `map_err` that keeps the act and the path.
pub(crate) fn file(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { act, path, source }
}
