//! The words for image sources (`cli.md`, "Image sources").

use std::fmt;
use std::path::{Path, PathBuf};

use oci_spec::distribution::Reference;

use crate::error::SourceError;

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `oci:DIR[:TAG]`: an OCI image layout. As in skopeo the directory ends at the first colon.
    OciDir {
        /// The directory.
        path: PathBuf,
        /// The tag (`org.opencontainers.image.ref.name`); none where the layout has one image only.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: the same in a tar file, which may be compressed.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// The tag.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:REF]`: what `docker save` writes, which may be compressed.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// The image's name; none where the archive has one image only.
        reference: Option<String>,
    },
    /// `docker://REF[@DIGEST]`: an image in a registry.
    Registry(Reference),
    /// `containerd:REF`: an image in a local containerd, by its whole name there.
    Containerd(String),
    /// `dir:ROOTFS`: a bare root file system.
    Rootfs(PathBuf),
    /// `FILE.cdimg`, `FILE.dimg`: a file of ours, which the caller opens.
    Delta(PathBuf),
}

/// The kinds of source in one line, for messages.
const KNOWN: &str = "oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REF], docker://REF[@DIGEST], \
                     containerd:REF, dir:ROOTFS, FILE.cdimg or FILE.dimg";

impl Source {
    /// Reads a source.
    ///
    /// # Errors
    /// [`SourceError::Usage`] for what is none.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let usage = |why: &str| SourceError::usage(text, why);
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let file = || -> Result<(PathBuf, Option<String>), SourceError> {
            let (path, name) = match rest.split_once(':') {
                Some((_, "")) => return Err(usage("nothing after the last colon")),
                Some((path, name)) => (path, Some(name.to_owned())),
                None => (rest, None),
            };
            if path.is_empty() { Err(usage("no path")) } else { Ok((path.into(), name)) }
        };
        match kind {
            "oci" if text.contains(':') => file().map(|(path, tag)| Self::OciDir { path, tag }),
            "oci-archive" if text.contains(':') => file().map(|(path, tag)| Self::OciArchive { path, tag }),
            "docker-archive" if text.contains(':') => {
                file().map(|(path, reference)| Self::DockerArchive { path, reference })
            }
            "docker" => match rest.strip_prefix("//") {
                Some(reference) => normalised(reference).map(Self::Registry).map_err(|why| usage(&why)),
                None => Err(usage("write docker://REF[@DIGEST]")),
            },
            "containerd" if rest.is_empty() => Err(usage("no image name")),
            "containerd" => Ok(Self::Containerd(rest.to_owned())),
            "dir" if rest.is_empty() => Err(usage("no path")),
            "dir" => Ok(Self::Rootfs(rest.into())),
            _ if is_delta(Path::new(text)) => Ok(Self::Delta(text.into())),
            _ => Err(usage(&format!("unknown kind; known: {KNOWN}"))),
        }
    }

    /// The name by which the image is known where it comes from, in full; `None` for files and for images by digest.
    pub fn image_name(&self) -> Option<String> {
        match self {
            Self::Registry(reference) => reference.digest().is_none().then(|| reference.whole()),
            Self::Containerd(name) => Some(name.clone()),
            Self::DockerArchive { reference: Some(name), .. } => {
                normalised(name).ok().map(|name| name.whole())
            }
            _ => None,
        }
    }
}

fn is_delta(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cdimg" || extension == "dimg")
}

/// A reference in full: `nginx` is `docker.io/library/nginx:latest`.
pub(super) fn normalised(text: &str) -> Result<Reference, String> {
    let reference = match simple(text) {
        Some(reference) => reference,
        None => Reference::try_from(text).map_err(|error| error.to_string())?,
    };
    match reference.digest() {
        Some(digest) if digest.parse::<dimg::Digest>().is_err() => {
            Err(format!("digest {digest:?} is not sha256 and 64 hex digits"))
        }
        _ => Ok(reference),
    }
}

/// A reference of the usual form, `host/name[:tag]` with a host that shows that it is one; none for all others, and what is none. The
/// expression that knows all of them takes 20 ms to be made, which counts in a pull.
fn simple(text: &str) -> Option<Reference> {
    const MAX_NAME: usize = 255;
    let (host, rest) = text.split_once('/')?;
    let (name, tag) = rest.split_once(':').unwrap_or((rest, "latest"));
    let (domain, port) = host.split_once(':').unwrap_or((host, "0"));
    // Docker's own have rules of their own.
    let is_host = (host.contains(['.', ':']) || host == "localhost") && !domain.ends_with("docker.io");
    let parts = |text: &str, between: &[char], is_in: fn(&u8) -> bool| {
        text.split(between).all(|part| !part.is_empty() && part.as_bytes().iter().all(is_in))
    };
    let is_port = |text: &str| parts(text, &[], u8::is_ascii_digit);
    let is_name =
        parts(name, &['/', '.', '_', '-'], |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let is_tag = tag.len() <= 128
        && tag.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    let fits = is_host && parts(domain, &['.', '-'], u8::is_ascii_alphanumeric) && is_port(port) && is_name;
    (fits && is_tag && name.len() <= MAX_NAME)
        .then(|| Reference::with_tag(host.to_owned(), name.to_owned(), tag.to_owned()))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, name) = match self {
            Self::OciDir { path, tag } => ("oci", path, tag),
            Self::OciArchive { path, tag } => ("oci-archive", path, tag),
            Self::DockerArchive { path, reference } => ("docker-archive", path, reference),
            Self::Registry(reference) => return write!(f, "docker://{reference}"),
            Self::Containerd(reference) => return write!(f, "containerd:{reference}"),
            Self::Rootfs(path) => return write!(f, "dir:{}", path.display()),
            Self::Delta(path) => return write!(f, "{}", path.display()),
        };
        write!(f, "{kind}:{}", path.display())?;
        name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_in_full() {
        let name = |text: &str| Source::parse(text).unwrap().image_name();
        assert_eq!(name("docker://nginx").as_deref(), Some("docker.io/library/nginx:latest"));
        assert_eq!(name("docker-archive:f.tar:app:1").as_deref(), Some("docker.io/library/app:1"));
        assert_eq!(name("containerd:example.com/app:1").as_deref(), Some("example.com/app:1"));
        for text in ["oci:dir:v1", "dir:/root", "docker-archive:f.tar", "x.cdimg"] {
            assert_eq!(name(text), None, "{text}");
        }
    }

    #[test]
    fn every_kind_parses() {
        let cases = [
            ("oci:/a/b", "oci:/a/b"),
            ("oci:b:docker.io/library/nginx:1", "oci:b:docker.io/library/nginx:1"),
            ("oci-archive:x.tar:t", "oci-archive:x.tar:t"),
            ("docker-archive:x.tar", "docker-archive:x.tar"),
            ("docker://nginx", "docker://docker.io/library/nginx:latest"),
            ("docker://me/app:2", "docker://docker.io/me/app:2"),
            ("docker://localhost:5000/a/b", "docker://localhost:5000/a/b:latest"),
            ("containerd:docker.io/library/nginx:1", "containerd:docker.io/library/nginx:1"),
            ("dir:/", "dir:/"),
            ("x.cdimg", "x.cdimg"),
            ("./odd:name.dimg", "./odd:name.dimg"),
        ];
        for (text, whole) in cases {
            assert_eq!(Source::parse(text).unwrap().to_string(), whole);
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        let Source::Registry(reference) = Source::parse(&format!("docker://nginx@{digest}")).unwrap() else {
            panic!("not a registry")
        };
        assert_eq!((reference.tag(), reference.digest()), (None, Some(digest.as_str())));
        let tag_too = Source::parse(&format!("docker://nginx:1@{digest}")).unwrap().to_string();
        assert_eq!(tag_too, format!("docker://docker.io/library/nginx:1@{digest}"));
        assert_eq!(
            Source::parse("oci:d:t").unwrap(),
            Source::OciDir { path: "d".into(), tag: Some("t".into()) }
        );
    }

    #[test]
    fn what_is_no_source_says_so() {
        let cases = [
            ("", "unknown kind; known: oci:DIR"),
            ("nginx", "unknown kind"),
            ("oci", "unknown kind"),
            ("nginx:latest", "unknown kind"),
            ("oci:", "no path"),
            ("oci::tag", "no path"),
            ("oci:dir:", "nothing after the last colon"),
            ("docker:nginx", "write docker://REF"),
            ("docker://", "repository name"),
            ("docker://UPPER", "invalid reference"),
            ("docker://a b", "invalid"),
            ("docker://nginx@sha256:12", "invalid"),
            ("containerd:", "no image name"),
            ("dir:", "no path"),
            ("file.tar", "unknown kind"),
        ];
        for (text, why) in cases {
            let error = Source::parse(text).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert_eq!(error.class().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn the_usual_form_is_read_as_by_the_expression() {
        let mut taken = 0;
        for text in [
            "registry.example/app",
            "registry.example:5000/team/app:v1.2_3-x",
            "127.0.0.1:5000/app",
            "localhost/app:V1",
            "localhost:1/a-b.c_d/e:_x",
            "my-host.example/app:",
            "my-.example/app",
            "a..b/app",
            "host.example:/app",
            "host.example:x/app",
            "host.example/App",
            "host.example/a__b",
            "host.example/a--b",
            "host.example/a//b",
            "host.example/app:v1:v2",
            "host.example/app:-v1",
            "host.example/app:v1@sha256:ab",
            "docker.io/app",
            "index.docker.io/app",
            "team/app",
            "app",
            "[::1]:5000/app",
            "",
        ] {
            if let Some(reference) = simple(text) {
                assert_eq!(Ok(reference), Reference::try_from(text), "{text}");
                taken += 1;
            }
        }
        assert_eq!(taken, 5);
        let long = format!("h.example/{}", "a".repeat(256));
        assert_eq!(simple(&long), None);
        assert!(simple(&format!("h.example/a:{}", "t".repeat(129))).is_none());
    }
}
