//! TLS with authorities of a registry's own, and with a client's certificate.
//!
//! A certificate that signs itself is in wide use for private registries, docker's own manual makes one: authority and the server's certificate in
//! one. `rustls` refuses an authority as the certificate of a server, so here that one refusal is lifted for exactly the
//! certificates that the user trusts; the name still has to be the server's, and the time has to be in its bounds.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::hosts::Host;
use crate::error::SourceError;

const WHAT: &str = "read certificate";
/// What `webpki`, whose errors `rustls` passes on as texts only, says of an authority that is a server's certificate. It says so after it has
/// looked at the time, and before anything else.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";

/// The configuration for a host with authorities or a client certificate. `anyone`: whatever certificate the server has is accepted.
///
/// # Errors
/// A file cannot be read or is none of certificates.
pub(super) fn config(host: &Host, anyone: bool) -> Result<ClientConfig, SourceError> {
    let bad = |path: &Path| {
        let on = path.display().to_string();
        move |why: String| SourceError::corrupt(WHAT, on, why)
    };
    let read = |path: &Path| std::fs::read(path).map_err(SourceError::io(WHAT, path));
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, SourceError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
        let found = found.map_err(|error| bad(path)(error.to_string()))?;
        if found.is_empty() { Err(bad(path)("has no certificate".into())) } else { Ok(found) }
    };
    let failed = |error: Error| SourceError::Remote {
        what: "start TLS",
        on: host.url.clone().unwrap_or_else(|| "registry".into()),
        why: error.to_string(),
    };
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if anyone {
        Arc::new(Anyone(provider.signature_verification_algorithms.supported_schemes()))
    } else {
        let mut trusted = Vec::new();
        for path in &host.authorities {
            trusted.extend(certificates(path)?);
        }
        let inner = Verifier::new_with_extra_roots(trusted.clone(), Arc::clone(&provider)).map_err(failed)?;
        Arc::new(Trusting { inner, trusted })
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((path, key)) = &host.identity else { return Ok(builder.with_no_client_auth()) };
    let key_path = key.as_deref().unwrap_or(path);
    let key =
        PrivateKeyDer::from_pem_slice(&read(key_path)?).map_err(|error| bad(key_path)(error.to_string()))?;
    let chain = certificates(path)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| bad(path)(error.to_string()))
}

/// The platform's verifier with the user's authorities, which may be certificates of servers as well.
#[derive(Debug)]
struct Trusting {
    inner: Verifier,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(Error::InvalidCertificate(CertificateError::Other(why)))
                if why.to_string().contains(AUTHORITY_AS_SERVER) && self.trusted.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes every server for the right one.
#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
