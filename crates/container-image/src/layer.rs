//! One layer of an image: a tar file whose digest is known when it is finished.
//! The same content gives the same digest, because times are fixed and folders come before what lies in them.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::Error;

/// 1 January 2000; a time before 1980 disturbs some archive programs.
const MODIFIED: u64 = 946_684_800;

/// A finished layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The tar file.
    pub path: PathBuf,
    /// Its SHA-256 in lower-case hexadecimal; what an image's configuration calls a diff id.
    pub sha256: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A layer that is being written.
pub struct LayerBuilder {
    path: PathBuf,
    tar: tar::Builder<Hashing>,
    folders: BTreeSet<PathBuf>,
}

impl LayerBuilder {
    /// Starts a layer in a new file.
    ///
    /// # Errors
    /// [`Error::File`] when the file cannot be made.
    pub fn create(path: &Path) -> Result<LayerBuilder, Error> {
        let file = File::create(path).map_err(Error::file("make", path))?;
        let hashing = Hashing { file: BufWriter::with_capacity(1 << 20, file), digest: Sha256::new(), size: 0 };
        Ok(LayerBuilder { path: path.to_owned(), tar: tar::Builder::new(hashing), folders: BTreeSet::new() })
    }

    /// A folder, and the folders above it with mode 0755.
    ///
    /// # Errors
    /// [`Error::File`] as every other act of the builder.
    pub fn folder(&mut self, at: &str, mode: u32) -> Result<(), Error> {
        self.folder_of(&relative(at), mode, (0, 0))
    }

    /// A file with a given content.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn text(&mut self, at: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<(), Error> {
        let at = relative(at);
        self.parents(&at)?;
        let content = content.as_ref();
        let mut header = header(EntryType::Regular, mode, (0, 0), content.len() as u64);
        self.tar.append_data(&mut header, &at, content).map_err(Error::file("write", &self.path))
    }

    /// A copy of a file of this machine; symbolic links are followed.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn file(&mut self, at: &str, source: &Path, mode: u32) -> Result<(), Error> {
        self.copy(&relative(at), source, mode, (0, 0))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn link(&mut self, at: &str, target: &str) -> Result<(), Error> {
        let at = relative(at);
        self.parents(&at)?;
        self.append_link(EntryType::Symlink, &at, Path::new(target), (0, 0))
    }

    /// Everything below a folder of this machine, with modes, owners and links; `keep` is asked with each path relative to
    /// that folder, and what it refuses is left out with all that lies in it. Device files and sockets are left out.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn tree(&mut self, at: &str, root: &Path, keep: &dyn Fn(&Path) -> bool) -> Result<(), Error> {
        let mut seen = HashMap::new();
        let at = relative(at);
        self.branch(&at, root, Path::new(""), keep, &mut seen)
    }

    /// Closes the layer.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn finish(self) -> Result<Layer, Error> {
        let path = self.path;
        let mut hashing = self.tar.into_inner().map_err(Error::file("write", &path))?;
        hashing.file.flush().map_err(Error::file("write", &path))?;
        Ok(Layer { path, sha256: hex(&hashing.digest.finalize()), size: hashing.size })
    }

    fn branch(
        &mut self,
        at: &Path,
        root: &Path,
        below: &Path,
        keep: &dyn Fn(&Path) -> bool,
        seen: &mut HashMap<(u64, u64), PathBuf>,
    ) -> Result<(), Error> {
        let folder = root.join(below);
        let entries = std::fs::read_dir(&folder).map_err(Error::file("list", &folder))?;
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(Error::file("list", &folder))?;
        names.sort();
        for name in names {
            let below = below.join(name);
            if !keep(&below) {
                continue;
            }
            let source = root.join(&below);
            let target = at.join(&below);
            let metadata = std::fs::symlink_metadata(&source).map_err(Error::file("read", &source))?;
            let owner = (metadata.uid(), metadata.gid());
            let mode = metadata.mode() & 0o7777;
            let kind = metadata.file_type();
            if kind.is_dir() {
                self.folder_of(&target, mode, owner)?;
                self.branch(at, root, &below, keep, seen)?;
            } else if kind.is_symlink() {
                let leads_to = std::fs::read_link(&source).map_err(Error::file("read", &source))?;
                self.parents(&target)?;
                self.append_link(EntryType::Symlink, &target, &leads_to, owner)?;
            } else if kind.is_file() {
                let inode = (metadata.dev(), metadata.ino());
                match seen.get(&inode) {
                    Some(first) if metadata.nlink() > 1 => {
                        let first = first.clone();
                        self.append_link(EntryType::Link, &target, &first, owner)?;
                    }
                    _ => {
                        seen.insert(inode, target.clone());
                        self.copy(&target, &source, mode, owner)?;
                    }
                }
            } else {
                debug_assert!(kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket());
            }
        }
        Ok(())
    }

    fn copy(&mut self, at: &Path, source: &Path, mode: u32, owner: (u32, u32)) -> Result<(), Error> {
        self.parents(at)?;
        let file = File::open(source).map_err(Error::file("open", source))?;
        let size = file.metadata().map_err(Error::file("read", source))?.len();
        let mut header = header(EntryType::Regular, mode, owner, size);
        self.tar.append_data(&mut header, at, file).map_err(Error::file("write", &self.path))
    }

    fn append_link(&mut self, kind: EntryType, at: &Path, target: &Path, owner: (u32, u32)) -> Result<(), Error> {
        let mut header = header(kind, 0o777, owner, 0);
        self.tar.append_link(&mut header, at, target).map_err(Error::file("write", &self.path))
    }

    fn parents(&mut self, at: &Path) -> Result<(), Error> {
        match at.parent() {
            Some(parent) if parent != Path::new("") && !self.folders.contains(parent) => {
                self.folder_of(parent, 0o755, (0, 0))
            }
            _ => Ok(()),
        }
    }

    fn folder_of(&mut self, at: &Path, mode: u32, owner: (u32, u32)) -> Result<(), Error> {
        if at == Path::new("") || self.folders.contains(at) {
            return Ok(());
        }
        self.parents(at)?;
        let mut header = header(EntryType::Directory, mode, owner, 0);
        self.tar.append_data(&mut header, at, std::io::empty()).map_err(Error::file("write", &self.path))?;
        self.folders.insert(at.to_owned());
        Ok(())
    }
}

fn header(kind: EntryType, mode: u32, owner: (u32, u32), size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.0.into());
    header.set_gid(owner.1.into());
    header.set_mtime(MODIFIED);
    header.set_size(size);
    header
}

/// Paths in a tar file have no leading slash.
fn relative(at: &str) -> PathBuf {
    Path::new(at).components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Counts and hashes what goes by.
struct Hashing {
    file: BufWriter<File>,
    digest: Sha256,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(path: &Path, root: &Path) -> Layer {
        let mut layer = LayerBuilder::create(path).unwrap();
        layer.text("/etc/os", "x", 0o644).unwrap();
        layer.folder("/tmp", 0o1777).unwrap();
        layer.link("/bin/sh", "dash").unwrap();
        layer.tree("/data", root, &|path| !path.starts_with("left-out")).unwrap();
        layer.finish().unwrap()
    }

    #[test]
    fn a_layer_has_folders_before_files_links_as_links_and_a_digest_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir_all(root.join("left-out")).unwrap();
        std::fs::write(root.join("left-out/secret"), "s").unwrap();
        std::fs::write(root.join("a/b/one"), "1").unwrap();
        std::fs::hard_link(root.join("a/b/one"), root.join("a/b/two")).unwrap();
        std::os::unix::fs::symlink("one", root.join("a/b/three")).unwrap();
        let first = build(&folder.path().join("1.tar"), &root);
        let second = build(&folder.path().join("2.tar"), &root);
        assert_eq!(first.sha256, second.sha256);
        assert_eq!(first.size, std::fs::metadata(&first.path).unwrap().len());
        assert_eq!(hex(&Sha256::digest(std::fs::read(&first.path).unwrap())), first.sha256);

        let mut archive = tar::Archive::new(File::open(&first.path).unwrap());
        let seen: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let link = entry.link_name().unwrap().map(|link| format!(" -> {}", link.display()));
                format!(
                    "{:o} {}{}",
                    entry.header().mode().unwrap(),
                    entry.path().unwrap().display(),
                    link.unwrap_or_default()
                )
            })
            .collect();
        let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
        assert_eq!(seen[..3], ["755 etc", "644 etc/os", "1777 tmp"]);
        assert_eq!(seen[3..5], ["755 bin", "777 bin/sh -> dash"]);
        assert!(seen.contains(&"777 data/a/b/three -> one"), "{seen:?}");
        assert!(seen.contains(&"777 data/a/b/two -> data/a/b/one"), "{seen:?}");
        assert!(!seen.iter().any(|entry| entry.contains("left-out")));
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        let path = Path::new("/dev/full");
        let mut layer = LayerBuilder::create(path).unwrap();
        let failure = (0..64)
            .try_for_each(|number| layer.text(&format!("/f{number}"), vec![0; 1 << 20], 0o644))
            .and_then(|()| layer.finish().map(drop))
            .unwrap_err();
        assert!(failure.to_string().contains("make room on that disk"), "{failure}");
    }
}
