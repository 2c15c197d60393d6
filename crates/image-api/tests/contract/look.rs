//! For looking by hand: `cargo test -p image-api --test contract -- --ignored look` says where the kubeconfig lies
//! and stays up until it is interrupted.

use crate::stage::{start_image_api, start_plane};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "stays up until it is interrupted"]
async fn look() {
    let folder = tempfile::tempdir().expect("a folder");
    let plane = start_plane(folder.path()).await;
    let api = start_image_api(&plane).await;
    eprintln!("export KUBECONFIG={}", plane.kubeconfig().display());
    api.await.expect("the image API runs on");
}
