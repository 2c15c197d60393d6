//! Manifests as documents: the four kinds the registry stores, what they name, and what makes them invalid.
//! Pure; where the blobs are is not asked here (distribution manifest/schema2, manifest/ocischema, manifest/manifestlist).

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::digest::Digest;

/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The largest manifest taken, bytes (distribution registry/handlers/manifests.go:31).
pub const MAX_BYTES: usize = 4 << 20;

const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// The kinds of manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One image, Docker form.
    DockerManifest,
    /// Several images, Docker form.
    DockerList,
    /// One image or artifact, OCI form.
    OciManifest,
    /// Several manifests, OCI form.
    OciIndex,
}

impl Kind {
    /// The kind of a media type.
    pub fn of(media_type: &str) -> Option<Self> {
        match media_type {
            DOCKER_MANIFEST => Some(Self::DockerManifest),
            DOCKER_LIST => Some(Self::DockerList),
            OCI_MANIFEST => Some(Self::OciManifest),
            OCI_INDEX => Some(Self::OciIndex),
            _ => None,
        }
    }

    /// The media type of the kind.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::DockerManifest => DOCKER_MANIFEST,
            Self::DockerList => DOCKER_LIST,
            Self::OciManifest => OCI_MANIFEST,
            Self::OciIndex => OCI_INDEX,
        }
    }

    /// True for the kinds that name other manifests.
    pub fn is_list(self) -> bool {
        matches!(self, Self::DockerList | Self::OciIndex)
    }
}

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size, bytes.
    pub size: u64,
    /// Where else it can be had.
    pub urls: Vec<String>,
    /// `os/architecture` of a list's entry.
    pub platform: Option<(String, String)>,
}

impl Descriptor {
    /// True for layers that are never pushed to a registry.
    pub fn is_foreign(&self) -> bool {
        self.media_type == DOCKER_FOREIGN_LAYER
            || self.media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
    }
}

/// A manifest that was understood.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its kind.
    pub kind: Kind,
    /// The exact bytes.
    pub raw: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// Configuration, for single images.
    pub config: Option<Descriptor>,
    /// Layers, for single images, lowest first.
    pub layers: Vec<Descriptor>,
    /// Manifests, for lists.
    pub manifests: Vec<Descriptor>,
}

/// Why a document is not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the expected shape.
    #[error("{0}")]
    Document(String),
    /// Schema 1, or something that is taken for it.
    #[error("unsupported schema version {0}: schema 1 manifests are not accepted, push the image with schema 2 or OCI")]
    Schema(i64),
    /// The document says it is something else than the request does.
    #[error("mediaType in manifest should be '{expected}' not '{seen}'")]
    MediaType {
        /// What the Content-Type header says.
        expected: &'static str,
        /// What the document says.
        seen: String,
    },
    /// Fields of another kind of manifest.
    #[error("expected a manifest of type {expected}, but found the field '{field}'")]
    Mixed {
        /// What the Content-Type header says.
        expected: &'static str,
        /// The field that does not belong there.
        field: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default)]
    schema_version: i64,
    #[serde(default)]
    media_type: String,
    config: Option<WireDescriptor>,
    layers: Option<Vec<WireDescriptor>>,
    manifests: Option<Vec<WireDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    platform: Option<Value>,
}

impl WireDescriptor {
    fn parse(self) -> Result<Descriptor, ManifestError> {
        let wrong = |problem: String| ManifestError::Document(format!("descriptor {}: {problem}", self.digest));
        let platform = self.platform.as_ref().map(|platform| {
            let text = |key: &str| platform[key].as_str().unwrap_or_default().to_owned();
            (text("os"), text("architecture"))
        });
        Ok(Descriptor {
            digest: self.digest.parse().map_err(|error| wrong(format!("{error}")))?,
            size: u64::try_from(self.size).map_err(|_| wrong("negative size".into()))?,
            media_type: self.media_type,
            urls: self.urls.unwrap_or_default(),
            platform,
        })
    }
}

impl Manifest {
    /// Understands a document sent as `media_type`.
    pub fn parse(media_type: &str, raw: Bytes) -> Result<Self, ManifestError> {
        let kind = Kind::of(media_type);
        let wire: Wire = serde_json::from_slice(&raw).map_err(|error| ManifestError::Document(error.to_string()))?;
        // An unknown type is taken for schema 1 (distribution manifests.go:94-115).
        let Some(kind) = kind else { return Err(ManifestError::Schema(wire.schema_version)) };
        Self::from_wire(kind, wire, raw)
    }

    /// Understands a stored document, whose kind only the document itself tells.
    pub fn stored(raw: Bytes) -> Result<Self, ManifestError> {
        let wire: Wire = serde_json::from_slice(&raw).map_err(|error| ManifestError::Document(error.to_string()))?;
        let kind = match (Kind::of(&wire.media_type), &wire.manifests) {
            (Some(kind), _) => kind,
            (None, Some(_)) => Kind::OciIndex,
            (None, None) => Kind::OciManifest,
        };
        Self::from_wire(kind, wire, raw)
    }

    fn from_wire(kind: Kind, wire: Wire, raw: Bytes) -> Result<Self, ManifestError> {
        let expected = kind.media_type();
        if wire.schema_version != 2 {
            return Err(ManifestError::Schema(wire.schema_version));
        }
        let optional = matches!(kind, Kind::OciManifest | Kind::OciIndex) && wire.media_type.is_empty();
        if wire.media_type != expected && !optional {
            return Err(ManifestError::MediaType { expected, seen: wire.media_type });
        }
        let mixed = |present: bool, field| if present { Err(ManifestError::Mixed { expected, field }) } else { Ok(()) };
        if kind.is_list() {
            mixed(wire.config.is_some(), "config")?;
            mixed(wire.layers.is_some(), "layers")?;
        } else {
            mixed(wire.manifests.is_some(), "manifests")?;
            if wire.config.is_none() {
                return Err(ManifestError::Document(format!("a manifest of type {expected} needs a config")));
            }
        }
        let all = |list: Option<Vec<WireDescriptor>>| {
            list.unwrap_or_default().into_iter().map(WireDescriptor::parse).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            kind,
            digest: Digest::of(&raw),
            config: wire.config.map(WireDescriptor::parse).transpose()?,
            layers: all(wire.layers)?,
            manifests: all(wire.manifests)?,
            raw,
        })
    }

    /// The first layer whose download addresses contradict its type (registry source
    /// pkg/dockerregistry/server/manifesthandler/manifestschema2handler.go:18-19,71-81), in words.
    pub fn wrong_urls(&self) -> Option<String> {
        if self.kind != Kind::DockerManifest {
            return None;
        }
        self.layers.iter().find_map(|layer| match (layer.is_foreign(), layer.urls.is_empty()) {
            (true, true) => Some(format!("missing URL on layer {}", layer.digest)),
            (false, false) => Some(format!("unexpected URL on layer {}", layer.digest)),
            _ => None,
        })
    }
}

/// The media type of a Content-Type header, without parameters.
pub fn media_type(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
pub(crate) mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    pub(crate) fn image(media_type: &str, config: &[u8], layers: &[&[u8]]) -> Value {
        let descriptor = |kind: &str, content: &[u8]| json!({"mediaType": kind, "digest": Digest::of(content).to_string(), "size": content.len()});
        let layers: Vec<_> =
            layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect();
        json!({
            "schemaVersion": 2, "mediaType": media_type, "layers": layers,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        })
    }

    fn parse(media_type: &str, document: &Value) -> Result<Manifest, ManifestError> {
        Manifest::parse(media_type, document.to_string().into())
    }

    #[rstest]
    #[case(DOCKER_MANIFEST)]
    #[case(OCI_MANIFEST)]
    fn an_image_names_its_config_and_layers(#[case] media_type: &str) {
        let manifest = parse(media_type, &image(media_type, b"{}", &[b"one", b"two"])).unwrap();
        assert_eq!(manifest.kind.media_type(), media_type);
        assert_eq!(manifest.config.unwrap().digest, Digest::of(b"{}"));
        assert_eq!(manifest.layers.iter().map(|layer| layer.size).collect::<Vec<_>>(), [3, 3]);
        assert_eq!(Manifest::stored(manifest.raw).unwrap().kind.media_type(), media_type);
    }

    #[test]
    fn an_oci_document_need_not_say_its_type() {
        let mut document = image(OCI_MANIFEST, b"{}", &[]);
        document.as_object_mut().unwrap().remove("mediaType");
        assert!(parse(OCI_MANIFEST, &document).is_ok());
        let seen = parse(DOCKER_MANIFEST, &document).unwrap_err();
        assert!(matches!(seen, ManifestError::MediaType { .. }), "{seen}");
        assert_eq!(Manifest::stored(document.to_string().into()).unwrap().kind, Kind::OciManifest);
    }

    #[rstest]
    #[case("application/json", json!({"schemaVersion": 2}), "schema")]
    #[case("", json!({"schemaVersion": 1, "fsLayers": []}), "schema")]
    #[case(OCI_MANIFEST, json!({"schemaVersion": 1}), "schema")]
    #[case(OCI_MANIFEST, json!({"schemaVersion": 2}), "needs a config")]
    #[case(OCI_MANIFEST, json!({"schemaVersion": 2, "manifests": []}), "'manifests'")]
    #[case(OCI_INDEX, json!({"schemaVersion": 2, "layers": []}), "'layers'")]
    #[case(OCI_INDEX, json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST}), "mediaType")]
    #[case(OCI_INDEX, json!({"schemaVersion": 2, "manifests": [{"digest": "sha256:1"}]}), "digest length")]
    #[case(OCI_INDEX, json!([]), "")]
    fn wrong_documents(#[case] media_type: &str, #[case] document: Value, #[case] words: &str) {
        let error = parse(media_type, &document).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn foreign_layers_and_addresses_go_together() {
        let mut document = image(DOCKER_MANIFEST, b"{}", &[b"one"]);
        assert_eq!(parse(DOCKER_MANIFEST, &document).unwrap().wrong_urls(), None);
        document["layers"][0]["urls"] = json!(["https://example.com/x"]);
        assert!(parse(DOCKER_MANIFEST, &document).unwrap().wrong_urls().unwrap().starts_with("unexpected URL"));
        document["layers"][0]["mediaType"] = json!(DOCKER_FOREIGN_LAYER);
        assert_eq!(parse(DOCKER_MANIFEST, &document).unwrap().wrong_urls(), None);
        document["layers"][0].as_object_mut().unwrap().remove("urls");
        assert!(parse(DOCKER_MANIFEST, &document).unwrap().wrong_urls().unwrap().starts_with("missing URL"));
    }
}
