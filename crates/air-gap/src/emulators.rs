//! Images of storage emulators, each with one program and nothing else: MinIO and fake-gcs-server from Go modules, Azurite from
//! npm over the distribution's Node. Their command lines are those of the projects' own images.

use std::path::{Path, PathBuf};

use container_image::{Archive, Image, LayerBuilder};
use local_cluster::npm;
use local_cluster::tool::{Tool, Tools};

use crate::pod_images::known_layer;
use crate::store::Key;
use crate::{Distribution, Error, Store};

const REGISTRY: &str = "registry-conformance.local";

/// MinIO.
pub fn minio(store: &Store, tools: &Tools) -> Result<PathBuf, Error> {
    one_program(store, tools, Tool::Minio, "minio", &[])
}

/// fake-gcs-server.
pub fn fake_gcs(store: &Store, tools: &Tools) -> Result<PathBuf, Error> {
    one_program(store, tools, Tool::FakeGcsServer, "fake-gcs-server", &["-data", "/data"])
}

fn one_program(store: &Store, tools: &Tools, tool: Tool, name: &str, arguments: &[&str]) -> Result<PathBuf, Error> {
    let program = tools.path(tool)?;
    let key = Key::of(&["emulator 1", name, &program.display().to_string()]);
    store.file(name, &key, |work, out| {
        let at = format!("/usr/bin/{name}");
        let mut layer = LayerBuilder::create(&work.join("layer"))?;
        layer.file(&at, program, 0o755)?;
        layer.folder("/data", 0o777)?;
        layer.folder("/root", 0o700)?;
        layer.folder("/tmp", 0o1777)?;
        layer.text("/etc/passwd", "root:x:0:0:root:/root:/\n", 0o644)?;
        let image = Image {
            names: vec![reference(name, tool.version())],
            entrypoint: vec![at],
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            env: vec!["HOME=/root".to_owned()],
            ..Image::default()
        };
        Archive::write(out, &[layer.finish()?], &[image])?;
        Ok(())
    })
}

/// Azurite, from the installation that runs without containers use too.
pub fn azurite(store: &Store, distribution: &Distribution, script: &Path) -> Result<PathBuf, Error> {
    let package = &npm::AZURITE;
    let modules = script.ancestors().nth(Path::new(package.script).components().count()).unwrap_or(script);
    let key = distribution.key.clone().and("azurite 1").and(package.lock);
    store.file(package.name, &key, |work, out| {
        let mut layer = LayerBuilder::create(&work.join("layer"))?;
        layer.tree("/opt/azurite", modules, &needed)?;
        layer.folder("/data", 0o777)?;
        let image = Image {
            names: vec![reference(package.name, package.version)],
            entrypoint: vec!["/usr/bin/node".to_owned(), format!("/opt/azurite/{}", package.script)],
            env: vec!["HOME=/tmp".to_owned()],
            ..Image::default()
        };
        Archive::write(out, &[known_layer(&distribution.node)?, layer.finish()?], &[image])?;
        Ok(())
    })
}

/// What a running program reads; type declarations, source maps and documents are for its authors.
fn needed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ![".d.ts", ".d.mts", ".d.cts", ".map", ".md", ".markdown", ".tsbuildinfo"].iter().any(|end| name.ends_with(end))
}

/// What an emulator is called.
fn reference(name: &str, version: &str) -> String {
    format!("{REGISTRY}/{name}:{}", tag(version))
}

/// Versions of Go modules without a release have more than a tag may hold, and read badly: the commit's day and id stay.
fn tag(version: &str) -> String {
    match version.strip_prefix("v0.0.0-").and_then(|rest| rest.split_once('-')) {
        Some((time, commit)) => format!("{}-{commit}", &time[..time.len().min(8)]),
        None => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("v1.56.1", "v1.56.1")]
    #[case("v0.0.0-20260212201848-7aac2a2c5b7c", "20260212-7aac2a2c5b7c")]
    fn tags_are_short(#[case] version: &str, #[case] expected: &str) {
        assert_eq!(tag(version), expected);
    }

    /// A backend file that names another version would never find its archive.
    #[rstest::rstest]
    #[case("s3", reference("minio", Tool::Minio.version()))]
    #[case("gcs", reference("fake-gcs-server", Tool::FakeGcsServer.version()))]
    #[case("azure", reference(npm::AZURITE.name, npm::AZURITE.version))]
    fn a_backend_file_names_what_is_made_here(#[case] kind: &str, #[case] expected: String) {
        let path = format!("{}/../../backends/{kind}-container.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let archive = text.lines().find_map(|line| line.trim().strip_prefix("archive: ")).unwrap();
        assert_eq!(archive, expected);
    }

    #[rstest::rstest]
    #[case("node_modules/azurite/dist/src/blob/main.js", true)]
    #[case("node_modules/x/index.d.ts", false)]
    #[case("node_modules/x/index.js.map", false)]
    #[case("node_modules/x/package.json", true)]
    fn only_what_runs_goes_into_the_image(#[case] path: &str, #[case] expected: bool) {
        assert_eq!(needed(Path::new(path)), expected);
    }
}
