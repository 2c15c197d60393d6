//! The storage products of a lane, made ready to be opened: their certificate, where they listen, who answers for them.
//! Starting one is left to the backends crate, when a scenario asks.

use std::{net::IpAddr, path::Path};

use harness::{
    failure::{Failure, Tried as _},
    trust::Authority,
};
use local_cluster::{Ledger, Tools, secret_file};
use storage_backends::{ServerCertificate, StorageBackends, StorageOptions};

use super::make_folder;
use crate::lane::Request;

/// The lane's storage products, on an address of this machine, with a certificate of the test authority.
///
/// # Errors
/// When a backend file is wrong, or the certificate cannot be made.
pub(super) fn open(
    request: &Request,
    tools: &Tools,
    folder: &Path,
    listen: IpAddr,
    authority: &Authority,
    ledger: &Ledger,
) -> Result<StorageBackends, Failure> {
    let folder = folder.join("storage");
    make_folder(&folder)?;
    let names = [listen.to_string(), "127.0.0.1".to_owned(), "localhost".to_owned()];
    let (certificate, key) = authority.serving_pem(&names).tried("making the storage's certificate")?;
    let paths = [folder.join("server.crt"), folder.join("server.key")];
    for (path, text) in paths.iter().zip([certificate, key]) {
        secret_file::write(path, text.as_bytes()).tried("keeping the storage's certificate")?;
    }
    let [certificate, key] = paths;
    let certificate = ServerCertificate { certificate, key, authority: authority.pem().to_owned() };
    let files = request.data.files("backends", "yaml").tried("reading the backends")?;
    let mut options = StorageOptions::new(files, tools.clone(), folder, certificate);
    options.listen = listen;
    options.ledger = Some(ledger.clone());
    StorageBackends::new(options).tried("reading the backends")
}
