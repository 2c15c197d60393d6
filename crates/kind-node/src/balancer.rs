//! What stands in front of several control planes: a TCP balancer with the command line and the configuration file that kind
//! writes for its own, so that kind needs no other image. A backend that refuses is passed over.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::Error;

/// The port that kind publishes (kind source pkg/cluster/internal/loadbalancer/const.go).
const PORT: u16 = 6443;
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Listens until it is ended. The file is read for each connection, because kind writes it again when nodes come.
///
/// # Errors
/// [`Error::System`] when the port is taken.
pub async fn run(args: Vec<OsString>) -> Result<(), Error> {
    let file = args.first().map(PathBuf::from).ok_or(Error::Usage("usage: kind-node balancer FILE"))?;
    let listener = TcpListener::bind(("::", PORT)).await;
    let listener = match listener {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("0.0.0.0", PORT)).await.map_err(Error::system("listen on port", "6443"))?,
    };
    let turn = Arc::new(AtomicUsize::new(0));
    loop {
        let (client, _) = listener.accept().await.map_err(Error::system("accept on port", "6443"))?;
        let (file, turn) = (file.clone(), Arc::clone(&turn));
        tokio::spawn(async move {
            if let Err(error) = serve(client, &file, turn.fetch_add(1, Ordering::Relaxed)).await {
                eprintln!("kind-node balancer: {error}");
            }
        });
    }
}

async fn serve(mut client: TcpStream, file: &std::path::Path, turn: usize) -> Result<(), Error> {
    let named = file.display().to_string();
    let text = tokio::fs::read_to_string(file).await.map_err(Error::system("read", &named))?;
    let backends = backends(&text).map_err(|reason| Error::Content { file: named.clone(), reason })?;
    let mut last = Error::Content { file: named, reason: "it names no backend".to_owned() };
    for number in 0..backends.len() {
        let backend = &backends[(turn + number) % backends.len()];
        match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(backend.as_str())).await {
            Ok(Ok(mut server)) => {
                // A broken connection is its two ends' affair.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                return Ok(());
            }
            Ok(Err(error)) => last = Error::system("reach", backend)(error),
            Err(_) => last = Error::system("reach", backend)(std::io::ErrorKind::TimedOut.into()),
        }
    }
    Err(last)
}

/// Every `socket_address` below the endpoints of a cluster list, wherever it is nested.
fn backends(text: &str) -> Result<Vec<String>, String> {
    let value: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let mut found = BTreeSet::new();
    collect(&value, &mut found);
    Ok(found.into_iter().collect())
}

fn collect(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(socket) = fields.get("socket_address")
                && let (Some(address), Some(port)) = (socket["address"].as_str(), socket["port_value"].as_u64())
            {
                found.insert(if address.contains(':') {
                    format!("[{address}]:{port}")
                } else {
                    format!("{address}:{port}")
                });
            }
            fields.values().for_each(|value| collect(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_from_the_file_that_kind_writes() {
        let text = "resources:\n- name: kube_apiservers\n  load_assignment:\n    endpoints:\n    - lb_endpoints:\n      \
                    - endpoint: { address: { socket_address: { address: b-control-plane, port_value: 6443 } } }\n      \
                    - endpoint: { address: { socket_address: { address: \"fc00::2\", port_value: 6443 } } }\n";
        assert_eq!(backends(text).unwrap(), ["[fc00::2]:6443", "b-control-plane:6443"]);
        assert!(backends("resources: []").unwrap().is_empty());
        assert!(backends("{").is_err());
    }
}
