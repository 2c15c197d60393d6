//! Images to push: small, valid, made at run time, and different for every seed, so that no two scenarios share a blob
//! by accident.

use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

/// `sha256:<hex>` of the bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hash.iter() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// A blob with its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: String,
    pub media_type: String,
    pub bytes: Bytes,
}

impl Blob {
    fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { digest: digest_of(&bytes), media_type: media_type.to_owned(), bytes: bytes.into() }
    }
}

/// Which family of media types an image is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaTypes {
    /// Docker image manifest v2, schema 2: accepted by every documented version.
    Docker,
    /// OCI image manifest 1.0.
    Oci,
}

impl MediaTypes {
    fn manifest(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.container.image.v1+json",
            Self::Oci => "application/vnd.oci.image.config.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
        }
    }
}

/// An image of one manifest, one config and its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub config: Blob,
    pub layers: Vec<Blob>,
    /// The manifest as it is pushed; its digest is the image's digest.
    pub manifest: Blob,
}

impl Image {
    /// A small image whose bytes depend only on `seed`: one layer with one file that holds the seed.
    pub fn small(seed: &str, media_types: MediaTypes) -> Self {
        let tar = tar_with("seed", seed.as_bytes());
        let diff_id = digest_of(&tar);
        let layer = Blob::new(media_types.layer(), gzip_stored(&tar));
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "author": seed,
            "config": {"Env": ["PATH=/bin"], "Labels": {"seed": seed}},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "registry-conformance"}],
        });
        let config = Blob::new(media_types.config(), config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_types.manifest(),
            "config": {"mediaType": config.media_type, "size": config.bytes.len(), "digest": config.digest},
            "layers": [{"mediaType": layer.media_type, "size": layer.bytes.len(), "digest": layer.digest}],
        });
        let manifest = Blob::new(media_types.manifest(), manifest.to_string().into_bytes());
        Self { config, layers: vec![layer], manifest }
    }

    /// The image's digest: that of its manifest.
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// Config and layers, in the order in which a client pushes them.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }
}

/// A ustar archive with one regular file.
fn tar_with(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().div_ceil(512) * 512 + 1024, 0);
    tar
}

/// A gzip member of stored (uncompressed) blocks, RFC 1951 section 3.2.4 and RFC 1952: real gzip that needs no
/// compressor, because the images here are a few hundred bytes.
fn gzip_stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut chunks = bytes.chunks(0xffff).peekable();
    while let Some(chunk) = chunks.next() {
        out.push(u8::from(chunks.peek().is_none()));
        let length = u16::try_from(chunk.len()).expect("a chunk has at most 65535 bytes");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(chunk);
    }
    out.extend_from_slice(&crc32(bytes).to_le_bytes());
    let size = u32::try_from(bytes.len()).expect("a test layer is far below 4 GiB");
    out.extend_from_slice(&size.to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_differ_by_seed_and_only_by_seed() {
        let one = Image::small("one", MediaTypes::Docker);
        assert_eq!(one, Image::small("one", MediaTypes::Docker));
        assert_ne!(one.digest(), Image::small("two", MediaTypes::Docker).digest());
        assert_eq!(one.manifest.digest, digest_of(&one.manifest.bytes));
    }

    #[test]
    fn checksums_match_their_specifications() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(digest_of(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn a_layer_is_what_gzip_and_tar_read() {
        let image = Image::small("read me", MediaTypes::Oci);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("layer.tgz");
        std::fs::write(&path, &image.layers[0].bytes).expect("written");
        let output = std::process::Command::new("tar").arg("-xzOf").arg(&path).output().expect("tar runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "read me");
    }
}
