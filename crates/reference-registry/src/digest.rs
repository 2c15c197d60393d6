//! Content digests, repository names and tags as the distribution specification spells them.
//! Everything here is parsed once at the border; the rest of the registry never re-checks a string.

use std::{fmt, str::FromStr};

use sha2::{
    Digest as _, Sha256, Sha512,
    digest::common::hazmat::{SerializableState, SerializedState},
};

/// A hash function the registry can verify content with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// 64 hexadecimal digits; what every client uses.
    Sha256,
    /// 128 hexadecimal digits; optional in the OCI image specification, section "Digests".
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A verified digest string, `<algorithm>:<lower-case hex>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

/// Why a string is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No colon, or characters no digest has.
    #[error("invalid checksum digest format")]
    Format,
    /// A known algorithm with the wrong number of digits.
    #[error("invalid checksum digest length")]
    Length,
    /// Well formed, but not a function this registry knows.
    #[error("unsupported digest algorithm")]
    Unsupported,
}

impl Digest {
    /// The sha256 digest of a whole text.
    pub fn of(content: &[u8]) -> Self {
        Self { algorithm: Algorithm::Sha256, hex: hex(&Sha256::digest(content)) }
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// True for the two digests of an empty layer (plain and gzipped tar), which are readable from every
    /// repository (registry source pkg/dockerregistry/server/blobdescriptorservice.go:11-21).
    pub fn is_empty_layer(&self) -> bool {
        matches!(
            self.hex.as_str(),
            "a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
                | "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        )
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ if is_algorithm_name(name) && !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                return Err(DigestError::Unsupported);
            }
            _ => return Err(DigestError::Format),
        };
        if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(DigestError::Format);
        }
        if hex.len() != algorithm.hex_len() {
            return Err(DigestError::Length);
        }
        Ok(Self { algorithm, hex: hex.to_owned() })
    }
}

fn is_algorithm_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A running hash over an upload, able to be put away between two requests and taken up again.
#[derive(Clone)]
pub enum Hasher {
    /// Running sha256.
    Sha256(Sha256),
    /// Running sha512.
    Sha512(Sha512),
}

impl Hasher {
    /// A hash of nothing so far.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all bytes seen.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest { algorithm: Algorithm::Sha256, hex: hex(&hash.finalize()) },
            Self::Sha512(hash) => Digest { algorithm: Algorithm::Sha512, hex: hex(&hash.finalize()) },
        }
    }

    /// The inner state of a sha256 hash as bytes that [`Hasher::resume`] understands; `None` for sha512.
    pub fn save(&self) -> Option<Vec<u8>> {
        match self {
            Self::Sha256(hash) => Some(hash.serialize().to_vec()),
            Self::Sha512(_) => None,
        }
    }

    /// Takes up a saved sha256 hash; `None` when the bytes are not such a state.
    pub fn resume(saved: &[u8]) -> Option<Self> {
        let state = SerializedState::<Sha256>::try_from(saved).ok()?;
        Sha256::deserialize(&state).ok().map(Self::Sha256)
    }
}

/// A repository of the integrated registry: exactly a project and an image stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    namespace: String,
    stream: String,
}

impl Repository {
    /// Splits `<project>/<stream>`; `None` unless there are exactly two parts
    /// (registry source pkg/dockerregistry/server/util.go:31-48).
    pub fn parse(name: &str) -> Option<Self> {
        let (namespace, stream) = name.split_once('/')?;
        let usable = |part: &str| !part.is_empty() && !part.contains('/');
        (usable(namespace) && usable(stream))
            .then(|| Self { namespace: namespace.to_owned(), stream: stream.to_owned() })
    }

    /// The project.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The image stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.stream)
    }
}

/// True when a text is a repository name of the distribution specification ("Pulling manifests"):
/// lower-case components joined by `.`, `_`, `__` or dashes, at most 255 characters.
pub fn is_repository_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name.split('/').all(is_name_component)
}

fn is_name_component(part: &str) -> bool {
    let bytes = part.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if bytes.is_empty() || !alphanumeric(bytes[0]) || !alphanumeric(bytes[bytes.len() - 1]) {
        return false;
    }
    part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

/// True when a text is a tag: a word character, then up to 127 word characters, dots or dashes.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len()) && word(bytes[0]) && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[rstest]
    #[case(EMPTY, None)]
    #[case("sha256:abc", Some(DigestError::Length))]
    #[case("sha256:E3B0", Some(DigestError::Format))]
    #[case("md5:0cc175b9c0f1b6a831c399e269772661", Some(DigestError::Unsupported))]
    #[case("latest", Some(DigestError::Format))]
    fn digests(#[case] text: &str, #[case] error: Option<DigestError>) {
        match Digest::from_str(text) {
            Ok(digest) => {
                assert_eq!(digest.to_string(), text);
                assert_eq!(error, None);
            }
            Err(seen) => assert_eq!(Some(seen), error),
        }
    }

    #[test]
    fn a_saved_hash_goes_on_where_it_stopped() {
        let mut whole = Hasher::new(Algorithm::Sha256);
        whole.update(b"one chunk and another");
        let mut first = Hasher::new(Algorithm::Sha256);
        first.update(b"one chunk ");
        let mut second = Hasher::resume(&first.save().unwrap()).unwrap();
        second.update(b"and another");
        assert_eq!(second.finish(), whole.finish());
        assert!(Hasher::resume(b"rubbish").is_none());
    }

    #[rstest]
    #[case("project/image", true)]
    #[case("project/image_a.b-c--d", true)]
    #[case("Project/image", false)]
    #[case("project//image", false)]
    #[case("project/image-", false)]
    #[case("project/a...b", false)]
    fn names(#[case] name: &str, #[case] valid: bool) {
        assert_eq!(is_repository_name(name), valid);
    }

    #[rstest]
    #[case("one/two", true)]
    #[case("one", false)]
    #[case("one/two/three", false)]
    fn repositories_have_two_parts(#[case] name: &str, #[case] valid: bool) {
        assert_eq!(Repository::parse(name).is_some(), valid);
    }

    #[rstest]
    #[case("latest", true)]
    #[case("v1.2-3_4", true)]
    #[case(".hidden", false)]
    #[case("", false)]
    #[case("a:b", false)]
    fn tags(#[case] tag: &str, #[case] valid: bool) {
        assert_eq!(is_tag(tag), valid);
    }
}
