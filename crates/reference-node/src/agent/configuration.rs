//! The files that make up a node's registry configuration, as one value with a name made from its content.

use super::observed::Refusal;
use crate::disruption::{self, Disruption};
use crate::mirror_rules::MirrorRules;
use crate::node_file::{self, NodeFileError};
use crate::registries_conf::Registry;
use crate::{policy_json, registries_conf};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

const REGISTRIES: &str = "etc/containers/registries.conf";
const POLICY: &str = "etc/containers/policy.json";
const SEARCH: &str = "etc/containers/registries.conf.d/01-image-searchRegistries.conf";

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Configuration {
    /// The wanted content of each file; `None` means that the file must not exist.
    files: [(&'static str, Option<String>); 3],
    tables: Vec<Registry>,
}

impl Configuration {
    /// # Errors
    /// The rules contradict each other.
    pub(super) fn of(rules: &MirrorRules) -> Result<Self, Refusal> {
        rules.validate()?;
        let tables = registries_conf::tables(rules)?;
        let files = [
            (REGISTRIES, Some(registries_conf::write(rules, &tables))),
            (POLICY, Some(policy_json::render(rules))),
            (SEARCH, registries_conf::search_drop_in(rules)),
        ];
        Ok(Configuration { files, tables })
    }

    /// The tables of registries.conf.
    pub(super) fn tables(&self) -> &[Registry] {
        &self.tables
    }

    /// Why pods have to leave before the files below `root` change; `None` when they may stay. A node that was never
    /// configured has no pods to protect.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub(super) fn disruption(&self, root: &Path) -> Result<Option<Disruption>, NodeFileError> {
        let Some(present) = node_file::text(&root.join(REGISTRIES))? else { return Ok(None) };
        let change = disruption::of_change(&present, &self.tables);
        let search = node_file::text(&root.join(SEARCH))?;
        let wanted = self.files.iter().find(|(path, _)| *path == SEARCH).and_then(|(_, wanted)| wanted.clone());
        Ok(change.or((search != wanted).then_some(Disruption::SearchList)))
    }

    /// A name that is the same on every node with the same content: `rendered-` and 32 hexadecimal digits.
    pub(super) fn name(&self) -> String {
        let mut hash = Sha256::new();
        for (path, content) in &self.files {
            for part in [Some(*path), content.as_deref()] {
                hash.update(part.map_or(0, |part| part.len() as u64 + 1).to_be_bytes());
                hash.update(part.unwrap_or_default());
            }
        }
        let digits: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("rendered-{digits}")
    }

    /// True when a file below `root` is not as wanted.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub(super) fn differs_from(&self, root: &Path) -> Result<bool, NodeFileError> {
        for (path, wanted) in &self.files {
            if !node_file::holds(&root.join(path), wanted.as_deref().map(str::as_bytes))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings the files below `root` to the wanted content and returns those that changed.
    ///
    /// # Errors
    /// A file could not be written; the ones before it are as wanted.
    pub(super) fn write(&self, root: &Path) -> Result<Vec<PathBuf>, NodeFileError> {
        let mut changed = Vec::new();
        for (path, wanted) in &self.files {
            let full = root.join(path);
            let wrote = match wanted {
                Some(content) => node_file::put(&full, content.as_bytes())?,
                None => node_file::remove(&full)?,
            };
            if wrote {
                changed.push(Path::new("/").join(path));
            }
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_list_comes_and_goes() {
        let root = tempfile::tempdir().expect("a folder");
        let plain = Configuration::of(&MirrorRules::default()).expect("lawful");
        let search =
            Configuration::of(&MirrorRules { search: vec!["reg1".into()], ..Default::default() }).expect("lawful");
        assert_ne!(plain.name(), search.name());
        assert_eq!(plain.write(root.path()).expect("writable").len(), 2);
        assert!(search.differs_from(root.path()).expect("readable"));
        assert_eq!(search.write(root.path()).expect("writable"), [Path::new("/").join(SEARCH)]);
        assert!(!search.differs_from(root.path()).expect("readable"));
        assert_eq!(plain.write(root.path()).expect("writable"), [Path::new("/").join(SEARCH)]);
        assert!(plain.write(root.path()).expect("writable").is_empty());
        let conf = std::fs::read_to_string(root.path().join(REGISTRIES)).expect("a file");
        assert_eq!(conf, registries_conf::DEFAULT_FILE);
    }
}
