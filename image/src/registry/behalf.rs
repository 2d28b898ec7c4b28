//! A login handed on: a client's own, for a program that asks the registry on its behalf.
//!
//! It travels as an `Authorization` header: `Basic` for a name and a password, `Bearer` for an identity token.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::distribution::Reference;

use super::credentials::{Credential, auth_files, find};
use super::{RegistryOptions, SourceError};

/// Whoever is asked for; none of it is ours.
#[derive(Clone, PartialEq, Eq)]
pub struct Behalf(pub(super) Credential);

impl std::fmt::Debug for Behalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Behalf")
    }
}

impl Behalf {
    /// What the header says; without one, nobody in particular.
    ///
    /// # Errors
    /// It is neither a name and a password nor a token.
    pub fn of_header(header: Option<&str>) -> Result<Self, SourceError> {
        let bad = || SourceError::usage("Authorization", "neither Basic nor Bearer as the RFCs have them");
        let Some(header) = header else { return Ok(Self(Credential::Anonymous)) };
        let (scheme, rest) = header.split_once(' ').ok_or_else(bad)?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Self(Credential::IdentityToken(rest.trim().to_owned())));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(bad());
        }
        let decoded = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = pair.ok_or_else(bad)?;
        Ok(Self(Credential::Basic { user: user.to_owned(), password: password.to_owned() }))
    }

    /// Our own login for the repository of `reference`, as a header; none where we have none.
    ///
    /// # Errors
    /// The files of credentials cannot be read, or a helper fails.
    pub fn own_header(
        reference: &Reference,
        options: &RegistryOptions,
    ) -> Result<Option<String>, SourceError> {
        let files = auth_files(options.auth_file.as_deref());
        Ok(match find(&files, reference.registry(), reference.repository())? {
            Credential::Anonymous => None,
            Credential::Basic { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Credential::IdentityToken(token) => Some(format!("Bearer {token}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, r#"{"auths":{"r.example":{"auth":"dGVzdGVyOnNlY3JldA=="}}}"#).unwrap();
        let options = RegistryOptions { auth_file: Some(path), ..RegistryOptions::default() };
        let own = |text: &str| Behalf::own_header(&text.parse().unwrap(), &options).unwrap();
        let header = own("r.example/app:v1").unwrap();
        let (user, password) = ("tester".to_owned(), "secret".to_owned());
        let basic = Behalf(Credential::Basic { user, password });
        assert_eq!(Behalf::of_header(Some(&header)).unwrap(), basic);
        assert_eq!(own("other.example/app:v1"), None);
        let token = Behalf(Credential::IdentityToken("abc".into()));
        assert_eq!(Behalf::of_header(Some("bearer abc")).unwrap(), token);
        assert_eq!(Behalf::of_header(None).unwrap(), Behalf(Credential::Anonymous));
        for bad in ["", "Basic", "Basic !", "Basic YQ==", "Digest a"] {
            assert!(Behalf::of_header(Some(bad)).is_err(), "{bad}");
        }
    }
}
