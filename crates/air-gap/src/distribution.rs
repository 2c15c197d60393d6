//! What comes from packages of a distribution: the root of a node, a small shell with what its images need, and Node.
//! The unpacked system is thrown away as soon as its layers are written; a later build starts from those.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use container_image::{Closure, LayerBuilder};

use crate::program::{find, run};
use crate::store::Key;
use crate::{Error, Store};

/// The release whose packages are taken; its containerd and runc are new enough for the kubelet.
const SUITE: &str = "trixie";
/// What a node needs beyond the smallest system. systemd is not among it: see `kind-node init`.
const PACKAGES: [&str; 6] = ["containerd", "runc", "mount", "iproute2", "iptables", "containernetworking-plugins"];
/// What the shell of small images has.
const COMMANDS: [&str; 9] = ["bash", "cat", "chmod", "cp", "dash", "mkdir", "mv", "rm", "sleep"];
/// Names under which one program is iptables (Debian gives them by its alternatives).
const IPTABLES: [&str; 6] =
    ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"];
/// Changes when the code below makes something else of the same packages.
const RECIPE: &str = "3";

/// Three layers.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// The whole root of a node.
    pub root: PathBuf,
    /// A shell, a few commands and iptables, with their libraries.
    pub shell: PathBuf,
    /// Node, for programs written for it, with its libraries.
    pub node: PathBuf,
    /// Changes with all three.
    pub key: Key,
}

impl Distribution {
    /// Takes the layers from the store, or unpacks the distribution and makes them.
    ///
    /// # Errors
    /// [`Error::NotRoot`], [`Error::NoProgram`], [`Error::Command`] with the last lines of the package manager.
    pub fn obtain(store: &Store) -> Result<Distribution, Error> {
        let key = Key::of(&[SUITE, &PACKAGES.join(","), &COMMANDS.join(","), RECIPE, std::env::consts::ARCH]);
        let names = ["layer-root", "layer-shell", "layer-node"];
        if !names.iter().all(|name| store.has(name, &key)) {
            let work = store.workshop()?;
            let outcome = Distribution::unpack(work.path(), store, &key, names);
            // Files of another owner and mounts of a killed build need more than the folder's own removal.
            let removed = remove_root(work.path());
            outcome?;
            removed?;
        }
        let path = |name| store.file(name, &key, |_, _| Err(Error::Interrupted(format!("{name} was removed"))));
        Ok(Distribution { root: path(names[0])?, shell: path(names[1])?, node: path(names[2])?, key })
    }

    fn unpack(work: &Path, store: &Store, key: &Key, names: [&str; 3]) -> Result<(), Error> {
        let root = work.join("root");
        debootstrap(&root)?;
        store.file(names[0], key, |_, out| whole(&root, out))?;
        store.file(names[1], key, |_, out| shell(&root, out))?;
        in_root(&root, &["apt-get", "-qq", "-y", "--no-install-recommends", "install", "nodejs"])?;
        store.file(names[2], key, |_, out| node(&root, out))?;
        Ok(())
    }
}

fn debootstrap(root: &Path) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let program = find("debootstrap").ok_or(Error::NoProgram {
        program: "debootstrap",
        purpose: "unpack the packages of a node",
        remedy: "install it: `apt-get install debootstrap`",
    })?;
    let include = format!("--include={}", PACKAGES.join(","));
    let root = root.display().to_string();
    run(&program, &["--variant=minbase", &include, SUITE, &root], None).map(drop)
}

fn in_root(root: &Path, words: &[&str]) -> Result<(), Error> {
    let program = find("chroot").ok_or(Error::NoProgram {
        program: "chroot",
        purpose: "install a package",
        remedy: "install it: `apt-get install coreutils`",
    })?;
    let root = root.display().to_string();
    run(&program, &[&[root.as_str()], words].concat(), None).map(drop)
}

/// Everything but documents, lists of packages and what a container gets anew at each start.
fn whole(root: &Path, out: &Path) -> Result<(), Error> {
    let left_out = [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/info",
        "usr/share/locale",
        "usr/share/lintian",
        "var/cache",
        "var/lib/apt",
        "var/log",
    ];
    let mut layer = LayerBuilder::create(out)?;
    layer.tree("/", root, &|path| !left_out.iter().any(|left| path == Path::new(left)))?;
    for folder in ["/dev", "/proc", "/sys", "/run", "/var/cache", "/var/log"] {
        layer.folder(folder, 0o755)?;
    }
    layer.folder("/tmp", 0o1777)?;
    layer.finish()?;
    Ok(())
}

/// The shell of small images, in the layout of the distribution: `/bin` and the like lead into `/usr`.
fn shell(root: &Path, out: &Path) -> Result<(), Error> {
    let iptables = "usr/sbin/xtables-nft-multi";
    let extensions = root.join(libraries()).join("xtables");
    let mut plugins: Vec<PathBuf> = std::fs::read_dir(&extensions)
        .map_err(Error::file("list", &extensions))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "so"))
        .collect();
    plugins.sort();
    let commands: Vec<PathBuf> = COMMANDS.iter().map(|name| root.join("usr/bin").join(name)).collect();
    let programs: Vec<PathBuf> = commands.into_iter().chain([root.join(iptables)]).collect();
    // The plug-ins need libraries that the program itself does not (libm, for one).
    let files: Vec<&Path> = programs.iter().chain(&plugins).map(PathBuf::as_path).collect();
    let closure = Closure::within(root, &files)?;
    let mut layer = LayerBuilder::create(out)?;
    merged_usr(&mut layer)?;
    for program in &programs {
        let at = program.strip_prefix(root).unwrap_or(program);
        layer.file(&at.to_string_lossy(), program, 0o755)?;
    }
    for plugin in &plugins {
        let at = plugin.strip_prefix(root).unwrap_or(plugin);
        layer.file(&at.to_string_lossy(), plugin, 0o644)?;
    }
    layer.link("/usr/bin/sh", "dash")?;
    for name in IPTABLES {
        layer.link(&format!("/usr/sbin/{name}"), "xtables-nft-multi")?;
    }
    lay_closure(&closure, root, &mut layer)?;
    layer.finish()?;
    Ok(())
}

fn node(root: &Path, out: &Path) -> Result<(), Error> {
    let program = root.join("usr/bin/node");
    let closure = Closure::within(root, &[&program])?;
    let mut layer = LayerBuilder::create(out)?;
    merged_usr(&mut layer)?;
    layer.file("/usr/bin/node", &program, 0o755)?;
    lay_closure(&closure, root, &mut layer)?;
    // Debian's Node reads parts of its own library from files.
    let shared = root.join("usr/share/nodejs");
    if shared.is_dir() {
        layer.tree("/usr/share/nodejs", &shared, &|_| true)?;
    }
    layer.text("/etc/passwd", "root:x:0:0:root:/root:/\n", 0o644)?;
    layer.finish()?;
    Ok(())
}

/// Folders and links as the distribution has them, and a place for temporary files.
fn merged_usr(layer: &mut LayerBuilder) -> Result<(), Error> {
    for folder in ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/run"] {
        layer.folder(folder, 0o755)?;
    }
    layer.folder("/tmp", 0o1777)?;
    for name in ["bin", "sbin", "lib", "lib64"] {
        layer.link(&format!("/{name}"), &format!("usr/{name}"))?;
    }
    Ok(())
}

/// Libraries at their places below `/usr`, since `/lib` is a link there.
fn lay_closure(closure: &Closure, root: &Path, layer: &mut LayerBuilder) -> Result<(), Error> {
    if let (Some(loader), Some(file)) = (&closure.loader, closure.loader_file()) {
        layer.file(&format!("/usr{}", loader.display()), &file, 0o755)?;
    }
    for (name, path) in &closure.libraries {
        let at = path.strip_prefix(root).unwrap_or(path);
        let folder = at.parent().unwrap_or(Path::new("usr/lib"));
        let folder = if folder.starts_with("usr") { folder.to_owned() } else { Path::new("usr").join(folder) };
        layer.file(&folder.join(name).to_string_lossy(), path, 0o755)?;
    }
    Ok(())
}

fn libraries() -> String {
    format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH)
}

/// Removes an unpacked system. Mounts that a killed package manager has left in it are taken off first, so that nothing of
/// the machine itself is ever removed through one.
///
/// # Errors
/// [`Error::File`].
pub fn remove_root(path: &Path) -> Result<(), Error> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut inside: Vec<&str> =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(path)).collect();
    inside.sort_unstable();
    if let Some(umount) = find("umount") {
        for at in inside.iter().rev() {
            run(&umount, &[at], None)?;
        }
    }
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("read", path)(error)),
    };
    debug_assert!(!kind.is_block_device());
    if kind.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
        .map_err(Error::file("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_a_file_and_nothing_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("a")).unwrap();
        remove_root(&root).unwrap();
        assert!(!root.exists());
        std::fs::write(&root, "").unwrap();
        remove_root(&root).unwrap();
        remove_root(&root).unwrap();
    }

    #[test]
    fn links_of_the_layout_come_before_what_lies_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let mut layer = LayerBuilder::create(&folder.path().join("l.tar")).unwrap();
        merged_usr(&mut layer).unwrap();
        assert!(layer.finish().unwrap().size > 0);
    }
}
