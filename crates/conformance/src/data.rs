//! Where features, requirements, systems, backends, faults and fixtures are found: the folder given, else the
//! repository one stands in or the binary was built from, else the copies inside the binary.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use harness::{
    datafile::{DataError, DataFile, Place},
    fault::FaultEntry,
    requirement::Catalogue,
    system::System,
};

use storage_backends::Backend;

use crate::{lane::FaultFile, manifest, parser::Features};

static EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The data folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A folder with `features/`, `requirements/` and the others in it.
    Folder(PathBuf),
    /// The copies inside the binary.
    Embedded,
}

impl Data {
    /// Finds the data.
    ///
    /// # Errors
    /// [`DataError::Unreadable`] when the folder given has no `features/`.
    pub fn find(given: Option<&Path>) -> Result<Self, DataError> {
        if let Some(folder) = given {
            fs::read_dir(folder.join("features"))
                .map_err(|source| DataError::Unreadable { file: folder.join("features"), source })?;
            return Ok(Self::Folder(folder.to_owned()));
        }
        let here = PathBuf::from(".");
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root =
            [here, built].into_iter().find(|root| root.join("features").is_dir() && root.join("requirements").is_dir());
        Ok(root.and_then(|root| root.canonicalize().ok()).map_or(Self::Embedded, Self::Folder))
    }

    /// The files of a room with that extension, by name; empty when the room does not exist.
    ///
    /// # Errors
    /// [`DataError::Unreadable`] for what cannot be read, or is not UTF-8.
    pub fn files(&self, room: &str, extension: &str) -> Result<Vec<DataFile>, DataError> {
        let mut names = match self {
            Self::Folder(root) => walk(root, Path::new(room))?,
            Self::Embedded => {
                EMBEDDED.iter().map(|(name, _)| PathBuf::from(name)).filter(|name| name.starts_with(room)).collect()
            }
        };
        names.retain(|name| name.extension().is_some_and(|own| own == extension));
        names.sort();
        names.into_iter().map(|name| Ok(DataFile::new(&name, self.text(&name)?))).collect()
    }

    /// One file as text, by its name from the root, like `fixtures/pruner.yaml`.
    ///
    /// # Errors
    /// [`DataError::Unreadable`] when it is not there, or is not UTF-8.
    pub fn text(&self, name: impl AsRef<Path>) -> Result<String, DataError> {
        let name = name.as_ref();
        let unreadable = |source| DataError::Unreadable { file: name.to_owned(), source };
        let bytes = self.bytes(name).map_err(unreadable)?;
        String::from_utf8(bytes).map_err(|error| unreadable(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    /// One file, by its name from the root.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn bytes(&self, name: &Path) -> io::Result<Vec<u8>> {
        match self {
            Self::Folder(root) => fs::read(root.join(name)),
            Self::Embedded => EMBEDDED
                .iter()
                .find(|(own, _)| Path::new(own) == name)
                .map(|(_, bytes)| bytes.to_vec())
                .ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    /// The catalogue.
    ///
    /// # Errors
    /// As [`Catalogue::read`].
    pub fn catalogue(&self) -> Result<Catalogue, DataError> {
        Catalogue::read(&self.files("requirements", "yaml")?)
    }

    /// The features.
    ///
    /// # Errors
    /// As [`Features::read`].
    pub fn features(&self) -> Result<Features, DataError> {
        Features::read(&self.files("features", "feature")?)
    }

    /// The systems, with every file they name looked at.
    ///
    /// # Errors
    /// As [`System::read`] and [`manifest::check`].
    pub fn systems(&self, catalogue: &Catalogue) -> Result<Vec<System>, DataError> {
        let read = |file: &DataFile| {
            let system = System::read(file, catalogue)?;
            manifest::check(self, &system, file)?;
            Ok(system)
        };
        self.files("systems", "yaml")?.iter().map(read).collect()
    }

    /// The storage products.
    ///
    /// # Errors
    /// As [`Backend::read`].
    pub fn backends(&self) -> Result<Vec<Backend>, storage_backends::Error> {
        self.files("backends", "yaml")?.iter().map(Backend::read).collect()
    }

    /// The faults.
    ///
    /// # Errors
    /// [`DataError::Malformed`] with the line of the first key that is unknown, missing or wrong.
    pub fn faults(&self) -> Result<Vec<FaultFile>, DataError> {
        self.files("faults", "yaml")?.into_iter().map(fault).collect()
    }
}

fn fault(file: DataFile) -> Result<FaultFile, DataError> {
    let fault = fault_proxy::Fault::read(&file.path, &file.text).map_err(|error| DataError::Malformed {
        place: Place { file: error.file, line: error.line },
        message: error.message,
    })?;
    let entry = FaultEntry {
        place: file.at(file.line_of("id", &fault.id)),
        id: fault.id,
        seam: fault.seam.to_string(),
        title: fault.title,
        requirements: fault.requirements,
        scenarios: fault.scenarios,
    };
    Ok(FaultFile { entry, file })
}

fn walk(root: &Path, room: &Path) -> Result<Vec<PathBuf>, DataError> {
    let folder = root.join(room);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let unreadable = |source| DataError::Unreadable { file: folder.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = room.join(entry.file_name());
        if entry.path().is_dir() {
            names.extend(walk(root, &name)?);
        } else {
            names.push(name);
        }
    }
    Ok(names)
}
