//! The certificate for TLS, WebSocket and QUIC: from files, read anew when they
//! change, or made at start.
//!
//! It is transport, not trust: who the relay is, its session on the link shows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use fairway_endpoint::transport::{ALPN_HTTP, ALPN_LINK, crypto_provider};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::limits;

/// Where the certificate comes from.
#[derive(Clone, Debug, Default)]
pub enum Certificate {
    /// Made at start, signed by itself: for clients that do not look at it.
    #[default]
    SelfSigned,
    /// PEM files, such as those of a mounted Secret.
    Files {
        /// The certificate, and those between it and the authority.
        chain: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// There is no certificate to serve.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file has no certificate, or no key.
    #[error("{path} is not PEM with what it should have")]
    Pem {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// They cannot be used, or do not belong together.
    #[error("certificate and key cannot be used together")]
    Unusable(#[from] rustls::Error),
    /// No certificate could be made.
    #[error("no certificate could be made")]
    Make(#[from] rcgen::Error),
}

/// The certificate in use.
pub(super) struct Certificates {
    source: Certificate,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificates {
    pub(super) fn new(source: Certificate) -> Result<Arc<Self>, CertificateError> {
        let first = match &source {
            Certificate::SelfSigned => make()?,
            Certificate::Files { chain, key } => parse(chain, &read(chain)?, key, &read(key)?)?,
        };
        Ok(Arc::new(Self {
            source,
            current: RwLock::new(Arc::new(first)),
        }))
    }

    /// A configuration that serves whatever is current, and agrees to these
    /// protocols.
    pub(super) fn server_config(
        self: &Arc<Self>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        protocols: &[&[u8]],
    ) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // Links last for days: nothing is kept for the next one.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// For the listener of TLS and WebSocket: middleboxes may know no more than
    /// TLS 1.2.
    pub(super) fn tls_config(self: &Arc<Self>) -> Result<ServerConfig, rustls::Error> {
        let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
        self.server_config(&versions, &[ALPN_LINK, ALPN_HTTP])
    }

    /// For QUIC.
    pub(super) fn quic_config(self: &Arc<Self>) -> Result<ServerConfig, rustls::Error> {
        self.server_config(&[&rustls::version::TLS13], &[ALPN_LINK])
    }

    /// Reads the files anew whenever they change; a change that cannot be used
    /// is logged, and what was there stays.
    pub(super) async fn follow(self: Arc<Self>) {
        let Certificate::Files { chain, key } = &self.source else {
            return;
        };
        let mut seen = None;
        loop {
            let files = (tokio::fs::read(chain).await, tokio::fs::read(key).await);
            // While a Secret is being replaced, a file may be away for a moment.
            if let (Ok(chain_pem), Ok(key_pem)) = files {
                let new = Some((chain_pem, key_pem));
                if new != seen {
                    if seen.is_some()
                        && let Some((chain_pem, key_pem)) = &new
                    {
                        self.replace(parse(chain, chain_pem, key, key_pem));
                    }
                    seen = new;
                }
            }
            tokio::time::sleep(limits::CERTIFICATE_LOOK).await;
        }
    }

    fn replace(&self, new: Result<CertifiedKey, CertificateError>) {
        match new {
            Ok(new) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                tracing::info!(event = "certificate", "a new TLS certificate is in use");
            }
            Err(error) => tracing::warn!(
                event = "certificate",
                error = %error,
                "the new TLS certificate is not used; the one before stays"
            ),
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(current.clone())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.source).finish()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Read {
        path: path.display().to_string(),
        source,
    })
}

fn parse(
    chain_path: &Path,
    chain: &[u8],
    key_path: &Path,
    key: &[u8],
) -> Result<CertifiedKey, CertificateError> {
    let wrong = |path: &Path, source| CertificateError::Pem {
        path: path.display().to_string(),
        source,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|source| wrong(chain_path, source))?;
    if chain.is_empty() {
        return Err(wrong(
            chain_path,
            rustls::pki_types::pem::Error::NoItemsFound,
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| wrong(key_path, source))?;
    usable(chain, key)
}

fn make() -> Result<CertifiedKey, CertificateError> {
    let names = vec!["relay.fairway.internal".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    usable(vec![made.cert.der().clone()], key)
}

fn usable(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, CertificateError> {
    Ok(CertifiedKey::from_der(chain, key, &crypto_provider())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chain and key in PEM.
    fn pem(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn files_that_cannot_be_served_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let files = || Certificate::Files {
            chain: chain.clone(),
            key: key.clone(),
        };
        let (certificate, secret) = pem("a.example.com");
        assert!(matches!(
            Certificates::new(files()),
            Err(CertificateError::Read { .. })
        ));
        std::fs::write(&chain, "nothing").unwrap();
        std::fs::write(&key, &secret).unwrap();
        assert!(matches!(
            Certificates::new(files()),
            Err(CertificateError::Pem { .. })
        ));
        std::fs::write(&chain, &certificate).unwrap();
        assert!(Certificates::new(files()).is_ok());
        std::fs::write(&key, pem("b.example.com").1).unwrap();
        assert!(matches!(
            Certificates::new(files()),
            Err(CertificateError::Unusable(_))
        ));
    }
}
