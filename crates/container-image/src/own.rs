//! The image of the one binary: the executable that runs now, what it needs to start, and nothing else of a system.
//! Every component has an image name of its own with its own entry point; they share one layer, so that a node stores it once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Archive, Closure, Error, Image, LayerBuilder};

/// Registry part of the image names; no such registry exists, so nothing can be pulled from it.
pub const OWN_REGISTRY: &str = "registry-conformance.local";
/// Where the executable lies in the image.
pub const OWN_PROGRAM: &str = "/usr/bin/registry-conformance";
/// Name of each component, and the words that make the executable be it.
pub const OWN_COMPONENTS: &[(&str, &[&str])] = &[
    ("operator", &[OWN_PROGRAM, "reference", "operator"]),
    ("registry", &[OWN_PROGRAM, "reference", "registry"]),
    ("node-agent", &[OWN_PROGRAM, "reference", "node-agent"]),
    ("node-ca", &[OWN_PROGRAM, "reference", "node-ca"]),
    ("cli", &["/usr/bin/oc"]),
    ("platform", &[OWN_PROGRAM, "platform"]),
    ("self", &[OWN_PROGRAM]),
];
/// Libraries that an older C library opens for names and users; a newer one has them inside.
const NAME_SERVICES: [&str; 3] = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"];
/// Certificate authorities of the machine, where one of the usual files exists.
const AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Programs of this machine that documented commands start inside pods, where this machine has them.
const COMMANDS: [&str; 2] = ["ls", "cat"];

/// Writes the images of an executable of this program into one archive. Each component has two tags: `latest`, and one that
/// changes with the executable; workloads without a pull policy need the second, because `latest` means "always pull".
///
/// The executable is used without its symbols where `strip` is at hand, and as it is elsewhere.
///
/// # Errors
/// [`Error::Libraries`] when a library of the executable is not found, [`Error::File`].
pub fn own_image(executable: &Path, out: &Path) -> Result<Archive, Error> {
    let folder = out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::file("make", folder))?;
    let work = tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempdir_in(folder)
        .map_err(Error::file("make a folder in", folder))?;
    let program = stripped(executable, work.path());
    let mut layer = LayerBuilder::create(&work.path().join("layer.tar"))?;
    let commands = commands();
    let files: Vec<&Path> =
        std::iter::once(executable).chain(commands.iter().map(|(_, path)| path.as_path())).collect();
    Closure::within(Path::new("/"), &files)?.with_named(&NAME_SERVICES).lay(&mut layer)?;
    for (name, path) in &commands {
        layer.file(&format!("/usr/bin/{name}"), path, 0o755)?;
    }
    layer.text("/etc/passwd", "root:x:0:0:root:/root:/\nnobody:x:65534:65534:nobody:/:/\n", 0o644)?;
    layer.text("/etc/group", "root:x:0:\nnobody:x:65534:\n", 0o644)?;
    layer.text("/etc/nsswitch.conf", "hosts: files dns\n", 0o644)?;
    if let Some(bundle) = AUTHORITIES.iter().map(Path::new).find(|path| path.is_file()) {
        layer.file(AUTHORITIES[0], bundle, 0o644)?;
    }
    layer.folder("/root", 0o700)?;
    layer.folder("/tmp", 0o1777)?;
    layer.file(OWN_PROGRAM, &program, 0o755)?;
    layer.link("/usr/bin/oc", "registry-conformance")?;
    let layer = layer.finish()?;
    let tag = layer.sha256[..12].to_owned();
    let images: Vec<Image> = OWN_COMPONENTS
        .iter()
        .map(|(component, words)| Image {
            names: ["latest", &tag].map(|tag| format!("{OWN_REGISTRY}/{component}:{tag}")).into(),
            entrypoint: words.iter().map(|word| (*word).to_owned()).collect(),
            ..Image::default()
        })
        .collect();
    Archive::write(out, &[layer], &images)
}

/// The commands that this machine has, each with its file.
fn commands() -> Vec<(&'static str, PathBuf)> {
    let folders: Vec<_> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    let find = |name: &str| folders.iter().map(|folder: &PathBuf| folder.join(name)).find(|path| path.is_file());
    COMMANDS.into_iter().filter_map(|name| Some((name, find(name)?.canonicalize().ok()?))).collect()
}

/// A copy of an executable without symbols in a folder, or the executable itself where `strip` is not at hand.
pub fn stripped(executable: &Path, work: &Path) -> PathBuf {
    let copy = work.join("program");
    let outcome = Command::new("strip")
        .args(["--strip-all".as_ref(), "-o".as_ref(), copy.as_os_str(), executable.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match outcome {
        Ok(status) if status.success() && copy.is_file() => copy,
        _ => executable.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_has_a_moving_and_a_lasting_tag() {
        let folder = tempfile::tempdir().unwrap();
        let exe = std::env::current_exe().unwrap();
        let archive = own_image(&exe, &folder.path().join("own.tar")).unwrap();
        assert_eq!(archive.images.len(), OWN_COMPONENTS.len());
        for (image, (component, _)) in archive.images.iter().zip(OWN_COMPONENTS) {
            assert_eq!(image.names[0], format!("registry-conformance.local/{component}:latest"));
            assert!(!image.names[1].ends_with("latest"));
        }
        assert_eq!(own_image(&exe, &folder.path().join("again.tar")).unwrap().images, archive.images);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing unfinished is left");
    }

    #[test]
    fn what_is_no_executable_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = own_image(Path::new("/etc/passwd"), &folder.path().join("own.tar")).unwrap_err();
        assert!(error.to_string().contains("ELF"), "{error}");
    }
}
