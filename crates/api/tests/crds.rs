//! The definitions checked in under `fixtures/crds` are exactly those the types make.
//! `UPDATE_FIXTURES=1 cargo test -p api` writes them anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/crds")
}

#[test]
fn fixtures_are_what_the_types_make() {
    let folder = folder();
    let update = std::env::var_os("UPDATE_FIXTURES").is_some();
    if update {
        fs::create_dir_all(&folder).expect("folder of fixtures");
    }
    let mut expected = BTreeSet::new();
    for definition in api::crds::all() {
        let name = format!("{}.yaml", definition.metadata.name.as_deref().expect("a definition has a name"));
        let text = serde_yaml::to_string(&definition).expect("a definition can be written");
        let path = folder.join(&name);
        if update {
            fs::write(&path, &text).expect("fixture can be written");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "fixtures/crds/{name} is out of date; run `UPDATE_FIXTURES=1 cargo test -p api`");
        expected.insert(name);
    }
    let found: BTreeSet<String> = fs::read_dir(&folder)
        .expect("folder of fixtures")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(found, expected, "fixtures/crds holds other files than there are definitions");
}

#[test]
fn required_and_patterned_fields_are_in_the_schema() {
    let config = api::crds::all()
        .into_iter()
        .find(|definition| definition.metadata.name.as_deref() == Some("configs.imageregistry.operator.openshift.io"))
        .expect("Config");
    let schema = serde_json::to_value(&config.spec.versions[0].schema).expect("writable");
    let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(spec["required"], serde_json::json!(["replicas"]));
    assert_eq!(spec["properties"]["managementState"]["pattern"], "^(Managed|Unmanaged|Force|Removed)$");
    assert_eq!(spec["properties"]["logLevel"]["default"], "Normal");
    assert_eq!(spec["x-kubernetes-preserve-unknown-fields"], true);
    assert_eq!(spec["properties"]["storage"]["properties"]["s3"]["x-kubernetes-preserve-unknown-fields"], true);
}
