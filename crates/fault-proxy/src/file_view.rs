//! Faults of the seam node-files: how a file of a node looks through them.
//! The file itself is never touched.

use toml_edit::{DocumentMut, Item, TableLike};

use crate::fault::{Fault, FileEdit, TableRemoval};

/// A file of a node as seen through a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileView {
    /// No rule is about this file, or none changed it.
    Unchanged,
    /// The content that is seen instead.
    Changed(String),
    /// The file seems not to exist.
    Absent,
}

impl Fault {
    /// How the file at `path` with this content looks through the fault. Faults of other seams change no file.
    pub fn apply_to_file(&self, path: &str, content: &str) -> FileView {
        let mut seen = content.to_owned();
        for rule in &self.rules {
            let (Some(file), Some(edit)) = (&rule.file, &rule.edit) else { continue };
            if !file.matches(path) {
                continue;
            }
            if edit.absent {
                return FileView::Absent;
            }
            seen = edit.apply(path, &seen);
        }
        if seen == content { FileView::Unchanged } else { FileView::Changed(seen) }
    }
}

impl FileEdit {
    fn apply(&self, path: &str, content: &str) -> String {
        let text = self
            .replace
            .iter()
            .fold(content.to_owned(), |text, replace| replace.find.replace_all(&text, &replace.with));
        if self.remove_tables.is_empty() {
            return text;
        }
        match text.parse::<DocumentMut>() {
            Ok(mut document) => {
                for removal in &self.remove_tables {
                    let segments: Vec<&str> = removal.name.split('.').collect();
                    remove(document.as_table_mut(), &segments, removal);
                }
                document.to_string()
            }
            Err(error) => {
                tracing::warn!(%path, %error, "a fault removes tables from a file that is no TOML; it is left as it is");
                text
            }
        }
    }
}

/// Removes what the last segment names, in every table that the segments before it lead to.
fn remove(table: &mut dyn TableLike, segments: &[&str], removal: &TableRemoval) {
    let Some((first, rest)) = segments.split_first() else { return };
    if rest.is_empty() {
        let gone = match table.get_mut(first) {
            Some(Item::ArrayOfTables(tables)) => {
                tables.retain(|table| !removal.covers(table));
                tables.is_empty()
            }
            Some(item) => item.as_table_like().map_or(removal.conditions.is_empty(), |table| removal.covers(table)),
            None => false,
        };
        if gone {
            table.remove(first);
        }
        return;
    }
    match table.get_mut(first) {
        Some(Item::ArrayOfTables(tables)) => tables.iter_mut().for_each(|table| remove(table, rest, removal)),
        Some(item) => {
            if let Some(table) = item.as_table_like_mut() {
                remove(table, rest, removal);
            }
        }
        None => {}
    }
}

impl TableRemoval {
    fn covers(&self, table: &dyn TableLike) -> bool {
        self.conditions.iter().all(|(key, pattern)| {
            table.get(key).is_some_and(|item| {
                let text = item.as_str().map_or_else(|| item.to_string().trim().to_owned(), str::to_owned);
                pattern.matches(&text)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const CONF: &str = "unqualified-search-registries = [\"docker.io\"]\n\n[[registry]]\n  prefix = \"\"\n  location = \"a.example/x\"\n\n  [[registry.mirror]]\n    location = \"m.example/x\"\n\n[[registry]]\n  location = \"b.example/y\"\n  blocked = true\n";

    fn fault(rule: &str) -> Fault {
        let text = format!("id: a\ntitle: A\nseam: node-files\nrequirements: [X]\nrules:\n  - {rule}\n");
        Fault::read("a.yaml", &text).unwrap()
    }

    #[rstest]
    #[case::all_mirrors("removeTables: [{name: registry.mirror}]", "m.example", "b.example")]
    #[case::one_registry("removeTables: [{name: registry, where: {location: '^a'}}]", "a.example", "b.example")]
    #[case::a_key("removeTables: [{name: unqualified-search-registries}]", "docker.io", "a.example")]
    #[case::a_key_of_each("removeTables: [{name: registry.blocked}]", "blocked", "b.example")]
    #[case::text("replace: [{find: 'm[.]example', with: elsewhere}]", "m.example", "elsewhere")]
    fn parts_seem_not_to_exist(#[case] edit: &str, #[case] gone: &str, #[case] there: &str) {
        let fault = fault(&format!("{{file: '**/registries.conf', edit: {{{edit}}}}}"));
        let FileView::Changed(seen) = fault.apply_to_file("/etc/containers/registries.conf", CONF) else {
            panic!("unchanged")
        };
        assert!(!seen.contains(gone) && seen.contains(there), "{seen}");
        assert_eq!(fault.apply_to_file("/etc/other.conf", CONF), FileView::Unchanged);
    }

    #[test]
    fn a_file_can_seem_absent_and_other_seams_touch_no_file() {
        let fault = fault("{file: /etc/x, edit: {absent: true}}");
        assert_eq!(fault.apply_to_file("/etc/x", "y"), FileView::Absent);
        let api = "id: a\ntitle: A\nseam: node-api\nrequirements: []\nrules:\n  - act: {close: true}\n";
        assert_eq!(Fault::read("a.yaml", api).unwrap().apply_to_file("/etc/x", "y"), FileView::Unchanged);
    }
}
