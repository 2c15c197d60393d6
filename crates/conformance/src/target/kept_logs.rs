//! The logs of a lane that could not be started. Its folder goes; the logs are what explains the failure, so they stay
//! beside the report, without secrets.

use std::{fs, io, path::Path};

use harness::{evidence::Evidence, failure::Failure};

/// Copies every log below `lane` to `logs/lane-NUMBER` in the folder of the run, and lets the failure lead there.
pub(super) fn keep(number: usize, lane: &Path, evidence: &Evidence, mut failure: Failure) -> Failure {
    let kept = evidence.folder().join("logs").join(format!("lane-{number}"));
    for logs in ["cluster/control-plane/logs", "cluster/logs"].map(|name| lane.join(name)) {
        match copy(&logs, &kept, evidence) {
            Ok(()) => {
                let (from, to) = (logs.display().to_string(), kept.display().to_string());
                failure.seen = failure.seen.map(|seen| seen.replace(&from, &to));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => evidence.note(format!("the logs in {} could not be kept: {error}", logs.display())),
        }
    }
    failure
}

fn copy(from: &Path, to: &Path, evidence: &Evidence) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path.extension().is_none_or(|end| end != "log") {
            continue;
        }
        fs::create_dir_all(to)?;
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        fs::write(to.join(path.file_name().unwrap_or_default()), evidence.redactor().text(&text).as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leads_to_logs_that_stay_and_show_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let evidence = Evidence::create(folder.path()).unwrap();
        evidence.secret("s3cr3t-value");
        let lane = folder.path().join("lanes/1");
        let logs = lane.join("cluster/control-plane/logs");
        fs::create_dir_all(&logs).unwrap();
        fs::write(logs.join("etcd.log"), "it said s3cr3t-value\n").unwrap();
        let seen = format!("etcd ended; its whole log is {}", logs.join("etcd.log").display());
        let failure = keep(1, &lane, &evidence, Failure::error("starting", seen));
        fs::remove_dir_all(&lane).unwrap();
        let seen = failure.seen.unwrap();
        let named = seen.rsplit(' ').next().unwrap();
        assert_eq!(fs::read_to_string(named).unwrap(), "it said [redacted]\n");
    }
}
