//! Checksums of files, as projects publish them beside their releases. They prove that a file is the right one; where it
//! came from does not matter then.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use sha2::digest::Digest;
use sha2::{Sha256, Sha512};

use crate::Error;

/// A published checksum, written `sha256:HEX` or `sha512:HEX` in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Checksum {
    /// SHA-256.
    Sha256(String),
    /// SHA-512.
    Sha512(String),
}

impl Checksum {
    /// The checksum of the same kind that a file has.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn of_same_kind(&self, path: &Path) -> Result<Checksum, Error> {
        match self {
            Checksum::Sha256(_) => sha256_of(path).map(Checksum::Sha256),
            Checksum::Sha512(_) => digest_of::<Sha512>(path).map(Checksum::Sha512),
        }
    }

    /// The number itself.
    pub(crate) fn hex(&self) -> &str {
        match self {
            Checksum::Sha256(hex) | Checksum::Sha512(hex) => hex,
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Checksum::Sha256(hex) => write!(out, "sha256:{hex}"),
            Checksum::Sha512(hex) => write!(out, "sha512:{hex}"),
        }
    }
}

impl TryFrom<String> for Checksum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (kind, hex) = text.split_once(':').unwrap_or(("", &text));
        let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match (kind, hex.len()) {
            ("sha256", 64) if is_hex => Ok(Checksum::Sha256(hex.to_owned())),
            ("sha512", 128) if is_hex => Ok(Checksum::Sha512(hex.to_owned())),
            _ => Err(format!("{text:?} is neither sha256: with 64 nor sha512: with 128 lower-case hexadecimal digits")),
        }
    }
}

/// SHA-256 of a file in lower-case hexadecimal.
///
/// # Errors
/// [`Error::File`].
pub(crate) fn sha256_of(path: &Path) -> Result<String, Error> {
    digest_of::<Sha256>(path)
}

fn digest_of<D: Digest>(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let mut digest = D::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::file("read", path))? {
            0 => return Ok(hex(&digest.finalize())),
            count => digest.update(&buffer[..count]),
        }
    }
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// FIPS 180-2, appendices B.1 and C.1: the message "abc".
    const SHA256_ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const SHA512_ABC: &str = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[rstest]
    #[case(SHA256_ABC)]
    #[case(SHA512_ABC)]
    fn a_file_has_the_published_checksum(#[case] published: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let published = Checksum::try_from(published.to_owned()).unwrap();
        assert_eq!(published.of_same_kind(&path).unwrap(), published);
    }

    #[rstest]
    #[case("abc")]
    #[case("sha256:abc")]
    #[case("md5:900150983cd24fb0d6963f7d28e17f72")]
    #[case(&SHA256_ABC.to_uppercase())]
    fn what_is_no_checksum_is_refused(#[case] text: &str) {
        assert!(Checksum::try_from(text.to_owned()).is_err());
    }
}
