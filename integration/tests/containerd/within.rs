//! Deltas within ordinary pulls: the client knows nothing of d4c.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::{Containerd, PAUSE, Version};
use d4c_integration::faults::{Fault, Proxy};
use d4c_integration::images::Series;
use d4c_integration::platforms;
use d4c_integration::program::{Output, d4c};
use d4c_integration::registry::Registry;
use d4c_integration::sandbox::wait_for;
use d4c_integration::snapshotter::Snapshotter;
use serde_json::Value;

use super::registry::{DOCUMENT_BYTES, damage, json};
use crate::VERSION;

/// How the plugin tells that it made an image.
pub(super) const MADE: &str = "image made from deltas";
/// How it tells that it did not.
pub(super) const PULLED: &str = "containerd pulls the layers";

/// Images of a series in a registry, with deltas between neighbours.
struct Published<'a> {
    registry: &'a Registry,
    series: Series,
}

impl<'a> Published<'a> {
    /// `tags` with deltas from each to the next.
    fn new(registry: &'a Registry, tags: &[&str]) -> Result<Self> {
        let this = Self { registry, series: Series::named("tiny")? };
        for tag in tags {
            registry.push(&this.series, tag, &format!("app:{tag}"))?;
        }
        for pair in tags.windows(2) {
            let image = |tag: &str| format!("docker://{}", registry.reference(&format!("app:{tag}")));
            d4c(["diff", &image(pair[0]), &image(pair[1]), "docker://"])?.success()?;
        }
        Ok(this)
    }

    /// Bytes of the delta between two images.
    fn delta_bytes(&self, old: &str, new: &str) -> Result<u64> {
        let image = |tag: &str| format!("docker://{}", self.registry.reference(&format!("app:{tag}")));
        let there = json(d4c(["diff", "--json", &image(old), &image(new), "docker://"])?)?;
        there["bytes"].as_u64().with_context(|| format!("no bytes: {there}"))
    }

    /// Whether a request is for a layer of an image.
    fn asks_for_layer(&self, lines: &[String], tag: &str) -> Result<bool> {
        let image = self.series.image(tag)?;
        Ok(lines.iter().any(|line| image.layers().iter().any(|(layer, _)| line.contains(layer))))
    }
}

/// `ctr images pull`, as anyone would.
pub(super) fn pull(containerd: &Containerd<'_>, name: &str) -> Result<Output> {
    containerd.ctr(["images", "pull", "--plain-http", "--snapshotter", "di3fs", name])
}

/// What the image's files say; the end tells empty files from output that is lost.
pub(super) fn release(containerd: &Containerd<'_>, name: &str) -> Result<String> {
    let seen = containerd.run("di3fs", name, &["sh", "-c", "cat /etc/release /app/release && echo end"])?;
    Ok(seen.strip_suffix("end\n").with_context(|| format!("{name}: output is lost: {seen:?}"))?.to_owned())
}

pub(super) fn known(containerd: &Containerd<'_>) -> Result<usize> {
    let images: Value = json(containerd.d4c(["images", "--json"])?)?;
    Ok(images["images"].as_array().map_or(0, Vec::len))
}

/// The first image as always, those after it by deltas; they are ordinary images of containerd, and go like those.
fn deltas_where_they_lead(route: &str) -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let published = Published::new(&registry, &["v1", "v2", "v3"])?;
    let plugin = Snapshotter::start_pulling(&sandbox, 30, &["--route", route])?;
    let mut containerd = Containerd::start(&sandbox, VERSION)?;
    let proxy = Proxy::start(&registry.address(), Box::new(|_, _| None))?;
    let name = |tag: &str| proxy.reference(&format!("app:{tag}"));
    pull(&containerd, &name("v1"))?.success()?;
    ensure!(published.asks_for_layer(&proxy.lines(), "v1")? && plugin.log().contains("no deltas for this"));

    for (old, new, made) in [("v1", "v2", 1), ("v2", "v3", 2)] {
        let (before, lines) = (proxy.bytes(), proxy.lines().len());
        pull(&containerd, &name(new))?.success()?;
        let (passed, bytes) = (proxy.bytes() - before, published.delta_bytes(old, new)?);
        let lines = proxy.lines().split_off(lines);
        ensure!(passed >= bytes && passed < bytes + DOCUMENT_BYTES, "{passed} of {bytes}: {lines:?}");
        ensure!(!published.asks_for_layer(&lines, new)?, "layers were asked for: {lines:?}");
        ensure!(plugin.log().matches(MADE).count() == made, "{}", plugin.log());
        let digest = published.series.image(new)?.digest;
        let listed = containerd.ctr(["images", "ls"])?.success()?.stdout;
        ensure!(listed.lines().any(|line| line.contains(&name(new)) && line.contains(&digest)), "{listed}");
    }
    let seen = release(&containerd, &name("v2"))?;
    ensure!(seen == "v1\nversion 2\n", "{seen}");
    // What the deltas started from is not kept beside them.
    wait_for("bases to go", || Ok(known(&containerd)? == 2))?;
    let listed: Value = json(containerd.d4c(["images", "--json"])?)?;
    for tag in ["v2", "v3"] {
        let digest = published.series.image(tag)?.digest;
        let of = |image: &&Value| image["manifest"] == digest;
        let image = listed["images"].as_array().and_then(|images| images.iter().find(of));
        ensure!(image.is_some_and(|image| image["names"][0] == name(tag)), "{listed}");
    }
    // Layers that are no blobs survive a collection, and a start of all.
    containerd.ctr(["content", "prune", "references"])?.success()?;
    containerd.restart()?;
    let seen = release(&containerd, &name("v3"))?;
    ensure!(seen == "v3\nversion 2\n", "{seen}");
    pull(&containerd, &name("v3"))?.success()?;

    for tag in ["v1", "v2", "v3"] {
        containerd.ctr(["images", "rm", "--sync", &name(tag)])?.success()?;
    }
    wait_for("images to go", || Ok(known(&containerd)? == 0))?;
    ensure!(containerd.snapshots("di3fs")?.is_empty());
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

/// Contents made in advance.
#[test]
fn deltas_where_they_lead_and_else_layers() -> Result<()> {
    deltas_where_they_lead("overlay")
}

/// Contents made when they are opened, where this kernel can.
#[test]
fn deltas_where_they_lead_lazily() -> Result<()> {
    deltas_where_they_lead("auto")
}

/// Names of images for several platforms are told, and taken.
#[test]
fn an_image_for_several_platforms_is_known_by_its_name() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let series = Series::named("tiny")?;
    let mut digests = Vec::new();
    for tag in ["v1", "v2"] {
        let images = [("linux/amd64", tag), ("linux/arm64", tag)];
        digests.extend(platforms::push(&registry, &series, tag, &images, &sandbox)?);
    }
    let name = |tag: &str| registry.reference(&format!("app:{tag}"));
    let [old, new] = ["v1", "v2"].map(|tag| format!("docker://{}", name(tag)));
    d4c(["diff", &old, &new, "docker://"])?.success()?;
    let flags = ["--route", "erofs", "--prefetch", "false", "--finish-after", "0"];
    let plugin = Snapshotter::start_pulling(&sandbox, 30, &flags)?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    for tag in ["v1", "v2"] {
        pull(&containerd, &name(tag))?.success()?;
    }
    ensure!(plugin.log().contains(MADE), "{}", plugin.log());
    let listed: Value = json(containerd.d4c(["images", "--json"])?)?;
    let names = |image: &Value| image["names"].as_array().is_some_and(|names| *names == [name("v2")]);
    let image = listed["images"].as_array().and_then(|images| images.iter().find(|image| names(image)));
    let manifest = image.and_then(|image| image["manifest"].as_str()).unwrap_or_default();
    ensure!(digests[2..].iter().any(|digest| digest == manifest), "{listed}");
    let made: Value = json(containerd.d4c(["prefetch", &name("v2"), "--json"])?)?;
    ensure!(made["manifest"] == manifest && made["contents"].as_u64() > Some(0), "{made}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

/// A registry that is slow with deltas, a damaged delta, no registry at all: the image comes by its layers, and why is told once.
#[test]
fn what_goes_wrong_leads_to_the_layers() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let published = Published::new(&registry, &["v1", "v2", "v3"])?;
    let plugin = Snapshotter::start_pulling(&sandbox, 1, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let name = |tag: &str| registry.reference(&format!("app:{tag}"));
    pull(&containerd, &name("v1"))?.success()?;

    // Lists of deltas are late: three attempts fail, a second apart.
    let fallback = published.series.image("v2")?.digest.replace(':', "-");
    let asked = AtomicU64::new(0);
    let plan = move |line: &str, _: u64| {
        let is_list = line.ends_with(&fallback);
        let late = is_list && asked.fetch_add(1, Ordering::Relaxed) < 3;
        late.then_some(Fault::Status(503))
    };
    let proxy = Proxy::start(&registry.address(), Box::new(plan))?;
    let second = proxy.reference("app:v2");
    pull(&containerd, &second)?.success()?;
    ensure!(plugin.log().matches("deltas are late").count() == 1, "{}", plugin.log());
    ensure!(published.asks_for_layer(&proxy.lines(), "v2")?, "{:?}", proxy.lines());
    let seen = release(&containerd, &second)?;
    ensure!(seen == "v1\nversion 2\n", "{seen}");
    // It goes on, for whoever comes next.
    wait_for("the delta to be there", || Ok(plugin.log().contains(MADE)))?;
    let lines = proxy.lines().len();
    containerd.ctr(["images", "rm", "--sync", &second])?.success()?;
    pull(&containerd, &second)?.success()?;
    let lines = proxy.lines().split_off(lines);
    ensure!(!published.asks_for_layer(&lines, "v2")?, "{lines:?}");
    ensure!(plugin.log().matches(MADE).count() == 2, "{}", plugin.log());

    damage(&registry, ["v2", "v3"])?;
    let before = plugin.log().matches(PULLED).count();
    pull(&containerd, &name("v3"))?.success()?;
    let log = plugin.log();
    ensure!(log.matches(PULLED).count() == before + 1 && log.contains("digest is"), "{log}");
    let seen = release(&containerd, &name("v3"))?;
    ensure!(seen == "v3\nversion 2\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

/// An image whose container waits, as the sandboxes of pods need it.
fn import_pause(sandbox: &Sandbox, containerd: &Containerd<'_>, series: &Series) -> Result<()> {
    let layout = sandbox.path("pause").to_string_lossy().into_owned();
    // Of layers that no other image here has.
    series.copy("v3", &format!("oci:{layout}:1"))?;
    let image = format!("{layout}:1");
    let waits = ["config", "--image", &image, "--config.cmd", "sleep", "--config.cmd", "1000"];
    Output::of(sandbox.command("umoci").args(waits))?.success()?;
    let archive = sandbox.path("pause.tar").to_string_lossy().into_owned();
    Series::at(layout.as_ref()).copy("1", &format!("docker-archive:{archive}:{PAUSE}"))?;
    containerd.ctr(["-n", "k8s.io", "images", "import", "--snapshotter", "di3fs", &archive])?.success()?;
    Ok(())
}

/// Through the CRI, as the kubelet does it: images, pods, containers, collection, removal.
#[test]
fn deltas_by_the_cri() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let published = Published::new(&registry, &["v1", "v2"])?;
    let plugin = Snapshotter::start_pulling(&sandbox, 30, &[])?;
    let containerd = Containerd::start_with_cri(&sandbox, VERSION)?;
    import_pause(&sandbox, &containerd, &published.series)?;
    let proxy = Proxy::start(&registry.address(), Box::new(|_, _| None))?;
    let name = |tag: &str| proxy.reference(&format!("app:{tag}"));
    containerd.reach_plainly(proxy.reference("").trim_end_matches('/'))?;
    let read = ["sh", "-c", "cat /etc/release /app/release"];
    let first = containerd.run_by_cri(&name("v1"), &read)?;
    ensure!(first == "v1\nversion 1\n", "{first}");
    let (before, lines) = (proxy.bytes(), proxy.lines().len());
    let second = containerd.run_by_cri(&name("v2"), &read)?;
    ensure!(second == "v1\nversion 2\n", "{second}");
    let (passed, bytes) = (proxy.bytes() - before, published.delta_bytes("v1", "v2")?);
    let lines = proxy.lines().split_off(lines);
    ensure!(passed >= bytes && passed < bytes + DOCUMENT_BYTES, "{passed} of {bytes}: {lines:?}");
    ensure!(!published.asks_for_layer(&lines, "v2")?, "layers were asked for: {lines:?}");
    ensure!(plugin.log().matches(MADE).count() == 1, "{}", plugin.log());
    containerd.ctr(["-n", "k8s.io", "content", "prune", "references"])?.success()?;
    let again = containerd.run_by_cri(&name("v2"), &read)?;
    ensure!(again == second, "{again}");
    for image in [&name("v1"), &name("v2")] {
        containerd.remove_by_cri(image)?;
    }
    wait_for("images to go", || Ok(known(&containerd)? == 0))?;
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

/// Tells who is root on the host, what the image has, and whose a file is that is written to it.
const READ_AS_ROOT: &str = "read inside outside count </proc/self/uid_map; echo $outside; cat /app/release; \
    cd /app && echo own >own && stat -c '%n %u:%g %a' * own";

/// Pods with `hostUsers: false` beside one without, on the same layers: they see the same owners.
#[test]
fn pods_with_users_of_their_own() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    for route in ["erofs", "fuse", "overlay"] {
        let sandbox = Sandbox::new()?;
        let registry = Registry::start(&sandbox)?;
        let published = Published::new(&registry, &["v1", "v2"])?;
        let plugin = Snapshotter::start_pulling(&sandbox, 30, &["--route", route])?;
        let containerd = Containerd::start_with_cri(&sandbox, VERSION)?;
        import_pause(&sandbox, &containerd, &published.series)?;
        containerd.reach_plainly(&registry.address())?;
        let name = |tag: &str| registry.reference(&format!("app:{tag}"));
        let read = ["sh", "-c", READ_AS_ROOT];
        for (tag, roots) in [("v1", &[100_000][..]), ("v2", &[100_000, 300_000])] {
            let expected = containerd.run_by_cri(&name(tag), &read)?;
            ensure!(
                expected.starts_with(&format!("0\nversion {}\n", &tag[1..])),
                "{route} {tag}: {expected}"
            );
            for root in roots {
                let seen = containerd.run_by_cri_as(*root, &name(tag), &read)?;
                ensure!(seen.replacen(&root.to_string(), "0", 1) == expected, "{route} {tag} {root}: {seen}");
                ensure!(seen.starts_with(&root.to_string()), "{route} {tag}: {seen}");
            }
        }
        ensure!(plugin.log().matches(MADE).count() == 1, "{}", plugin.log());
        containerd.stop()?;
        plugin.terminate()?;
        registry.stop()?;
        sandbox.close()?;
    }
    Ok(())
}

/// The plugin is killed while a pull waits for it. That pull may fail; the next one has its delta.
#[test]
fn the_plugin_is_killed_while_it_fetches() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let published = Published::new(&registry, &["v1", "v2"])?;
    let plugin = Snapshotter::start_pulling(&sandbox, 30, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    pull(&containerd, &registry.reference("app:v1"))?.success()?;
    let list = published.series.image("v2")?.digest.replace(':', "-");
    let is_well = Arc::new(AtomicBool::new(false));
    let plan = {
        let (list, is_well) = (list.clone(), Arc::clone(&is_well));
        move |line: &str, _: u64| {
            (line.ends_with(&list) && !is_well.load(Ordering::Relaxed)).then_some(Fault::Status(503))
        }
    };
    let proxy = Proxy::start(&registry.address(), Box::new(plan))?;
    let name = proxy.reference("app:v2");
    let first = std::thread::scope(|scope| -> Result<Output> {
        let first = scope.spawn(|| pull(&containerd, &name));
        wait_for("the plugin to look for deltas", || {
            Ok(proxy.lines().iter().any(|line| line.ends_with(&list)))
        })?;
        plugin.kill()?;
        first.join().map_err(|_| anyhow::anyhow!("the pull panicked"))?
    })?;
    ensure!(first.code != 0, "{}", first.stdout);
    is_well.store(true, Ordering::Relaxed);
    let plugin = Snapshotter::start_pulling(&sandbox, 30, &[])?;
    let lines = proxy.lines().len();
    wait_for("the plugin to be seen again", || Ok(pull(&containerd, &name)?.code == 0))?;
    ensure!(!published.asks_for_layer(&proxy.lines().split_off(lines), "v2")?, "{}", plugin.log());
    let seen = release(&containerd, &name)?;
    ensure!(seen == "v1\nversion 2\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}
