//! Programs that come from npm: one installation per lock file in the cache, made by `npm ci`, which proves every package.
//! Node runs them; without Node and npm they cannot be had, and the reason says so.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::{Child, ChildOptions, Error, cache, checksum};

/// Oldest major version of Node that the packages accept.
const NODE_NEEDED: u32 = 20;

/// A package with everything it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Package {
    /// Folder name below `ci/tools/`.
    pub name: &'static str,
    /// Version.
    pub version: &'static str,
    /// Content of package.json.
    pub package_json: &'static str,
    /// Content of package-lock.json.
    pub lock: &'static str,
    /// The script that Node runs, below the installation.
    pub script: &'static str,
}

/// The Azure Blob Storage server.
pub const AZURITE: Package = Package {
    name: "azurite",
    version: "3.35.0",
    package_json: include_str!("../../../ci/tools/azurite/package.json"),
    lock: include_str!("../../../ci/tools/azurite/package-lock.json"),
    script: "node_modules/azurite/dist/src/blob/main.js",
};

/// The script of a package that is installed already.
pub fn at_hand(package: &Package) -> Option<PathBuf> {
    let script = entry(package).join(package.script);
    script.is_file().then_some(script)
}

/// The script of a package, which is installed if it is not yet. Two processes that need the same one install it once.
///
/// # Errors
/// [`Error::NoPackage`] when Node or npm is missing or fails, with what was seen.
pub async fn obtain(package: &Package, progress: impl Fn(&str)) -> Result<PathBuf, Error> {
    let impossible = |reason: String| Error::NoPackage { package: package.name, version: package.version, reason };
    can_be_had().map_err(impossible)?;
    if let Some(script) = at_hand(package) {
        return Ok(script);
    }
    let _lock = cache::lock(package.name, &progress).await?;
    // Another process may have installed it while we waited for the lock.
    if let Some(script) = at_hand(package) {
        return Ok(script);
    }
    progress(&format!("installing {} {} with npm; about a minute", package.name, package.version));
    let started = Instant::now();
    install(package).await.map_err(|error| impossible(error.to_string()))?;
    progress(&format!("installed {} in {:.0} s", package.name, started.elapsed().as_secs_f64()));
    at_hand(package).ok_or_else(|| impossible(format!("the installation has no {}", package.script)))
}

async fn install(package: &Package) -> Result<(), Error> {
    let workshop = cache::workshop(package.name)?;
    for (name, content) in [("package.json", package.package_json), ("package-lock.json", package.lock)] {
        let path = workshop.join(name);
        std::fs::write(&path, content).map_err(Error::file("write", &path))?;
    }
    let log = workshop.with_extension("log");
    let mut npm = ChildOptions::new("npm ci", "npm", &log);
    npm.args = ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"].map(Into::into).into();
    npm.dir = Some(workshop.clone());
    let exit = Child::spawn(npm).await?.wait_exit().await;
    if !exit.status.success() {
        return Err(Error::Way(format!("npm ci: {exit}\n  its log is {}", log.display())));
    }
    let entry = entry(package);
    cache::discard(&entry)?;
    // An entry appears whole or not at all.
    std::fs::rename(&workshop, &entry).map_err(Error::file("rename", &workshop))
}

fn entry(package: &Package) -> PathBuf {
    let pins = checksum::hex(&Sha256::digest(package.lock.as_bytes()));
    cache::folder().join("tools").join(format!("{}-{}-{}", package.name, package.version, &pins[..12]))
}

/// Whether Node and npm are there and young enough.
///
/// # Errors
/// What is missing, and what helps.
pub fn can_be_had() -> Result<(), String> {
    let node = version_of("node")?;
    let major = node.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < NODE_NEEDED) {
        return Err(format!("Node {node} is too old; install Node {NODE_NEEDED} or newer"));
    }
    version_of("npm").map(drop)
}

fn version_of(program: &str) -> Result<String, String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| format!("cannot run {program}: {error}; install Node {NODE_NEEDED} or newer"))?;
    if !output.status.success() {
        return Err(format!("{program} --version: {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_pins_the_stated_version_and_every_package_by_its_checksum() {
        let lock: serde_json::Value = serde_json::from_str(AZURITE.lock).unwrap();
        assert_eq!(lock["packages"]["node_modules/azurite"]["version"], AZURITE.version);
        let packages = lock["packages"].as_object().unwrap();
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            assert!(package["integrity"].as_str().is_some_and(|sum| sum.starts_with("sha512-")), "{name}");
        }
        assert!(AZURITE.package_json.contains(AZURITE.version));
    }
}
