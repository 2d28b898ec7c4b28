//! Deltas pushed to registries and pulled from them.

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::Containerd;
use d4c_integration::faults::{Fault, Proxy};
use d4c_integration::images::Series;
use d4c_integration::program::{Output, d4c};
use d4c_integration::registry::{Kind, Registry};
use d4c_integration::snapshotter::Snapshotter;
use serde_json::Value;

use crate::VERSION;

/// The images in the order of the deltas.
const TAGS: [&str; 4] = ["v1", "v2", "v3", "links"];
/// More than the manifests and lists on the way.
pub(super) const DOCUMENT_BYTES: u64 = 64 << 10;

pub(super) fn json(output: Output) -> Result<Value> {
    let output = output.success()?;
    serde_json::from_str(&output.stdout).with_context(|| format!("no JSON: {}", output.stdout))
}

fn with(registry: &Registry, words: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    all.push("--json".into());
    all.extend(registry.options());
    all
}

/// Puts the images into the registry.
fn push_images(registry: &Registry, series: &Series) -> Result<()> {
    TAGS.iter().try_for_each(|tag| registry.push(series, tag, &format!("app:{tag}")))
}

/// Makes the deltas between neighbours and pushes them; the registry has each once, however often it is asked to.
fn push_deltas(sandbox: &Sandbox, registry: &Registry) -> Result<Vec<Value>> {
    let image = |tag: &str| format!("docker://{}", registry.reference(&format!("app:{tag}")));
    let mut pushed = Vec::new();
    for (number, pair) in TAGS.windows(2).enumerate() {
        let (old, new) = (image(pair[0]), image(pair[1]));
        let repository = registry.reference("app");
        let file = sandbox.path("delta.cdimg").to_string_lossy().into_owned();
        let direct = with(registry, &["diff", &old, &new, "docker://"]);
        let by_file = with(registry, &["push", &file, &repository]);
        if number == 1 {
            d4c(with(registry, &["diff", &old, &new, &file]))?.success()?;
        }
        let first = json(d4c(if number == 1 { &by_file } else { &direct })?)?;
        ensure!(first["pushed"] == true, "{first}");
        let again = json(d4c(&direct)?)?;
        ensure!(again["pushed"] == false && again["manifest"] == first["manifest"], "{first} then {again}");
        if number == 1 {
            ensure!(json(d4c(&by_file)?)?["pushed"] == false, "pushed twice");
        }
        pushed.push(first);
    }
    Ok(pushed)
}

/// Once it is known how a registry answers, an update by a delta is three requests, and bytes of the delta, a manifest and a list.
#[test]
fn an_update_asks_for_nothing_that_it_does_not_need() -> Result<()> {
    for (kind, list) in [(Kind::WithoutReferrers, "manifests/sha256-"), (Kind::Strict, "referrers/sha256:")] {
        let sandbox = Sandbox::new()?;
        let series = Series::named("tiny")?;
        let registry = Registry::start_as(&sandbox, kind, false)?;
        let plugin = Snapshotter::start(&sandbox, &[])?;
        let containerd = Containerd::start(&sandbox, VERSION)?;
        for tag in ["v1", "v2"] {
            registry.push(&series, tag, &format!("app:{tag}"))?;
        }
        let image = |tag: &str| format!("docker://{}", registry.reference(&format!("app:{tag}")));
        d4c(with(&registry, &["diff", &image("v1"), &image("v2"), "docker://"]))?.success()?;
        let proxy = Proxy::start(&registry.address(), Box::new(|_, _| None))?;
        let pull = |tag: &str| {
            let name = proxy.reference(&format!("app:{tag}"));
            json(containerd.d4c(with(&registry, &["pull", &name]))?)
        };
        pull("v1")?;
        let (asked, passed) = (proxy.lines().len(), proxy.bytes());
        let pulled = pull("v2")?;
        ensure!(pulled["how"] == "deltas", "{pulled}");
        let lines = proxy.lines().split_off(asked);
        let wanted = ["GET /v2/app/manifests/v2", &format!("GET /v2/app/{list}"), "GET /v2/app/blobs/"];
        let is_so = lines.len() == wanted.len();
        let is_so = is_so && lines.iter().zip(wanted).all(|(line, start)| line.starts_with(start));
        ensure!(is_so, "{kind:?}: {lines:?}");
        let delta = pulled["deltas"][0]["bytes"].as_u64().context("no size")?;
        let beside = (proxy.bytes() - passed).checked_sub(delta).context("less than the delta")?;
        ensure!(beside < 4096, "{kind:?}: {beside} bytes beside the delta's {delta}");
        containerd.stop()?;
        plugin.terminate()?;
        registry.stop()?;
        sandbox.close()?;
    }
    Ok(())
}

/// The image by its layers where nothing else is, by a path of three deltas where it leads, and at once where it is there.
fn pushes_and_pulls(kind: Kind, secured: bool) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start_as(&sandbox, kind, secured)?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    push_images(&registry, &series)?;
    let name = |tag: &str| registry.reference(&format!("app:{tag}"));
    let pull = |tag: &str| json(containerd.d4c(with(&registry, &["pull", &name(tag)]))?);

    let first = pull(TAGS[0])?;
    let reason = first["reason"].as_str().unwrap_or_default();
    ensure!(first["how"] == "layers" && reason.contains("no deltas"), "{first}");
    let pushed = push_deltas(&sandbox, &registry)?;
    // A proxy counts; it knows no TLS.
    let proxy = Proxy::start(&registry.address(), Box::new(|_, _| None))?;
    let last_name = if secured { name(TAGS[3]) } else { proxy.reference(&format!("app:{}", TAGS[3])) };
    let last = json(containerd.d4c(with(&registry, &["pull", &last_name]))?)?;
    let deltas = last["deltas"].as_array().context("no deltas")?;
    ensure!(last["how"] == "deltas" && deltas.len() == 3, "{last}");
    ensure!(deltas.iter().zip(&pushed).all(|(used, made)| used["manifest"] == made["manifest"]), "{last}");
    let bytes: u64 = deltas.iter().filter_map(|delta| delta["bytes"].as_u64()).sum();
    let fetched = last["fetched_bytes"].as_u64().context("no count")?;
    ensure!(fetched >= bytes && fetched < bytes + DOCUMENT_BYTES, "{fetched} of {bytes}: {last}");
    let image = series.image(TAGS[3])?;
    if !secured {
        let passed = proxy.bytes();
        ensure!(passed >= bytes && passed < bytes + DOCUMENT_BYTES, "{passed} passed: {last}");
        let lines = proxy.lines();
        let of_layers = |line: &String| image.layers().iter().any(|(layer, _)| line.contains(layer));
        ensure!(!lines.iter().any(of_layers), "layers were asked for: {lines:?}");
    }
    ensure!(last["manifest"] == image.digest.as_str(), "{last}");
    let known = containerd.ctr(["images", "ls"])?.success()?.stdout;
    ensure!(known.contains(&image.digest), "not {}: {known}", image.digest);
    let seen = containerd.run("di3fs", &last_name, &["cat", "/etc/release"])?;
    ensure!(seen.starts_with('v'), "{seen}");

    let again = pull(TAGS[3])?;
    ensure!(again["how"] == "present" && again["contents_made"] == 0, "{again}");
    let digest = registry.reference(&format!("app@{}", image.digest));
    let by_digest = json(containerd.d4c(with(&registry, &["pull", &digest]))?)?;
    ensure!(by_digest["how"] == "present" && by_digest["name"] == digest.as_str(), "{by_digest}");
    containerd
        .d4c(["pull", &name("none")].into_iter().map(str::to_owned).chain(registry.options()))?
        .refused(3, "app:none")?;
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

/// The tag fallback, as `docker-registry` needs it.
#[test]
fn without_referrers() -> Result<()> {
    pushes_and_pulls(Kind::WithoutReferrers, false)
}

/// The same with TLS and basic authentication.
#[test]
fn without_referrers_secured() -> Result<()> {
    pushes_and_pulls(Kind::WithoutReferrers, true)
}

/// The referrers API with TLS and basic authentication.
#[test]
fn with_referrers_secured() -> Result<()> {
    pushes_and_pulls(Kind::Strict, true)
}

/// The referrers API of a registry that departs from the specification.
#[test]
fn with_loose_referrers() -> Result<()> {
    pushes_and_pulls(Kind::Loose, false)
}

/// What a newcomer gets wrong with `push` and `pull`, and without a login.
#[test]
fn wrong_pushes_and_pulls_are_told_in_one_line() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start_as(&sandbox, Kind::Strict, true)?;
    registry.push(&series, "v1", "app:v1")?;
    let file = |name: &str| sandbox.path(name).to_string_lossy().into_owned();
    d4c(["diff", &series.source("v1"), &series.source("v2"), &file("d.cdimg")])?.success()?;
    let push = |file: &str, options: &[String]| {
        let words = ["push".to_owned(), file.to_owned(), registry.reference("app")];
        d4c(words.iter().chain(options))
    };
    let options = registry.options();
    push(&file("d.cdimg"), &options)?.refused(3, "push it first")?;
    push("/nonexistent.cdimg", &options)?.refused(3, "/nonexistent.cdimg")?;
    push("/etc/hostname", &options)?.refused(4, "/etc/hostname")?;
    push(&file("d.cdimg"), &options[2..])?.refused(1, "wants a login")?;
    push(&file("d.cdimg"), &options[..2])?.refused(1, "certificate")?;
    d4c(["push", &file("d.cdimg"), "no reference"])?.refused(2, "no reference")?;
    let source = registry.reference("app:v1");
    d4c(["diff", &series.source("v1"), &series.source("v2"), "docker://"])?.refused(2, "docker://")?;
    d4c(["--control", &file("none.sock"), "pull", &source])?.refused(1, "none.sock")?;
    registry.stop()?;
    sandbox.close()
}

/// Flips a bit of the delta between two images.
pub(super) fn damage(registry: &Registry, tags: [&str; 2]) -> Result<()> {
    let [old, new] = tags.map(|tag| format!("docker://{}", registry.reference(&format!("app:{tag}"))));
    let there = json(d4c(with(registry, &["diff", &old, &new, "docker://"]))?)?;
    let manifest = std::fs::read(registry.blob(there["manifest"].as_str().context("no manifest")?)?)?;
    let manifest: Value = serde_json::from_slice(&manifest)?;
    let blob = registry.blob(manifest["layers"][0]["digest"].as_str().context("no layer")?)?;
    let mut bytes = std::fs::read(&blob)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(std::fs::write(&blob, bytes)?)
}

/// Faults that pass: the update is there, by its delta. A damaged delta: told, and the layers are pulled.
#[test]
fn faults_pass_or_lead_to_the_layers() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start(&sandbox)?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    push_images(&registry, &series)?;
    push_deltas(&sandbox, &registry)?;
    let name = |tag: &str| format!("app:{tag}");
    json(containerd.d4c(["pull", "--json", &registry.reference(&name("v1"))])?)?;
    // Two of three requests meet the next one of these.
    let faults = [
        Fault::Status(429),
        Fault::Cut(10),
        Fault::Status(500),
        Fault::Longer(7),
        Fault::Status(503),
        Fault::Slow,
        Fault::Shorter,
    ];
    let plan = move |_: &str, number: u64| {
        let at = usize::try_from(number).ok()? % faults.len();
        (number % 3 < 2).then(|| faults[at])
    };
    let proxy = Proxy::start(&registry.address(), Box::new(plan))?;
    let done = json(containerd.d4c(["pull", "--json", &proxy.reference(&name("v2"))])?)?;
    ensure!(done["how"] == "deltas" && proxy.faults() > 3, "{} faults: {done}", proxy.faults());

    damage(&registry, ["v2", "v3"])?;
    let done = json(containerd.d4c(["pull", "--json", &registry.reference(&name("v3"))])?)?;
    let reason = done["reason"].as_str().unwrap_or_default();
    ensure!(done["how"] == "layers" && reason.contains("digest is"), "{done}");
    let seen = containerd.run("di3fs", &registry.reference("app:v3"), &["cat", "/etc/release"])?;
    ensure!(seen == "v3\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}
