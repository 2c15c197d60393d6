//! Documented commands and what they print.

use cucumber::{gherkin::Step as Text, given, then, when};
use harness::{
    event::What,
    failure::{Failure, Step},
    shell::Ran,
};

use crate::world::World;

impl World {
    /// Fills in the documents' placeholders; the project and the user are the scenario's own.
    fn filled(&self, command: &str) -> Result<String, Failure> {
        let mut filled = command.trim().to_owned();
        for placeholder in ["<user_name>", "<username>"] {
            if filled.contains(placeholder) {
                filled = filled.replace(placeholder, &self.user()?.name);
            }
        }
        Ok(filled)
    }

    /// Runs a documented command line as the administrator and remembers what it did.
    pub(crate) async fn run(&mut self, command: &str) -> Step {
        let command = self.filled(command)?;
        let began = std::time::Instant::now();
        let ran = self.shell.run(&self.env.commands.line(command.clone()), self.env.limits.answer).await?;
        self.env.evidence.record(What::CommandRun {
            argv: vec!["sh".to_owned(), "-c".to_owned(), ran.command.clone()],
            exit: Some(ran.code),
            stdout: ran.stdout.clone(),
            stderr: ran.stderr.clone(),
            seconds: began.elapsed().as_secs_f64(),
        });
        self.ran = Some(Ran { command, ..ran });
        Ok(())
    }
}

#[given(expr = "the file {string}")]
fn a_file(world: &mut World, name: String, step: &Text) -> Step {
    let text = docstring(step)?;
    std::fs::write(world.folder().join(&name), text)
        .map_err(|error| Failure::error(format!("writing the file {name}"), error))
}

#[when("the administrator runs")]
async fn runs(world: &mut World, step: &Text) -> Step {
    world.run(docstring(step)?).await
}

#[when("the administrator runs the same command again")]
async fn runs_again(world: &mut World) -> Step {
    let command = world.ran()?.command.clone();
    world.run(&command).await
}

#[then("the command succeeds")]
fn succeeds(world: &mut World) -> Step {
    world.ran()?.clone().succeeded().map(drop)
}

#[then("the command fails")]
fn fails(world: &mut World) -> Step {
    let ran = world.ran()?;
    match ran.code {
        0 => Err(Failure::fail(format!("running `{}`", ran.command), "an exit code that is not 0", ran.summary())),
        _ => Ok(()),
    }
}

#[then("the command fails and prints")]
fn fails_and_prints_text(world: &mut World, step: &Text) -> Step {
    let expected = docstring(step)?.trim();
    let ran = world.ran()?;
    if ran.code != 0 && ran.stderr.trim() == expected {
        return Ok(());
    }
    let expected = format!("a failure whose whole stderr is {expected:?}");
    Err(Failure::fail(format!("running `{}`", ran.command), expected, ran.summary()))
}

#[then(expr = "the command fails and prints {string}")]
fn fails_and_prints(world: &mut World, expected: String) -> Step {
    let ran = world.ran()?;
    if ran.code != 0 && ran.stderr.contains(&expected) {
        return Ok(());
    }
    let expected = format!("a failure whose stderr has {expected:?}");
    Err(Failure::fail(format!("running `{}`", ran.command), expected, ran.summary()))
}

#[then(expr = "the command prints {string}")]
fn prints(world: &mut World, expected: String) -> Step {
    let ran = world.ran()?;
    match ran.stdout.lines().any(|line| line.trim() == expected) {
        true => Ok(()),
        false => Err(Failure::fail(format!("running `{}`", ran.command), expected, ran.summary())),
    }
}

#[then(expr = "the command does not print {string}")]
fn does_not_print(world: &mut World, unwanted: String) -> Step {
    let ran = world.ran()?;
    match ran.stdout.contains(&unwanted) || ran.stderr.contains(&unwanted) {
        false => Ok(()),
        true => Err(Failure::fail(format!("running `{}`", ran.command), format!("no {unwanted:?}"), ran.summary())),
    }
}

#[then("the command prints a table with")]
fn prints_table(world: &mut World, step: &Text) -> Step {
    let wanted = &step.table.as_ref().ok_or_else(|| Failure::error("reading the step", "it has no table"))?.rows;
    let ran = world.ran()?;
    let mut lines = ran.stdout.lines();
    let header = lines.next().unwrap_or_default();
    let row = lines.next().unwrap_or_default();
    for (column, value) in wanted[0].iter().zip(&wanted[1]) {
        // Columns are aligned, so a cell begins where its heading begins; an empty cell stays empty that way.
        let cell = header.find(column.as_str()).and_then(|at| row.get(at..)).and_then(|cell| cell.split("  ").next());
        if cell.map(str::trim) != Some(value) {
            let tried = format!("running `{}`", ran.command);
            return Err(Failure::fail(tried, format!("{column} = {value}"), ran.summary()).of("operator"));
        }
    }
    Ok(())
}

#[then(expr = "the folder {string} holds one file that is")]
fn folder_holds(world: &mut World, name: String, step: &Text) -> Step {
    let folder = world.folder().join(&name);
    let tried = format!("reading {}", folder.display());
    let names: Vec<_> = std::fs::read_dir(&folder)
        .map_err(|error| Failure::fail(&tried, "a folder with one file", error.to_string()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    let [only] = names.as_slice() else {
        return Err(Failure::fail(tried, "one file", format!("{names:?}")));
    };
    let text = std::fs::read_to_string(only).map_err(|error| Failure::error(&tried, error))?;
    let text = world.env.commands.file(&name, text).unwrap_or_default();
    let parse = |text: &str| {
        serde_yaml::from_str::<serde_json::Value>(text)
            .map_err(|error| Failure::fail(&tried, "a YAML document", format!("{error} in:\n{text}")))
    };
    let mut seen = parse(&text)?;
    // The marshaller of the real command always writes these two; they say nothing about the conversion.
    if let Some(object) = seen.as_object_mut() {
        object.remove("status");
        if let Some(metadata) = object.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
            metadata.remove("creationTimestamp");
        }
    }
    let wanted = parse(docstring(step)?)?;
    if seen == wanted { Ok(()) } else { Err(Failure::fail(tried, wanted.to_string(), seen.to_string()).of("cli")) }
}

/// The text block under a step.
pub(crate) fn docstring(step: &Text) -> Result<&str, Failure> {
    step.docstring.as_deref().ok_or_else(|| Failure::error("reading the step", "it has no text block"))
}
