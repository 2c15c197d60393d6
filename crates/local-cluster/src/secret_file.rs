//! Files that only their owner may read, written whole or not at all.
//! Keys, tokens and kubeconfigs of a lane pass through here.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::Error;

/// Makes `path` and its missing parents with mode 0700. An existing folder is kept as it is.
///
/// # Errors
/// [`Error::File`] when it cannot be made.
pub fn make_private_folder(path: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::file("make the folder", path))
}

/// Writes `content` to `path` with mode 0600: first beside it, then renamed, so that no reader sees half a file.
///
/// # Errors
/// [`Error::File`] when it cannot be written.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.partial", std::process::id()));
    let unfinished = Path::new(&unfinished);
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(unfinished)
        .and_then(|mut file: File| file.write_all(content))
        .and_then(|()| std::fs::rename(unfinished, path));
    written.map_err(|source| {
        // The cause is what matters; a leftover of the failed write is only untidy.
        let _ = std::fs::remove_file(unfinished);
        Error::file("write", path)(source)
    })
}

/// `bytes` random bytes of the operating system in URL-safe Base64 without padding.
pub(crate) fn random_text(bytes: usize) -> Result<String, Error> {
    use base64::Engine as _;
    use std::io::Read as _;

    let source = Path::new("/dev/urandom");
    let mut buffer = vec![0; bytes];
    File::open(source).and_then(|mut file| file.read_exact(&mut buffer)).map_err(Error::file("read", source))?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(buffer))
}
