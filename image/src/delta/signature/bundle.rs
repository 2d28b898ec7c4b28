//! Sigstore bundles that hold a signature: an in-toto statement in a DSSE envelope, as cosign 3 makes them.
//!
//! The statement's subjects are digests, and its predicate's type says that it is a signature, not a bill of materials or another attestation
//! by the same key. Signed is the *pre-authentication encoding* (PAE) of the statement's bytes, of the DSSE protocol, version 1.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dimg::Digest;
use serde::Deserialize;

use super::TrustedKey;

/// Media type of a bundle, and type of the artifact that holds it.
pub(super) const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What the envelope holds.
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";
/// What the statement says of its subjects.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: Digests,
}

#[derive(Deserialize)]
struct Digests {
    sha256: Option<String>,
}

/// Whether one of `keys` signed what is in `bundle`, and this says that `signed` is signed.
pub(super) fn is_signed(bundle: &[u8], signed: Digest, keys: &[TrustedKey]) -> bool {
    let Ok(Bundle { dsse_envelope: envelope }) = serde_json::from_slice(bundle) else { return false };
    let Ok(payload) = STANDARD.decode(&envelope.payload) else { return false };
    if envelope.payload_type != STATEMENT_TYPE {
        return false;
    }
    let encoded = encoding(&payload);
    let verifies = |signature: &Signature| {
        let signature = STANDARD.decode(&signature.sig).unwrap_or_default();
        keys.iter().any(|key| key.verifies(&encoded, &signature))
    };
    if !envelope.signatures.iter().any(verifies) {
        return false;
    }
    // Read only now that it is known whose it is.
    let hex = signed.hex();
    serde_json::from_slice::<Statement>(&payload).is_ok_and(|statement| {
        statement.predicate_type == SIGNED
            && statement.subject.iter().any(|subject| subject.digest.sha256.as_deref() == Some(hex.as_str()))
    })
}

/// The bytes that are signed for `payload`: `DSSEv1`, then the length and bytes of its type, then of itself.
fn encoding(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {STATEMENT_TYPE} {} ", STATEMENT_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::{OTHER, key};
    use super::*;

    // Made by OpenSSL 3.0: `openssl dgst -sha256 -sign` of the encodings.
    const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAESYfHmsUpqoNawGD8h1Q2Lq+GbJFN\n\
        nk9MJiXxeCoRVDElskFJix42yJw+kGvcPgm/rJsOpMGEom20IVyuUmitow==\n\
        -----END PUBLIC KEY-----";
    const SIGNATURE: [&str; 2] = [
        "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJkaWdlc3QiOnsic2hhMjU2IjoiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYiJ9fV0sInByZWRpY2F0ZVR5cGUiOiJodHRwczovL3NpZ3N0b3JlLmRldi9jb3NpZ24vc2lnbi92MSIsInByZWRpY2F0ZSI6e319",
        "MEUCIQDQeXami9VD5alwfsGmSdzQyGpKPSTZT4+HT3SswCId9gIgANpA8OQLLFgMu/uM7I1DHZxZ62mx1yoCAZ6MgMYbqfk=",
    ];
    /// The same subject; the predicate is a bill of materials.
    const MATERIALS: [&str; 2] = [
        "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJkaWdlc3QiOnsic2hhMjU2IjoiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYiJ9fV0sInByZWRpY2F0ZVR5cGUiOiJodHRwczovL3NwZHguZGV2L0RvY3VtZW50IiwicHJlZGljYXRlIjp7fX0=",
        "MEQCID7fJNRkomZtMzqQ1Eh9CErGFNPpZrqDM5a24bOGvD2ZAiAnwsZGScdHo8np0O4/uw526eGkmMUbJ8Ozvycu7TnTfQ==",
    ];

    fn bundle([payload, signature]: [&str; 2]) -> String {
        serde_json::json!({
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": "any"}},
            "dsseEnvelope": {
                "payload": payload,
                "payloadType": STATEMENT_TYPE,
                "signatures": [{"sig": ""}, {"sig": signature}],
            },
        })
        .to_string()
    }

    #[test]
    fn a_signed_statement_counts_for_its_key_digest_and_predicate_alone() {
        let digest = Digest([0xab; 32]);
        let signed = |text: &str, digest, keys: &[TrustedKey]| is_signed(text.as_bytes(), digest, keys);
        let whole = bundle(SIGNATURE);
        assert!(signed(&whole, digest, &[key(KEY)]) && signed(&whole, digest, &[key(OTHER), key(KEY)]));
        assert!(!signed(&whole, digest, &[key(OTHER)]) && !signed(&whole, digest, &[]));
        assert!(!signed(&whole, Digest([0xac; 32]), &[key(KEY)]));
        let materials = serde_json::from_slice::<Statement>(&STANDARD.decode(MATERIALS[0]).unwrap()).unwrap();
        assert_eq!(materials.subject[0].digest.sha256, Some(digest.hex()));
        assert!(!signed(&bundle(MATERIALS), digest, &[key(KEY)]));
        assert!(!signed(&bundle([MATERIALS[0], SIGNATURE[1]]), digest, &[key(KEY)]));
        assert!(!signed(&whole.replace("in-toto", "in-tote"), digest, &[key(KEY)]));
        for end in 0..whole.len() {
            assert!(!signed(&whole[..end], digest, &[key(KEY)]), "{end}");
        }
    }
}
