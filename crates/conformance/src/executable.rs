//! Where the one executable is that also is every component. A test binary is not; it names the one beside it.

use std::{path::PathBuf, sync::OnceLock};

static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();

/// Names the executable that is also every component, for a process that is not: a test binary.
pub fn use_executable(path: PathBuf) {
    // The first word counts; a test binary says it once.
    let _ = EXECUTABLE.set(path);
}

/// The executable that is also every component: this one, unless another was named.
pub fn own_executable() -> PathBuf {
    let this = || std::env::current_exe().unwrap_or_else(|_| PathBuf::from("registry-conformance"));
    EXECUTABLE.get().cloned().unwrap_or_else(this)
}
