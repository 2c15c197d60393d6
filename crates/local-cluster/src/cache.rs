//! The folder of programs that were downloaded or built: one entry per module, version, architecture and what proves them.
//! An entry appears whole by a rename and carries a manifest, so a half-written or damaged one is never used.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::checksum::{hex, sha256_of};
use crate::go_build::Module;
use crate::{Error, secret_file};

const MANIFEST: &str = "manifest.json";

/// What an entry holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, FileRecord>,
}

/// The checksum proves a file; size and time tell cheaply that it was not touched since it was proven.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileRecord {
    sha256: String,
    size: u64,
    modified_ns: i128,
}

/// The cache folder: `REGISTRY_CONFORMANCE_CACHE`, else `XDG_CACHE_HOME/registry-conformance`, else `~/.cache/registry-conformance`.
pub fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("REGISTRY_CONFORMANCE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("registry-conformance")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/registry-conformance")))
        .unwrap_or_else(|| std::env::temp_dir().join(format!("registry-conformance-{}", nix::unistd::getuid())))
}

/// The place of the programs of one build or one download; its name changes with everything that changes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    path: PathBuf,
}

impl Entry {
    /// The entry of a module in one version; `proof` is a checksum of what its programs come from.
    pub(crate) fn new(module: &str, version: &str, proof: &str) -> Entry {
        let short = &proof[..proof.len().min(12)];
        let name = format!("{module}-{version}-{}-{short}", std::env::consts::ARCH);
        Entry { path: folder().join("tools").join(name) }
    }

    /// The entry of what is built from a module.
    pub fn of_build(module: &Module) -> Entry {
        let mut pins = Sha256::new_with_prefix(module.go_sum);
        for (name, content) in module.sources {
            pins.update(name);
            pins.update(content);
        }
        Entry::new(module.name, module.version, &hex(&pins.finalize()))
    }

    /// A proven program of this entry.
    ///
    /// # Errors
    /// [`Error::Way`] when the entry is missing or does not prove right; a damaged file is named.
    pub fn find(&self, name: &str) -> Result<PathBuf, Error> {
        let entry = &self.path;
        let path = entry.join(name);
        let text = std::fs::read_to_string(entry.join(MANIFEST))
            .map_err(|_| Error::Way(format!("{} has no {name}", entry.display())))?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|error| Error::Way(format!("{} is damaged: {error}", entry.join(MANIFEST).display())))?;
        let record =
            manifest.files.get(name).ok_or_else(|| Error::Way(format!("{} has no {name}", entry.display())))?;
        let damaged = |what: String| Error::Way(format!("{} is damaged ({what}) and is made again", path.display()));
        let metadata = std::fs::metadata(&path).map_err(|error| damaged(error.to_string()))?;
        if metadata.len() != record.size {
            return Err(damaged(format!("{} bytes instead of {}", metadata.len(), record.size)));
        }
        if modified_ns(&metadata) != record.modified_ns {
            let sha256 = sha256_of(&path)?;
            if sha256 != record.sha256 {
                return Err(damaged(format!("its sha256 is {sha256}, recorded is {}", record.sha256)));
            }
        }
        Ok(path)
    }

    /// Puts finished programs into this entry, beside those that are there and prove right.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn store(&self, programs: &[(&str, PathBuf)]) -> Result<(), Error> {
        let entry = &self.path;
        let parent = entry.parent().unwrap_or(entry);
        secret_file::make_private_folder(parent)?;
        let fresh = parent.join(format!(".{}.partial", entry.file_name().unwrap_or_default().display()));
        discard(&fresh)?;
        secret_file::make_private_folder(&fresh)?;
        let mut manifest = Manifest::default();
        let kept: Vec<(String, PathBuf)> = names_in(entry)
            .into_iter()
            .filter(|name| programs.iter().all(|(new, _)| new != name))
            .filter_map(|name| self.find(&name).ok().map(|path| (name, path)))
            .collect();
        let new = programs.iter().map(|(name, path)| ((*name).to_owned(), path.clone()));
        for (name, source) in new.chain(kept) {
            let target = fresh.join(&name);
            // A hard link keeps a program alive that another process runs from the old entry.
            std::fs::hard_link(&source, &target)
                .or_else(|_| std::fs::copy(&source, &target).map(drop))
                .map_err(Error::file("copy", &source))?;
            let metadata = std::fs::metadata(&target).map_err(Error::file("read", &target))?;
            let sha256 = sha256_of(&target)?;
            let record = FileRecord { sha256, size: metadata.len(), modified_ns: modified_ns(&metadata) };
            manifest.files.insert(name, record);
        }
        let text = serde_json::to_vec_pretty(&manifest).expect("a manifest has only plain fields");
        secret_file::write(&fresh.join(MANIFEST), &text)?;
        discard(entry)?;
        std::fs::rename(&fresh, entry).map_err(Error::file("rename", &fresh))
    }
}

/// Held while a module's entry is filled; the system releases it when the process dies.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// Locks the entry of a module or package, waiting for another process that fills it.
pub(crate) async fn lock(name: &str, progress: &impl Fn(&str)) -> Result<Lock, Error> {
    let folder = folder().join("tools");
    secret_file::make_private_folder(&folder)?;
    let path = folder.join(format!("{name}.lock"));
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(Error::file("open", &path))?;
    if file.try_lock().is_ok() {
        return Ok(Lock(file));
    }
    progress(&format!("{name}: another process is making it; waiting for {}", path.display()));
    let waited = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    let file = waited.map_err(|error| Error::Way(error.to_string()))?.map_err(Error::file("lock", &path))?;
    Ok(Lock(file))
}

/// An empty folder for unfinished work beside the entries, on the same file system. The caller holds the lock of the module,
/// so what lies there is what a killed process left.
pub(crate) fn workshop(name: &str) -> Result<PathBuf, Error> {
    let path = folder().join("work").join(name);
    discard(&path)?;
    secret_file::make_private_folder(&path)?;
    Ok(path)
}

/// Removes a folder that may not be there.
pub(crate) fn discard(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

fn names_in(entry: &Path) -> Vec<String> {
    let manifest = std::fs::read_to_string(entry.join(MANIFEST)).unwrap_or_default();
    serde_json::from_str::<Manifest>(&manifest).map(|manifest| manifest.files.into_keys().collect()).unwrap_or_default()
}

fn modified_ns(metadata: &std::fs::Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(folder: &Path, name: &str, content: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    #[test]
    fn a_stored_program_is_found_and_a_second_one_keeps_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry { path: folder.path().join("tools/kubernetes-v1-x86_64-abc") };
        entry.store(&[("one", program(folder.path(), "one", "first"))]).unwrap();
        entry.store(&[("two", program(folder.path(), "two", "second"))]).unwrap();
        assert_eq!(std::fs::read_to_string(entry.find("one").unwrap()).unwrap(), "first");
        assert_eq!(std::fs::read_to_string(entry.find("two").unwrap()).unwrap(), "second");
        assert!(entry.find("three").unwrap_err().to_string().contains("has no three"));
    }

    #[rstest::rstest]
    #[case::shorter("fir", "3 bytes instead of 5")]
    #[case::same_length("frist", "its sha256 is")]
    fn a_damaged_program_is_never_used(#[case] content: &str, #[case] reason: &str) {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry { path: folder.path().join("tools/entry") };
        entry.store(&[("one", program(folder.path(), "one", "first"))]).unwrap();
        let path = entry.find("one").unwrap();
        std::fs::write(&path, content).unwrap();
        let error = entry.find("one").unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn an_entry_without_manifest_is_not_an_entry() {
        let folder = tempfile::tempdir().unwrap();
        program(folder.path(), "one", "first");
        assert!(Entry { path: folder.path().to_owned() }.find("one").is_err());
    }

    #[test]
    fn the_entry_changes_with_the_pins() {
        let base = Module { name: "m", version: "v1", go_mod: "", go_sum: "a", stamps: &[], sources: &[] };
        let other = Module { go_sum: "b", ..base };
        assert_ne!(Entry::of_build(&base), Entry::of_build(&other));
    }
}
