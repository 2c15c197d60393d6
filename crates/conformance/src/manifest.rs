//! Manifests: files of Kubernetes objects that install a system, read and checked before anything is started. Applying
//! them is left to the target.

use std::{collections::BTreeSet, path::Path};

use harness::{
    datafile::{DataError, DataFile, Place},
    system::System,
};
use kube::core::{DynamicObject, TypeMeta};
use serde::Deserialize as _;
use serde_json::Value;

use crate::data::Data;

/// One object of a manifest.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file it stands in.
    pub file: String,
    pub object: DynamicObject,
    pub types: TypeMeta,
}

/// Every object of a manifest, in the order of the file.
///
/// # Errors
/// [`DataError::Unreadable`] when the file is not there; [`DataError::Malformed`] with the line of what is no YAML or no
/// Kubernetes object.
pub fn read(data: &Data, manifest: &Path) -> Result<Vec<Document>, DataError> {
    let file = DataFile::new(manifest, data.text(manifest)?);
    let malformed = |line, message: String| DataError::Malformed { place: file.at(line), message };
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&file.text) {
        let value = Value::deserialize(document)
            .map_err(|error| malformed(error.location().map_or(1, |at| at.line()), error.to_string()))?;
        if value.is_null() {
            continue;
        }
        let unusable = |message: String| malformed(1, format!("document {}: {message}", documents.len() + 1));
        let object: DynamicObject = serde_json::from_value(value).map_err(|error| unusable(error.to_string()))?;
        let types = object.types.clone().ok_or_else(|| unusable("it has no apiVersion and kind".to_owned()))?;
        if object.metadata.name.is_none() {
            return Err(unusable(format!("the {} has no name", types.kind)));
        }
        documents.push(Document { file: manifest.display().to_string(), object, types });
    }
    Ok(documents)
}

/// The ports on which containers of these objects listen.
pub fn container_ports(documents: &[Document]) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    documents.iter().for_each(|document| collect_ports(&document.object.data, &mut ports));
    ports
}

fn collect_ports(value: &Value, ports: &mut BTreeSet<u16>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_ports(item, ports)),
        Value::Object(fields) => {
            let port = fields.get("containerPort").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
            ports.extend(port);
            fields.values().for_each(|field| collect_ports(field, ports));
        }
        _ => {}
    }
}

/// Looks at every file that a system names.
///
/// # Errors
/// [`DataError::Malformed`] with the line of the system file that names a file which is not there; as [`read`] for a
/// manifest that is wrong.
pub fn check(data: &Data, system: &System, file: &DataFile) -> Result<(), DataError> {
    let own = system.manifests.iter();
    for manifest in own.chain(system.components.iter().flat_map(|component| &component.manifests)) {
        read(data, manifest).map_err(|error| named(error, file, manifest))?;
    }
    let images = system.images.iter().flat_map(|image| image.rewrite.values());
    for other in images.chain(system.components.iter().flat_map(|component| component.files.values())) {
        let read = data.bytes(other).map_err(|source| DataError::Unreadable { file: other.to_owned(), source });
        read.map_err(|error| named(error, file, other))?;
    }
    Ok(())
}

/// A file that is not there is a mistake of the line that names it.
fn named(error: DataError, file: &DataFile, path: &Path) -> DataError {
    let DataError::Unreadable { source, .. } = error else { return error };
    let path = path.display().to_string();
    let line = file.text.lines().position(|line| line.contains(&path)).map_or(1, |index| index + 1);
    DataError::Malformed {
        place: Place { file: file.path.clone(), line },
        message: format!("cannot read {path}: {source}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rstest::rstest;

    use super::*;

    fn read_text(text: &str) -> Result<Vec<Document>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("m.yaml"), text).unwrap();
        read(&Data::Folder(folder.path().to_owned()), Path::new("m.yaml"))
    }

    #[test]
    fn empty_documents_are_none() {
        let text = "---\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n# nothing\n";
        assert_eq!(read_text(text).unwrap().len(), 1);
    }

    #[test]
    fn ports_are_found_wherever_containers_stand() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {spec: {containers: [{ports: [{containerPort: 60000}, {containerPort: 5000}]}]}}}\n";
        assert_eq!(container_ports(&read_text(text).unwrap()), BTreeSet::from([5000, 60000]));
    }

    #[rstest]
    #[case("apiVersion: v1\nkind: [\n", "m.yaml:")]
    #[case("a: 1\n", "m.yaml:1: document 1: ")]
    #[case("apiVersion: v1\nkind: Secret\nmetadata: {}\n", "m.yaml:1: document 1: the Secret has no name")]
    fn what_is_no_object_is_an_error(#[case] text: &str, #[case] expected: &str) {
        let error = read_text(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
