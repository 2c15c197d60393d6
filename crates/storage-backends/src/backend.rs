//! A backend file: what kind of storage it is and the one way in which it runs.
//! The types mirror the file, so a wrong key or value is reported with its line.

use std::collections::BTreeMap;

use harness::datafile::DataFile;
use serde::{Deserialize, Serialize};

use crate::Error;

/// A file in `backends/`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// Name by which scenarios and `--backend` ask for it.
    pub name: String,
    /// The storage stanza of the registry configuration that it serves, such as `s3`.
    pub kind: Kind,
    /// One line for people.
    pub title: String,
    /// Region as the registry is told; part of every signature.
    pub region: String,
    /// Runs as a child process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    process: Option<ProcessRun>,
    /// Runs as a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<ContainerRun>,
    /// Runs somewhere else already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<EndpointRun>,
}

/// Protocol of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Amazon S3 and whatever speaks it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Kind {
    /// Name in endpoints and configurations.
    pub fn name(self) -> &'static str {
        match self {
            Kind::S3 => "s3",
            Kind::Gcs => "gcs",
            Kind::Azure => "azure",
        }
    }
}

/// How a backend runs.
#[derive(Clone, Copy, Debug)]
pub enum Run<'a> {
    /// As a child process.
    Process(Program),
    /// As a container.
    Container(&'a ContainerRun),
    /// Somewhere else.
    Endpoint(&'a EndpointRun),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ProcessRun {
    program: Program,
}

/// A server that can run as a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// The Versity S3 gateway over a folder: objects are plain files.
    Versitygw,
    /// fake-gcs-server over a folder, behind a front that asks for credentials.
    FakeGcsServer,
    /// Azurite, which needs Node.
    Azurite,
}

impl Program {
    /// The protocol it speaks.
    fn kind(self) -> Kind {
        match self {
            Program::Versitygw => Kind::S3,
            Program::FakeGcsServer => Kind::Gcs,
            Program::Azurite => Kind::Azure,
        }
    }
}

/// A server that runs as a container. Where `{accessKey}` and `{secretKey}` stand in a variable, the credentials of the run
/// are put in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerRun {
    /// The published image, pinned: `NAME:TAG@sha256:…`. No other is ever pulled.
    pub image: String,
    /// Whether that image can still be pulled.
    #[serde(default = "yes")]
    pub published: bool,
    /// The image that `ci/air-gap` builds, used wherever the engine has it.
    pub archive: String,
    /// Words that name the program to the published image; none where it has one of its own, as archives do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub program: Vec<String>,
    /// Port inside the container.
    pub port: u16,
    /// Arguments for the program.
    pub args: Vec<String>,
    /// Paths inside the container that receive the server's certificate and its key; plain HTTP without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ContainerTls>,
    /// Variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// Where a container wants its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerTls {
    /// Path of the certificate.
    pub certificate: String,
    /// Path of its key.
    pub key: String,
}

fn yes() -> bool {
    true
}

/// A vendor's server. Credentials never stand in a file; the file names the variables that hold them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointRun {
    /// Address as the registry is given it.
    pub url: String,
    /// Variable of our environment with the access key.
    pub access_key_variable: String,
    /// Variable of our environment with the secret key.
    pub secret_key_variable: String,
    /// Variable with the path of the authority's certificate, for servers whose certificate is not a public one.
    #[serde(default)]
    pub ca_variable: Option<String>,
}

impl Backend {
    /// Reads a backend file.
    ///
    /// # Errors
    /// [`Error::Data`] with file and line for a wrong key or value, [`Error::Meaning`] when not exactly one way to run is given.
    pub fn read(file: &DataFile) -> Result<Backend, Error> {
        let backend: Backend = file.yaml()?;
        let ways = [backend.process.is_some(), backend.container.is_some(), backend.endpoint.is_some()];
        let wrong = |key: &str, value: &str, message: String| {
            Err(Error::Meaning { place: file.at(file.line_of(key, value)), message })
        };
        match backend.process.as_ref().map(|run| run.program.kind()) {
            Some(kind) if kind != backend.kind => {
                let message = format!("this program speaks {}, not {}", kind.name(), backend.kind.name());
                return wrong("kind", backend.kind.name(), message);
            }
            _ => {}
        }
        if let Some(image) = backend.container.as_ref().map(|run| &run.image)
            && !is_pinned(image)
        {
            return wrong("image", image, "an image is pinned as NAME:TAG@sha256: and 64 hex digits".to_owned());
        }
        if backend.endpoint.is_some() && backend.kind != Kind::S3 {
            let message = "servers that run elsewhere can be of kind s3 only".to_owned();
            return wrong("kind", backend.kind.name(), message);
        }
        match ways.into_iter().filter(|given| *given).count() {
            1 => Ok(backend),
            count => {
                let message = format!(
                    "{count} ways to run are given; exactly one of `process`, `container`, `endpoint` is needed"
                );
                wrong("name", &backend.name, message)
            }
        }
    }

    /// The images of which a run with this backend needs one: what is used where the engine has it, and what is pulled
    /// otherwise.
    pub fn images(&self) -> Vec<&str> {
        let run = self.container.as_ref();
        run.map(|run| vec![run.archive.as_str(), run.image.as_str()]).unwrap_or_default()
    }

    /// The way in which it runs.
    pub fn run(&self) -> Run<'_> {
        match (&self.process, &self.container, &self.endpoint) {
            (Some(process), _, _) => Run::Process(process.program),
            (_, Some(container), _) => Run::Container(container),
            (_, _, Some(endpoint)) => Run::Endpoint(endpoint),
            (None, None, None) => unreachable!("a backend is only made by `read`, which wants one"),
        }
    }
}

fn is_pinned(image: &str) -> bool {
    let digest = image.split_once("@sha256:").map(|(_, digest)| digest);
    digest.is_some_and(|digest| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn repository_file(name: &str) -> DataFile {
        let path = format!("{}/../../backends/{name}", env!("CARGO_MANIFEST_DIR"));
        DataFile::new(format!("backends/{name}"), std::fs::read_to_string(path).unwrap())
    }

    #[rstest]
    #[case("s3-local.yaml")]
    #[case("s3-container.yaml")]
    #[case("gcs-local.yaml")]
    #[case("gcs-container.yaml")]
    #[case("azure-local.yaml")]
    #[case("azure-container.yaml")]
    fn the_files_of_the_repository_are_right(#[case] name: &str) {
        let backend = Backend::read(&repository_file(name)).unwrap();
        assert_eq!(format!("{}.yaml", backend.name), name);
        backend.run();
    }

    const HEAD: &str = "name: a\nkind: s3\ntitle: A\nregion: r\n";

    #[rstest]
    #[case("process:\n  programme: versitygw\n", "backends/a.yaml:6: process: unknown field `programme`")]
    #[case("process:\n  program: cloud\n", "backends/a.yaml:6: process.program: unknown variant `cloud`")]
    #[case("process:\n  program: azurite\n", "backends/a.yaml:2: this program speaks azure, not s3")]
    #[case(
        "container:\n  image: minio:latest\n  archive: a\n  port: 1\n  args: []\n",
        "backends/a.yaml:6: an image is pinned as NAME:TAG@sha256:"
    )]
    #[case("", "backends/a.yaml:1: 0 ways to run are given")]
    fn mistakes_are_named_with_their_line(#[case] tail: &str, #[case] expected: &str) {
        let error = Backend::read(&DataFile::new("backends/a.yaml", format!("{HEAD}{tail}"))).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
