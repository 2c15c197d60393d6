//! Docker images in the form that clients before schema 2 read: one document with the whole history, signed on the fly with
//! a key nobody needs to know (distribution manifest/schema1/config_builder.go). Pure but for the signature's randomness.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Map, Value, json};

use crate::{
    digest::{Digest, Hasher},
    manifest::Manifest,
};

/// Media type of a signed schema 1 manifest.
pub const SIGNED_MEDIA_TYPE: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// A gzipped empty tar, the layer of history entries that change no file.
pub const EMPTY_LAYER: &[u8] = &[
    31, 139, 8, 0, 0, 9, 110, 136, 0, 255, 98, 24, 5, 163, 96, 20, 140, 88, 0, 8, 0, 0, 255, 255, 46, 175, 181, 239, 0,
    4, 0, 0,
];

const INDENT: &[u8] = b"   ";

/// A converted manifest.
pub struct Converted {
    /// What is signed; its digest is the manifest's.
    pub payload: Vec<u8>,
    /// What is sent.
    pub signed: Vec<u8>,
}

/// Converts an image, given the text of its configuration.
///
/// # Errors
/// In words, when the configuration has no history or does not fit the layers.
pub fn convert(repository: &str, tag: &str, manifest: &Manifest, config: &[u8]) -> Result<Converted, String> {
    let image: Map<String, Value> = serde_json::from_slice(config).map_err(|error| format!("image config: {error}"))?;
    let history = image.get("history").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let Some((newest, older)) = history.split_last() else {
        return Err("empty history when trying to create schema1 manifest".into());
    };
    let diffs = image.get("rootfs").and_then(|rootfs| rootfs["diff_ids"].as_array()).map_or(0, Vec::len);
    if diffs != manifest.layers.len() {
        return Err(format!(
            "number of descriptors and number of layers in rootfs must match: {} and {diffs}",
            manifest.layers.len()
        ));
    }
    let mut layers = manifest.layers.iter().map(|layer| &layer.digest);
    let empty = Digest::of(EMPTY_LAYER);
    let mut next_layer = |entry: &Value| {
        if is_empty(entry) { Ok(&empty) } else { layers.next().ok_or("too few layers for the history".to_owned()) }
    };
    let mut parent = String::new();
    let mut entries = Vec::with_capacity(history.len());
    for entry in older {
        let layer = next_layer(entry)?;
        let id = Digest::of(format!("{} {parent}", layer.hex()).as_bytes()).hex().to_owned();
        entries.push((layer.clone(), compatibility(entry, &id, &parent)));
        parent = id;
    }
    let layer = next_layer(newest)?;
    let mut id = Hasher::new(crate::digest::Algorithm::Sha256);
    id.update(format!("{} {parent} ", layer.hex()).as_bytes());
    id.update(config);
    let mut top = image.clone();
    top.remove("rootfs");
    top.remove("history");
    top.insert("id".into(), id.finish().hex().into());
    if !parent.is_empty() {
        top.insert("parent".into(), parent.into());
    }
    if is_empty(newest) {
        top.insert("throwaway".into(), true.into());
    }
    entries.push((layer.clone(), Value::Object(top).to_string()));
    entries.reverse();
    let document = json!({
        "schemaVersion": 1,
        "name": repository,
        "tag": tag,
        "architecture": image.get("architecture").cloned().unwrap_or_else(|| "".into()),
        "fsLayers": entries.iter().map(|(layer, _)| json!({"blobSum": layer.to_string()})).collect::<Vec<_>>(),
        "history": entries.iter().map(|(_, text)| json!({"v1Compatibility": text})).collect::<Vec<_>>(),
    });
    let payload = indented(&document)?;
    let signed = sign(&payload)?;
    Ok(Converted { payload, signed })
}

fn is_empty(entry: &Value) -> bool {
    entry["empty_layer"].as_bool().unwrap_or_default()
}

fn compatibility(entry: &Value, id: &str, parent: &str) -> String {
    let mut text = Map::new();
    text.insert("id".into(), id.into());
    if !parent.is_empty() {
        text.insert("parent".into(), parent.into());
    }
    for key in ["comment", "created", "author"] {
        if let Some(value) = entry.get(key).filter(|value| !value.is_null()) {
            text.insert(key.into(), value.clone());
        }
    }
    text.insert("container_config".into(), json!({"Cmd": [entry["created_by"].as_str().unwrap_or_default()]}));
    if is_empty(entry) {
        text.insert("throwaway".into(), true.into());
    }
    Value::Object(text).to_string()
}

fn indented(value: &Value) -> Result<Vec<u8>, String> {
    use serde::Serialize as _;
    let mut text = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(INDENT);
    let mut writer = serde_json::Serializer::with_formatter(&mut text, format);
    value.serialize(&mut writer).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Signs a document in the "pretty JWS" form: the signatures become one more field of it.
fn sign(payload: &[u8]) -> Result<Vec<u8>, String> {
    let broken = |what: &str| format!("signing the converted manifest: {what}");
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| broken("no key"))?;
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).map_err(|_| broken("unusable key"))?;
    let point = key.public_key().as_ref();
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let tail = b"\n}";
    let kept = payload.len() - tail.len();
    let protected = json!({
        "formatLength": kept,
        "formatTail": encode(tail),
        "time": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    let protected = encode(protected.to_string().as_bytes());
    let message = format!("{protected}.{}", encode(payload));
    let signature = key.sign(&random, message.as_bytes()).map_err(|_| broken("no signature"))?;
    let signatures = json!([{
        "header": {
            "jwk": {"crv": "P-256", "kid": key_id(point), "kty": "EC", "x": encode(&point[1..33]), "y": encode(&point[33..])},
            "alg": "ES256",
        },
        "signature": encode(signature.as_ref()),
        "protected": protected,
    }]);
    let mut signed = payload[..kept].to_vec();
    signed.extend_from_slice(b",\n   \"signatures\": ");
    let text = String::from_utf8(indented(&signatures)?).map_err(|_| broken("not text"))?;
    signed.extend_from_slice(text.replace('\n', "\n   ").as_bytes());
    signed.extend_from_slice(tail);
    Ok(signed)
}

/// The name of a public key: the first 240 bits of the hash of its DER form, in groups of four base32 letters.
fn key_id(point: &[u8]) -> String {
    const SUBJECT_PUBLIC_KEY_INFO_P256: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let der = [&SUBJECT_PUBLIC_KEY_INFO_P256[..], point].concat();
    let hash = ring::digest::digest(&ring::digest::SHA256, &der);
    let letters: Vec<u8> = hash.as_ref()[..30]
        .chunks(5)
        .flat_map(|five| {
            let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
            (0..8).rev().map(move |place| LETTERS[(bits >> (place * 5) & 31) as usize])
        })
        .collect();
    letters.chunks(4).map(|group| String::from_utf8_lossy(group).into_owned()).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;
    use crate::manifest::{DOCKER_MANIFEST, tests::image};

    fn docker(config: &[u8], layers: &[&[u8]]) -> Manifest {
        Manifest::parse(DOCKER_MANIFEST, image(DOCKER_MANIFEST, config, layers).to_string().into()).unwrap()
    }

    #[test]
    fn the_empty_layer_has_its_well_known_digest() {
        assert!(Digest::of(EMPTY_LAYER).is_empty_layer());
    }

    #[test]
    fn history_becomes_layers_newest_first_and_the_signature_holds() {
        let config = json!({
            "architecture": "amd64", "config": {"Cmd": ["/run"]}, "rootfs": {"diff_ids": ["sha256:1"]},
            "history": [{"created_by": "ADD"}, {"created_by": "CMD", "empty_layer": true}],
        })
        .to_string();
        let manifest = docker(config.as_bytes(), &[b"layer"]);
        let converted = convert("a/b", "v1", &manifest, config.as_bytes()).unwrap();
        let document: Value = serde_json::from_slice(&converted.signed).unwrap();
        assert_eq!(document["fsLayers"][0]["blobSum"], Digest::of(EMPTY_LAYER).to_string());
        assert_eq!(document["fsLayers"][1]["blobSum"], Digest::of(b"layer").to_string());
        let top: Value = serde_json::from_str(document["history"][0]["v1Compatibility"].as_str().unwrap()).unwrap();
        let base: Value = serde_json::from_str(document["history"][1]["v1Compatibility"].as_str().unwrap()).unwrap();
        assert_eq!((&top["parent"], &top["throwaway"]), (&base["id"], &json!(true)));

        let decode = |value: &Value| BASE64_URL_SAFE_NO_PAD.decode(value.as_str().unwrap()).unwrap();
        let signature = &document["signatures"][0];
        let jwk = &signature["header"]["jwk"];
        let point = [vec![4], decode(&jwk["x"]), decode(&jwk["y"])].concat();
        let payload = BASE64_URL_SAFE_NO_PAD.encode(&converted.payload);
        let message = format!("{}.{payload}", signature["protected"].as_str().unwrap());
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(message.as_bytes(), &decode(&signature["signature"]))
            .unwrap();
        assert_eq!(jwk["kid"].as_str().unwrap().len(), 48 + 11);
    }

    #[test]
    fn an_image_without_history_cannot_be_converted() {
        let manifest = docker(b"{}", &[]);
        assert!(convert("a/b", "v1", &manifest, b"{}").err().unwrap().contains("empty history"));
    }
}
