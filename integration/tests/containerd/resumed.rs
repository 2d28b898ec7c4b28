//! A large delta whose download is killed: the next one goes on with it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use d4c_image::registry::{PARTIAL_BYTES, Partials};
use d4c_integration::Sandbox;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::faults::Proxy;
use d4c_integration::images::Series;
use d4c_integration::program::{Output, d4c};
use d4c_integration::random::mixed;
use d4c_integration::registry::Registry;
use d4c_integration::sandbox::wait_for;
use d4c_integration::snapshotter::Snapshotter;

use super::registry::json;
use super::within::{MADE, PULLED, pull, release};
use crate::VERSION;

/// Bytes that no delta makes smaller.
const NOISE: usize = 28 << 20;
/// Where a download is stopped: within the second piece and those after it.
const STOP: u64 = 21 << 20;
/// A piece that is asked for at once.
const PIECE: u64 = 8 << 20;

/// Two images, the second one with much that is new, and the delta between them.
struct Large {
    registry: Registry,
    proxy: Proxy,
    /// Digest of the delta's blob, and its bytes.
    delta: (String, u64),
}

impl Large {
    fn new(sandbox: &Sandbox) -> Result<Self> {
        let registry = Registry::start(sandbox)?;
        let series = Series::named("tiny")?;
        let layout = sandbox.path("large");
        let target = format!("oci:{}", layout.display());
        for tag in ["v1", "v2"] {
            series.copy(tag, &format!("{target}:{tag}"))?;
        }
        let noise = sandbox.path("noise");
        let words = (0..NOISE as u64 / 8).flat_map(|number| mixed(number).to_le_bytes());
        fs::write(&noise, words.collect::<Vec<_>>())?;
        let image = format!("{}:v2", layout.display());
        let insert = ["insert", "--image", &image, &noise.to_string_lossy(), "/noise"];
        Output::of(sandbox.command("umoci").args(insert))?.success()?;
        let large = Series::at(&layout);
        for tag in ["v1", "v2"] {
            registry.push(&large, tag, &format!("app:{tag}"))?;
        }
        let file = sandbox.path("large.cdimg").to_string_lossy().into_owned();
        let of = |tag: &str| large.source(tag);
        d4c(["diff", "--level", "fast", &of("v1"), &of("v2"), &file])?.success()?;
        d4c(["push", &file, &registry.reference("app")])?.success()?;
        let bytes = fs::read(&file)?;
        let delta = (dimg::Digest::of(&bytes).to_string(), bytes.len() as u64);
        ensure!(delta.1 > NOISE as u64 && delta.1 < NOISE as u64 + PIECE, "{} bytes", delta.1);
        let proxy = Proxy::start(&registry.address(), Box::new(|_, _| None))?;
        Ok(Self { registry, proxy, delta })
    }

    fn name(&self, tag: &str) -> String {
        self.proxy.reference(&format!("app:{tag}"))
    }

    /// Stops the next download of the delta.
    fn stop(&self) {
        self.proxy.stop_after(&self.delta.0, STOP);
    }

    /// Waits until all that came through is on the disk, and recorded in `dir`.
    fn wait_for_record(&self, dir: &Path) -> Result<()> {
        let partials = Partials::new(dir, PARTIAL_BYTES);
        wait_for("what was downloaded to be recorded", || {
            let list = partials.list();
            Ok(list.iter().any(|kept| kept.digest.to_string() == self.delta.0 && kept.bytes == STOP))
        })
    }

    /// What went over the wire in all is hardly more than the delta.
    fn check_bytes(&self) -> Result<()> {
        let (passed, bytes) = (self.proxy.watched_bytes(), self.delta.1);
        println!("{passed} bytes passed of a delta of {bytes}, stopped after {STOP}");
        ensure!(passed >= bytes && passed <= bytes + 2 * PIECE, "{passed} bytes passed for {bytes}");
        Ok(())
    }
}

/// No download is left in a folder.
fn nothing_is_left(dir: &Path) -> Result<()> {
    let left: Vec<_> = fs::read_dir(dir)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// The plugin is killed in the middle of a download. The next one has the rest, and only that, from the registry.
#[test]
fn the_plugin_goes_on_where_it_was_killed() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let large = Large::new(&sandbox)?;
    let plugin = Snapshotter::start_pulling(&sandbox, 60, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    pull(&containerd, &large.name("v1"))?.success()?;
    let (name, dir) = (large.name("v2"), Snapshotter::root(&sandbox).join("pull"));
    large.stop();
    let plugin = std::thread::scope(|scope| -> Result<Snapshotter> {
        let first = scope.spawn(|| pull(&containerd, &name));
        let recorded = large.wait_for_record(&dir);
        plugin.kill()?;
        large.proxy.go_on();
        let first = first.join().map_err(|_| anyhow::anyhow!("the pull panicked"))??;
        recorded?;
        ensure!(first.code != 0, "{}", first.stdout);
        Snapshotter::start_pulling(&sandbox, 60, &[])
    })?;
    wait_for("the plugin to be seen again", || Ok(pull(&containerd, &name)?.code == 0))?;
    let log = plugin.log();
    ensure!(log.matches(MADE).count() == 1, "{log}");
    // Of the first image.
    ensure!(log.matches(PULLED).count() == 1, "{log}");
    large.check_bytes()?;
    nothing_is_left(&dir)?;
    let seen = release(&containerd, &name)?;
    ensure!(seen == "v1\nversion 2\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    large.registry.stop()?;
    sandbox.close()
}

/// `d4c pull` is killed in the middle of a download, and run again. On a full disk it gives up, and leaves nothing.
#[test]
fn a_pull_goes_on_where_it_was_killed() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let large = Large::new(&sandbox)?;
    let plugin = Snapshotter::start(&sandbox, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    json(containerd.d4c(["pull", "--json", &large.name("v1")])?)?;
    let name = large.name("v2");

    let full = sandbox.dir("full")?;
    let place = full.to_string_lossy().into_owned();
    let mount = ["-t", "tmpfs", "-o", "size=10m", "tmpfs", &place];
    Output::of(sandbox.command("mount").args(mount))?.success()?;
    let failed = containerd.d4c(["--tmpdir", &place, "pull", "--json", &name]);
    let left = fs::read_dir(full.join("d4c-0")).map(|list| list.count());
    Output::of(sandbox.command("umount").arg(&place))?.success()?;
    let failed = failed?;
    ensure!(failed.code == 5 && left? == 0, "{}: {}", failed.code, failed.stderr);

    large.stop();
    let mut command = containerd.d4c_command();
    command.args(["pull", &name]);
    let first = sandbox.start("pull", command)?;
    let dir = sandbox.path("d4c-0");
    let recorded = large.wait_for_record(&dir);
    first.kill()?;
    large.proxy.go_on();
    recorded?;
    let pulled = json(containerd.d4c(["pull", "--json", &name])?)?;
    ensure!(pulled["how"] == "deltas", "{pulled}");
    large.check_bytes()?;
    let fetched = pulled["fetched_bytes"].as_u64().context("no count")?;
    ensure!(fetched < large.delta.1 - STOP + PIECE, "{pulled}");
    nothing_is_left(&dir)?;
    let seen = release(&containerd, &name)?;
    ensure!(seen == "v1\nversion 2\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    large.registry.stop()?;
    sandbox.close()
}
