//! The folder of a run: its id, the files in it, and the link `latest` beside it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use harness::{
    evidence::{self, Evidence, EvidenceError},
    report::{Report, json, junit, yaml},
};
use jiff::{Timestamp, tz::TimeZone};

/// Where runs are kept unless `--out` says otherwise.
pub(crate) const FOLDER: &str = "conformance-results";

/// The link to the newest run.
const LATEST: &str = "latest";

/// An id that sorts by time and is not given twice: `20260131-142501-embedded-reference-1a2b`.
pub(crate) fn run_id(target: &str, system: &str) -> String {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let salt = (now.subsec_nanosecond() as u32 ^ std::process::id().rotate_left(7)) & 0xffff;
    format!("{}-{target}-{system}-{salt:04x}", now.strftime("%Y%m%d-%H%M%S"))
}

/// Makes the folder of a run, its record, and the link to it.
///
/// # Errors
/// [`EvidenceError::Folder`] when it cannot be written.
pub(crate) fn open(out: &Path, run: &str) -> Result<Evidence, EvidenceError> {
    let evidence = Evidence::create(&out.join(run))?;
    link(out, run).map_err(|source| EvidenceError::Folder { folder: out.to_owned(), source })?;
    Ok(evidence)
}

/// Points `latest` to the run, in one step, so that it never leads nowhere.
fn link(out: &Path, run: &str) -> io::Result<()> {
    let fresh = out.join(format!(".{LATEST}-{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    std::os::unix::fs::symlink(run, &fresh)?;
    fs::rename(&fresh, out.join(LATEST))
}

/// Writes every form of the report beside the events.
///
/// # Errors
/// [`EvidenceError::Write`] for the first file that could not be written.
pub(crate) fn write_reports(folder: &Path, report: &Report) -> Result<(), EvidenceError> {
    for (name, text) in
        [(yaml::FILE, yaml::print(report)), (json::FILE, json::print(report)), (junit::FILE, junit::print(report))]
    {
        write(&folder.join(name), &text)?;
    }
    Ok(())
}

/// Writes a file whole or not at all.
pub(crate) fn write(file: &Path, text: &str) -> Result<(), EvidenceError> {
    let fresh = file.with_extension("part");
    fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, file)).map_err(|error| {
        let _ = fs::remove_file(&fresh);
        EvidenceError::Write { file: file.to_owned(), problem: error.to_string() }
    })
}

/// The folder of a run that was named by its path, its id or `latest`.
pub(crate) fn find(out: &Path, run: &str) -> PathBuf {
    let given = PathBuf::from(run);
    if given.join(evidence::FILE).is_file() { given } else { out.join(run) }
}
