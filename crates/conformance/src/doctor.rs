//! `doctor`: what the machine has and lacks, and how to get it. Looking is left to the targets.

use std::fmt::Write as _;

use harness::verdict::Exit;

use crate::{
    lane::{Checked, Wiring},
    output,
};

/// The command. It ends with 2 when something is missing without which no run is possible.
pub(crate) async fn command<W: Wiring>(wiring: &W) -> anyhow::Result<Exit> {
    let checked = wiring.doctor().await;
    output::print(&text(&checked))?;
    let missing = checked.iter().any(|one| one.required && one.found.is_err());
    Ok(if missing { Exit::Unjudged } else { Exit::Passed })
}

fn text(checked: &[Checked]) -> String {
    let width = checked.iter().map(|one| one.what.chars().count()).max().unwrap_or_default();
    let mut out = String::new();
    for one in checked {
        let (word, found) = match &one.found {
            Ok(found) => ("ok     ", found),
            Err(missing) if one.required => ("MISSING", missing),
            Err(missing) => ("absent ", missing),
        };
        let _ = writeln!(out, "{word}  {:<width$}  {found}", one.what);
        if let (Err(_), Some(remedy)) = (&one.found, &one.remedy) {
            let _ = writeln!(out, "         {:<width$}  {remedy}", "");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_how_to_get_it() {
        let one = |what: &str, found: Result<&str, &str>, remedy: Option<&str>, required| Checked {
            what: what.into(),
            found: found.map(Into::into).map_err(Into::into),
            remedy: remedy.map(Into::into),
            required,
        };
        insta::assert_snapshot!(text(&[
            one("etcd", Ok("/usr/bin/etcd 3.6.8"), None, true),
            one("kube-apiserver", Err("not in PATH, cache or KUBEBUILDER_ASSETS"), Some("install Go 1.26, or set KUBEBUILDER_ASSETS"), true),
            one("podman", Err("not on PATH"), Some("apt-get install podman"), false),
        ]), @r"
        ok       etcd            /usr/bin/etcd 3.6.8
        MISSING  kube-apiserver  not in PATH, cache or KUBEBUILDER_ASSETS
                                 install Go 1.26, or set KUBEBUILDER_ASSETS
        absent   podman          not on PATH
                                 apt-get install podman
        ");
    }
}
