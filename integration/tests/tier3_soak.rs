//! Tier 3: containers that read contents which are not made yet, while the plugin is killed and memory is short.
//!
//! The plugin is killed `D4C_SOAK_KILLS` times on each route (12 when that is not set; `hack/soak.sh` does it 200 times), and
//! the images grow with that number, so that there is always something left to be made.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::program::d4c;
use d4c_integration::random::Random;
use d4c_integration::sandbox::wait_for;
use d4c_integration::snapshotter::Snapshotter;
use nix::unistd::Pid;

const NAME: &str = "example.com/soak:latest";
const LISTED: usize = 20;

fn kills() -> usize {
    std::env::var("D4C_SOAK_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

/// Many files, each of which is another in the second release.
struct Files {
    count: usize,
    most_bytes: usize,
}

impl Files {
    /// The bytes of a file in a release.
    fn bytes(&self, number: usize, release: u64) -> Vec<u8> {
        let mut random = Random::new(number as u64 + 1);
        let size = self.most_bytes / 2 + random.below(self.most_bytes / 2);
        let mut bytes = Vec::with_capacity(size + 64);
        while bytes.len() < size {
            bytes.extend(random.number().to_le_bytes());
        }
        let (place, mark) = (size / 3, format!("release {release} of file {number}\n"));
        bytes.splice(place..place, mark.bytes());
        bytes
    }

    fn path(number: usize) -> String {
        format!("data/{}/{number}", number / 100)
    }

    /// Writes the root file system of a release: the files, lists of their digests, and busybox.
    fn write(&self, root: &Path, release: u64) -> Result<()> {
        for name in ["bin", "dev", "proc", "sys", "tmp", "run", "etc", "sums"] {
            fs::create_dir_all(root.join(name))?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static is not installed")?;
        for applet in ["sh", "cat", "sha256sum", "sleep", "seq", "ls"] {
            fs::hard_link(root.join("bin/busybox"), root.join("bin").join(applet))?;
        }
        let mut list = String::new();
        for number in 0..self.count {
            let path = root.join(Self::path(number));
            if number % 100 == 0 {
                fs::create_dir_all(path.parent().context("a path has a parent")?)?;
            }
            fs::write(&path, self.bytes(number, release))?;
            let digest = d4c_integration::tree::sha256(&path)?;
            list.push_str(&format!("{digest}  /{}\n", Self::path(number)));
            if number % LISTED == LISTED - 1 || number + 1 == self.count {
                fs::write(root.join(format!("sums/{}", number / LISTED)), std::mem::take(&mut list))?;
            }
        }
        Ok(())
    }

    /// A base and a delta with these files.
    fn deltas(&self, sandbox: &Sandbox) -> Result<[String; 2]> {
        let files = ["v1", "v2"].map(|tag| sandbox.path(&format!("{tag}.cdimg")).display().to_string());
        let roots = [1, 2].map(|release| sandbox.path(&format!("root-{release}")));
        let sources = roots.each_ref().map(|root| format!("dir:{}", root.display()));
        self.write(&roots[0], 1)?;
        self.write(&roots[1], 2)?;
        d4c(["convert", "--level", "fast", &sources[0], &files[0]])?.success()?;
        d4c(["diff", "--level", "fast", &sources[0], &sources[1], &files[1]])?.success()?;
        roots.iter().try_for_each(fs::remove_dir_all)?;
        Ok(files)
    }

    /// Whether the file below `root` is what the second release has.
    fn check(&self, root: &Path, number: usize) -> Result<()> {
        let path = root.join(Self::path(number));
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        ensure!(bytes == self.bytes(number, 2), "{}: wrong bytes, {} of them", path.display(), bytes.len());
        Ok(())
    }
}

/// A plugin that completes no image by itself.
fn plugin(sandbox: &Sandbox, route: &str) -> Result<Snapshotter> {
    Snapshotter::start(sandbox, &["--route", route, "--finish-after", "100000"])
}

/// What the container does: it checks all files over and over, and says so in its own layer.
const CHECKS: &str = "while :; do for list in /sums/*; do sha256sum -c -s $list || echo $list >> /failed; done; echo >> /rounds; done";

/// The image loaded, its parent complete, and the container that checks it.
fn start(containerd: &Containerd<'_>, files: &[String], options: &[&str]) -> Result<()> {
    for file in files {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
    }
    containerd.run_detached_with("di3fs", NAME, "reader", options, &["/bin/sh", "-c", CHECKS])
}

/// Where the container's root file system is seen from outside, as the container sees it.
fn seen(containerd: &Containerd<'_>) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/proc/{}/root", containerd.pid("reader")?)))
}

/// Ends what [`start`] started.
fn end(containerd: Containerd<'_>, plugin: Snapshotter) -> Result<()> {
    containerd.remove("reader")?;
    containerd.ctr(["images", "rm", "--sync", NAME])?.success()?;
    wait_for("the snapshots to be collected", || Ok(containerd.snapshots("di3fs")?.is_empty()))?;
    containerd.stop()?;
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    Ok(())
}

/// The container and four readers outside of it read all files, while the plugin is killed at random moments.
fn the_plugin_is_killed(route: &str) -> Result<()> {
    let kills = kills();
    let sandbox = Sandbox::new()?;
    let content = Files { count: 200 + 40 * kills, most_bytes: 24 << 10 };
    let files = content.deltas(&sandbox)?;
    let mut running = Some(plugin(&sandbox, route)?);
    let containerd = Containerd::start(&sandbox, Version::Two)?;
    start(&containerd, &files, &[])?;
    let root = seen(&containerd)?;
    // The first close of a file over FUSE asks the plugin, once. A plugin started by us while it was killed would wait
    // for itself then: between fork and exec it has our files.
    content.check(&root, 0)?;
    let (killed, stop, next) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    scope(|scope| -> Result<()> {
        let read = |seed: u64| {
            let mut random = Random::new(seed);
            while !stop.load(Ordering::Relaxed) {
                // The last files wait for the last kills; what was read is read again now and then.
                let allowed = content.count * (killed.load(Ordering::Relaxed) + 1) / kills;
                let number = next.fetch_add(1, Ordering::Relaxed);
                let number = if number < allowed.min(content.count) {
                    number
                } else {
                    next.fetch_sub(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(3));
                    random.below(allowed.clamp(1, content.count))
                };
                content.check(&root, number)?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let readers: Vec<_> = (0..4).map(|seed| scope.spawn(move || read(seed))).collect();
        let mut random = Random::new(7);
        let killing = (0..kills).try_for_each(|_| -> Result<()> {
            sleep(Duration::from_millis(random.below(250) as u64));
            ensure!(!readers.iter().any(std::thread::ScopedJoinHandle::is_finished), "a reader ended");
            if let Some(plugin) = running.take() {
                plugin.kill()?;
            }
            killed.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(random.below(40) as u64));
            running = Some(plugin(&sandbox, route)?);
            Ok(())
        });
        sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        killing
    })?;
    (0..content.count).try_for_each(|number| content.check(&root, number))?;
    let rounds = || Ok(fs::read(root.join("rounds")).is_ok_and(|rounds| !rounds.is_empty()));
    wait_for("the container to have checked all files", rounds)?;
    ensure!(!root.join("failed").exists(), "in the container: {}", fs::read_to_string(root.join("failed"))?);
    let seen = containerd.run("di3fs", NAME, &["/bin/cat", "/data/0/7"])?;
    ensure!(seen.contains("release 2 of file 7"), "a new container sees something else");
    let plugin = running.context("no plugin runs")?;
    end(containerd, plugin)?;
    sandbox.close()
}

#[test]
fn the_plugin_is_killed_on_erofs() -> Result<()> {
    the_plugin_is_killed("erofs")
}

#[test]
fn the_plugin_is_killed_over_fuse() -> Result<()> {
    the_plugin_is_killed("fuse")
}

/// 64 readers at once of files that are not made yet, the plugin and the container each within little memory: each
/// content is made once, and nobody waits for ever.
fn many_readers_in_little_memory(route: &str) -> Result<()> {
    // All of it is more than the limit.
    let (count, most_bytes, limit) =
        if kills() > 100 { (48, 12 << 20, 256 << 20) } else { (24, 4 << 20, 48 << 20) };
    let sandbox = Sandbox::new()?;
    let content = Files { count, most_bytes };
    let files = content.deltas(&sandbox)?;
    let plugin = plugin(&sandbox, route)?;
    let containerd = Containerd::start(&sandbox, Version::Two)?;
    let limited = Limited::new(&sandbox, limit)?;
    let options = ["--memory-limit", &limit.to_string()];
    for file in &files {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
    }
    containerd.run_detached_with("di3fs", NAME, "reader", &options, &["/bin/sleep", "1000"])?;
    limited.add(plugin.pid())?;
    let made = || -> Result<u64> {
        let status: serde_json::Value =
            serde_json::from_str(&containerd.d4c(["--json", "status"])?.success()?.stdout)?;
        status["contents_made"].as_u64().with_context(|| format!("no contents_made in {status}"))
    };
    let before = made()?;
    let read = "for reader in $(seq 64); do cat /data/*/* > /dev/null && echo read & done; wait";
    let read = containerd.exec("reader", &["/bin/sh", "-c", read])?;
    ensure!(read.lines().count() == 64, "{} of 64 readers read all", read.lines().count());
    let made = made()? - before;
    ensure!(made == count as u64, "{made} contents were made for {count} files");
    let root = seen(&containerd)?;
    (0..count).try_for_each(|number| content.check(&root, number))?;
    end(containerd, plugin)?;
    limited.remove()?;
    sandbox.close()
}

#[test]
fn many_readers_in_little_memory_on_erofs() -> Result<()> {
    many_readers_in_little_memory("erofs")
}

#[test]
fn many_readers_in_little_memory_over_fuse() -> Result<()> {
    many_readers_in_little_memory("fuse")
}

/// A cgroup that may have so much memory.
struct Limited(PathBuf);

impl Limited {
    fn new(sandbox: &Sandbox, bytes: u64) -> Result<Self> {
        let name = sandbox.root().file_name().context("a sandbox has a name")?;
        let (unified, own) = (Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/memory"));
        let (parent, limit) =
            if own.exists() { (own, "memory.limit_in_bytes") } else { (unified, "memory.max") };
        let group = parent.join(format!("{}-plugin", name.to_string_lossy()));
        fs::create_dir_all(&group).with_context(|| format!("make {}", group.display()))?;
        let limit = group.join(limit);
        fs::write(&limit, bytes.to_string()).with_context(|| format!("write {}", limit.display()))?;
        Ok(Self(group))
    }

    fn add(&self, process: Pid) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).context("limit the plugin's memory")
    }

    fn remove(self) -> Result<()> {
        fs::remove_dir(&self.0).with_context(|| format!("remove {}", self.0.display()))
    }
}

/// After a power failure the container starts again on its snapshot, and sees what it wrote and what was not made yet.
fn a_power_failure_is_survived(route: &str) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let content = Files { count: 200, most_bytes: 24 << 10 };
    let files = content.deltas(&sandbox)?;
    let running = plugin(&sandbox, route)?;
    let mut containerd = Containerd::start(&sandbox, Version::Two)?;
    for file in &files {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
    }
    let sleeps = ["/bin/sh", "-c", "echo kept >> /kept; exec sleep 1000"];
    containerd.run_detached("di3fs", NAME, "reader", &sleeps)?;
    let root = seen(&containerd)?;
    (0..100).try_for_each(|number| content.check(&root, number))?;
    nix::unistd::sync();

    sandbox.power_off();
    drop(running);
    let plugin = plugin(&sandbox, route)?;
    containerd.power_on()?;
    containerd.ctr(["tasks", "start", "--detach", &containerd.container("reader")])?.success()?;
    wait_for("the container to run", || containerd.is_running("reader"))?;
    let root = seen(&containerd)?;
    (0..content.count).try_for_each(|number| content.check(&root, number))?;
    wait_for("it to write", || Ok(fs::read(root.join("kept")).is_ok_and(|kept| kept == b"kept\nkept\n")))?;
    end(containerd, plugin)?;
    sandbox.close()
}

#[test]
fn a_power_failure_is_survived_on_erofs() -> Result<()> {
    a_power_failure_is_survived("erofs")
}

#[test]
fn a_power_failure_is_survived_over_fuse() -> Result<()> {
    a_power_failure_is_survived("fuse")
}
