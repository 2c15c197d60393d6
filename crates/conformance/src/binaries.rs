//! The folder of programs given by `--bin-dir`: which components of the system it holds, and whether they could run on
//! this machine at all. Nothing is started here; what a program does once it runs is watched by the target.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use harness::{
    component::{Component, Lacking},
    failure::Failure,
    requirement::Catalogue,
    suite::Suite,
    system::{Image, System},
};

/// The component whose program runs documented command lines.
const CLIENT: &str = "cli";

/// Programs found for the components of a system.
#[derive(Debug, Clone, Default)]
pub struct Binaries {
    folder: PathBuf,
    found: BTreeMap<String, PathBuf>,
    /// What is missing and may be, with what it stops.
    pub lacking: Vec<Lacking>,
}

impl Binaries {
    /// Looks for every component of the system in the folder.
    ///
    /// # Errors
    /// When the system wants a folder and there is none, a program that must be there is missing, one that is there
    /// cannot be run here, or `neededBy` of a component names what nothing carries.
    pub fn find(system: &System, folder: Option<&Path>, suite: &Suite, catalogue: &Catalogue) -> anyhow::Result<Self> {
        let mut binaries = Self::default();
        if system.components.is_empty() {
            let Some(folder) = folder else { return Ok(binaries) };
            let tried = format!("looking for the programs of system {} in {}", system.name, folder.display());
            return Err(Failure::error(tried, "no component of this system comes from a folder")
                .next("leave --bin-dir out, or choose another system with --system")
                .into());
        }
        let Some(folder) = folder else {
            let names: Vec<String> = system.components.iter().map(Component::file_names).collect();
            return Err(Failure::error(
                format!("looking for the programs of system {}", system.name),
                "no folder was given",
            )
            .next(format!("name the folder that holds {} with --bin-dir", names.join(", ")))
            .into());
        };
        let folder = folder.canonicalize().map_err(|error| {
            Failure::error(format!("looking for the programs of system {} in {}", system.name, folder.display()), error)
                .next("give an existing folder to --bin-dir")
        })?;
        binaries.folder.clone_from(&folder);
        for component in &system.components {
            match look(component, system, &folder)? {
                Ok(path) => drop(binaries.found.insert(component.name.clone(), path)),
                Err(reason) => {
                    let needed_by = component.needed_by(suite, catalogue)?;
                    binaries.lacking.push(Lacking { needed_by, reason });
                }
            }
        }
        if let (true, Some(first)) = (binaries.found.is_empty(), system.components.first()) {
            let names: Vec<_> = system.components.iter().map(Component::file_names).collect();
            let why = format!("it does not exist, and neither does any other of {}", names.join(", "));
            return Err(missing(first, &folder.join(&first.binaries[0]), &why).into());
        }
        Ok(binaries)
    }

    /// The system as it is installed with these programs: images, manifests and the client of documented commands.
    pub fn install(&self, system: &System) -> System {
        let mut installed = system.clone();
        for component in &system.components {
            let program = self.of(component).map(|path| path.display().to_string()).unwrap_or_default();
            let folder = self.folder.display().to_string();
            let filled = |word: &String| word.replace("{bin}", &program).replace("{dir}", &folder);
            let (command, own_root) = match (self.of(component), &component.instead) {
                (Some(_), _) => (component.command.iter().map(filled).collect::<Vec<_>>(), component.own_root),
                (None, Some(instead)) => (instead.clone(), false),
                (None, None) => continue,
            };
            let env = component.env.iter().map(|(name, value)| (name.clone(), filled(value)));
            if component.name == CLIENT {
                installed.cli = Some(command.clone());
            }
            installed.manifests.extend(component.manifests.iter().cloned());
            if let Some(image) = &component.image {
                installed.images.push(Image {
                    image: image.clone(),
                    command,
                    env: env.collect(),
                    keep_command: component.keep_command,
                    rewrite: component.files.clone(),
                    own_root,
                });
            }
        }
        installed
    }

    /// What of the system is not its own program: what a reader of the results should know.
    pub fn replaced(&self, system: &System) -> Vec<String> {
        let gone = system.components.iter().filter(|component| self.of(component).is_none());
        gone.filter_map(|component| {
            let instead = component.instead.as_ref()?.join(" ").replace("{self}", "registry-conformance");
            Some(format!(
                "the folder holds no {}; `{instead}` takes the place of the {}",
                component.file_names(),
                component.name
            ))
        })
        .collect()
    }

    /// The program of a component, if the folder holds it.
    pub fn of(&self, component: &Component) -> Option<&Path> {
        self.found.get(&component.name).map(PathBuf::as_path)
    }
}

/// The program of a component, or why it is lacking where it may be.
fn look(component: &Component, system: &System, folder: &Path) -> Result<Result<PathBuf, String>, Failure> {
    let mut places = component.binaries.iter().map(|name| folder.join(name));
    let Some(path) = places.find(|path| path.is_symlink() || path.exists()) else {
        if !component.optional {
            return Err(missing(component, &folder.join(&component.binaries[0]), "it does not exist"));
        }
        let what = format!("{}, which is the {} of system {}", component.file_names(), component.name, system.name);
        return Ok(Err(format!("{} holds no {what}", folder.display())));
    };
    check(component, &path)?;
    if component.image.is_none() && component.name != CLIENT {
        let what = format!("system {} does not say how the {} is started", system.name, component.name);
        return Ok(Err(format!("{} is there, but {what}", path.display())));
    }
    match component.needs.iter().find(|name| !folder.join(name).exists()) {
        None => Ok(Ok(path)),
        Some(name) if component.optional => {
            let what = format!("{name}, which the {} of system {} needs", component.name, system.name);
            Ok(Err(format!("{} holds no {what}", folder.display())))
        }
        Some(name) => Err(missing(component, &path, &format!("it needs {name} beside it, and that does not exist"))),
    }
}

fn missing(component: &Component, path: &Path, why: &str) -> Failure {
    let command = component.command.join(" ").replace("{bin}", &path.display().to_string());
    Failure::error(format!("starting the {} as `{command}`", component.name), format!("{}: {why}", path.display()))
        .next(format!("put {} for this machine into the folder given by --bin-dir", component.file_names()))
}

/// Whether the file could be a program of this machine.
fn check(component: &Component, path: &Path) -> Result<(), Failure> {
    let refused = |why: String| missing(component, path, &why);
    let metadata = fs::metadata(path).map_err(|error| match path.read_link() {
        Ok(target) => refused(format!("it is a link to {}, which is not there ({error})", target.display())),
        Err(_) => refused(error.to_string()),
    })?;
    if !metadata.is_file() {
        return Err(refused("it is no file".to_owned()));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(refused(format!("it is not executable (mode {:o})", metadata.permissions().mode() & 0o777)));
    }
    let head = head(path).map_err(|error| refused(format!("it cannot be read: {error}")))?;
    let own = head_of_this().map_err(|error| refused(format!("this program's own header cannot be read: {error}")))?;
    fits(&head, &own).map_err(refused)
}

/// The part of an ELF header that says for which machine it is.
const HEAD: usize = 20;

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    fs::File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn head_of_this() -> std::io::Result<Vec<u8>> {
    head(Path::new("/proc/self/exe"))
}

/// Whether a file that begins so runs where a program that begins like `own` does.
fn fits(head: &[u8], own: &[u8]) -> Result<(), String> {
    if head.starts_with(b"#!") {
        return Ok(());
    }
    if !head.starts_with(b"\x7fELF") || head.len() < HEAD {
        return Err("it is neither an ELF program nor a script".to_owned());
    }
    // Class and byte order, then the machine in that byte order (ELF specification, "ELF Header").
    if head[4..6] == own[4..6] && head[18..HEAD] == own[18..HEAD] {
        return Ok(());
    }
    Err(format!("it is a program for {}, and this machine is {}", machine(head), machine(own)))
}

/// The architecture an ELF header names, as Rust calls it.
fn machine(head: &[u8]) -> String {
    let number = [head[18], head[19]];
    let number = if head[5] == 2 { u16::from_be_bytes(number) } else { u16::from_le_bytes(number) };
    match number {
        3 => "x86".to_owned(),
        21 => "powerpc64".to_owned(),
        22 => "s390x".to_owned(),
        40 => "arm".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv64".to_owned(),
        other => format!("ELF machine {other}"),
    }
}

#[cfg(test)]
mod tests {
    use harness::datafile::DataFile;
    use rstest::rstest;

    use super::*;

    /// The head of an ELF file for a machine of that number.
    fn elf(machine: u16) -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(18, 0);
        head.extend(machine.to_le_bytes());
        head
    }

    #[rstest]
    #[case(elf(62), None)]
    #[case(b"#!/bin/sh\n".to_vec(), None)]
    #[case(elf(183), Some("it is a program for aarch64, and this machine is x86_64"))]
    #[case(b"MZ".to_vec(), Some("it is neither an ELF program nor a script"))]
    #[case(Vec::new(), Some("it is neither an ELF program nor a script"))]
    fn a_program_of_another_machine_is_refused(#[case] head: Vec<u8>, #[case] refusal: Option<&str>) {
        assert_eq!(fits(&head, &elf(62)).err().as_deref(), refusal);
    }

    fn find(components: &str, folder: Option<&Path>) -> anyhow::Result<Binaries> {
        let text = format!("name: s\ntitle: S\ncomponents:\n{components}");
        let catalogue = Catalogue::default();
        let system = System::read(&DataFile::new("systems/s.yaml", text), &catalogue).unwrap();
        Binaries::find(&system, folder, &Suite::new(vec![]), &catalogue)
    }

    const OPERATOR: &str = "  - {name: operator, binaries: [op], image: x/op, command: [\"{bin}\", \"--v=2\"]}\n";
    const REGISTRY: &str =
        "  - {name: registry, binaries: [dockerregistry, image-registry], image: x/registry, optional: true}\n";

    #[test]
    fn the_first_name_that_is_there_counts() {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "image-registry");
        let binaries = find(REGISTRY, Some(folder.path())).unwrap();
        assert_eq!(binaries.found["registry"], folder.path().join("image-registry").canonicalize().unwrap());
        assert!(binaries.lacking.is_empty());
    }

    fn script(folder: &Path, name: &str) {
        let path = folder.join(name);
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn what_may_be_missing_is_told_to_the_plan() {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "op");
        let binaries = find(&format!("{OPERATOR}{REGISTRY}"), Some(folder.path())).unwrap();
        let expected = "holds no dockerregistry or image-registry, which is the registry of system s";
        assert!(binaries.lacking[0].reason.ends_with(expected), "{}", binaries.lacking[0].reason);
    }

    #[test]
    fn a_folder_without_any_of_the_programs_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(REGISTRY, Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("neither does any other of dockerregistry or image-registry"), "{error}");
    }

    const RENDERER: &str = "  - {name: renderer, binaries: [mcc], image: x/r, needs: [templates], optional: true}\n";

    #[test]
    fn what_a_program_needs_beside_it_may_be_missing_too() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["op", "mcc"] {
            script(folder.path(), name);
        }
        let components = format!("{OPERATOR}{RENDERER}");
        let binaries = find(&components, Some(folder.path())).unwrap();
        let reason = &binaries.lacking[0].reason;
        assert!(reason.ends_with("holds no templates, which the renderer of system s needs"), "{reason}");
        fs::create_dir(folder.path().join("templates")).unwrap();
        assert!(find(&components, Some(folder.path())).unwrap().lacking.is_empty());
        let wanted = components.replace(", optional: true", "");
        fs::remove_dir(folder.path().join("templates")).unwrap();
        let error = find(&wanted, Some(folder.path())).unwrap_err().to_string();
        assert!(error.contains("it needs templates beside it"), "{error}");
    }

    #[test]
    fn placeholders_are_filled_in() {
        let folder = tempfile::tempdir().unwrap();
        script(folder.path(), "op");
        let text = "name: s\ntitle: S\ncomponents:\n  - {name: operator, binaries: [op], image: x/op, \
                    command: [\"{self}\", \"--with={bin}\", \"{dir}/templates\"], env: {A: \"{tools}:{dir}\"}}\n";
        let catalogue = Catalogue::default();
        let system = System::read(&DataFile::new("systems/s.yaml", text), &catalogue).unwrap();
        let binaries = Binaries::find(&system, Some(folder.path()), &Suite::new(vec![]), &catalogue).unwrap();
        let image = &binaries.install(&system).images[0];
        let real = folder.path().canonicalize().unwrap().display().to_string();
        assert_eq!(image.command, ["{self}".to_owned(), format!("--with={real}/op"), format!("{real}/templates")]);
        assert_eq!(image.env["A"], format!("{{tools}}:{real}"));
    }

    #[rstest]
    #[case::missing(None, 0o755, "it does not exist")]
    #[case::not_executable(Some("#!/bin/sh\n"), 0o644, "it is not executable (mode 644)")]
    #[case::no_program(Some("hello"), 0o755, "it is neither an ELF program nor a script")]
    fn what_cannot_run_is_an_error_with_its_command_line(
        #[case] text: Option<&str>,
        #[case] mode: u32,
        #[case] expected: &str,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("op");
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let error = find(OPERATOR, Some(folder.path())).unwrap_err();
        let failure = error.downcast_ref::<Failure>().unwrap().text();
        assert!(failure.contains(expected), "{failure}");
        assert!(failure.contains("op --v=2`"), "{failure}");
    }

    #[test]
    fn a_link_that_leads_nowhere_and_a_folder_that_is_none_are_named() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nowhere/op", folder.path().join("op")).unwrap();
        let error = find(OPERATOR, Some(folder.path())).unwrap_err();
        assert!(error.to_string().contains("it is a link to /nowhere/op, which is not there"), "{error}");
        let error = find(OPERATOR, Some(Path::new("/nowhere"))).unwrap_err();
        assert!(error.to_string().contains("give an existing folder to --bin-dir"), "{error}");
        let error = find(OPERATOR, None).unwrap_err();
        assert!(error.to_string().contains("name the folder that holds op with --bin-dir"), "{error}");
    }
}
