//! The certificates of one control plane: authorities that exist only for its lifetime, and the leaves they sign.
//! Keys are ECDSA P-256, files have mode 0600, and a leaf is valid for a year so that a wrong clock is the only way to expire.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::{Error, secret_file};

/// A certificate (with its chain) and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// PKCS #8 private key.
    pub key: PathBuf,
}

/// A certificate authority whose files lie in one folder.
pub struct Authority {
    folder: PathBuf,
    files: CertificateFiles,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Authority").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority and writes `STEM.crt` and `STEM.key` into `folder`.
    ///
    /// # Errors
    /// [`Error::Certificate`] or [`Error::File`].
    pub fn create(folder: &Path, stem: &str, common_name: &str) -> Result<Authority, Error> {
        let failed = failed(common_name);
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = params(&[], common_name, None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(&failed)?;
        let pem = certificate.pem();
        let files = write_pair(folder, stem, &pem, &key)?;
        Ok(Authority { folder: folder.to_owned(), files, pem, issuer: Issuer::new(params, key) })
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> &Path {
        &self.files.certificate
    }

    /// The authority's certificate and key, for programs that sign by themselves.
    pub fn files(&self) -> &CertificateFiles {
        &self.files
    }

    /// The authority's certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a server certificate for DNS names and IP addresses, and writes `STEM.crt` and `STEM.key`.
    ///
    /// # Errors
    /// [`Error::Certificate`] for a name that is neither, [`Error::File`].
    pub fn issue_server(&self, stem: &str, names: &[String]) -> Result<CertificateFiles, Error> {
        let common_name = names.first().map_or(stem, String::as_str);
        let mut params = params(names, common_name, None)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(stem, common_name, params)
    }

    /// Signs a client certificate. Kubernetes takes the common name as the user and the organisation as its group.
    ///
    /// # Errors
    /// [`Error::Certificate`], [`Error::File`].
    pub fn issue_client(
        &self,
        stem: &str,
        common_name: &str,
        organization: Option<&str>,
    ) -> Result<CertificateFiles, Error> {
        let mut params = params(&[], common_name, organization)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(stem, common_name, params)
    }

    /// Signs a certificate that is shown as a server and used as a client, as members of an etcd cluster do.
    ///
    /// # Errors
    /// [`Error::Certificate`], [`Error::File`].
    pub fn issue_peer(&self, stem: &str, names: &[String]) -> Result<CertificateFiles, Error> {
        let mut params = params(names, stem, None)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(stem, stem, params)
    }

    fn sign(&self, stem: &str, common_name: &str, mut params: CertificateParams) -> Result<CertificateFiles, Error> {
        let failed = failed(common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(&failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(&failed)?;
        write_pair(&self.folder, stem, &certificate.pem(), &key)
    }
}

/// Makes the key pair that signs service account tokens; the "certificate" of the result is the public key.
pub(crate) fn service_account_keys(folder: &Path) -> Result<CertificateFiles, Error> {
    let key = KeyPair::generate().map_err(failed("service-account"))?;
    write_pair(folder, "service-account", &key.public_key_pem(), &key)
}

fn write_pair(folder: &Path, stem: &str, certificate: &str, key: &KeyPair) -> Result<CertificateFiles, Error> {
    let files =
        CertificateFiles { certificate: folder.join(format!("{stem}.crt")), key: folder.join(format!("{stem}.key")) };
    secret_file::write(&files.key, key.serialize_pem().as_bytes())?;
    secret_file::write(&files.certificate, certificate.as_bytes())?;
    Ok(files)
}

fn params(names: &[String], common_name: &str, organization: Option<&str>) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(names).map_err(failed(common_name))?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name = subject;
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let yesterday = today.yesterday().unwrap_or(today);
    let next_year = yesterday.saturating_add(jiff::Span::new().days(366));
    let midnight = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = midnight(yesterday);
    params.not_after = midnight(next_year);
    Ok(params)
}

fn failed(name: &str) -> impl Fn(rcgen::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Certificate { name: name.clone(), source }
}
