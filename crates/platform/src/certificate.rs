//! Certificate authorities and the serving certificates they issue, as PEM.
//! Keys are ECDSA P-256; where they are kept and who may ask is up to the caller.

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Error;

/// Validity of what is issued. Upstream's service CA uses the same span (OpenShift 4.6 security docs, service CA).
const SERVING_DAYS: i64 = 730;
/// A certificate with less time left than this counts as broken.
const RENEW_DAYS: i64 = 30;

/// A certificate with its key. `certificate` may hold the chain above it as well.
#[derive(Clone)]
pub(crate) struct Pair {
    /// PEM, leaf first.
    pub certificate: String,
    /// PEM, PKCS #8.
    pub key: String,
}

/// Signs serving certificates.
pub(crate) struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new self-signed authority, valid for ten years.
    pub(crate) fn generate(common_name: &str) -> Result<Self, Error> {
        let doing = || format!("making the certificate authority {common_name}");
        let key = KeyPair::generate().map_err(Error::certificate(doing()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        set_validity(&mut params, 3650);
        let certificate = params.self_signed(&key).map_err(Error::certificate(doing()))?;
        Self::from_pair(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// An authority kept from earlier.
    ///
    /// # Errors
    /// If the pair is not PEM, not a CA, does not belong together, or expires soon.
    pub(crate) fn from_pair(pair: Pair) -> Result<Self, Error> {
        let doing = "reading a kept certificate authority";
        if !keys_match(&pair) {
            return Err(Error::certificate(doing)("certificate and key do not belong together"));
        }
        let der = leaf(&pair.certificate).ok_or_else(|| Error::certificate(doing)("no certificate in it"))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(Error::certificate(doing))?;
        if !parsed.is_ca() || !has_time_left(&parsed) {
            return Err(Error::certificate(doing)("it is no authority or expires soon"));
        }
        let key = KeyPair::from_pem(&pair.key).map_err(Error::certificate(doing))?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key).map_err(Error::certificate(doing))?;
        Ok(Self { pair, issuer })
    }

    /// What to trust, as PEM.
    pub(crate) fn certificate(&self) -> &str {
        &self.pair.certificate
    }

    /// Certificate and key, for keeping.
    pub(crate) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// A serving certificate for `names`, followed by the authority's own certificate.
    pub(crate) fn issue(&self, names: &[String]) -> Result<Pair, Error> {
        let doing = || format!("issuing a certificate for {}", names.join(", "));
        let key = KeyPair::generate().map_err(Error::certificate(doing()))?;
        let mut params = CertificateParams::new(names).map_err(Error::certificate(doing()))?;
        params.distinguished_name = name(names.first().map_or("", String::as_str));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, SERVING_DAYS);
        let certificate = params.signed_by(&key, &self.issuer).map_err(Error::certificate(doing()))?;
        Ok(Pair { certificate: format!("{}{}", certificate.pem(), self.pair.certificate), key: key.serialize_pem() })
    }

    /// True if `pair` is whole, from this authority, good for all of `names`, and will be for a while.
    pub(crate) fn vouches_for(&self, pair: &Pair, names: &[String]) -> bool {
        let (Some(served), Some(ours)) = (leaf(&pair.certificate), leaf(&self.pair.certificate)) else { return false };
        let (Ok((_, served)), Ok((_, ours))) = (X509Certificate::from_der(&served), X509Certificate::from_der(&ours))
        else {
            return false;
        };
        let Ok(Some(alternatives)) = served.subject_alternative_name() else { return false };
        let holds = |name: &String| {
            alternatives
                .value
                .general_names
                .iter()
                .any(|held| matches!(held, GeneralName::DNSName(held) if held == name))
        };
        names.iter().all(holds)
            && has_time_left(&served)
            && served.verify_signature(Some(ours.public_key())).is_ok()
            && keys_match(pair)
    }
}

/// The pair in the form rustls serves; an error says what is wrong with it.
pub(crate) fn certified_key(pair: &Pair) -> Result<rustls::sign::CertifiedKey, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate is not PEM: {error}"))?;
    if chain.is_empty() {
        return Err("there is no certificate in it".into());
    }
    let key =
        PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| format!("the key is not PEM: {error}"))?;
    let key = rustls::sign::CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
        .map_err(|error| error.to_string())?;
    Ok(key)
}

/// All certificates of a PEM text as trust anchors; an error says what is wrong with it.
pub(crate) fn trust_anchors(pem: &str) -> Result<rustls::RootCertStore, String> {
    let mut anchors = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        anchors.add(certificate).map_err(|error| error.to_string())?;
    }
    match anchors.is_empty() {
        true => Err("there is no certificate in it".into()),
        false => Ok(anchors),
    }
}

fn keys_match(pair: &Pair) -> bool {
    // `from_der` refuses a pair that does not match.
    certified_key(pair).is_ok_and(|key| key.keys_match().is_ok())
}

fn leaf(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

fn has_time_left(certificate: &X509Certificate<'_>) -> bool {
    let now = Timestamp::now().as_second();
    let validity = certificate.validity();
    validity.not_before.timestamp() <= now && validity.not_after.timestamp() > now + RENEW_DAYS * 86_400
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // The field is limited to 64 characters; alternative names are what counts.
    name.push(DnType::CommonName, common_name.chars().take(64).collect::<String>());
    name
}

fn set_validity(params: &mut CertificateParams, days: i64) {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let at = |date: jiff::civil::Date| rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
    // A day in the past, so that a clock a little behind ours accepts it.
    params.not_before = at(today.saturating_sub(1.day()));
    params.not_after = at(today.saturating_add(days.days()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_authority_vouches_only_for_its_own_and_whole_certificates() {
        let authority = Authority::generate("one").expect("authority");
        let other = Authority::generate("one").expect("authority of the same name");
        let wanted = names(&["a.b.svc", "a.b.svc.cluster.local"]);
        let issued = authority.issue(&wanted).expect("issued");
        assert!(authority.vouches_for(&issued, &wanted));
        assert!(!other.vouches_for(&issued, &wanted), "signed by somebody else");
        assert!(!authority.vouches_for(&issued, &names(&["c.b.svc"])), "another name");
        let foreign_key = authority.issue(&wanted).expect("issued").key;
        let mixed = Pair { key: foreign_key, ..issued.clone() };
        assert!(!authority.vouches_for(&mixed, &wanted), "the key of another certificate");
        for broken in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let broken = Pair { certificate: broken.to_owned(), key: issued.key.clone() };
            assert!(!authority.vouches_for(&broken, &wanted));
        }
    }

    #[test]
    fn a_kept_authority_goes_on_where_it_stopped() {
        let first = Authority::generate("kept").expect("authority");
        let again = Authority::from_pair(first.pair().clone()).expect("readable");
        let wanted = names(&["a.b.svc"]);
        assert!(first.vouches_for(&again.issue(&wanted).expect("issued"), &wanted));
        assert!(Authority::from_pair(first.issue(&wanted).expect("issued")).is_err(), "a leaf is no authority");
    }
}
