//! S3 keys in a file of AWS ini form, read again whenever the file changes, so that rotated keys need no restart.

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use object_store::{CredentialProvider, aws::AwsCredential};

/// Keys from a file.
pub struct CredentialsFile {
    path: PathBuf,
    read: Mutex<Option<(SystemTime, Arc<AwsCredential>)>>,
}

impl CredentialsFile {
    /// Reads the file once, so that an unusable one is told at start.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = Self { path: path.to_owned(), read: Mutex::new(None) };
        file.current()?;
        Ok(file)
    }

    fn current(&self) -> Result<Arc<AwsCredential>, String> {
        let wrong = |problem: &dyn std::fmt::Display| {
            format!("REGISTRY_STORAGE_S3_CREDENTIALSCONFIGPATH={}: {problem}", self.path.display())
        };
        let modified = std::fs::metadata(&self.path).and_then(|facts| facts.modified()).map_err(|e| wrong(&e))?;
        let mut read = self.read.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some((since, keys)) = &*read
            && *since == modified
        {
            return Ok(Arc::clone(keys));
        }
        let text = std::fs::read_to_string(&self.path).map_err(|error| wrong(&error))?;
        let keys = Arc::new(parse(&text).map_err(|problem| wrong(&problem))?);
        *read = Some((modified, Arc::clone(&keys)));
        Ok(keys)
    }
}

impl std::fmt::Debug for CredentialsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CredentialsFile({})", self.path.display())
    }
}

impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    fn get_credential<'life, 'out>(
        &'life self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'out>>
    where
        'life: 'out,
        Self: 'out,
    {
        Box::pin(async move {
            self.current().map_err(|problem| object_store::Error::Unauthenticated {
                path: self.path.display().to_string(),
                source: problem.into(),
            })
        })
    }
}

/// Reads the `default` profile (or keys before any profile).
fn parse(text: &str) -> Result<AwsCredential, String> {
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    let mut in_default = true;
    for line in text.lines().map(str::trim) {
        if let Some(profile) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            in_default = matches!(profile.trim(), "default" | "profile default");
        }
        let Some((key, value)) = line.split_once('=').filter(|_| in_default && !line.starts_with(['#', ';'])) else {
            continue;
        };
        let value = Some(value.trim().to_owned());
        match key.trim().to_ascii_lowercase().as_str() {
            "aws_access_key_id" => key_id = value,
            "aws_secret_access_key" => secret_key = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    match (key_id, secret_key) {
        (Some(key_id), Some(secret_key)) => Ok(AwsCredential { key_id, secret_key, token }),
        (None, _) => Err("no aws_access_key_id in profile [default]".into()),
        (_, None) => Err("no aws_secret_access_key in profile [default]".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_counts() {
        let keys = parse(
            "[other]\naws_access_key_id = o\naws_secret_access_key = o\n[default]\n# comment = x\n\
             aws_access_key_id = id\naws_secret_access_key=a=b\n",
        )
        .unwrap();
        assert_eq!((keys.key_id.as_str(), keys.secret_key.as_str()), ("id", "a=b"));
        assert!(parse("[default]\naws_access_key_id = id\n").unwrap_err().contains("aws_secret_access_key"));
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let write = |id: &str, seconds: u64| {
            std::fs::write(&path, format!("[default]\naws_access_key_id={id}\naws_secret_access_key=s\n")).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        write("one", 1);
        let file = CredentialsFile::open(&path).unwrap();
        assert_eq!(file.current().unwrap().key_id, "one");
        write("two", 2);
        assert_eq!(file.current().unwrap().key_id, "two");
        std::fs::remove_file(&path).unwrap();
        assert!(file.current().unwrap_err().contains("CREDENTIALSCONFIGPATH"));
    }
}
