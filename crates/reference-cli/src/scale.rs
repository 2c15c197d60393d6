//! `oc scale`: how many pods a workload has.

use crate::command_line::{Arguments, Command, value};
use crate::failure::Failure;
use crate::print;
use crate::resource::targets;
use crate::session::{PatchType, Session};
use futures::future::FutureExt;
use serde_json::json;

pub const COMMAND: Command = Command {
    path: "scale",
    usage: "TYPE NAME | TYPE/NAME --replicas N",
    about: "Set how many pods a workload has",
    flags: &[
        value("replicas", None, "how many pods"),
        value("current-replicas", None, "only if there are this many now"),
    ],
    flags_after_words: true,
    run: |session, args| run(session, args).boxed_local(),
};

async fn run(session: &Session, args: &Arguments) -> Result<(), Failure> {
    let Some(replicas) = args.number("replicas")? else {
        return Err(Failure::usage("required flag(s) \"replicas\" not set"));
    };
    if replicas < 0 {
        return Err(Failure::usage(
            "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0",
        ));
    }
    let targets = targets(session.catalogue().await?, &args.words)?;
    if targets.is_empty() || targets.iter().any(|target| target.name.is_none()) {
        return Err(Failure::usage("resource(s) were provided, but no name was specified"));
    }
    for target in targets {
        let name = target.name.as_deref().unwrap_or_default();
        let namespace = session.scope(&target.resource).await?;
        let path = format!("{}/scale", target.resource.object(namespace.as_deref(), name));
        let mut patch = json!({"spec": {"replicas": replicas}});
        if let Some(expected) = args.number("current-replicas")? {
            let now = session.get(&path).await?;
            let count = now["spec"]["replicas"].as_i64().unwrap_or(0);
            if count != expected {
                return Err(Failure::usage(format!("Expected replicas to be {expected}, was {count}")));
            }
            patch["metadata"] = json!({"resourceVersion": now["metadata"]["resourceVersion"]});
        }
        session.patch(&path, PatchType::Merge, &patch).await?;
        print(&format!("{}/{name} scaled\n", target.resource.printed()));
    }
    Ok(())
}
