//! Container resources as people write them: a quantity may be a bare number, as the API server allows.
//! Serialised always as strings, which is how Kubernetes itself stores them.

use k8s_openapi::api::core::v1::ResourceRequirements;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::Value;

/// Reads resource requirements whose quantities are strings or numbers.
///
/// Use with `#[serde(deserialize_with = "api::resources::deserialize")]`.
///
/// # Errors
/// Whatever Kubernetes' own shape refuses: a field that is no object, a quantity that is neither string nor number.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ResourceRequirements>, D::Error> {
    let mut value = Value::deserialize(deserializer)?;
    for list in ["limits", "requests"] {
        let Some(quantities) = value.get_mut(list).and_then(Value::as_object_mut) else { continue };
        for quantity in quantities.values_mut().filter(|quantity| quantity.is_number()) {
            *quantity = Value::String(quantity.to_string());
        }
    }
    serde_json::from_value(value).map_err(D::Error::custom)
}

/// The schema of the above: Kubernetes' own, with quantities as integer or string.
pub(crate) fn schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = ResourceRequirements::json_schema(generator);
    for list in ["limits", "requests"] {
        if let Some(property) = schema.pointer_mut(&format!("/properties/{list}")) {
            *property = json_schema!({
                "type": "object",
                "additionalProperties": {
                    "x-kubernetes-int-or-string": true,
                },
            })
            .to_value();
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn numbers_are_read_as_quantities() {
        let read = super::deserialize(json!({ "limits": { "cpu": 2, "memory": "512Mi" } })).expect("readable");
        let limits = read.and_then(|resources| resources.limits).expect("limits");
        assert_eq!(limits["cpu"].0, "2");
        assert_eq!(limits["memory"].0, "512Mi");
    }
}
