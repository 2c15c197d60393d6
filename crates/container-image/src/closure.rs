//! What an executable needs beside it to start: its loader and every shared library, as the loader itself resolves them.
//! Libraries that a program opens later by name (plug-ins) are not seen; who has such names them as further files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, LayerBuilder};

/// Program header that names the loader (ELF specification, "Program Header", PT_INTERP).
const PT_INTERP: u32 = 3;
const HEADER_SIZE: usize = 56;

/// The loader and the libraries of some executables. Empty for static ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// The path that is compiled into the executables, such as `/lib64/ld-linux-x86-64.so.2`.
    pub loader: Option<PathBuf>,
    /// File name of each library, and where it lies on this machine.
    pub libraries: BTreeMap<String, PathBuf>,
    root: PathBuf,
}

impl Closure {
    /// The closure of an executable of this machine.
    ///
    /// # Errors
    /// [`Error::Libraries`] when the loader cannot find one of them, [`Error::File`].
    pub fn of(executable: &Path) -> Result<Closure, Error> {
        Closure::within(Path::new("/"), &[executable])
    }

    /// The closure of files in an unpacked system: `root` has the loader and the usual library folders, the files are
    /// executables or plug-ins, given as paths of this machine.
    ///
    /// # Errors
    /// As [`Closure::of`].
    pub fn within(root: &Path, files: &[&Path]) -> Result<Closure, Error> {
        Closure::found_in(root, &[root], files)
    }

    /// As [`Closure::within`], with libraries looked for in several unpacked systems; the loader is that of `root`.
    ///
    /// # Errors
    /// As [`Closure::of`].
    pub fn found_in(root: &Path, places: &[&Path], files: &[&Path]) -> Result<Closure, Error> {
        let mut closure = Closure { root: root.to_owned(), ..Closure::default() };
        for file in files {
            if let Some(loader) = loader_of(file)? {
                closure.loader.get_or_insert(loader);
            }
        }
        let Some(loader) = closure.loader.clone() else {
            return Ok(closure);
        };
        let loader = beneath(root, &loader);
        for file in files {
            closure.libraries.extend(resolve(&loader, places, file)?);
        }
        Ok(closure)
    }

    /// Adds libraries that are opened by name, where the machine has them, from the folder of the C library.
    pub fn with_named(mut self, names: &[&str]) -> Closure {
        let folder = self.library_folder();
        for name in names {
            if let Some(path) = folder.as_ref().map(|folder| folder.join(name)).filter(|path| path.exists()) {
                self.libraries.insert((*name).to_owned(), path);
            }
        }
        self
    }

    /// The loader as a file of this machine.
    pub fn loader_file(&self) -> Option<PathBuf> {
        self.loader.as_ref().map(|loader| beneath(&self.root, loader))
    }

    /// Folder of the C library on this machine: one that the loader always looks into.
    fn library_folder(&self) -> Option<PathBuf> {
        let libc = |name: &&String| name.starts_with("libc.so") || name.starts_with("ld-musl");
        let name = self.libraries.keys().find(libc)?;
        Some(self.libraries[name].parent()?.to_owned())
    }

    /// Puts loader and libraries where the loader finds them without a cache or a variable: the loader at its own path and
    /// every library in the folder of the C library.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn lay(&self, layer: &mut LayerBuilder) -> Result<(), Error> {
        let (Some(loader), Some(file)) = (&self.loader, self.loader_file()) else {
            return Ok(());
        };
        layer.file(&loader.to_string_lossy(), &file, 0o755)?;
        let folder = self.library_folder().unwrap_or_else(|| PathBuf::from("/lib"));
        let folder = folder.strip_prefix(&self.root).unwrap_or(&folder).to_owned();
        for (name, path) in &self.libraries {
            layer.file(&folder.join(name).to_string_lossy(), path, 0o755)?;
        }
        Ok(())
    }

    /// Puts loader and libraries into one folder, for a program that is started as `LOADER --library-path FOLDER PROGRAM`;
    /// so it runs on a system whose own C library is older or newer. Gives the words to put before the program.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn lay_apart(&self, layer: &mut LayerBuilder, folder: &str) -> Result<Vec<String>, Error> {
        let Some(file) = self.loader_file() else {
            return Ok(Vec::new());
        };
        let loader = format!("{folder}/loader");
        layer.file(&loader, &file, 0o755)?;
        for (name, path) in &self.libraries {
            layer.file(&format!("{folder}/{name}"), path, 0o755)?;
        }
        Ok(vec![loader, "--library-path".to_owned(), folder.to_owned()])
    }
}

/// An absolute path of an unpacked system, with symbolic links followed inside it.
fn beneath(root: &Path, path: &Path) -> PathBuf {
    let mut place = root.join(path.strip_prefix("/").unwrap_or(path));
    // Absolute links of the unpacked system would lead out of it; a chain of eight is longer than any that exists.
    for _ in 0..8 {
        match std::fs::read_link(&place) {
            Ok(target) if target.is_absolute() => place = root.join(target.strip_prefix("/").unwrap_or(&target)),
            Ok(target) => place = place.parent().unwrap_or(root).join(target),
            Err(_) => break,
        }
    }
    place
}

/// The loader that an executable names; `None` for static ones and plug-ins.
fn loader_of(path: &Path) -> Result<Option<PathBuf>, Error> {
    let file = File::open(path).map_err(Error::file("open", path))?;
    let wrong = |reason: &str| Error::Libraries { path: path.to_owned(), reason: reason.to_owned() };
    let mut start = [0; 64];
    file.read_exact_at(&mut start, 0).map_err(|_| wrong("it is shorter than an executable's header"))?;
    // 64 bit, little-endian: what this program is built for.
    if start[..6] != *b"\x7fELF\x02\x01" {
        return Err(wrong("it is no 64-bit little-endian ELF file"));
    }
    let table = u64::from_le_bytes(start[32..40].try_into().expect("eight bytes"));
    let count = u16::from_le_bytes(start[56..58].try_into().expect("two bytes"));
    for number in 0..u64::from(count) {
        let mut header = [0; HEADER_SIZE];
        let at = table.saturating_add(number * HEADER_SIZE as u64);
        file.read_exact_at(&mut header, at).map_err(|_| wrong("its program headers are cut off"))?;
        if u32::from_le_bytes(header[..4].try_into().expect("four bytes")) != PT_INTERP {
            continue;
        }
        let offset = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
        let length = u64::from_le_bytes(header[32..40].try_into().expect("eight bytes")).min(4096);
        let mut name = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut name, offset).map_err(|_| wrong("its loader's name is cut off"))?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        return Ok(Some(PathBuf::from(OsStr::from_bytes(name))));
    }
    Ok(None)
}

fn resolve(loader: &Path, places: &[&Path], file: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let wrong = |reason: String| Error::Libraries { path: file.to_owned(), reason };
    let mut command = Command::new(loader);
    if places != [Path::new("/")] {
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let folders: Vec<String> = places
            .iter()
            .flat_map(|place| ["usr/lib", "lib"].map(|lib| place.join(lib)))
            .flat_map(|lib| [lib.join(&triplet), lib])
            .map(|folder| folder.display().to_string())
            .collect();
        command.args(["--inhibit-cache", "--library-path", &folders.join(":")]);
    }
    let output = command
        .args([OsStr::new("--list"), file.as_os_str()])
        .env_remove("LD_LIBRARY_PATH")
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| wrong(format!("{}: {error}", loader.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // Static files have no list; everything else that the loader refuses is a failure.
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return if text.contains("statically linked") || said.contains("statically linked") {
            Ok(BTreeMap::new())
        } else {
            Err(wrong(format!("{} says {said:?}", loader.display())))
        };
    }
    listed(&text).map_err(|name| wrong(format!("{name} is not found")))
}

/// `NAME => /path (0x...)` lines; a name that is not found is the error. Lines without an arrow are the loader and the
/// kernel's own page.
fn listed(text: &str) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut libraries = BTreeMap::new();
    for (name, rest) in text.lines().filter_map(|line| line.trim().split_once(" => ")) {
        let path = rest.rsplit_once(" (").map_or(rest, |(path, _)| path).trim();
        if !path.starts_with('/') {
            return Err(name.to_owned());
        }
        let name = Path::new(name).file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("ld-linux") {
            libraries.insert(name, PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_the_loader_is_read() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let names: Vec<String> = listed(text).unwrap().into_keys().collect();
        assert_eq!(names, ["libc.so.6", "libgcc_s.so.1"]);
        assert_eq!(listed("\tlibodd.so.3 => not found\n").unwrap_err(), "libodd.so.3");
    }

    #[test]
    fn a_test_program_has_a_loader_and_a_c_library() {
        let closure = Closure::of(&std::env::current_exe().unwrap()).unwrap();
        assert!(closure.loader_file().unwrap().is_file());
        assert!(closure.library_folder().is_some(), "{closure:?}");
        assert!(closure.libraries.values().all(|path| path.is_file()));
    }

    #[test]
    fn a_text_is_no_executable() {
        let error = Closure::of(Path::new("/etc/passwd"));
        assert!(error.unwrap_err().to_string().contains("/etc/passwd"));
    }

    #[test]
    fn links_of_an_unpacked_system_stay_inside_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        std::fs::write(root.path().join("usr/lib/ld.so"), "").unwrap();
        std::os::unix::fs::symlink("/usr/lib/ld.so", root.path().join("usr/lib/ld.2")).unwrap();
        assert_eq!(beneath(root.path(), Path::new("/usr/lib/ld.2")), root.path().join("usr/lib/ld.so"));
    }
}
