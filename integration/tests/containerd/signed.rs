//! Deltas that have to be signed: signatures as cosign writes them, made by openssl and put into the registry by curl.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::Containerd;
use d4c_integration::images::Series;
use d4c_integration::program::{Output, d4c};
use d4c_integration::registry::{Kind, Registry};
use d4c_integration::snapshotter::Snapshotter;
use d4c_integration::tree::sha256;
use serde_json::{Value, json};

use super::registry::json;
use crate::VERSION;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A pair of keys.
pub(super) fn key(sandbox: &Sandbox, name: &str) -> Result<(String, String)> {
    let path = |end: &str| sandbox.path(&format!("{name}.{end}")).to_string_lossy().into_owned();
    let (private, public) = (path("key"), path("pub"));
    let mut openssl = Command::new("openssl");
    openssl.args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &private]);
    Output::of(&mut openssl)?.success()?;
    let mut openssl = Command::new("openssl");
    Output::of(openssl.args(["pkey", "-in", &private, "-pubout", "-out", &public]))?.success()?;
    Ok((private, public))
}

fn put(registry: &Registry, path: &str, file: &Path, kind: &str) -> Result<()> {
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "-X", "PUT", "-H", &format!("Content-Type: {kind}"), "--data-binary"]);
    curl.arg(format!("@{}", file.display())).arg(format!("http://{}/v2/app/{path}", registry.address()));
    Output::of(&mut curl)?.success()?;
    Ok(())
}

/// Puts a blob and gives its descriptor.
fn put_blob(registry: &Registry, file: &Path, kind: &str) -> Result<Value> {
    let digest = format!("sha256:{}", sha256(file)?);
    let mut curl = Command::new("curl");
    let url = format!("http://{}/v2/app/blobs/uploads/", registry.address());
    curl.args(["-sSf", "-o", "/dev/null", "-w", "%header{location}", "-X", "POST", &url]);
    let location = Output::of(&mut curl)?.success()?.stdout;
    let upload = location.trim().split_once("/v2/app/").context("no location")?.1.to_owned();
    let mark = if upload.contains('?') { '&' } else { '?' };
    put(registry, &format!("{upload}{mark}digest={digest}"), file, "application/octet-stream")?;
    Ok(json!({"mediaType": kind, "digest": digest, "size": fs::metadata(file)?.len()}))
}

/// How a signature is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A payload at cosign's tag.
    Tag,
    /// A payload among the referrers.
    Referrer,
    /// A bundle among the referrers, as of cosign 3.
    Bundle,
}

/// Standard output of `script` for `args`.
fn shell(script: &str, args: &[&str]) -> Result<String> {
    Ok(Output::of(Command::new("sh").args(["-c", script, "sh"]).args(args))?.success()?.stdout)
}

/// Signs what lies at `path` with the private key: the signature in base64.
fn signature(private: &str, path: &Path) -> Result<String> {
    shell("openssl dgst -sha256 -sign \"$1\" \"$2\" | base64 -w0", &[private, &path.to_string_lossy()])
}

/// Puts the blob that signs `digest` with the private key: its descriptor in a manifest.
fn signing_blob(
    sandbox: &Sandbox,
    registry: &Registry,
    digest: &str,
    private: &str,
    form: Form,
) -> Result<Value> {
    let payload = sandbox.path("payload");
    if form != Form::Bundle {
        let text = json!({
            "critical": {
                "identity": {"docker-reference": registry.reference("app")},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        fs::write(&payload, text.to_string())?;
        let mut layer = put_blob(registry, &payload, PAYLOAD)?;
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature(private, &payload)?});
        return Ok(layer);
    }
    let hex = digest.strip_prefix("sha256:").context("another digest")?;
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": hex}}],
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
        "predicate": {},
    })
    .to_string();
    let kind = "application/vnd.in-toto+json";
    fs::write(&payload, format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len()))?;
    let signed = signature(private, &payload)?;
    let bundle = json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": shell("printf %s \"$1\" | base64 -w0", &[&statement])?,
            "payloadType": kind,
            "signatures": [{"sig": signed}],
        },
    });
    fs::write(&payload, bundle.to_string())?;
    put_blob(registry, &payload, BUNDLE)
}

/// Signs the artifact `delta` with the private key.
pub(super) fn sign(
    sandbox: &Sandbox,
    registry: &Registry,
    delta: &Value,
    private: &str,
    form: Form,
) -> Result<()> {
    let digest = delta["manifest"].as_str().context("no digest")?;
    let layer = signing_blob(sandbox, registry, digest, private, form)?;
    let config = sandbox.path("config");
    fs::write(&config, "{}")?;
    let kind = match form {
        Form::Tag => "application/vnd.oci.image.config.v1+json",
        Form::Referrer => ARTIFACT,
        Form::Bundle => "application/vnd.oci.empty.v1+json",
    };
    let config = put_blob(registry, &config, kind)?;
    let mut manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    if form == Form::Bundle {
        manifest["artifactType"] = json!(BUNDLE);
    }
    let tag = if form == Form::Tag {
        format!("{}.sig", digest.replace(':', "-"))
    } else {
        let mut curl = Command::new("curl");
        let url = format!("http://{}/v2/app/manifests/{digest}", registry.address());
        let size = Output::of(curl.args(["-sSf", "-H", &format!("Accept: {MANIFEST}"), &url]))?
            .success()?
            .stdout
            .len();
        manifest["subject"] = json!({"mediaType": MANIFEST, "digest": digest, "size": size});
        "signature".to_owned()
    };
    let file = sandbox.path("signature");
    fs::write(&file, manifest.to_string())?;
    put(registry, &format!("manifests/{tag}"), &file, MANIFEST)
}

/// A delta that the trusted key signed is taken; for one that another key signed, and for one that nobody signed, the layers are pulled.
fn only_signed_deltas_are_taken(kind: Kind, form: Form) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start_as(&sandbox, kind, false)?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let tags = ["v1", "v2", "v3", "links"];
    tags.iter().try_for_each(|tag| registry.push(&series, tag, &format!("app:{tag}")))?;
    let name = |tag: &str| registry.reference(&format!("app:{tag}"));
    let image = |tag: &str| format!("docker://{}", name(tag));
    let (trusted, other) = (key(&sandbox, "trusted")?, key(&sandbox, "other")?);
    for (pair, private) in tags.windows(2).zip([Some(&trusted.0), Some(&other.0), None]) {
        let delta = json(d4c(["diff", &image(pair[0]), &image(pair[1]), "docker://", "--json"])?)?;
        if let Some(private) = private {
            sign(&sandbox, &registry, &delta, private, form)?;
        }
    }
    let pull = |tag: &str| json(containerd.d4c(["pull", &name(tag), "--key", &trusted.1, "--json"])?);
    pull("v1")?;
    let signed = pull("v2")?;
    ensure!(signed["how"] == "deltas", "{signed}");
    for (tag, why) in [("v3", "its signature is by none of the trusted keys"), ("links", "it is not signed")]
    {
        let refused = pull(tag)?;
        ensure!(refused["how"] == "layers", "{refused}");
        ensure!(refused["reason"].as_str().is_some_and(|reason| reason.ends_with(why)), "{refused}");
        ensure!(refused["manifest"] == series.image(tag)?.digest.as_str(), "{refused}");
    }
    let wrong = ["pull", &name("v1"), "--key", &trusted.0];
    containerd.d4c(wrong)?.refused(4, "trusted.key")?;
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

#[test]
fn signed_at_a_tag() -> Result<()> {
    only_signed_deltas_are_taken(Kind::WithoutReferrers, Form::Tag)
}

#[test]
fn signed_by_referrers() -> Result<()> {
    only_signed_deltas_are_taken(Kind::Strict, Form::Referrer)
}

#[test]
fn signed_by_bundles() -> Result<()> {
    only_signed_deltas_are_taken(Kind::Strict, Form::Bundle)?;
    only_signed_deltas_are_taken(Kind::Loose, Form::Bundle)
}
