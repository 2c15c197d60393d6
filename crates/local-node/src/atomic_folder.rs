//! A folder whose whole content changes at once: files are links into `..data`, and `..data` is swapped by a rename.
//! A reader sees the old or the new content, never a mixture; the layout is the one that kubelet makes.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

/// What a folder shall hold, by relative path.
pub(crate) type Payload = BTreeMap<PathBuf, PayloadFile>;

/// One file of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PayloadFile {
    pub(crate) content: Vec<u8>,
    /// Permission bits; the owner can always read.
    pub(crate) mode: u32,
}

const DATA: &str = "..data";

/// Makes `folder` hold exactly `payload`. A path that is absolute or leads upwards is an error and nothing is changed.
pub(crate) fn write(folder: &Path, payload: &Payload) -> std::io::Result<()> {
    if let Some(path) = payload.keys().find(|path| !is_inside(path)) {
        return Err(std::io::Error::other(format!("{} does not lie inside the volume", path.display())));
    }
    std::fs::create_dir_all(folder)?;
    let version = format!("..{}", uuid::Uuid::new_v4().simple());
    let fresh = folder.join(&version);
    std::fs::create_dir(&fresh)?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&target, &file.content)?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(file.mode | 0o400))?;
    }
    let old = std::fs::read_link(folder.join(DATA)).ok();
    let new_link = folder.join("..data_tmp");
    let _ = std::fs::remove_file(&new_link);
    symlink(&version, &new_link)?;
    std::fs::rename(&new_link, folder.join(DATA))?;
    let wanted: Vec<&OsStr> = payload.keys().filter_map(|path| path.iter().next()).collect();
    for name in &wanted {
        let link = folder.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let is_ours = name.to_string_lossy().starts_with("..");
        if !is_ours && !wanted.contains(&name.as_os_str()) && entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old {
        std::fs::remove_dir_all(folder.join(old))?;
    }
    Ok(())
}

fn is_inside(path: &Path) -> bool {
    path.components().next().is_some() && path.components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| PayloadFile { content: content.into(), mode: 0o644 };
        files.iter().map(|(path, content)| (PathBuf::from(path), file(content))).collect()
    }

    #[test]
    fn content_is_replaced_and_removed_files_go() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &payload(&[("a", "1"), ("dir/b", "2")])).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("dir/b")).unwrap(), "2");
        write(folder.path(), &payload(&[("a", "3")])).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("a")).unwrap(), "3");
        assert!(!folder.path().join("dir").exists());
        // Link, data link and one version.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_reader_never_sees_a_mixture() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &payload(&[("a", "0"), ("b", "0")])).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..200 {
                    let text = round.to_string();
                    write(folder.path(), &payload(&[("a", &text), ("b", &text)])).unwrap();
                }
            });
            while !writer.is_finished() {
                let Ok(version) = std::fs::read_link(folder.path().join(DATA)) else { continue };
                let read = |name| std::fs::read_to_string(folder.path().join(&version).join(name));
                if let (Ok(a), Ok(b)) = (read("a"), read("b")) {
                    assert_eq!(a, b);
                }
            }
        });
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x", ""] {
            assert!(write(folder.path(), &payload(&[(path, "")])).is_err(), "{path}");
        }
    }
}
