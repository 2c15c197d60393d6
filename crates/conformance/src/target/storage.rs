//! The storage products of a lane, made ready to be opened: their certificate, where they listen, who answers for them.
//! Starting one is left to the backends crate, when a scenario asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use harness::{
    failure::{Failure, Tried as _},
    trust::Authority,
};
use local_cluster::{Ledger, Tools, secret_file};
use storage_backends::{Backend, Preferred, Run, ServerCertificate, StorageBackends, StorageOptions};

use super::make_folder;
use crate::{
    data::Data,
    images::{RunImage, Source},
    lane::Request,
};

/// The kinds of storage that scenarios ask for by a tag such as `@backend-s3`.
const KINDS: [&str; 3] = ["s3", "gcs", "azure"];

/// Which kinds of storage can be had here in the preferred way, and why the others cannot. `brought` are the images that
/// archives bring, where nothing may be pulled.
pub(super) fn capabilities(
    data: &Data,
    preferred: Preferred,
    brought: Option<&[String]>,
    present: &mut BTreeSet<String>,
    absent: &mut BTreeMap<String, String>,
) {
    let files = data.files("backends", "yaml").unwrap_or_default();
    for kind in KINDS {
        let name = preferred.of_kind(kind);
        // A file that cannot be read is told before a run starts.
        let backends = files.iter().filter_map(|file| Backend::read(file).ok());
        let found = backends.into_iter().find(|backend| backend.name == name);
        let possible = match found {
            Some(backend) => storage_backends::possible(&backend, brought),
            None => Err(format!("there is no file backends/{name}.yaml")),
        };
        match possible {
            Ok(()) => drop(present.insert(format!("backend-{kind}"))),
            Err(why) => drop(absent.insert(format!("backend-{kind}"), why)),
        }
    }
}

/// What is needed of the kinds that scenarios ask for, such as `backend-s3`, when they run as containers.
///
/// # Errors
/// When a backend file is wrong.
pub(super) fn images(data: &Data, asked: &BTreeSet<String>) -> Result<Vec<RunImage>, Failure> {
    let tried = "reading the backends";
    let mut images = vec![];
    for backend in data.files("backends", "yaml").tried(tried)?.iter().map(Backend::read) {
        let backend = backend.tried(tried)?;
        let preferred = asked.iter().filter_map(|tag| tag.strip_prefix("backend-"));
        if !preferred.map(|kind| Preferred::Containers.of_kind(kind)).any(|name| name == backend.name) {
            continue;
        }
        if let Run::Container(run) = backend.run() {
            images.push(RunImage {
                image: run.image.clone(),
                source: if run.published { Source::Registry } else { Source::Archive },
                archive: Some(run.archive.clone()),
                purpose: backend.title,
            });
        }
    }
    Ok(images)
}

/// The names for certificates of what stands for storage: its own address, and the hosts it is asked for by.
pub(super) fn names(listen: IpAddr) -> Vec<String> {
    let own = [listen.to_string(), "127.0.0.1".to_owned(), "localhost".to_owned()];
    own.into_iter().chain(storage_backends::server_names()).collect()
}

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
    preferred: Preferred,
) -> Result<StorageBackends, Failure> {
    let folder = folder.join("storage");
    make_folder(&folder)?;
    let (certificate, key) = authority.serving_pem(&names(listen)).tried("making the storage's certificate")?;
    let paths = [folder.join("server.crt"), folder.join("server.key")];
    for (path, text) in paths.iter().zip([certificate, key]) {
        secret_file::write(path, text.as_bytes()).tried("keeping the storage's certificate")?;
    }
    let [certificate, key] = paths;
    let certificate = ServerCertificate { certificate, key, authority: authority.pem().to_owned() };
    let files = request.data.files("backends", "yaml").tried("reading the backends")?;
    let mut options = StorageOptions::new(files, tools.clone(), folder, certificate);
    options.listen = listen;
    options.preferred = preferred;
    options.pull = request.place.images.is_none();
    options.ledger = Some(ledger.clone());
    StorageBackends::new(options).tried("reading the backends")
}
