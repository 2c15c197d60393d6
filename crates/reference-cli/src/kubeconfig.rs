//! The client configuration file as a document: read, changed in places, written back whole.

use crate::failure::Failure;
use crate::yaml;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A client configuration and the file it came from.
pub struct Kubeconfig {
    path: PathBuf,
    document: Value,
}

impl Kubeconfig {
    /// Reads the file; one that does not exist is an empty configuration.
    ///
    /// # Errors
    /// The file cannot be read or is no configuration.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let document = match std::fs::read_to_string(path) {
            Ok(text) => serde_yaml::from_str(&text)
                .map_err(|error| Failure::usage(format!("error loading config file {:?}: {error}", path.display())))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Value::Null,
            Err(error) => {
                return Err(Failure::usage(format!("error loading config file {:?}: {error}", path.display())));
            }
        };
        let document = if document.is_object() { document } else { json!({"apiVersion": "v1", "kind": "Config"}) };
        Ok(Kubeconfig { path: path.to_owned(), document })
    }

    /// The name of the current context, if one is set.
    pub fn current_context(&self) -> Option<String> {
        self.document["current-context"].as_str().filter(|name| !name.is_empty()).map(str::to_owned)
    }

    /// An entry of `clusters`, `users` or `contexts`: what stands under `cluster`, `user` or `context`.
    pub fn entry(&self, list: &str, name: &str) -> Option<&Value> {
        let entries = self.document[list].as_array()?;
        entries.iter().find(|entry| entry["name"] == name).map(|entry| &entry[list.trim_end_matches('s')])
    }

    /// Every cluster's entry.
    pub fn clusters(&self) -> impl Iterator<Item = &Value> {
        self.document["clusters"].as_array().into_iter().flatten().map(|entry| &entry["cluster"])
    }

    /// Adds or replaces an entry.
    pub fn set(&mut self, list: &str, name: &str, value: Value) {
        let fresh = json!({"name": name, list.trim_end_matches('s'): value});
        if !self.document[list].is_array() {
            self.document[list] = json!([]);
        }
        if let Some(entries) = self.document[list].as_array_mut() {
            match entries.iter_mut().find(|entry| entry["name"] == name) {
                Some(entry) => *entry = fresh,
                None => entries.push(fresh),
            }
        }
    }

    /// Makes a context the current one.
    pub fn use_context(&mut self, name: &str) {
        self.document["current-context"] = name.into();
    }

    /// Writes the file, readable by its owner only, in one step.
    ///
    /// # Errors
    /// The file or its folder cannot be written.
    pub fn write(&self) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::usage(format!("could not write {}: {error}", self.path.display()));
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(yaml::to_string(&self.document, yaml::API).as_bytes()).map_err(failed)?;
        file.persist(&self.path).map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// `host:port` as it stands in names of contexts: dots become dashes.
pub fn server_nickname(server: &http::Uri) -> String {
    let port = server.port_u16().unwrap_or(443);
    format!("{}:{port}", server.host().unwrap_or_default()).replace('.', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_replaced_and_the_rest_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep/config");
        let mut config = Kubeconfig::read(&path).expect("an empty configuration");
        config.set("users", "u", json!({"token": "one"}));
        config.set("users", "other", json!({"token": "kept"}));
        config.set("users", "u", json!({"token": "two"}));
        config.use_context("c");
        config.write().expect("writable");
        let again = Kubeconfig::read(&path).expect("readable");
        assert_eq!(again.entry("users", "u").expect("an entry")["token"], "two");
        assert_eq!(again.entry("users", "other").expect("an entry")["token"], "kept");
        assert_eq!(again.current_context().as_deref(), Some("c"));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn nicknames() {
        let server = "https://api-int.example.com:6443".parse().expect("an address");
        assert_eq!(server_nickname(&server), "api-int-example-com:6443");
    }
}
