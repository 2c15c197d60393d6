//! `plan`: what would run, in which lane and order, and why the rest would not. Making the plan is shared with `run`
//! and the test target.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::Arc,
};

use harness::{
    check,
    datafile::DataError,
    evidence,
    plan::{Inputs, Plan},
    report::Report,
    requirement::Catalogue,
    selection::Selection,
    system::System,
    verdict::Exit,
};

use crate::{
    binaries::Binaries,
    cli::{Form, Options, PlanOptions},
    data::Data,
    images,
    lane::{Request, Target as _, TargetName, Wiring},
    output,
    parser::Features,
    results,
    vocabulary::Vocabulary,
};

/// What `--images` means in `plan` when no folder is named.
pub(crate) const LIST: &str = "-";

/// Everything that is known before something is started.
pub(crate) struct Prepared<W: Wiring> {
    pub data: Data,
    pub catalogue: Catalogue,
    pub features: Arc<Features>,
    pub system: System,
    pub binaries: Binaries,
    pub target_name: String,
    /// How many lanes the target can have at most.
    pub most_lanes: Option<usize>,
    pub target: Arc<W::Target>,
    pub vocabulary: Vocabulary<W::World>,
    pub selection: Selection,
    /// The id of the run that would be made.
    pub run: String,
}

impl<W: Wiring> Prepared<W> {
    /// Reads the data and finds system and target.
    ///
    /// # Errors
    /// For the first thing that does not parse or does not exist, with file and line where there is one.
    pub fn new(wiring: &W, options: &Options, selection: Selection) -> anyhow::Result<Self> {
        let data = Data::find(options.data.as_deref())?;
        let catalogue = data.catalogue()?;
        let features = Arc::new(data.features()?);
        let systems = data.systems(&catalogue)?;
        data.backends()?;
        let system = System::find(&systems, &options.system)?.clone();
        let binaries = Binaries::find(&system, options.bin_dir.as_deref(), features.suite(), &catalogue)?;
        let found = target_name(wiring, options.target.as_deref())?;
        let target_name = found.name.to_owned();
        let run = results::run_id(&target_name, &system.name);
        let target = wiring.target(Request {
            target: target_name.clone(),
            system: binaries.install(&system),
            binaries: binaries.clone(),
            data: data.clone(),
            folder: std::path::absolute(options.out.join(&run))?,
            keep: options.keep,
            place: options.place.clone(),
        })?;
        let vocabulary = Vocabulary::registered();
        Ok(Self {
            data,
            catalogue,
            features,
            system,
            binaries,
            target_name,
            most_lanes: found.most_lanes,
            target: Arc::new(target),
            vocabulary,
            selection,
            run,
        })
    }

    /// The lanes that are wanted and that the target can have.
    pub fn lanes(&self, options: &Options) -> usize {
        wanted_lanes(options).min(self.most_lanes.unwrap_or(usize::MAX))
    }

    /// Makes the plan and checks that every sentence in it has exactly one step.
    ///
    /// # Errors
    /// When nothing is selected, or a sentence has no step or several.
    pub fn plan(&self, options: &Options) -> anyhow::Result<Plan> {
        let unknown = check::unknown_tags(&self.catalogue, self.features.suite());
        if let Some(finding) = unknown.first() {
            anyhow::bail!("{finding}");
        }
        let plan = Plan::make(&Inputs {
            suite: self.features.suite(),
            catalogue: &self.catalogue,
            system: &self.system,
            capabilities: &self.target.capabilities(),
            lacking: &self.binaries.lacking,
            selection: &self.selection,
            docs_versions: &options.docs_versions,
            lanes: self.lanes(options),
            seed: options.seed,
            seconds: &earlier_seconds(options),
        })?;
        let findings = self.vocabulary.check(&self.features, plan.scenarios().map(|(_, scenario)| scenario));
        if !findings.is_empty() {
            let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
            anyhow::bail!("{}\n`steps` lists every step there is", lines.join("\n"));
        }
        Ok(plan)
    }
}

/// The lanes asked for, else one per two cores and two at most: a control plane keeps a core busy while it starts.
fn wanted_lanes(options: &Options) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    options.lanes.map_or_else(|| cores.clamp(1, 2), usize::from)
}

fn target_name<W: Wiring>(wiring: &W, given: Option<&str>) -> Result<TargetName, DataError> {
    let targets = wiring.targets();
    let name = given.or_else(|| targets.first().map(|target| target.name)).unwrap_or_default();
    if let Some(found) = targets.iter().find(|target| target.name == name) {
        return Ok(*found);
    }
    let known: Vec<String> = targets.iter().map(|target| format!("{} ({})", target.name, target.about)).collect();
    Err(DataError::Unknown { what: "target", name: name.to_owned(), known: format!("there are: {}", known.join(", ")) })
}

/// How long scenarios took in the newest run, to balance lanes; empty when there is none.
fn earlier_seconds(options: &Options) -> BTreeMap<String, f64> {
    let Ok(events) = evidence::read(&results::find(&options.out, "latest")) else { return BTreeMap::new() };
    Report::of(&events)
        .scenarios
        .into_iter()
        .filter(|scenario| scenario.seconds > 0.0)
        .map(|scenario| (format!("{}:{}", scenario.file, scenario.line), scenario.seconds))
        .collect()
}

/// The command.
pub(crate) fn command<W: Wiring>(wiring: &W, options: &PlanOptions) -> anyhow::Result<Exit> {
    let selection = Selection::parse_any(&options.options.select)?;
    let mut place = options.options.clone();
    let lists_images = place.place.images.take_if(|folder| folder == Path::new(LIST)).is_some();
    let prepared = Prepared::new(wiring, &place, selection)?;
    let plan = prepared.plan(&place)?;
    if lists_images {
        let images = prepared.target.images(&needs(&plan))?;
        output::print(&match options.format {
            Form::Json => serde_json::to_string_pretty(&images)? + "\n",
            Form::Text => images::text(&images, &prepared.system.title, &prepared.target_name),
        })?;
        return Ok(Exit::Passed);
    }
    output::print(&match options.format {
        Form::Json => serde_json::to_string_pretty(&plan)? + "\n",
        Form::Text => text(&plan, &prepared.system, &prepared.target_name),
    })?;
    Ok(Exit::Passed)
}

/// What the scenarios need that were asked for, those included that will not run because it is not here.
fn needs(plan: &Plan) -> BTreeSet<String> {
    let run = plan.scenarios().map(|(_, scenario)| scenario);
    let all = run.chain(plan.not_run.iter().map(|one| &one.scenario));
    all.flat_map(|scenario| scenario.needs().map(str::to_owned)).collect()
}

/// The plan for people.
fn text(plan: &Plan, system: &System, target: &str) -> String {
    let mut out = format!("{} on {target}: {} scenarios in {} lanes\n", system.title, plan.len(), plan.lanes.len());
    for (index, lane) in plan.lanes.iter().enumerate() {
        let _ = writeln!(out, "\nlane {}", index + 1);
        for scenario in lane {
            let _ = writeln!(out, "  {}  [{}]  {}", scenario.name, scenario.requirements.join(" "), scenario.id());
        }
    }
    if !plan.not_run.is_empty() {
        let _ = writeln!(out, "\nnot run");
        for one in &plan.not_run {
            let _ = writeln!(out, "  {}  {}: {}", one.scenario.name, one.scenario.id(), one.reason);
        }
    }
    out
}
