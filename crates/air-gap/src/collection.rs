//! A folder of image archives with a list: which images, in which file, with which checksum. It is what `--images DIR` means;
//! a folder may be copied to another machine, so what is taken from it is measured first.

use std::path::{Path, PathBuf};

use container_image::Archive;
use serde::{Deserialize, Serialize};

use crate::{Error, store};

/// Name of the list in the folder.
pub const IMAGES_FILE: &str = "images.yaml";

/// The folder and its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// The folder.
    pub folder: PathBuf,
    /// One entry per archive.
    pub archives: Vec<Entry>,
}

/// One archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// Name of the file in the folder.
    pub file: String,
    /// Of the whole file.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
    /// The images in it.
    pub images: Vec<Listed>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listed {
    /// `sha256:...` of its configuration: the image id of an engine.
    pub id: String,
    /// References.
    pub names: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    archives: Vec<Entry>,
}

impl Collection {
    /// An empty one; the folder is made.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn new(folder: &Path) -> Result<Collection, Error> {
        std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
        Ok(Collection { folder: folder.to_owned(), archives: Vec::new() })
    }

    /// Reads the list of a folder. The archives are not measured yet.
    ///
    /// # Errors
    /// [`Error::NoList`], [`Error::BadList`], [`Error::File`].
    pub fn open(folder: &Path) -> Result<Collection, Error> {
        let path = folder.join(IMAGES_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoList { folder: folder.to_owned() });
            }
            Err(error) => return Err(Error::file("read", &path)(error)),
        };
        let list: List =
            serde_yaml::from_str(&text).map_err(|error| Error::BadList { path, reason: error.to_string() })?;
        Ok(Collection { folder: folder.to_owned(), archives: list.archives })
    }

    /// The image of a reference. A repository without a tag finds its only tag.
    ///
    /// # Errors
    /// [`Error::NoImage`].
    pub fn image(&self, name: &str) -> Result<(&Entry, &Listed), Error> {
        let matches = |listed: &str| listed == name || listed.rsplit_once(':').is_some_and(|(bare, _)| bare == name);
        let images = self.archives.iter().flat_map(|entry| entry.images.iter().map(move |image| (entry, image)));
        let mut found = images.filter(|(_, image)| image.names.iter().any(|listed| matches(listed)));
        found.next().ok_or_else(|| Error::NoImage {
            image: name.to_owned(),
            folder: self.folder.clone(),
            there: self.names().join(", "),
        })
    }

    /// Every reference in the folder.
    pub fn names(&self) -> Vec<String> {
        let images = self.archives.iter().flat_map(|entry| &entry.images);
        images.flat_map(|image| image.names.iter().cloned()).collect()
    }

    /// The file of an archive, after its size and checksum were found right; takes a second per gigabyte.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when it is not what the list says, [`Error::File`] when it is not there.
    pub fn measured(&self, entry: &Entry) -> Result<PathBuf, Error> {
        let path = self.folder.join(&entry.file);
        let size = std::fs::metadata(&path).map_err(Error::file("read", &path))?.len();
        if size != entry.size {
            let (seen, listed) = (format!("{size} bytes"), format!("{} bytes", entry.size));
            return Err(Error::Mismatch { path, seen, listed });
        }
        let sha256 = container_image::sha256_of(&path)?;
        if sha256 != entry.sha256 {
            let (seen, listed) = (format!("sha256 {sha256}"), format!("sha256 {}", entry.sha256));
            return Err(Error::Mismatch { path, seen, listed });
        }
        Ok(path)
    }

    /// Puts a finished file of the store into the folder: as a second name where both are on one disk, else as a copy.
    pub(crate) fn add(&mut self, path: &Path) -> Result<(), Error> {
        let archive = Archive::read(path)?;
        let record = store::finished(path)
            .ok_or_else(|| Error::Interrupted(format!("{} was changed by another process", path.display())))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = self.folder.join(&file);
        if std::fs::metadata(&target).map_or(true, |there| there.len() != record.size) {
            let _ = std::fs::remove_file(&target);
            std::fs::hard_link(path, &target)
                .or_else(|_| std::fs::copy(path, &target).map(drop))
                .map_err(Error::file("copy", &target))?;
        }
        let images = archive.images.into_iter().map(|image| Listed { id: image.id, names: image.names }).collect();
        self.archives.push(Entry { file, sha256: record.sha256, size: record.size, images });
        Ok(())
    }

    /// Writes the list, and removes archives that an earlier list had and this one does not.
    pub(crate) fn save(&self) -> Result<(), Error> {
        if let Ok(earlier) = Collection::open(&self.folder) {
            for old in earlier.archives.iter().filter(|old| self.archives.iter().all(|new| new.file != old.file)) {
                // Names come from a file that anybody may have edited: only plain ones are touched.
                if Path::new(&old.file).components().count() == 1 {
                    let _ = std::fs::remove_file(self.folder.join(&old.file));
                }
            }
        }
        let list = List { archives: self.archives.clone() };
        let text = serde_yaml::to_string(&list).expect("a list has only plain fields");
        let path = self.folder.join(IMAGES_FILE);
        let unfinished = path.with_extension("unfinished");
        std::fs::write(&unfinished, text).map_err(Error::file("write", &unfinished))?;
        std::fs::rename(&unfinished, &path).map_err(Error::file("rename", &unfinished))
    }
}

#[cfg(test)]
mod tests {
    use container_image::{Image, LayerBuilder};

    use super::*;
    use crate::Store;
    use crate::store::Key;

    fn filled(folder: &Path) -> Collection {
        let store = Store::open(&folder.join("store"), &|_| ()).unwrap();
        let path = store
            .file("one", &Key::of(&["k"]), |work, out| {
                let layer = LayerBuilder::create(&work.join("layer.tar"))?.finish()?;
                let image = Image { names: vec!["localhost/one:v1".to_owned()], ..Image::default() };
                Archive::write(out, &[layer], &[image])?;
                Ok(())
            })
            .unwrap();
        let mut collection = Collection::new(&folder.join("out")).unwrap();
        collection.add(&path).unwrap();
        collection.save().unwrap();
        collection
    }

    #[test]
    fn what_is_saved_is_opened_and_measured() {
        let folder = tempfile::tempdir().unwrap();
        let collection = filled(folder.path());
        let opened = Collection::open(&collection.folder).unwrap();
        assert_eq!(opened, collection);
        for name in ["localhost/one:v1", "localhost/one"] {
            let (entry, image) = opened.image(name).unwrap();
            assert!(image.id.starts_with("sha256:"));
            assert!(opened.measured(entry).unwrap().is_file());
        }
    }

    #[test]
    fn a_missing_image_names_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let error = filled(folder.path()).image("localhost/two:v1").unwrap_err().to_string();
        assert!(error.contains("localhost/two:v1") && error.contains("localhost/one:v1"), "{error}");
        assert!(error.contains("ci/air-gap/build"), "{error}");
    }

    #[rstest::rstest]
    #[case::cut(|bytes: &mut Vec<u8>| bytes.truncate(100), "bytes")]
    #[case::changed(|bytes: &mut Vec<u8>| bytes[0] ^= 1, "sha256")]
    fn a_damaged_archive_is_never_loaded(#[case] damage: fn(&mut Vec<u8>), #[case] what: &str) {
        let folder = tempfile::tempdir().unwrap();
        let collection = filled(folder.path());
        let path = collection.folder.join(&collection.archives[0].file);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let error = collection.measured(&collection.archives[0]).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("its list says"), "{error}");
    }

    #[test]
    fn a_folder_without_a_list_says_how_to_make_one() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Collection::open(folder.path()), Err(Error::NoList { .. })));
        std::fs::write(folder.path().join(IMAGES_FILE), "archives: 3").unwrap();
        assert!(matches!(Collection::open(folder.path()), Err(Error::BadList { .. })));
    }
}
