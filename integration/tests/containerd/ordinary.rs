//! Updates by delta of images that containerd pulled itself.

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::Containerd;
use d4c_integration::faults::Proxy;
use d4c_integration::images::Series;
use d4c_integration::program::d4c;
use d4c_integration::registry::Registry;
use d4c_integration::serve::Serve;
use d4c_integration::snapshotter::Snapshotter;

use super::registry::{DOCUMENT_BYTES, json};
use crate::VERSION;

/// `ctr images pull` of release 1 into `snapshotter`, then `d4c pull` of 2 and 3: on the wire are deltas and manifests, and the first one is
/// taken over once; what containerd has of it stays.
fn updates_by_delta(snapshotter: &str) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start(&sandbox)?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    for tag in ["v1", "v2", "v3"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    for [old, new] in [["v1", "v2"], ["v2", "v3"]] {
        let image = |tag: &str| format!("docker://{}", registry.reference(&format!("app:{tag}")));
        d4c(["diff", &image(old), &image(new), "docker://"])?.success()?;
    }
    let v1 = registry.reference("app:v1");
    containerd.ctr(["images", "pull", "--plain-http", "--snapshotter", snapshotter, &v1])?.success()?;
    let (blobs, snapshots) = (containerd.blobs()?, containerd.snapshots(snapshotter)?);

    let proxy = Proxy::start(&registry.address(), Box::new(|_, _| None))?;
    let pull =
        |tag: &str| json(containerd.d4c(["pull", "--json", &proxy.reference(&format!("app:{tag}"))])?);
    let second = pull("v2")?;
    let bytes = second["deltas"][0]["bytes"].as_u64().context("no delta")?;
    let (passed, wanted) = (proxy.bytes(), second["pull_bytes"].as_u64());
    ensure!(second["how"] == "deltas" && second["unpacked"]["name"] == v1.as_str(), "{second}");
    ensure!(second["unpacked"]["manifest"] == series.image("v1")?.digest.as_str(), "{second}");
    ensure!(passed >= bytes && passed < bytes + DOCUMENT_BYTES, "{passed} passed of {wanted:?}: {second}");
    let of_layers = |line: &String| {
        ["v1", "v2"].iter().any(|tag| {
            let layers = series.image(tag).map(|image| image.layers()).unwrap_or_default();
            layers.iter().any(|(layer, _)| line.contains(layer))
        })
    };
    ensure!(!proxy.lines().iter().any(of_layers), "layers were asked for: {:?}", proxy.lines());
    let release = |snapshotter: &str, image: &str| {
        containerd.run(snapshotter, image, &["sh", "-c", "cat /etc/release /app/release"])
    };
    let seen = release("di3fs", &proxy.reference("app:v2"))?;
    ensure!(seen == "v1\nversion 2\n", "{seen}");

    let third = pull("v3")?;
    ensure!(third["how"] == "deltas" && third["unpacked"].is_null(), "{third}");
    let lost = |before: &[String], after: &[String]| before.iter().any(|name| !after.contains(name));
    ensure!(!lost(&blobs, &containerd.blobs()?), "blobs are gone");
    ensure!(!lost(&snapshots, &containerd.snapshots(snapshotter)?), "snapshots are gone");
    let seen = release(snapshotter, &v1)?;
    ensure!(seen == "v1\nversion 1\n", "{seen}");
    // What was taken over can be run as well, without a byte of a layer.
    let first = pull("v1")?;
    ensure!(first["how"] == "present" && first["fetched_bytes"].as_u64() < Some(DOCUMENT_BYTES), "{first}");
    let seen = release("di3fs", &proxy.reference("app:v1"))?;
    ensure!(seen == "v1\nversion 1\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

/// Layers that containerd unpacked into our own snapshots.
#[test]
fn pulled_into_di3fs() -> Result<()> {
    updates_by_delta("di3fs")
}

/// Layers that are nowhere but in the content store and in overlayfs.
#[test]
fn pulled_into_overlayfs() -> Result<()> {
    updates_by_delta("overlayfs")
}

/// A delta from a stick onto an image that only containerd has, and an image that is there but for the plugin.
#[test]
fn files_start_from_what_containerd_has() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start(&sandbox)?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    for tag in ["v1", "v3"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
        let name = registry.reference(&format!("app:{tag}"));
        containerd.ctr(["images", "pull", "--plain-http", &name])?.success()?;
    }
    let file = sandbox.path("v2.cdimg").to_string_lossy().into_owned();
    d4c(["diff", &series.source("v1"), &series.source("v2"), &file])?.success()?;
    let name = "example.com/tiny:loaded";
    let loaded = json(containerd.d4c(["load", "--json", &file, "--name", name])?)?;
    ensure!(loaded["images"][0]["unpacked"] == registry.reference("app:v1"), "{loaded}");
    let seen = containerd.run("di3fs", name, &["cat", "/app/release"])?;
    ensure!(seen == "version 2\n", "{seen}");
    let there = json(containerd.d4c(["pull", "--json", &registry.reference("app:v3")])?)?;
    ensure!(there["how"] == "present" && !there["unpacked"].is_null(), "{there}");
    let seen = containerd.run("di3fs", &registry.reference("app:v3"), &["cat", "/etc/release"])?;
    ensure!(seen == "v3\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

/// A delta made on demand onto what containerd pulled; once its server is gone, the layers.
#[test]
fn deltas_on_demand_and_without() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start(&sandbox)?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    for tag in ["v1", "v2", "v3"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    let v1 = registry.reference("app:v1");
    containerd.ctr(["images", "pull", "--plain-http", &v1])?.success()?;
    let dir = sandbox.dir("deltas")?.to_string_lossy().into_owned();
    let serve = Serve::start(&sandbox, &["--registry".into(), registry.address(), "--dir".into(), dir])?;
    let url = serve.url();
    let pull = |tag: &str| {
        let name = registry.reference(&format!("app:{tag}"));
        json(containerd.d4c(["pull", "--json", "--serve", &url, &name])?)
    };
    let second = pull("v2")?;
    ensure!(second["how"] == "served" && second["unpacked"]["name"] == v1.as_str(), "{second}");
    let (fetched, bytes) = (second["fetched_bytes"].as_u64(), second["served"]["bytes"].as_u64());
    ensure!(fetched < bytes.map(|bytes| bytes + DOCUMENT_BYTES), "{second}");
    let seen = containerd.run("di3fs", &registry.reference("app:v2"), &["cat", "/app/release"])?;
    ensure!(seen == "version 2\n", "{seen}");
    serve.stop()?;
    let third = pull("v3")?;
    ensure!(third["how"] == "layers" && third["server_reason"].is_string(), "{third}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}
