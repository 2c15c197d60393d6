//! Command lines as `oc` reads them: a table of commands with their flags, and one parser for all of them.
//! What a command does is left to the file of its verb.

use crate::failure::Failure;
use crate::session::Session;
use futures::future::LocalBoxFuture;
use std::collections::BTreeMap;

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing; `--flag=false` turns it off.
    Nothing,
    /// A value, given as `--flag VALUE` or `--flag=VALUE`.
    Value,
    /// A value only as `--flag=VALUE`; without one it counts as this.
    Optional(&'static str),
}

/// One flag of a command.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub takes: Takes,
    pub about: &'static str,
}

/// A flag that takes a value.
pub const fn value(name: &'static str, short: Option<char>, about: &'static str) -> Flag {
    Flag { name, short, takes: Takes::Value, about }
}

/// A flag that is on or off.
pub const fn switch(name: &'static str, short: Option<char>, about: &'static str) -> Flag {
    Flag { name, short, takes: Takes::Nothing, about }
}

/// Flags every command understands.
pub const GLOBAL: &[Flag] = &[
    value("namespace", Some('n'), "project to work in; the one of the current context when absent"),
    value("kubeconfig", None, "client configuration file to use"),
    value("context", None, "context of the client configuration to use"),
    value("server", Some('s'), "address of the API server"),
    value("token", None, "bearer token for the API server"),
    value("certificate-authority", None, "file with the authorities to trust"),
    switch("insecure-skip-tls-verify", None, "do not check the server's certificate"),
    value("as", None, "user to impersonate"),
    value("loglevel", None, "how much to log, 0 to 10"),
    value("v", Some('v'), "how much to log, 0 to 10"),
    switch("help", Some('h'), "print help"),
];

/// A documented command.
pub struct Command {
    /// The words that call it, such as `adm prune images`.
    pub path: &'static str,
    /// What may follow the words.
    pub usage: &'static str,
    pub about: &'static str,
    pub flags: &'static [Flag],
    /// False when everything after the first argument belongs to another program.
    pub flags_after_words: bool,
    pub run: Run,
}

/// How a command is carried out.
pub type Run = for<'a> fn(&'a Session, &'a Arguments) -> LocalBoxFuture<'a, Result<(), Failure>>;

impl Command {
    fn flag(&self, matches: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
        self.flags.iter().chain(GLOBAL).find(|flag| matches(flag))
    }

    /// The help text.
    pub fn help(&self) -> String {
        let mut text = format!("{}\n\nUsage:\n  oc {} {}\n\nOptions:\n", self.about, self.path, self.usage);
        let own = |flag: &&Flag| !self.flags.iter().any(|own| own.name == flag.name);
        for flag in self.flags.iter().chain(GLOBAL.iter().filter(own)) {
            let short = flag.short.map_or("    ".to_owned(), |short| format!("-{short}, "));
            let form = match flag.takes {
                Takes::Nothing => format!("--{}", flag.name),
                Takes::Value => format!("--{} VALUE", flag.name),
                Takes::Optional(_) => format!("--{}[=VALUE]", flag.name),
            };
            text.push_str(&format!("  {short}{form:<32} {}\n", flag.about));
        }
        text
    }
}

/// What was written after the command's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    flags: BTreeMap<&'static str, Vec<String>>,
    /// Everything that is no flag, in order.
    pub words: Vec<String>,
    /// What came after `--`, if that was there.
    pub command: Option<Vec<String>>,
}

impl Arguments {
    /// The last value given for a flag.
    pub fn text(&self, flag: &str) -> Option<&str> {
        self.texts(flag).last().map(String::as_str)
    }

    /// All values given for a flag.
    pub fn texts(&self, flag: &str) -> &[String] {
        self.flags.get(flag).map(Vec::as_slice).unwrap_or_default()
    }

    /// True when the flag was given and not turned off.
    pub fn is_on(&self, flag: &str) -> bool {
        self.text(flag).is_some_and(|value| value == "true")
    }

    /// The value of a flag as a number.
    ///
    /// # Errors
    /// The value is not a whole number.
    pub fn number(&self, flag: &str) -> Result<Option<i64>, Failure> {
        self.text(flag)
            .map(|text| {
                text.parse().map_err(|_| {
                    Failure::usage(format!(
                        "invalid argument {text:?} for \"--{flag}\" flag: strconv.ParseInt: parsing {text:?}: invalid syntax"
                    ))
                })
            })
            .transpose()
    }
}

/// Finds the command of a command line and reads its arguments.
///
/// # Errors
/// The command or a flag is unknown, or a flag lacks its value: `oc` refuses rather than ignores.
pub fn parse(commands: &'static [Command], args: &[String]) -> Result<(&'static Command, Arguments), Failure> {
    let mut parsed = Arguments::default();
    let mut path = String::new();
    let mut rest = args.iter().map(String::as_str).peekable();
    let command = loop {
        let Some(arg) = rest.next() else { return Err(incomplete(commands, &path)) };
        if arg.starts_with('-') {
            let lookup = |matches: &dyn Fn(&Flag) -> bool| GLOBAL.iter().find(|flag| matches(flag));
            read_flag(&mut parsed, arg, &mut rest, lookup, &path)?;
            if parsed.is_on("help") {
                return Err(Failure::Help(overview(commands, &path)));
            }
            continue;
        }
        let longer = if path.is_empty() { arg.to_owned() } else { format!("{path} {arg}") };
        let goes_on = rest.peek().is_some_and(|next| leads_on(commands, &format!("{longer} {next}")));
        if let Some(command) = commands.iter().find(|command| command.path == longer && !goes_on) {
            break command;
        }
        if !commands.iter().any(|command| command.path.starts_with(&format!("{longer} "))) {
            let parent = if path.is_empty() { "oc".to_owned() } else { format!("oc {path}") };
            return Err(Failure::usage(format!(
                "unknown command {arg:?} for {parent:?}\nRun '{parent} --help' for usage."
            )));
        }
        path = longer;
    };
    while let Some(arg) = rest.next() {
        if arg == "--" {
            parsed.command = Some(rest.map(str::to_owned).collect());
            break;
        }
        if arg.starts_with('-') && arg != "-" {
            let lookup = |matches: &dyn Fn(&Flag) -> bool| command.flag(matches);
            read_flag(&mut parsed, arg, &mut rest, lookup, command.path)?;
            continue;
        }
        parsed.words.push(arg.to_owned());
        if !command.flags_after_words {
            parsed.words.extend(rest.map(str::to_owned));
            if let Some(dashes) = parsed.words.iter().position(|word| word == "--") {
                parsed.command = Some(parsed.words.split_off(dashes).split_off(1));
            }
            break;
        }
    }
    Ok((command, parsed))
}

/// True when the words are a command or the beginning of one.
fn leads_on(commands: &[Command], words: &str) -> bool {
    commands
        .iter()
        .any(|command| command.path.strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
}

fn read_flag<'a>(
    parsed: &mut Arguments,
    arg: &'a str,
    rest: &mut impl Iterator<Item = &'a str>,
    lookup: impl Fn(&dyn Fn(&Flag) -> bool) -> Option<&'static Flag>,
    path: &str,
) -> Result<(), Failure> {
    let refuse = |what: String| {
        Failure::usage(format!("{what}\nSee 'oc {path}{}--help' for usage.", if path.is_empty() { "" } else { " " }))
    };
    let (flag, inline) = if let Some(long) = arg.strip_prefix("--") {
        let (name, inline) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let flag = lookup(&|flag| flag.name == name).ok_or_else(|| refuse(format!("unknown flag: --{name}")))?;
        (flag, inline)
    } else {
        let mut letters = arg[1..].chars();
        loop {
            let letter = letters.next().unwrap_or('-');
            let flag = lookup(&|flag| flag.short == Some(letter))
                .ok_or_else(|| refuse(format!("unknown shorthand flag: '{letter}' in {arg}")))?;
            let tail = letters.as_str();
            match flag.takes {
                Takes::Nothing if !tail.is_empty() && !tail.starts_with('=') => {
                    parsed.flags.entry(flag.name).or_default().push("true".into());
                }
                Takes::Value if !tail.is_empty() => break (flag, Some(tail.strip_prefix('=').unwrap_or(tail))),
                _ => break (flag, tail.strip_prefix('=')),
            }
        }
    };
    let value = match (flag.takes, inline) {
        (Takes::Nothing, None) => "true".to_owned(),
        (Takes::Nothing, Some(text)) => match text {
            "true" | "True" | "TRUE" | "t" | "T" | "1" => "true".to_owned(),
            "false" | "False" | "FALSE" | "f" | "F" | "0" => "false".to_owned(),
            other => {
                return Err(refuse(format!(
                    "invalid argument {other:?} for \"--{}\" flag: strconv.ParseBool: parsing {other:?}: invalid syntax",
                    flag.name
                )));
            }
        },
        (Takes::Optional(default), None) => default.to_owned(),
        (Takes::Value, None) => {
            rest.next().ok_or_else(|| refuse(format!("flag needs an argument: --{}", flag.name)))?.to_owned()
        }
        (_, Some(text)) => text.to_owned(),
    };
    parsed.flags.entry(flag.name).or_default().push(value);
    Ok(())
}

fn incomplete(commands: &'static [Command], path: &str) -> Failure {
    Failure::Help(overview(commands, path))
}

fn overview(commands: &'static [Command], path: &str) -> String {
    let mut text = String::from(
        "The documented commands of the OpenShift client.\n\nUsage:\n  oc COMMAND [options]\n\nCommands:\n",
    );
    for command in commands.iter().filter(|command| command.path.starts_with(path)) {
        text.push_str(&format!("  {:<42} {}\n", command.path, command.about));
    }
    text.push_str("\nUse \"oc COMMAND --help\" for the options of a command.\n");
    text
}

#[cfg(test)]
mod tests;
