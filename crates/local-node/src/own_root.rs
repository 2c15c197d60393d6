//! A root folder of a container's own, in which mounts lie at their documented paths, for programs that have paths compiled in.
//! It needs no root: everything in it is a symbolic link, and entering it takes one user and one mount namespace.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Where this machine's own root lies inside.
const MACHINE: &str = "/.machine";

/// A path of this machine, as a process in a root of its own finds it whatever is mounted there.
pub(crate) fn inside(path: &Path) -> PathBuf {
    let mut text = MACHINE.to_owned();
    text.push_str(&path.to_string_lossy());
    PathBuf::from(text)
}

/// What stands at one place of the new root.
#[derive(Debug, Default)]
struct Level {
    link: Option<PathBuf>,
    below: BTreeMap<String, Level>,
}

/// Makes the folder `root` look like this machine, except for `mounts` (documented path, real path; later ones win).
///
/// A mount inside another one gets its link inside that volume if nothing stands there yet, as a mount point would.
pub(crate) fn build(root: &Path, mounts: &[(String, PathBuf)]) -> io::Result<()> {
    if root.exists() {
        std::fs::remove_dir_all(root)?;
    }
    std::fs::create_dir_all(inside_of(root, MACHINE))?;
    let mut top = Level::default();
    for (documented, real) in mounts {
        let mut level = &mut top;
        for part in documented.split('/').filter(|part| !part.is_empty()) {
            level = level.below.entry(part.to_owned()).or_default();
        }
        level.link = Some(real.clone());
    }
    fill(root, Path::new("/"), &top)
}

/// `at` is a folder in the new root that stands for `machine`.
fn fill(at: &Path, machine: &Path, level: &Level) -> io::Result<()> {
    for (name, below) in &level.below {
        let place = at.join(name);
        match &below.link {
            Some(real) => {
                link(real, &place)?;
                nest(real, below)?;
            }
            None => {
                std::fs::create_dir_all(&place)?;
                fill(&place, &machine.join(name), below)?;
            }
        }
    }
    // What the machine lacks there is simply not there.
    for entry in std::fs::read_dir(machine).into_iter().flatten().flatten() {
        let place = at.join(entry.file_name());
        if place.symlink_metadata().is_err() {
            link(&entry.path(), &place)?;
        }
    }
    Ok(())
}

/// Puts mounts that lie inside a volume into it.
fn nest(volume: &Path, level: &Level) -> io::Result<()> {
    for (name, below) in &level.below {
        let place = volume.join(name);
        if let Some(real) = &below.link {
            if place.symlink_metadata().is_err() {
                link(real, &place)?;
            }
        } else {
            std::fs::create_dir_all(&place)?;
            nest(&place, below)?;
        }
    }
    Ok(())
}

fn link(real: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(inside(real), place)
}

fn inside_of(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// All that entering needs, made before the fork because nothing may be allocated after it.
#[derive(Debug)]
pub(crate) struct Entrance {
    root: CString,
    machine: CString,
    directory: CString,
    user_map: CString,
    group_map: CString,
}

impl Entrance {
    /// `directory` is the working directory inside; `/` if there is no such folder.
    pub(crate) fn new(root: &Path, directory: &Path) -> io::Result<Self> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
        let own = |id: u32| CString::new(format!("{id} {id} 1")).map_err(io::Error::other);
        Ok(Self {
            root: text(root)?,
            machine: text(&inside_of(root, MACHINE))?,
            directory: text(directory)?,
            user_map: own(nix::unistd::getuid().as_raw())?,
            group_map: own(nix::unistd::getgid().as_raw())?,
        })
    }

    /// Moves the calling process, which has just been forked, into the root. Allocates nothing and takes no lock.
    ///
    /// # Errors
    /// When the machine forbids user namespaces to this user, and this user is not root either.
    #[expect(
        unsafe_code,
        reason = "namespaces and chroot are system calls; there is no other way between fork and exec"
    )]
    pub(crate) fn enter(&self) -> io::Result<()> {
        const TOP: &CStr = c"/";
        let none: *const libc::c_char = std::ptr::null();
        // SAFETY: plain system calls with pointers to strings that live as long as `self`, and null where allowed.
        unsafe {
            if libc::unshare(libc::CLONE_NEWNS) != 0 {
                check(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))?;
                write(c"/proc/self/setgroups", c"deny")?;
                write(c"/proc/self/uid_map", &self.user_map)?;
                write(c"/proc/self/gid_map", &self.group_map)?;
            }
            check(libc::mount(none, TOP.as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, std::ptr::null()))?;
            let bind = libc::MS_BIND | libc::MS_REC;
            check(libc::mount(TOP.as_ptr(), self.machine.as_ptr(), none, bind, std::ptr::null()))?;
            check(libc::chroot(self.root.as_ptr()))?;
            if libc::chdir(self.directory.as_ptr()) != 0 {
                check(libc::chdir(TOP.as_ptr()))?;
            }
            Ok(())
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(unsafe_code, reason = "std allocates to open a file, which is forbidden between fork and exec")]
fn write(path: &CStr, text: &CStr) -> io::Result<()> {
    // SAFETY: the strings end with a zero byte and outlive the calls; the descriptor is ours.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(if file < 0 { -1 } else { 0 })?;
        let bytes = text.to_bytes();
        let written = libc::write(file, bytes.as_ptr().cast(), bytes.len());
        let outcome = check(if written < 0 { -1 } else { 0 });
        libc::close(file);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_machine_with_mounts() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        let root = folder.path().join("root");
        let mounts = [
            ("/etc/secrets/".to_owned(), volume.clone()),
            ("/etc/secrets/inner/deep".to_owned(), folder.path().to_owned()),
            ("/no/such/folder".to_owned(), volume.clone()),
        ];
        for _ in 0..2 {
            build(&root, &mounts).unwrap();
            let target = |path: &str| std::fs::read_link(root.join(path)).unwrap();
            assert_eq!(target("usr"), Path::new("/.machine/usr"));
            assert_eq!(target("etc/passwd"), Path::new("/.machine/etc/passwd"));
            assert_eq!(target("etc/secrets"), inside(&volume));
            assert_eq!(target("no/such/folder"), inside(&volume));
            assert_eq!(std::fs::read_link(volume.join("inner/deep")).unwrap(), inside(folder.path()));
        }
    }
}
