//! How long a start takes, and what it costs: a control plane alone, then whole runs of the program, from its start to
//! the first step of each lane, with processor time and memory of every process through /proc.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use harness::event::{Event, What};
use jiff::Timestamp;
use local_cluster::{ControlPlane, ControlPlaneOptions, PodNetwork, Tools};

mod figures;

use figures::{Sample, option};

/// One scenario of each of two subjects, so that both lanes have something to do.
const SELECT: &str = "@OPR-REMOVED-BOOTSTRAP or @MIR-CONF-EXAMPLE";
/// Distance between two looks at the processes of a run.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    if !figures::wanted("start") {
        return Ok(());
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runs: usize = option("runs").map_or(Ok(5), |runs| runs.parse())?;
    let select = option("select").unwrap_or_else(|| SELECT.to_owned());
    let tools = local_cluster::tool::locate(|line| eprintln!("{line}")).await?;

    let mut alone = Vec::new();
    for _ in 0..runs {
        alone.push(control_plane(&tools).await?);
    }
    let (mut whole, mut processes) = (Vec::new(), BTreeMap::<String, Vec<Cost>>::new());
    for _ in 0..runs {
        let run = Run::take(&select)?;
        for (name, cost) in &run.processes {
            processes.entry(name.clone()).or_default().push(*cost);
        }
        whole.push(run);
    }

    let row = |what: &str, values: Vec<f64>| {
        let sample = Sample::of(values);
        let figure = |share| format!("{:.2}", sample.at(share));
        vec![what.to_owned(), sample.len().to_string(), figure(0.0), format!("{:.2}", sample.at(0.5)), figure(1.0)]
    };
    let of = |figure: fn(&Run) -> f64| whole.iter().map(figure).collect::<Vec<_>>();
    let rows = [
        row("control plane alone, start to ready", alone),
        row("program's start to the run's first event", of(|run| run.planned)),
        row("program's start to the first step of the first lane", of(|run| run.first_step)),
        row("program's start to the first step of the last lane", of(|run| run.last_first_step)),
        row("program's start to its end", of(|run| run.end)),
    ];
    figures::print(&format!("time of `run --select {select:?}`"), &["", "n", "min s", "median s", "max s"], &rows);

    let rows: Vec<_> = processes
        .iter()
        .map(|(name, costs)| {
            let median = |figure: fn(&Cost) -> f64| Sample::of(costs.iter().map(figure)).at(0.5);
            vec![
                name.clone(),
                format!("{:.0}", median(|cost| cost.processes as f64)),
                format!("{:.0}", median(|cost| cost.largest)),
                format!("{:.2}", median(|cost| cost.seconds)),
            ]
        })
        .collect();
    figures::print(
        "processes of one run, medians: how many there were, the largest's memory, processor time of all",
        &["process", "count", "max MiB", "CPU s"],
        &rows,
    );
    Ok(())
}

async fn control_plane(tools: &Tools) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let began = Instant::now();
    let options = ControlPlaneOptions::new(folder.path().join("control-plane"), tools.clone(), PodNetwork::lease()?);
    let control_plane = ControlPlane::start(options).await?;
    let seconds = began.elapsed().as_secs_f64();
    control_plane.stop().await;
    Ok(seconds)
}

/// What the processes of one name cost.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    processes: usize,
    /// MiB of resident memory of the largest of them at its peak.
    largest: f64,
    /// Seconds of processor time of all of them, as last seen.
    seconds: f64,
}

/// One run of the program; times in seconds since its process was started.
struct Run {
    planned: f64,
    first_step: f64,
    last_first_step: f64,
    end: f64,
    processes: BTreeMap<String, Cost>,
}

impl Run {
    fn take(select: &str) -> anyhow::Result<Self> {
        let out = tempfile::tempdir()?;
        let began = (Timestamp::now(), Instant::now());
        let mut child = Command::new(env!("CARGO_BIN_EXE_registry-conformance"))
            .args(["run", "--lanes", "2", "--select", select, "--out"])
            .arg(out.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the program")?;
        let mut seen = BTreeMap::new();
        let status = loop {
            look(child.id(), &mut seen);
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(LOOK);
        };
        let end = began.1.elapsed().as_secs_f64();
        let events = harness::evidence::read(&out.path().join("latest"))?;
        anyhow::ensure!(status.success(), "the run ended with {status}; take figures of a system that passes");
        let since = |event: &Event| event.at.duration_since(began.0).as_secs_f64();
        let first = |lane: usize| {
            let step = |event: &&Event| event.lane == Some(lane) && matches!(event.what, What::StepStarted { .. });
            events.iter().find(step).map(since)
        };
        let firsts = Sample::of([1, 2].into_iter().filter_map(first));
        let mut processes = BTreeMap::<String, Cost>::new();
        for process in seen.into_values() {
            let cost = processes.entry(process.name).or_default();
            cost.processes += 1;
            cost.largest = cost.largest.max(process.peak);
            cost.seconds += process.seconds;
        }
        Ok(Self {
            planned: events.first().map_or(0.0, since),
            first_step: firsts.at(0.0),
            last_first_step: firsts.at(1.0),
            end,
            processes,
        })
    }
}

struct Process {
    name: String,
    peak: f64,
    seconds: f64,
}

/// Looks at the program and everything below it. Processes that have ended keep what was seen last.
fn look(root: u32, seen: &mut BTreeMap<(u32, u64), Process>) {
    let mut known = std::collections::BTreeSet::from([root]);
    let mut stats: Vec<Stat> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| Stat::read(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .collect();
    // Parents come before their children, but for process ids that have begun anew.
    stats.sort_by_key(|stat| stat.began);
    for stat in stats {
        if stat.pid != root && !known.contains(&stat.parent) {
            continue;
        }
        known.insert(stat.pid);
        let Some(peak) = peak(stat.pid) else { continue };
        let name = if stat.pid == root { "harness".to_owned() } else { name(stat.pid) };
        seen.insert((stat.pid, stat.began), Process { name, peak, seconds: stat.seconds });
    }
}

struct Stat {
    pid: u32,
    parent: u32,
    began: u64,
    seconds: f64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name may hold anything; what follows its parenthesis does not.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        // The kernel tells user space of a hundred ticks a second on every Linux there is.
        let seconds = (number(11)? + number(12)?) as f64 / 100.0;
        Some(Self { pid, parent: fields.get(1)?.parse().ok()?, began: number(19)?, seconds })
    }
}

/// Peak resident memory in MiB; none once the process has ended.
fn peak(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// The program, and of ours the words that say which component it is.
fn name(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let program = words.first().map(|word| Path::new(&**word).file_name().unwrap_or_default().to_string_lossy());
    let program = program.unwrap_or_default().into_owned();
    let component: Vec<_> =
        words.iter().skip(1).take(2).take_while(|word| !word.is_empty() && !word.starts_with('-')).collect();
    match (program.as_str(), component.as_slice()) {
        ("registry-conformance", [first, second]) if first.as_ref() == "reference" => format!("reference {second}"),
        ("registry-conformance", [first, ..]) => first.to_string(),
        _ => program,
    }
}
