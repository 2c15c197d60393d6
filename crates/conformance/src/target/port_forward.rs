//! The way to pods of a cluster that this machine is no part of: `kubectl port-forward`'s own protocol, a stream per
//! connection. Names are the doorway's; this only reaches addresses.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use harness::{
    doorway::{Reach, Stream},
    failure::chain,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, reflector, reflector::Store, watcher},
};
use tokio::{io::copy_bidirectional, net::TcpListener, task::JoinHandle};

/// Reaches pods through the API server.
pub(super) struct PortForward {
    client: Client,
    pods: Store<Pod>,
    watching: JoinHandle<()>,
}

impl Drop for PortForward {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl PortForward {
    /// Watches the pods of the cluster from now on.
    pub(super) fn watch(client: Client) -> Self {
        let (pods, writer) = reflector::store();
        let stream =
            reflector(writer, watcher(Api::<Pod>::all(client.clone()), watcher::Config::default()).default_backoff());
        let watching = tokio::spawn(stream.for_each(|_| async {}));
        Self { client, pods, watching }
    }

    /// Opens a connection to a port of a running pod that carries a label.
    ///
    /// # Errors
    /// When no such pod runs, or the API server does not get through to it.
    pub(super) async fn to_labelled(
        &self,
        namespace: &str,
        label: (&str, &str),
        port: u16,
    ) -> io::Result<Box<dyn Stream>> {
        let carries = |pod: &&Arc<Pod>| {
            pod.namespace().as_deref() == Some(namespace)
                && pod.labels().get(label.0).map(String::as_str) == Some(label.1)
                && is_running(pod)
        };
        let pods = self.pods.state();
        let pod = pods.iter().find(carries).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("no running pod in {namespace} has {}={}", label.0, label.1),
            )
        })?;
        self.open(pod, port).await
    }

    fn pod(&self, ip: Ipv4Addr) -> Option<Arc<Pod>> {
        let ip = ip.to_string();
        self.pods.state().into_iter().find(|pod| is_running(pod) && has_own_address(pod, &ip))
    }

    async fn open(&self, pod: &Pod, port: u16) -> io::Result<Box<dyn Stream>> {
        let namespace = pod.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let name = pod.name_any();
        let failed = |why: String| io::Error::other(format!("port-forward to {namespace}/{name}:{port}: {why}"));
        let mut forward = api.portforward(&name, &[port]).await.map_err(|error| failed(chain(&error)))?;
        let stream = forward.take_stream(port).ok_or_else(|| failed("the stream was taken".to_owned()))?;
        // The task that moves the bytes goes on without its handle, until either side closes.
        Ok(Box::new(stream))
    }
}

impl Reach for PortForward {
    fn knows(&self, pod: Ipv4Addr) -> bool {
        self.pod(pod).is_some()
    }

    fn connect(&self, pod: Ipv4Addr, port: u16) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        async move {
            let found = self.pod(pod).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("no running pod has the address {pod}"))
            })?;
            self.open(&found, port).await
        }
        .boxed()
    }
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
        && pod.metadata.deletion_timestamp.is_none()
}

/// Pods on the host's network share the node's address, which names none of them.
fn has_own_address(pod: &Pod, ip: &str) -> bool {
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    !on_host && pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()) == Some(ip)
}

/// How a connection is opened for whoever comes to a local port.
pub(super) type Open = Arc<dyn Fn() -> BoxFuture<'static, Result<Box<dyn Stream>, String>> + Send + Sync>;

/// A port of 127.0.0.1 that leads elsewhere, for parties that want an address.
pub(super) struct LocalPort {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for LocalPort {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl LocalPort {
    /// Takes a free port; each connection to it gets one of its own from `open`.
    ///
    /// # Errors
    /// When there is no free port.
    pub(super) async fn lead(open: Open) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(async move {
            loop {
                let Ok((mut near, _)) = listener.accept().await else { continue };
                let open = open.clone();
                tokio::spawn(async move {
                    let _ = near.set_nodelay(true);
                    match open().await {
                        Ok(mut far) => drop(copy_bidirectional(&mut near, &mut far).await),
                        Err(error) => tracing::debug!(error, "a local port led nowhere"),
                    }
                });
            }
        });
        Ok(Self { address, serving })
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn each_connection_to_a_local_port_is_one_of_its_own() {
        let opened = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = opened.clone();
        let open: Open = Arc::new(move || {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async {
                let (near, mut far) = tokio::io::duplex(64);
                tokio::spawn(async move {
                    let mut word = [0; 4];
                    far.read_exact(&mut word).await.expect("a word");
                    far.write_all(&word).await.expect("its echo");
                });
                Ok(Box::new(near) as Box<dyn Stream>)
            }
            .boxed()
        });
        let port = LocalPort::lead(open).await.expect("a port");
        for _ in 0..2 {
            let mut client = tokio::net::TcpStream::connect(port.address()).await.expect("it listens");
            client.write_all(b"word").await.expect("written");
            let mut echo = [0; 4];
            client.read_exact(&mut echo).await.expect("an echo");
            assert_eq!(&echo, b"word");
        }
        assert_eq!(opened.load(std::sync::atomic::Ordering::Relaxed), 2);
    }
}
