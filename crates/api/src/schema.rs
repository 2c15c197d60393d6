//! Pieces of OpenAPI schema that derive macros cannot say: patterns, enumerations with a default, free-form objects.
//! Used through `#[schemars(schema_with = ...)]`; the API server enforces them exactly as upstream's definitions do.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Any object; nothing in it is validated or pruned.
pub(crate) fn free_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true })
}

/// `managementState` of an operator (operator source, generated definition of configs, spec.managementState).
pub(crate) fn management_state(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^(Managed|Unmanaged|Force|Removed)$" })
}

/// `managementState` of the storage: whether the operator may change and delete it.
pub(crate) fn storage_management_state(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^(Managed|Unmanaged)$" })
}

/// `rolloutStrategy` of the registry's Deployment.
pub(crate) fn rollout_strategy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^(RollingUpdate|Recreate)$" })
}

/// Log level of an operand or operator; absent means Normal.
pub(crate) fn log_level(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": ["", "Normal", "Debug", "Trace", "TraceAll"], "default": "Normal" })
}

/// Azure environments the operator knows.
pub(crate) fn azure_cloud(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "enum": ["", "AzurePublicCloud", "AzureUSGovernmentCloud", "AzureChinaCloud", "AzureGermanCloud", "AzureStackCloud"],
    })
}

const LABEL: &str = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?";

fn location() -> String {
    format!(r"{LABEL}(\.{LABEL})*(:[0-9]+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
}

/// What a mirror set redirects: `host[:port][/path]`, lower-case path, or `*.` and a domain.
pub(crate) fn mirror_source(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": format!(r"^\*(\.{LABEL})+$|^{}$", location()) })
}

/// Mirrors of a source: `host[:port][/path]` without wildcard, tag, digest or scheme; no duplicates.
pub(crate) fn mirrors(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": { "type": "string", "pattern": format!("^{}$", location()) },
        "x-kubernetes-list-type": "set",
    })
}
