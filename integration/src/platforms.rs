//! Images for several platforms, as docker buildx pushes them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dimg::Digest;
use serde_json::{Value, json};

use crate::images::Series;
use crate::program::Output;
use crate::registry::Registry;
use crate::sandbox::Sandbox;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An OCI layout that is being written.
struct Layout(PathBuf);

impl Layout {
    /// Writes a blob; its descriptor.
    fn put(&self, kind: &str, bytes: &[u8]) -> Result<Value> {
        let digest = Digest::of(bytes).to_string();
        let path = self.0.join("blobs").join(digest.replace(':', "/"));
        fs::create_dir_all(path.parent().context("a blob is in a folder")?)?;
        fs::write(&path, bytes)?;
        Ok(json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
    }

    fn put_json(&self, kind: &str, value: &Value) -> Result<Value> {
        self.put(kind, &serde_json::to_vec(value)?)
    }
}

/// Pushes an index to `name`: for each platform the image of the series with that tag, its config changed to say the platform, and an
/// attestation beside it. The digests of the images' manifests.
///
/// # Errors
/// Fails when the series lacks a tag, or skopeo does.
pub fn push(
    registry: &Registry,
    series: &Series,
    name: &str,
    images: &[(&str, &str)],
    sandbox: &Sandbox,
) -> Result<Vec<String>> {
    let layout = Layout(sandbox.dir(&format!("index-{name}"))?);
    let (mut entries, mut digests) = (Vec::new(), Vec::new());
    for (platform, tag) in images {
        let image = series.image(tag)?;
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().context("no system")?, parts.next().context("no processor")?);
        let mut named = json!({"os": os, "architecture": architecture});
        let mut config = image.config.clone();
        config["architecture"] = architecture.into();
        if let Some(variant) = parts.next() {
            named["variant"] = variant.into();
        }
        for (digest, _) in image.layers() {
            layout.put("", &series.blob(&digest)?)?;
        }
        let mut manifest = image.manifest.clone();
        manifest["mediaType"] = MANIFEST.into();
        manifest["config"] = layout.put_json(CONFIG, &config)?;
        let mut entry = layout.put_json(MANIFEST, &manifest)?;
        let digest = entry["digest"].as_str().context("no digest")?.to_owned();
        entry["platform"] = named;
        entries.push(entry);
        let said = layout.put_json("application/vnd.in-toto+json", &json!({"of": digest}))?;
        let config =
            layout.put_json(CONFIG, &json!({"os": "unknown", "architecture": "unknown", "rootfs": {}}))?;
        let about = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [said]});
        let mut attestation = layout.put_json(MANIFEST, &about)?;
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        attestation["annotations"] = json!({"vnd.docker.reference.digest": digest});
        entries.push(attestation);
        digests.push(digest);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let root = layout.put_json(INDEX, &index)?;
    let write = |file: &str, value: &Value| fs::write(layout.0.join(file), value.to_string());
    write("index.json", &json!({"schemaVersion": 2, "manifests": [root]}))?;
    write("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
    let source = format!("oci:{}", Path::display(&layout.0));
    let mut skopeo = sandbox.command("skopeo");
    skopeo.args(["copy", "--quiet", "--all", "--dest-tls-verify=false", &source]);
    Output::of(skopeo.arg(format!("docker://{}", registry.reference(&format!("app:{name}")))))?.success()?;
    Ok(digests)
}
