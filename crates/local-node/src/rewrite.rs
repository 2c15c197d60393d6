//! Turns what a pod says about paths and addresses into what is true on this machine, where nothing is mounted and all pods
//! share one network. Pure text: it looks at no file and opens no port.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

/// The replacements that hold for one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rewrite {
    /// Documented path and real path, longest documented path first.
    paths: Vec<(String, String)>,
    /// Ports that the containers of the pod declare.
    ports: Vec<u16>,
    listen_address: String,
    pod_address: String,
}

impl Rewrite {
    /// `listen_address` is where the pod's processes can listen, `pod_address` what its status says.
    pub(crate) fn new(
        mounts: impl IntoIterator<Item = (String, PathBuf)>,
        ports: Vec<u16>,
        listen_address: String,
        pod_address: String,
    ) -> Self {
        let mut paths: Vec<_> = mounts
            .into_iter()
            .map(|(documented, real)| (trimmed(&documented).to_owned(), real.to_string_lossy().into_owned()))
            .filter(|(documented, _)| !documented.is_empty())
            .collect();
        paths.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        Self { paths, ports, listen_address, pod_address }
    }

    /// A value of an environment variable, an argument or a part of a command.
    pub(crate) fn value(&self, text: &str) -> String {
        if let Some(address) = self.listen(text) {
            return address;
        }
        // `--listen=:5000`
        if let Some((flag, value)) = text.split_once('=')
            && flag.starts_with('-')
            && let Some(address) = self.listen(value)
        {
            return format!("{flag}={address}");
        }
        self.paths_in(text)
    }

    /// Replaces each mount path where it stands as a whole path or as the beginning of one.
    fn paths_in(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        let mut before = None;
        while let Some(next) = rest.chars().next() {
            let found = (next == '/' && starts_path(before))
                .then(|| self.paths.iter().find(|(documented, _)| begins_with_path(rest, documented)))
                .flatten();
            match found {
                Some((documented, real)) => {
                    result.push_str(real);
                    before = documented.chars().last();
                    rest = &rest[documented.len()..];
                }
                None => {
                    result.push(next);
                    before = Some(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
        }
        result
    }

    /// Where `path` really lies, if it is below a mount.
    pub(crate) fn path(&self, path: &str) -> Option<PathBuf> {
        let rewritten = self.paths_in(path);
        (rewritten != path).then(|| PathBuf::from(rewritten))
    }

    /// `:5000`, `0.0.0.0:5000`, `[::]:5000` or the pod's own address, for a declared port.
    fn listen(&self, text: &str) -> Option<String> {
        let (host, port) = text.rsplit_once(':')?;
        let is_everywhere = matches!(host, "" | "0.0.0.0" | "[::]") || host == self.pod_address;
        let port = port.parse::<u16>().ok()?;
        (is_everywhere && self.ports.contains(&port)).then(|| format!("{}:{port}", self.listen_address))
    }
}

/// The ports that the containers of a pod declare.
pub(crate) fn declared_ports(pod: &Pod) -> Vec<u16> {
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| u16::try_from(port.container_port).ok()).collect()
}

/// A configuration file in which each `:PORT`, `0.0.0.0:PORT` or `[::]:PORT` that is a word by itself has `address`.
pub(crate) fn listen_addresses(text: &str, ports: &[u16], address: &str) -> String {
    let ends_word = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',');
    let mut result = String::with_capacity(text.len());
    for piece in text.split_inclusive(ends_word) {
        let word = piece.trim_end_matches(ends_word);
        let port = word.rsplit_once(':').filter(|(host, _)| matches!(*host, "" | "0.0.0.0" | "[::]"));
        match port.and_then(|(_, port)| port.parse().ok()).filter(|port| ports.contains(port)) {
            Some(port) => result.push_str(&format!("{address}:{port}{}", &piece[word.len()..])),
            None => result.push_str(piece),
        }
    }
    result
}

fn trimmed(path: &str) -> &str {
    path.trim_end_matches('/')
}

/// Whether a `/` after `before` can be the first character of an absolute path; `file:///x` and `a=/x` are, `https://x` is not.
fn starts_path(before: Option<char>) -> bool {
    before.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '~' | '}' | ')' | '*')))
}

fn begins_with_path(text: &str, path: &str) -> bool {
    text.strip_prefix(path).is_some_and(|rest| {
        rest.chars()
            .next()
            .is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '~' | '%' | '+' | '@')))
    })
}

/// The folder that makes each mount of a container appear below one root at its documented path, by symbolic links.
///
/// A mount inside another mount gets its link inside that volume when nothing stands there yet, as a mount point would.
pub(crate) fn link_root(root: &Path, mounts: &[(String, PathBuf)]) -> std::io::Result<()> {
    if root.exists() {
        std::fs::remove_dir_all(root)?;
    }
    std::fs::create_dir_all(root)?;
    let mut ordered: Vec<_> = mounts.iter().collect();
    ordered.sort_by_key(|(documented, _)| documented.len());
    for (documented, real) in ordered {
        let relative = trimmed(documented).trim_start_matches('/');
        if relative.is_empty() {
            continue;
        }
        let link = root.join(relative);
        if let Some(parent) = link.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(real, &link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn rewrite() -> Rewrite {
        let mounts = [
            ("/etc/secrets", "/n/tls"),
            ("/registry/", "/n/data"),
            ("/registry/cache", "/n/cache"),
            ("/gcs", "/n/gcs"),
        ];
        Rewrite::new(
            mounts.map(|(documented, real)| (documented.to_owned(), PathBuf::from(real))),
            vec![5000],
            "127.3.1.9".into(),
            "10.3.1.9".into(),
        )
    }

    #[rstest]
    #[case("/etc/secrets/tls.crt", "/n/tls/tls.crt")]
    #[case("/etc/secrets", "/n/tls")]
    #[case("/etc/secrets/", "/n/tls/")]
    #[case("/etc/secrets2/tls.crt", "/etc/secrets2/tls.crt")]
    #[case("/etc/secrets.old", "/etc/secrets.old")]
    #[case("/opt/etc/secrets/x", "/opt/etc/secrets/x")]
    #[case("--config=/etc/secrets/a,/registry/b", "--config=/n/tls/a,/n/data/b")]
    #[case("/registry/cache/x:/registry/y", "/n/cache/x:/n/data/y")]
    #[case("file:///gcs/key", "file:///gcs/key")]
    #[case("cat '/gcs/key' > \"/registry\"", "cat '/n/gcs/key' > \"/n/data\"")]
    #[case("https://host/registry/v2", "https://host/registry/v2")]
    #[case("héé /gcs", "héé /n/gcs")]
    #[case(":5000", "127.3.1.9:5000")]
    #[case("0.0.0.0:5000", "127.3.1.9:5000")]
    #[case("[::]:5000", "127.3.1.9:5000")]
    #[case("10.3.1.9:5000", "127.3.1.9:5000")]
    #[case("--listen=:5000", "--listen=127.3.1.9:5000")]
    #[case(":5001", ":5001")]
    #[case("image-registry.openshift-image-registry.svc:5000", "image-registry.openshift-image-registry.svc:5000")]
    fn values(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(rewrite().value(text), expected);
    }

    #[rstest]
    #[case("bindAddress: \":60000\"\n", "bindAddress: \"127.3.1.9:60000\"\n")]
    #[case("a: 0.0.0.0:60000", "a: 127.3.1.9:60000")]
    #[case("{\"a\":\"[::]:60000\",\"b\":1}", "{\"a\":\"127.3.1.9:60000\",\"b\":1}")]
    #[case("a: :5000\nb: host:60000\nc::60000", "a: :5000\nb: host:60000\nc::60000")]
    fn files(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(listen_addresses(text, &[60000], "127.3.1.9"), expected);
    }

    #[test]
    fn the_root_shows_mounts_at_their_documented_paths() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("volume");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("f"), "x").unwrap();
        let root = folder.path().join("rootfs");
        for _ in 0..2 {
            let inner = ("/a/b/inner".to_owned(), folder.path().to_owned());
            link_root(&root, &[inner, ("/a/b/".to_owned(), volume.clone())]).unwrap();
            assert_eq!(std::fs::read_to_string(root.join("a/b/f")).unwrap(), "x");
            assert!(root.join("a/b/inner/volume").exists());
        }
    }
}
