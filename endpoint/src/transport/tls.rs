//! TLS as a client: whom to believe, and the configuration.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};

/// Application protocol of bare link frames.
pub const ALPN_LINK: &[u8] = b"fairway/1";

/// Application protocol of what may become a WebSocket.
pub const ALPN_HTTP: &[u8] = b"http/1.1";

/// Which certificate of a relay is good enough. The link's own handshake
/// authenticates the relay in any case.
#[derive(Clone, Debug, Default)]
pub enum TlsTrust {
    /// Any: relays make their own unless they are given one.
    #[default]
    Any,
    /// One of these authorities has signed it, for the relay's host name.
    Roots(Arc<RootCertStore>),
}

/// The file with certificate authorities is of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsTrustError {
    /// Not PEM.
    #[error("it is not PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// A certificate in it cannot be an authority's.
    #[error("a certificate in it cannot be used")]
    Certificate(#[from] Error),
    /// There is none in it.
    #[error("there is no certificate in it")]
    Empty,
}

impl TlsTrust {
    /// The authorities in a PEM file.
    ///
    /// # Errors
    ///
    /// There is none in it, or one that cannot be used.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsTrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate?)?;
        }
        if roots.is_empty() {
            return Err(TlsTrustError::Empty);
        }
        Ok(Self::Roots(Arc::new(roots)))
    }

    /// A client's configuration that offers `alpn`.
    pub(super) fn client_config(
        &self,
        alpn: &[u8],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<ClientConfig, Error> {
        let provider = crypto_provider();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?;
        let mut config = match self {
            Self::Any => {
                let algorithms = provider.signature_verification_algorithms;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(AnyCertificate { algorithms }))
                    .with_no_client_auth()
            }
            Self::Roots(roots) => builder
                .with_root_certificates(roots.clone())
                .with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        // A link lasts for days: tickets would only take memory.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

/// The one library for cryptography that Fairway uses.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .clone()
}

/// Takes any certificate whose key the other end really has. TLS is not what
/// authenticates a relay: the link's handshake inside is.
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for AnyCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyCertificate")
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_of_authorities_is_refused() {
        assert!(matches!(TlsTrust::from_pem(b""), Err(TlsTrustError::Empty)));
        let broken = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            TlsTrust::from_pem(broken),
            Err(TlsTrustError::Pem(_))
        ));
        let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            TlsTrust::from_pem(empty),
            Err(TlsTrustError::Certificate(_))
        ));
    }
}
