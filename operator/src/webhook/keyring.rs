//! The webhook's certificates, and when they change. Pure but for the keys,
//! which come from the operating system's randomness.
//!
//! Each certificate has a CA of its own, whose key is forgotten at once: what
//! the API server trusts can sign nothing else. A successor's CA is trusted
//! for a while before the successor is served, and the predecessor's after,
//! so that neither replicas nor API servers have to change in step.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, ToSpan, tz::TimeZone};
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::limits::{CERTIFICATE_DAYS, CERTIFICATE_OVERLAP, CERTIFICATE_ROTATE_DAYS};

/// What the replicas share.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    current: Generation,
    next: Option<Generation>,
    previous_ca: Option<String>,
}

/// One certificate with its key, and the CA that vouches for it. All in PEM.
#[derive(Clone, PartialEq, Eq)]
struct Generation {
    made: Timestamp,
    ca: String,
    certificate: String,
    key: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// It could not be made.
    #[error("the webhook's certificate could not be made")]
    Make(#[from] rcgen::Error),
    /// What the Secret holds is not what this program wrote.
    #[error("the Secret's {0} is missing or malformed; delete the Secret and a new one is made")]
    Malformed(&'static str),
    /// The certificate and key do not fit rustls.
    #[error("the certificate cannot be served")]
    Serve(#[from] rustls::Error),
}

impl Keyring {
    /// A first certificate for the names of a Service.
    ///
    /// # Errors
    /// The certificate could not be made.
    pub fn new(names: &[String], now: Timestamp) -> Result<Self, KeyringError> {
        Ok(Self {
            current: Generation::new(names, now)?,
            next: None,
            previous_ca: None,
        })
    }

    /// What the keyring becomes at this time, if it has to change.
    ///
    /// # Errors
    /// A certificate could not be made.
    pub fn step(&self, names: &[String], now: Timestamp) -> Result<Option<Self>, KeyringError> {
        let age = |since: Timestamp| now.duration_since(since);
        if let Some(next) = &self.next
            && (age(next.made).as_secs() >= overlap_seconds() || self.is_expired(now))
        {
            return Ok(Some(Self {
                current: next.clone(),
                next: None,
                previous_ca: Some(self.current.ca.clone()),
            }));
        }
        if self.next.is_some() || age(self.current.made) < days(CERTIFICATE_ROTATE_DAYS) {
            return Ok(None);
        }
        let next = Some(Generation::new(names, now)?);
        Ok(Some(Self {
            next,
            ..self.clone()
        }))
    }

    /// What the API server has to trust: predecessor, current and successor.
    pub fn ca_bundle(&self) -> String {
        let cas = [self.previous_ca.as_ref(), Some(&self.current.ca)];
        let next = self.next.as_ref().map(|next| &next.ca);
        cas.into_iter()
            .chain([next])
            .flatten()
            .map(String::as_str)
            .collect()
    }

    /// When the certificate that is served ends.
    pub fn expires(&self) -> Timestamp {
        self.current
            .made
            .saturating_add(days(CERTIFICATE_DAYS))
            .unwrap_or(Timestamp::MAX)
    }

    /// The TLS configuration to serve with.
    ///
    /// # Errors
    /// Certificate and key do not fit, or are not PEM.
    pub fn server_config(&self) -> Result<rustls::ServerConfig, KeyringError> {
        let certificate = CertificateDer::from_pem_slice(self.current.certificate.as_bytes())
            .map_err(|_| KeyringError::Malformed("tls.crt"))?;
        let key = PrivateKeyDer::from_pem_slice(self.current.key.as_bytes())
            .map_err(|_| KeyringError::Malformed("tls.key"))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut config = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// As a Secret's data.
    pub fn to_data(&self) -> BTreeMap<String, ByteString> {
        let mut data = BTreeMap::new();
        let mut put = |key: &str, text: &str| {
            data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
        };
        put("ca.crt", &self.ca_bundle());
        put("tls.crt", &self.current.certificate);
        put("tls.key", &self.current.key);
        put("current-ca.crt", &self.current.ca);
        put("current-made", &self.current.made.to_string());
        if let Some(next) = &self.next {
            put("next.crt", &next.certificate);
            put("next.key", &next.key);
            put("next-ca.crt", &next.ca);
            put("next-made", &next.made.to_string());
        }
        if let Some(ca) = &self.previous_ca {
            put("previous-ca.crt", ca);
        }
        data
    }

    /// From a Secret's data.
    ///
    /// # Errors
    /// Something is missing or malformed.
    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self, KeyringError> {
        let text = |key: &'static str| {
            let bytes = data.get(key)?;
            String::from_utf8(bytes.0.clone()).ok()
        };
        let need = |key| text(key).ok_or(KeyringError::Malformed(key));
        let time = |key| need(key)?.parse().map_err(|_| KeyringError::Malformed(key));
        let next = match data.contains_key("next-made") {
            false => None,
            true => Some(Generation {
                made: time("next-made")?,
                ca: need("next-ca.crt")?,
                certificate: need("next.crt")?,
                key: need("next.key")?,
            }),
        };
        Ok(Self {
            current: Generation {
                made: time("current-made")?,
                ca: need("current-ca.crt")?,
                certificate: need("tls.crt")?,
                key: need("tls.key")?,
            },
            next,
            previous_ca: text("previous-ca.crt"),
        })
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.expires()
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring")
            .field("made", &self.current.made)
            .field("next", &self.next.as_ref().map(|next| next.made))
            .finish_non_exhaustive()
    }
}

impl Generation {
    fn new(names: &[String], now: Timestamp) -> Result<Self, KeyringError> {
        // A day of leeway on both sides: certificates are dated by the day here.
        let date_validity = |params: &mut CertificateParams| {
            let (year, month, day) = date(now, -1);
            params.not_before = rcgen::date_time_ymd(year, month, day);
            let (year, month, day) = date(now, CERTIFICATE_DAYS + 1);
            params.not_after = rcgen::date_time_ymd(year, month, day);
        };

        let mut params = CertificateParams::default();
        date_validity(&mut params);
        params
            .distinguished_name
            .push(DnType::CommonName, "fairway webhook CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate()?;
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::from_params(&params, &ca_key);

        let mut params = CertificateParams::new(names)?;
        date_validity(&mut params);
        params
            .distinguished_name
            .push(DnType::CommonName, "fairway webhook");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Self {
            made: now,
            ca: ca.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The date some days from now. rcgen's helper takes dates, not times.
fn date(now: Timestamp, days: i64) -> (i32, u8, u8) {
    let date = now
        .to_zoned(TimeZone::UTC)
        .saturating_add(days.days())
        .date();
    let part = |n: i8| u8::try_from(n).unwrap_or(1);
    (date.year().into(), part(date.month()), part(date.day()))
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(days * 24)
}

fn overlap_seconds() -> i64 {
    CERTIFICATE_OVERLAP.as_secs().try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["fairway-operator.fairway-system.svc".to_owned()]
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    const DAY: i64 = 86_400;

    #[test]
    fn a_certificate_is_rotated_with_overlap() {
        let first = Keyring::new(&names(), at(0)).unwrap();
        assert!(first.step(&names(), at(59 * DAY)).unwrap().is_none());

        let both = first.step(&names(), at(60 * DAY)).unwrap().unwrap();
        assert_eq!(both.current.certificate, first.current.certificate);
        assert!(both.ca_bundle().starts_with(&first.ca_bundle()));
        assert_eq!(both.ca_bundle().matches("BEGIN CERTIFICATE").count(), 2);
        assert!(both.step(&names(), at(60 * DAY + 599)).unwrap().is_none());

        let second = both.step(&names(), at(60 * DAY + 600)).unwrap().unwrap();
        assert_ne!(second.current.certificate, first.current.certificate);
        assert!(second.ca_bundle().contains(&first.current.ca));
        assert!(second.step(&names(), at(119 * DAY)).unwrap().is_none());
        assert_eq!(second.ca_bundle().matches("BEGIN CERTIFICATE").count(), 2);
    }

    /// The operator was away while its certificate ended.
    #[test]
    fn an_expired_certificate_is_replaced_without_waiting() {
        let first = Keyring::new(&names(), at(0)).unwrap();
        let both = first.step(&names(), at(100 * DAY)).unwrap().unwrap();
        let second = both.step(&names(), at(100 * DAY)).unwrap().unwrap();
        assert!(!second.is_expired(at(100 * DAY)));
    }

    #[test]
    fn it_survives_the_secret() {
        let first = Keyring::new(&names(), at(0)).unwrap();
        let both = first.step(&names(), at(60 * DAY)).unwrap().unwrap();
        let second = both.step(&names(), at(61 * DAY)).unwrap().unwrap();
        for ring in [first, both, second] {
            let data = ring.to_data();
            assert_eq!(Keyring::from_data(&data).unwrap(), ring);
            ring.server_config().unwrap();
            for key in data
                .keys()
                .filter(|key| *key != "ca.crt" && !key.starts_with("previous"))
            {
                let mut broken = data.clone();
                broken.remove(key);
                if key != "next-made" {
                    assert!(Keyring::from_data(&broken).is_err(), "without {key}");
                }
            }
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let ring = Keyring::new(&names(), at(0)).unwrap();
        assert!(!format!("{ring:?}").contains("PRIVATE"));
    }
}
