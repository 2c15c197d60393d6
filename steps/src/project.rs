//! Projects: a namespace of the scenario's own, in which documented commands without `-n` work.

use harness::failure::{Failure, Tried};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::PostParams, config::Kubeconfig};

use crate::world::World;

impl World {
    /// The scenario's project; made, and made current for commands, when it does not exist yet.
    pub(crate) async fn project(&mut self) -> Result<String, Failure> {
        if let Some(name) = &self.project {
            return Ok(name.clone());
        }
        let name = format!("project-{}", self.id);
        self.will_make_project(&name);
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        let api: Api<Namespace> = Api::all(self.env.client.clone());
        api.create(&PostParams::default(), &namespace).await.tried(format!("making the project {name}"))?;
        self.make_current(&name)?;
        self.project = Some(name.clone());
        Ok(name)
    }

    fn make_current(&self, project: &str) -> Result<(), Failure> {
        let path = &self.shell.kubeconfig;
        let tried = format!("making {project} the current project in {}", path.display());
        let mut kubeconfig = Kubeconfig::read_from(path).tried(&tried)?;
        for context in kubeconfig.contexts.iter_mut().filter_map(|named| named.context.as_mut()) {
            context.namespace = Some(project.to_owned());
        }
        // JSON is YAML that every client reads the same way.
        let text = serde_json::to_string(&kubeconfig).tried(&tried)?;
        std::fs::write(path, text).tried(tried)
    }
}
