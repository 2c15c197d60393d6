//! A docker-archive: a tar file of layers, configurations and the list `manifest.json`, as `docker save` writes it.
//! It is taken by `docker load`, `ctr images import`, `kind load image-archive` and skopeo alike.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::layer::hex;
use crate::{Error, Layer};

/// Fixed, so that the same content has the same image id.
const CREATED: &str = "2000-01-01T00:00:00Z";
const MANIFEST: &str = "manifest.json";

/// What an image says about itself beside its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// References with tags, such as `localhost/lab/pause:3.10`.
    pub names: Vec<String>,
    /// What is started; arguments of a container follow it.
    pub entrypoint: Vec<String>,
    /// Arguments when a container has none.
    pub arguments: Vec<String>,
    /// `NAME=value`; a PATH is added when it is missing.
    pub env: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A finished archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// The images in it.
    pub images: Vec<ArchivedImage>,
}

/// An image in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedImage {
    /// `sha256:...` of its configuration: what engines call the image id.
    pub id: String,
    /// Its references.
    pub names: Vec<String>,
}

/// One row of `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Archive {
    /// Writes images that all consist of the same layers. The file appears whole by a rename, so a killed process leaves
    /// nothing that looks finished.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(path: &Path, layers: &[Layer], images: &[Image]) -> Result<Archive, Error> {
        let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        let unfinished = tempfile::Builder::new()
            .prefix(".unfinished-")
            .suffix(".tar")
            .tempfile_in(folder)
            .map_err(Error::file("make a file in", folder))?;
        let failed = || Error::file("write", path);
        let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, unfinished.as_file()));
        let layer_names: Vec<String> = layers.iter().map(|layer| format!("{}.tar", layer.sha256)).collect();
        for (layer, name) in layers.iter().zip(&layer_names) {
            let file = File::open(&layer.path).map_err(Error::file("open", &layer.path))?;
            tar.append_data(&mut header(layer.size), name, file).map_err(failed())?;
        }
        let mut rows = Vec::new();
        let mut archived = Vec::new();
        for image in images {
            let config = configuration(image, layers);
            let id = hex(&Sha256::digest(&config));
            let name = format!("{id}.json");
            tar.append_data(&mut header(config.len() as u64), &name, config.as_slice()).map_err(failed())?;
            rows.push(Row { config: name, repo_tags: Some(image.names.clone()), layers: layer_names.clone() });
            archived.push(ArchivedImage { id: format!("sha256:{id}"), names: image.names.clone() });
        }
        let manifest = serde_json::to_vec(&rows).expect("a manifest has only plain fields");
        tar.append_data(&mut header(manifest.len() as u64), MANIFEST, manifest.as_slice()).map_err(failed())?;
        tar.into_inner().and_then(|mut file| file.flush()).map_err(failed())?;
        let size = unfinished.as_file().metadata().map_err(failed())?.len();
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        unfinished.as_file().set_permissions(readable).map_err(failed())?;
        unfinished.persist(path).map_err(|failure| failed()(failure.error))?;
        Ok(Archive { path: path.to_owned(), size, images: archived })
    }

    /// Reads what images an archive has, from its list; layers are skipped, not read.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::NotAnArchive`] when it is something else.
    pub fn read(path: &Path) -> Result<Archive, Error> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        let size = file.metadata().map_err(Error::file("read", path))?.len();
        let wrong = |reason: String| Error::NotAnArchive { path: path.to_owned(), reason };
        let mut tar = tar::Archive::new(file);
        let mut manifest = None;
        for entry in tar.entries_with_seek().map_err(|error| wrong(error.to_string()))? {
            let mut entry = entry.map_err(|error| wrong(error.to_string()))?;
            if entry.path().is_ok_and(|name| name == Path::new(MANIFEST)) {
                let mut text = String::new();
                entry.read_to_string(&mut text).map_err(Error::file("read", path))?;
                manifest = Some(text);
            }
        }
        let text = manifest.ok_or_else(|| wrong(format!("it has no {MANIFEST}")))?;
        let rows: Vec<Row> = serde_json::from_str(&text).map_err(|error| wrong(format!("{MANIFEST}: {error}")))?;
        let images = rows
            .into_iter()
            .map(|row| {
                let id = row.config.trim_end_matches(".json").trim_start_matches("blobs/sha256/");
                ArchivedImage { id: format!("sha256:{id}"), names: row.repo_tags.unwrap_or_default() }
            })
            .collect();
        Ok(Archive { path: path.to_owned(), size, images })
    }
}

/// SHA-256 of a file in lower-case hexadecimal.
///
/// # Errors
/// [`Error::File`].
pub fn sha256_of(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::file("read", path))? {
            0 => return Ok(hex(&digest.finalize())),
            count => digest.update(&buffer[..count]),
        }
    }
}

fn configuration(image: &Image, layers: &[Layer]) -> Vec<u8> {
    let mut env = image.env.clone();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    let value = json!({
        "architecture": architecture(std::env::consts::ARCH),
        "os": "linux",
        "created": CREATED,
        "config": {
            "Entrypoint": image.entrypoint,
            "Cmd": image.arguments,
            "Env": env,
            "Labels": image.labels,
            "WorkingDir": "/",
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| format!("sha256:{}", layer.sha256)).collect::<Vec<_>>(),
        },
        "history": layers.iter().map(|_| json!({ "created": CREATED })).collect::<Vec<_>>(),
    });
    serde_json::to_vec(&value).expect("a configuration has only plain fields")
}

/// Go's name of an architecture, which image configurations use.
fn architecture(ours: &str) -> &str {
    match ours {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LayerBuilder;

    fn layer(folder: &Path) -> Layer {
        let mut layer = LayerBuilder::create(&folder.join("layer.tar")).unwrap();
        layer.text("/hello", "world", 0o644).unwrap();
        layer.finish().unwrap()
    }

    fn named(name: &str, entrypoint: &str) -> Image {
        Image { names: vec![name.to_owned()], entrypoint: vec![entrypoint.to_owned()], ..Image::default() }
    }

    #[test]
    fn what_is_written_is_read_again_and_images_share_a_layer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out/two.tar");
        let images = [named("localhost/a:1", "/a"), named("localhost/b:1", "/b")];
        let written = Archive::write(&path, &[layer(folder.path())], &images).unwrap();
        assert_eq!(Archive::read(&path).unwrap(), written);
        assert_ne!(written.images[0].id, written.images[1].id);
        let entries = tar::Archive::new(File::open(&path).unwrap()).entries().unwrap().count();
        assert_eq!(entries, 4, "one layer, two configurations, one list");
        assert_eq!(std::fs::read_dir(folder.path().join("out")).unwrap().count(), 1, "no unfinished file is left");
    }

    #[test]
    fn the_same_content_has_the_same_id() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            Archive::write(&path, &[layer(folder.path())], &[named("localhost/a:1", "/a")]).unwrap().images
        };
        assert_eq!(write("one.tar"), write("two.tar"));
    }

    #[test]
    fn a_path_is_always_there_and_an_own_one_is_kept() {
        let text = String::from_utf8(configuration(&named("a", "/a"), &[])).unwrap();
        assert!(text.contains("PATH=/usr/local/sbin"), "{text}");
        let own = Image { env: vec!["PATH=/x".to_owned()], ..Image::default() };
        let text = String::from_utf8(configuration(&own, &[])).unwrap();
        assert!(text.contains("PATH=/x") && !text.contains("/usr/local"), "{text}");
    }

    #[rstest::rstest]
    #[case::no_tar(b"this is a text that is longer than nothing, but no tar file".repeat(20))]
    #[case::empty_tar(vec![0; 1024])]
    fn other_files_are_refused_with_a_remedy(#[case] content: Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        std::fs::write(&path, content).unwrap();
        let error = Archive::read(&path).unwrap_err().to_string();
        assert!(error.contains("no docker-archive") && error.contains("make it again"), "{error}");
    }
}
