//! The pods of a node as its kubelet API sees them: their containers' logs and surroundings for exec.
//! Workers write it, request handlers read it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use k8s_openapi::api::core::v1::Pod;

use crate::{container_log::ContainerLog, launch::Prepared};

/// All pods of one node.
#[derive(Debug, Default)]
pub(crate) struct PodTable {
    pods: Mutex<HashMap<(String, String), PodEntry>>,
}

/// One pod.
#[derive(Debug, Clone)]
pub(crate) struct PodEntry {
    pub(crate) pod: Arc<Pod>,
    pub(crate) containers: BTreeMap<String, ContainerEntry>,
}

/// One container.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerEntry {
    pub(crate) log: Option<Arc<ContainerLog>>,
    pub(crate) previous_log: Option<Arc<ContainerLog>>,
    /// Present while the container runs.
    pub(crate) prepared: Option<Prepared>,
}

impl PodTable {
    /// The pod of that name.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<PodEntry> {
        self.pods.lock().ok()?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All pods.
    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().map(|pods| pods.values().map(|entry| entry.pod.clone()).collect()).unwrap_or_default()
    }

    /// Enters a pod or its newer version; a successor of the same name takes the place of its predecessor.
    pub(crate) fn put(&self, pod: &Pod) {
        if let Ok(mut pods) = self.pods.lock() {
            let entry =
                pods.entry(key(pod)).or_insert_with(|| PodEntry { pod: Arc::default(), containers: BTreeMap::new() });
            if entry.pod.metadata.uid != pod.metadata.uid {
                entry.containers.clear();
            }
            entry.pod = Arc::new(pod.clone());
        }
    }

    /// Changes what is known of a container.
    pub(crate) fn update(&self, pod: &Pod, container: &str, change: impl FnOnce(&mut ContainerEntry)) {
        if let Ok(mut pods) = self.pods.lock()
            && let Some(entry) = pods.get_mut(&key(pod)).filter(|entry| entry.pod.metadata.uid == pod.metadata.uid)
        {
            change(entry.containers.entry(container.to_owned()).or_default());
        }
    }

    /// Forgets a pod.
    pub(crate) fn remove(&self, pod: &Pod) {
        if let Ok(mut pods) = self.pods.lock()
            && pods.get(&key(pod)).is_some_and(|entry| entry.pod.metadata.uid == pod.metadata.uid)
        {
            pods.remove(&key(pod));
        }
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}
