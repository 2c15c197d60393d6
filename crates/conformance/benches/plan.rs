//! How long the program takes to read 10,000 scenarios, to plan them, to find the step of each of their sentences and to
//! print the plan. The scenarios are those of the repository, written down again and again with other words in quotes.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::Context as _;
use harness::datafile::DataFile;
use registry_conformance::{data::Data, parser::Features};

mod figures;

use figures::{Sample, option};

const SCENARIOS: usize = 10_000;

fn main() -> anyhow::Result<()> {
    if !figures::wanted("plan") {
        return Ok(());
    }
    let runs: usize = option("runs").map_or(Ok(5), |runs| runs.parse())?;
    let data = Data::find(None)?;
    let files = generated(&data.files("features", "feature")?)?;
    let folder = tempfile::tempdir()?;
    write(folder.path(), &files)?;
    for room in ["requirements", "systems", "backends", "fixtures"] {
        write(folder.path(), &data.files(room, "yaml")?)?;
    }
    let mut rows = Vec::new();
    for (what, words) in [("program alone (--version)", &["--version"][..]), ("plan of all", &["plan"])] {
        let times: Vec<f64> = (0..runs).map(|_| time(words, folder.path())).collect::<anyhow::Result<_>>()?;
        let sample = Sample::of(times);
        let figure = |share| format!("{:.0}", sample.at(share));
        rows.push(vec![what.to_owned(), sample.len().to_string(), figure(0.5), figure(1.0)]);
    }
    let title = format!("{SCENARIOS} scenarios and a few more in {} files", files.len());
    figures::print(&title, &["", "n", "median ms", "max ms"], &rows);
    Ok(())
}

/// Milliseconds of one call of the program.
fn time(words: &[&str], data: &Path) -> anyhow::Result<f64> {
    let began = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_registry-conformance"))
        .args(words)
        .env("CONFORMANCE_DATA", data)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("starting the program")?;
    anyhow::ensure!(status.success(), "{words:?} ended with {status}");
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn write(folder: &Path, files: &[DataFile]) -> anyhow::Result<()> {
    for file in files {
        let path = folder.join(&file.path);
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        std::fs::write(&path, &file.text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// The feature files over and over under other names, until there are enough scenarios. Names of images differ from
/// copy to copy.
fn generated(files: &[DataFile]) -> anyhow::Result<Vec<DataFile>> {
    let own = Features::read(files)?.suite().scenarios().len();
    anyhow::ensure!(own > 0, "the repository has no scenarios");
    let one = |copy: usize| {
        files.iter().map(move |file| {
            let stem = file.path.file_stem().unwrap_or_default().to_string_lossy();
            let path = file.path.with_file_name(format!("{stem}-{copy}.feature"));
            // A file's stem is one of its tags.
            let text = file.text.replacen(&format!(" @{stem}"), &format!(" @{stem}-{copy}"), 1);
            DataFile::new(path, text.replace("image \"", &format!("image \"copy-{copy}-")))
        })
    };
    Ok((0..SCENARIOS.div_ceil(own)).flat_map(one).collect())
}
