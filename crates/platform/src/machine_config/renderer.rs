//! One run of `machine-config-controller bootstrap`: manifests in, a rendered machine configuration out. It needs no API
//! server (machine-config-operator source cmd/machine-config-controller/bootstrap.go).

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::OnceCell;

use super::inputs::{self, Inputs};
use super::rendered::Rendered;

/// A run takes half a second; one that takes so long will not end.
const LIMIT: Duration = Duration::from_secs(15);
/// How many of its last lines are told.
const LINES: usize = 12;
/// How the program begins the line that tells its version.
const VERSION: &str = "] Version: ";
/// How the program begins what it says of objects that it refuses (cmd/machine-config-controller/bootstrap.go:47).
const REFUSAL: &str = "error running MCC[BOOTSTRAP]: ";

/// Why nothing was rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The program works and says that the manifests cannot be followed.
    #[error("rendering with `{command}`: {outcome}: {reason}")]
    Refused {
        /// The command line.
        command: String,
        /// How it ended.
        outcome: String,
        /// What it said.
        reason: String,
    },
    /// The program does not work.
    #[error("rendering with `{command}`: {outcome}\nlast lines:\n{log}")]
    Unable {
        /// The command line.
        command: String,
        /// How it ended.
        outcome: String,
        /// Its last lines.
        log: String,
    },
    /// The files around it could not be read or written.
    #[error("rendering: {doing} {}: {source}; is there space, and is the folder writable?", .path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The program with its templates.
pub(super) struct Renderer {
    program: PathBuf,
    templates: PathBuf,
    build: OnceCell<String>,
}

impl Renderer {
    pub(super) fn new(program: PathBuf, templates: PathBuf) -> Self {
        Self { program, templates, build: OnceCell::new() }
    }

    /// Renders the configuration of one pool.
    ///
    /// # Errors
    /// See [`RenderError`].
    pub(super) async fn render(&self, inputs: &Inputs, pool: &str) -> Result<Rendered, RenderError> {
        let scratch = tempfile::tempdir().map_err(file("making a folder in", &std::env::temp_dir()))?;
        let [manifests, out] = ["manifests", "rendered"].map(|name| scratch.path().join(name));
        let pull_secret = scratch.path().join("pull-secret.json");
        for folder in [&manifests, &out] {
            std::fs::create_dir_all(folder).map_err(file("making", folder))?;
        }
        for (name, manifest) in inputs.manifests(pool, self.build().await?) {
            write(&manifests.join(format!("{name}.json")), &manifest)?;
        }
        write(&pull_secret, &inputs::pull_secret())?;

        let mut command = tokio::process::Command::new(&self.program);
        command.arg("bootstrap").arg("--templates").arg(&self.templates);
        command.arg("--manifest-dir").arg(&manifests).arg("--dest-dir").arg(&out);
        command.arg("--pull-secret").arg(&pull_secret).arg("--payload-version").arg(&inputs.version);
        let ran = Ran::of(command).await?;
        if !ran.status.success() {
            return Err(match refusal(&ran.said) {
                Some(reason) => RenderError::Refused { command: ran.line, outcome: ran.status.to_string(), reason },
                None => ran.unable(ran.status.to_string()),
            });
        }
        let text = find(&out.join("machine-configs"), &format!("rendered-{pool}-"))
            .ok_or_else(|| ran.unable(format!("it ended well and rendered nothing for the pool {pool}")))?;
        Rendered::parse(&text).map_err(|why| ran.unable(format!("it rendered what cannot be read: {why}")))
    }

    /// The version that was built into the program; it renders for configurations of its own version only
    /// (pkg/controller/render/render_controller.go:816). Without folders it says the version and ends.
    async fn build(&self) -> Result<&str, RenderError> {
        let asked = self.build.get_or_try_init(|| async {
            let mut command = tokio::process::Command::new(&self.program);
            command.arg("bootstrap");
            let ran = Ran::of(command).await?;
            let version = ran.said.lines().find_map(|line| line.split_once(VERSION)?.1.split_whitespace().next());
            version.map(str::to_owned).ok_or_else(|| ran.unable(format!("{}, without its version", ran.status)))
        });
        asked.await.map(String::as_str)
    }
}

/// A run of the program that has ended.
struct Ran {
    line: String,
    status: ExitStatus,
    said: String,
}

impl Ran {
    async fn of(mut command: tokio::process::Command) -> Result<Self, RenderError> {
        command.stdin(Stdio::null()).kill_on_drop(true);
        let line = command_line(command.as_std());
        let unable = |outcome| RenderError::Unable { command: line.clone(), outcome, log: String::new() };
        match tokio::time::timeout(LIMIT, command.output()).await {
            Err(_) => Err(unable(format!("it did not end within {} s and was killed", LIMIT.as_secs()))),
            Ok(Err(error)) => Err(unable(format!("it could not be started: {error}"))),
            Ok(Ok(output)) => {
                let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
                Ok(Self { line, status: output.status, said: format!("{out}{err}") })
            }
        }
    }

    fn unable(&self, outcome: String) -> RenderError {
        RenderError::Unable { command: self.line.clone(), outcome, log: last(&self.said) }
    }
}

/// The text of the file whose name begins so.
fn find(folder: &Path, prefix: &str) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?;
    let file = entries.flatten().find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))?;
    std::fs::read_to_string(file.path()).ok()
}

/// What the program said of the objects it refuses.
fn refusal(said: &str) -> Option<String> {
    said.lines().find_map(|line| Some(line.split_once(REFUSAL)?.1.to_owned()))
}

fn last(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn command_line(command: &std::process::Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn write(path: &Path, manifest: &serde_json::Value) -> Result<(), RenderError> {
    std::fs::write(path, manifest.to_string()).map_err(file("writing", path))
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RenderError {
    let path = path.to_owned();
    move |source| RenderError::File { doing, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use kube::api::DynamicObject;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn inputs() -> Inputs {
        let object = |kind: &str, status: serde_json::Value| -> DynamicObject {
            let object = json!({"apiVersion": "config.openshift.io/v1", "kind": kind, "metadata": {"name": "x"}, "status": status});
            serde_json::from_value(object).unwrap()
        };
        let desired = json!({"desired": {"version": "4.6.0", "image": "r.example/release:1"}});
        Inputs::of(&[
            object("ClusterVersion", desired),
            object("FeatureGate", json!({})),
            object("Infrastructure", json!({})),
        ])
        .unwrap()
    }

    /// A program in a folder of its own.
    fn program(script: &str) -> (tempfile::TempDir, Renderer) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine-config-controller");
        let version = "echo 'I1121 07:00:00.1 1 bootstrap.go:40] Version: v4.16.0-1 (abc)' >&2";
        let script = format!("#!/bin/sh\n{version}\ntest $# = 1 && exit 255\n{script}\n");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let renderer = Renderer::new(path, "/no/templates".into());
        (folder, renderer)
    }

    const CONFIG: &str = r#"mkdir -p "$7/machine-configs"
cat > "$7/machine-configs/rendered-worker-1.yaml" <<END
metadata: {name: rendered-worker-1}
spec: {config: {storage: {files: [{path: /etc/containers/registries.conf, contents: {source: "data:,a%3D1"}}]}}}
END
grep -q '"v4.16.0-1"' "$5/controllerconfig.json" && test -f "$5/pool.json" && test -f "$9""#;

    #[tokio::test]
    async fn what_is_rendered_is_read() {
        let (_folder, renderer) = program(CONFIG);
        let rendered = renderer.render(&inputs(), "worker").await.unwrap();
        assert_eq!(rendered.name, "rendered-worker-1");
        assert_eq!(rendered.files["/etc/containers/registries.conf"], "a=1");
    }

    #[rstest]
    #[case::unknown_flag("echo 'Error: unknown flag: --payload-version' >&2; exit 1", "exit status: 1", "unknown flag")]
    #[case::nothing("echo done", "rendered nothing for the pool worker", "done")]
    #[tokio::test]
    async fn a_program_that_does_not_work_is_told_from_one_that_refuses(
        #[case] script: &str,
        #[case] outcome: &str,
        #[case] log: &str,
    ) {
        let (_folder, renderer) = program(script);
        let error = renderer.render(&inputs(), "worker").await.unwrap_err();
        assert!(matches!(error, RenderError::Unable { .. }), "{error}");
        let text = error.to_string();
        for expected in [outcome, log, "bootstrap --templates /no/templates"] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[tokio::test]
    async fn another_program_is_told_by_its_last_words() {
        let renderer = Renderer::new("/bin/false".into(), "/no/templates".into());
        let error = renderer.render(&inputs(), "worker").await.unwrap_err().to_string();
        assert!(error.contains("`/bin/false bootstrap`: exit status: 1, without its version"), "{error}");
        let renderer = Renderer::new("/no/program".into(), "/no/templates".into());
        let error = renderer.render(&inputs(), "worker").await.unwrap_err().to_string();
        assert!(error.contains("it could not be started: No such file"), "{error}");
    }

    #[tokio::test]
    async fn a_refusal_is_the_objects_fault() {
        let (_folder, renderer) = program(
            "echo 'F1121 07:00:00.1 1 bootstrap.go:47] error running MCC[BOOTSTRAP]: no, because' >&2; exit 255",
        );
        let error = renderer.render(&inputs(), "worker").await.unwrap_err();
        assert!(matches!(&error, RenderError::Refused { reason, .. } if reason == "no, because"), "{error}");
    }
}
