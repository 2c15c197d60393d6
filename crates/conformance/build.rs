//! Embeds the data folders into the binary, so that it also works away from its repository.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
};

/// The rooms of the repository that are data.
const ROOMS: [&str; 7] = ["features", "requirements", "systems", "backends", "faults", "fixtures", "kind-config"];

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../..");
    let root = root.canonicalize().expect("the repository is above the package");
    let mut files = Vec::new();
    for room in ROOMS {
        let folder = root.join(room);
        if folder.is_dir() {
            collect(&folder, &mut files);
        }
    }
    files.sort();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("embedded.rs");
    let mut table = fs::File::create(out).expect("the build folder can be written");
    writeln!(table, "&[").expect("the table can be written");
    for file in files {
        let name = file.strip_prefix(&root).expect("collected below the root").to_string_lossy().replace('\\', "/");
        writeln!(table, "    ({name:?}, include_bytes!({:?})),", file.display().to_string())
            .expect("the table can be written");
    }
    writeln!(table, "]").expect("the table can be written");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder).expect("a data folder can be read") {
        let path = entry.expect("a data folder can be read").path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
}
