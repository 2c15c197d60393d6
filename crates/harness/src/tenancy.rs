//! Whose cluster a lane works in. In a cluster of others, what a scenario makes is written down outside the process
//! first, so that it can be taken away even when the process is gone.

use std::sync::Arc;

use kube::{Api, Client, api::DynamicObject, core::ApiResource};
use serde::{Deserialize, Serialize};

/// Whose cluster it is.
#[derive(Clone)]
pub enum Tenancy {
    /// Made for the run and gone with it; scenarios may do in it what they like.
    Own,
    /// It belongs to others and outlives the run; only scenarios tagged `@disruptive` may change what others share.
    Guest(Arc<dyn Journal>),
}

/// Outlives the process.
pub trait Journal: Send + Sync {
    /// Writes down an object that is about to be made.
    fn will_make(&self, object: ObjectName);
}

/// An object by its type, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectName {
    pub resource: ApiResource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
}

impl ObjectName {
    /// The name of an object of a type known here.
    pub fn of<K: kube::Resource<DynamicType = ()>>(namespace: Option<&str>, name: &str) -> Self {
        Self { resource: ApiResource::erase::<K>(&()), namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    /// Where objects of its type and namespace are.
    pub fn api(&self, client: &Client) -> Api<DynamicObject> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.resource.kind, self.name),
            None => write!(f, "{} {}", self.resource.kind, self.name),
        }
    }
}
