//! A program that PID 1 keeps: what is run, and whether it is started again when it ends.

use std::process::{Command, Stdio};

use crate::Error;

/// One row of what a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name in messages.
    pub name: &'static str,
    /// Program and arguments.
    pub command: Vec<String>,
    /// What happens when it ends.
    pub after: After,
}

/// What happens when a service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It is started again, however it ended.
    Again,
    /// It is started again only when it failed.
    AgainIfFailed,
}

impl Service {
    /// Starts it; its output is the node's console. Gives the process id; whoever reaps all children reaps this one too.
    pub fn start(&self) -> Result<u32, Error> {
        let (program, arguments) = self.command.split_first().ok_or(Error::Usage("a service needs a command"))?;
        let child = Command::new(program).args(arguments).stdin(Stdio::null()).spawn();
        child.map(|child| child.id()).map_err(Error::system("start", self.name))
    }

    /// Whether it is wanted again after it ended.
    pub fn wanted_again(&self, succeeded: bool) -> bool {
        match self.after {
            After::Again => true,
            After::AgainIfFailed => !succeeded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(After::Again, true, true)]
    #[case(After::Again, false, true)]
    #[case(After::AgainIfFailed, true, false)]
    #[case(After::AgainIfFailed, false, true)]
    fn a_finished_import_is_not_repeated(#[case] after: After, #[case] succeeded: bool, #[case] again: bool) {
        assert_eq!(Service { name: "s", command: vec![], after }.wanted_again(succeeded), again);
    }
}
