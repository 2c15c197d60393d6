//! Finished files that took long to make, by a key of everything that went into them. A file appears whole by a rename and is
//! used only when the record beside it fits, so what a killed process or a full disk leaves is never taken for an archive.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;

/// The folder, locked for this process.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: Arc<File>,
}

/// What is known of a finished file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of the whole file.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

impl Store {
    /// Opens the folder and waits until no other process makes images.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open(folder: &Path, progress: &impl Fn(&str)) -> Result<Store, Error> {
        std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        let path = folder.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::file("open", &path))?;
        if file.try_lock().is_err() {
            progress(&format!("another process makes images; waiting for {}", path.display()));
            file.lock().map_err(Error::file("lock", &path))?;
        }
        let store = Store { folder: folder.to_owned(), _lock: Arc::new(file) };
        store.discard_unfinished()?;
        Ok(store)
    }

    /// The file of a name and a key; made by `make` when it is not there. `make` gets an empty folder for its work and the
    /// path to write. Files of the same name with other keys are removed: they were made from something older.
    ///
    /// # Errors
    /// What `make` says, or [`Error::File`].
    pub fn file(
        &self,
        name: &str,
        key: &Key,
        make: impl FnOnce(&Path, &Path) -> Result<(), Error>,
    ) -> Result<PathBuf, Error> {
        let path = self.path(name, key);
        if finished(&path).is_some() {
            return Ok(path);
        }
        let work = self.workshop()?;
        let fresh = work.path().join("finished.tar");
        let rest = work.path().join("work");
        std::fs::create_dir(&rest).map_err(Error::file("make", &rest))?;
        make(&rest, &fresh)?;
        self.remove_older(name)?;
        self.keep(&fresh, &path)?;
        Ok(path)
    }

    /// An empty folder for unfinished work, removed with its content when it is dropped.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn workshop(&self) -> Result<tempfile::TempDir, Error> {
        let folder = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(&self.folder);
        folder.map_err(Error::file("make a folder in", &self.folder))
    }

    /// Whether a file is there already.
    pub fn has(&self, name: &str, key: &Key) -> bool {
        finished(&self.path(name, key)).is_some()
    }

    fn path(&self, name: &str, key: &Key) -> PathBuf {
        self.folder.join(format!("{name}-{}.tar", key.short()))
    }

    fn keep(&self, fresh: &Path, path: &Path) -> Result<(), Error> {
        let size = std::fs::metadata(fresh).map_err(Error::file("read", fresh))?.len();
        let record = Record { sha256: container_image::sha256_of(fresh)?, size };
        std::fs::rename(fresh, path).map_err(Error::file("rename", fresh))?;
        let text = serde_json::to_vec(&record).expect("a record has only plain fields");
        let beside = record_of(path);
        let unfinished = beside.with_extension("unfinished");
        std::fs::write(&unfinished, text).map_err(Error::file("write", &unfinished))?;
        std::fs::rename(&unfinished, &beside).map_err(Error::file("rename", &unfinished))
    }

    fn remove_older(&self, name: &str) -> Result<(), Error> {
        for path in self.paths()? {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let rest = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
            if rest.is_some_and(|rest| rest.split('.').next().is_some_and(|key| key.len() == Key::SHORT)) {
                std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
            }
        }
        Ok(())
    }

    /// The lock is ours, so what is unfinished is nobody's.
    fn discard_unfinished(&self) -> Result<(), Error> {
        for path in self.paths()? {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".unfinished-")) {
                crate::distribution::remove_root(&path)?;
            }
        }
        Ok(())
    }

    fn paths(&self) -> Result<Vec<PathBuf>, Error> {
        let entries = std::fs::read_dir(&self.folder).map_err(Error::file("list", &self.folder))?;
        Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
    }
}

/// Checksum of everything that goes into a file.
#[derive(Clone, Debug)]
pub struct Key(Sha256);

impl Key {
    const SHORT: usize = 12;

    /// A key that begins with the parts of a recipe.
    pub fn of(parts: &[&str]) -> Key {
        parts.iter().fold(Key(Sha256::new()), |key, part| key.and(part))
    }

    /// The key with one more part.
    pub fn and(mut self, part: &str) -> Key {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// Twelve hexadecimal digits.
    pub fn short(&self) -> String {
        let digest = self.0.clone().finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()[..Key::SHORT].to_owned()
    }
}

/// The record of a file, if the file is there in the recorded size.
pub fn finished(path: &Path) -> Option<Record> {
    let record: Record = serde_json::from_slice(&std::fs::read(record_of(path)).ok()?).ok()?;
    (std::fs::metadata(path).ok()?.len() == record.size).then_some(record)
}

fn record_of(path: &Path) -> PathBuf {
    path.with_extension("json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Path) -> Store {
        Store::open(folder, &|_| ()).unwrap()
    }

    #[test]
    fn a_file_is_made_once_and_again_when_its_key_changes() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let mut made = 0;
        for key in ["a", "a", "b"] {
            let path = store.file("node", &Key::of(&[key]), |_, out| {
                made += 1;
                std::fs::write(out, key).map_err(Error::file("write", out))
            });
            assert_eq!(std::fs::read_to_string(path.unwrap()).unwrap(), key);
        }
        assert_eq!(made, 2);
        assert!(!store.has("node", &Key::of(&["a"])), "the older one is removed");
        assert!(store.has("node", &Key::of(&["b"])));
    }

    #[rstest::rstest]
    #[case::cut("wor")]
    #[case::longer("whole and more")]
    fn a_file_that_does_not_fit_its_record_is_made_again(#[case] damage: &str) {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let key = Key::of(&["k"]);
        let make = |_: &Path, out: &Path| std::fs::write(out, "whole").map_err(Error::file("write", out));
        let path = store.file("node", &key, make).unwrap();
        std::fs::write(&path, damage).unwrap();
        assert!(!store.has("node", &key));
        assert_eq!(std::fs::read_to_string(store.file("node", &key, make).unwrap()).unwrap(), "whole");
    }

    #[test]
    fn what_failed_leaves_nothing_and_what_was_killed_is_removed_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let failure = store(folder.path()).file("node", &Key::of(&["k"]), |_, out| {
            std::fs::write(out, "half").map_err(Error::file("write", out))?;
            Err(Error::Interrupted("by a test".to_owned()))
        });
        assert!(failure.is_err());
        std::fs::create_dir(folder.path().join(".unfinished-killed")).unwrap();
        let store = store(folder.path());
        assert!(!store.has("node", &Key::of(&["k"])));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "only the lock");
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        assert_ne!(Key::of(&["ab", "c"]).short(), Key::of(&["a", "bc"]).short());
    }
}
