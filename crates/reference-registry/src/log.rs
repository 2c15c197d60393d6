//! The registry's log: one line per event on standard output in the text form of the logrus library,
//! `time="…" level=info msg="…" key=value`, keys sorted (registry source pkg/cmd/dockerregistry/dockerregistry.go:283-332).
//! It is not a `tracing` subscriber because the line is a documented output and must not depend on what else the process
//! installs; tokens never become fields.

use std::{
    fmt::Write as _,
    io::{self, Write},
    str::FromStr,
    sync::{Arc, Mutex},
};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is odd.
    Warning,
    /// What happens.
    Info,
    /// How it happens.
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "panic" | "fatal" | "error" => Ok(Self::Error),
            "warn" | "warning" => Ok(Self::Warning),
            "info" => Ok(Self::Info),
            "debug" | "trace" => Ok(Self::Debug),
            _ => Err(()),
        }
    }
}

/// Where lines go.
#[derive(Clone)]
pub struct Log {
    level: Level,
    instance: Arc<str>,
    out: Arc<Mutex<dyn Write + Send>>,
}

/// The fields of a line besides time, level and message.
pub type Fields = Vec<(&'static str, String)>;

impl Log {
    /// A log on standard output.
    pub fn stdout(level: Level) -> Self {
        Self::to(level, io::stdout())
    }

    /// A log on any writer.
    pub fn to(level: Level, out: impl Write + Send + 'static) -> Self {
        Self { level, instance: uuid::Uuid::new_v4().to_string().into(), out: Arc::new(Mutex::new(out)) }
    }

    /// A line at info.
    pub fn info(&self, message: &str, fields: Fields) {
        self.line(Level::Info, message, fields);
    }

    /// A line at warning.
    pub fn warning(&self, message: &str, fields: Fields) {
        self.line(Level::Warning, message, fields);
    }

    /// A line at error.
    pub fn error(&self, message: &str, fields: Fields) {
        self.line(Level::Error, message, fields);
    }

    /// A line at debug.
    pub fn debug(&self, message: &str, fields: Fields) {
        self.line(Level::Debug, message, fields);
    }

    fn line(&self, level: Level, message: &str, mut fields: Fields) {
        if level > self.level {
            return;
        }
        fields.push(("instance.id", self.instance.to_string()));
        fields.sort();
        let mut line = format!("time=\"{}\" level={} msg={}", jiff::Timestamp::now(), level.name(), quoted(message));
        for (key, value) in fields {
            let _ = write!(line, " {key}={}", quoted(&value));
        }
        line.push('\n');
        let mut out = self.out.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A log that cannot be written must not stop the registry; there is nowhere left to say so.
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

/// Quotes a value as logrus does: only when it has characters outside a small set, or is empty.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(text, "\\x{:02x}", c as u32);
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("response", "response")]
    #[case("response completed", "\"response completed\"")]
    #[case("", "\"\"")]
    #[case("a\"b\nc", "\"a\\\"b\\nc\"")]
    #[case("10.0.0.1:5000", "\"10.0.0.1:5000\"")]
    fn quoting(#[case] value: &str, #[case] expected: &str) {
        assert_eq!(quoted(value), expected);
    }

    #[test]
    fn a_line_has_sorted_fields_and_respects_the_level() {
        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let out = Shared::default();
        let log = Log::to(Level::Info, out.clone());
        log.debug("unseen", vec![]);
        log.info("two words", vec![("z", "1".into()), ("a", "2".into())]);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with("time=\""), "{text}");
        assert!(text.contains(" level=info msg=\"two words\" a=2 instance.id="), "{text}");
    }
}
