//! `cluster up|down|kubeconfig|gc`: an embedded cluster by hand. Doing it is left to the embedded target.

use harness::verdict::Exit;

use crate::{
    cli::{ClusterCommand, ClusterName, ClusterUp},
    lane::{ClusterAction, Wiring},
    output,
    stop::Stop,
};

/// The command.
pub(crate) async fn command<W: Wiring>(wiring: &W, action: ClusterCommand, stop: Stop) -> anyhow::Result<Exit> {
    let action = match action {
        ClusterCommand::Up(ClusterUp { name: ClusterName { name }, system }) => ClusterAction::Up { name, system },
        ClusterCommand::Down(ClusterName { name }) => ClusterAction::Down { name },
        ClusterCommand::Kubeconfig(ClusterName { name }) => ClusterAction::Kubeconfig { name },
        ClusterCommand::Gc => ClusterAction::Gc,
    };
    let said = wiring.cluster(action, stop).await?;
    if !said.is_empty() {
        output::print(&format!("{}\n", said.trim_end()))?;
    }
    Ok(Exit::Passed)
}
