//! Tier 3: containers that read contents which are not made yet, while the plugin is killed and memory is short.
//!
//! The plugin is ended `D4C_SOAK_KILLS` times on each route (12 when that is not set; `hack/soak.sh` does it 200 times), and
//! the images grow with that number, so that there is always something left to be made. It is not always killed: now and then it is upgraded,
//! and now and then its holder is killed before it.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::memory::anonymous;
use d4c_integration::program::{built, d4c};
use d4c_integration::random::Random;
use d4c_integration::sandbox::wait_for;
use d4c_integration::snapshotter::Snapshotter;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
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

/// The program that is started, and upgraded in place.
struct Program(PathBuf);

impl Program {
    fn new(sandbox: &Sandbox) -> Result<Self> {
        let this = Self(sandbox.path("di3fs-snapshotter"));
        this.replace(0)?;
        Ok(this)
    }

    /// Puts another file in its place, as a package does.
    fn replace(&self, version: usize) -> Result<()> {
        let mut bytes = fs::read(built("di3fs-snapshotter"))?;
        bytes.extend(version.to_le_bytes());
        let aside = self.0.with_extension("new");
        fs::write(&aside, bytes)?;
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o755))?;
        Ok(fs::rename(&aside, &self.0)?)
    }

    fn start(&self, sandbox: &Sandbox, route: &str) -> Result<Snapshotter> {
        Snapshotter::start_from(sandbox, &self.0, &["--route", route, "--finish-after", "100000"])
    }
}

/// Ends the plugin for the `number`th time: mostly by kill -9; every fourth time as an upgrade does; and every fourth time after its holder,
/// to which another one was the heir.
fn end_plugin(sandbox: &Sandbox, program: &Program, plugin: Snapshotter, number: usize) -> Result<()> {
    match (number % 4, Snapshotter::holder(sandbox)) {
        (1, _) => {
            program.replace(number)?;
            ensure!(plugin.terminate()?.success(), "the plugin did not end well");
            Ok(())
        }
        (3, Some(holder)) => {
            let heirs = || plugin.log().matches("another one goes on").count();
            let before = heirs();
            kill(holder, Signal::SIGKILL)?;
            wait_for("another holder", || Ok(heirs() > before))?;
            plugin.kill()
        }
        _ => plugin.kill(),
    }
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
    let program = Program::new(&sandbox)?;
    let mut running = Some(program.start(&sandbox, route)?);
    let containerd = Containerd::start(&sandbox, Version::Two)?;
    start(&containerd, &files, &[])?;
    let root = seen(&containerd)?;
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
        let killing = (0..kills).try_for_each(|number| -> Result<()> {
            sleep(Duration::from_millis(random.below(250) as u64));
            ensure!(!readers.iter().any(std::thread::ScopedJoinHandle::is_finished), "a reader ended");
            if let Some(plugin) = running.take() {
                end_plugin(&sandbox, &program, plugin, number)?;
            }
            killed.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(random.below(40) as u64));
            running = Some(program.start(&sandbox, route)?);
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
    containerd.wait_for_plugin()?;
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

/// Nothing is left to be made, and nobody waits for the plugin.
#[test]
fn the_plugin_is_killed_on_overlay() -> Result<()> {
    the_plugin_is_killed("overlay")
}

/// What of a service manager this needs: it keeps descriptors that it is sent, and passes them on at the next start.
struct Manager {
    path: PathBuf,
    socket: UnixDatagram,
    kept: BTreeMap<String, OwnedFd>,
}

impl Manager {
    fn new(sandbox: &Sandbox) -> Result<Self> {
        let path = sandbox.path("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { path, socket, kept: BTreeMap::new() })
    }

    /// Does what it was told.
    fn listen(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let (bytes, fd) = match d4c_sys::receive_with_fd(&self.socket, &mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                received => received?,
            };
            let text = std::str::from_utf8(&buffer[..bytes])?;
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
            ensure!(!name.contains(':'), "systemd takes no such name: {name}");
            match (text.lines().next(), fd) {
                (Some("FDSTORE=1"), Some(fd)) => drop(self.kept.insert(name.to_owned(), fd)),
                (Some("FDSTOREREMOVE=1"), None) => drop(self.kept.remove(name)),
                (_, None) => {}
                told => anyhow::bail!("{told:?}"),
            }
        }
    }

    fn start(&self, sandbox: &Sandbox, arguments: &[&str]) -> Result<Snapshotter> {
        let (mut script, mut names) = (String::new(), Vec::new());
        for (number, (name, fd)) in self.kept.iter().enumerate() {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            script.push_str(&format!("exec {}<&{}\n", number + 3, fd.as_raw_fd()));
            names.push(name.as_str());
        }
        script.push_str("export LISTEN_PID=$$; exec \"$0\" \"$@\"");
        let mut command = sandbox.command("bash");
        command.arg("-c").arg(script).arg(built("di3fs-snapshotter")).env("NOTIFY_SOCKET", &self.path);
        command.env("LISTEN_FDS", self.kept.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let started = Snapshotter::start_by(sandbox, command, arguments)?;
        for fd in self.kept.values() {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        Ok(started)
    }
}

/// `systemctl kill` ends the plugin and its holder at once: the service manager has what they had.
#[test]
fn a_service_manager_keeps_what_is_served() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let content = Files { count: 40, most_bytes: 24 << 10 };
    let files = content.deltas(&sandbox)?;
    let mut manager = Manager::new(&sandbox)?;
    let flags = ["--route", "erofs", "--finish-after", "100000"];
    let plugin = manager.start(&sandbox, &flags)?;
    let containerd = Containerd::start(&sandbox, Version::Two)?;
    for file in &files {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
    }
    containerd.run_detached("di3fs", NAME, "reader", &["/bin/sleep", "1000"])?;
    let root = seen(&containerd)?;
    content.check(&root, 0)?;
    manager.listen()?;
    ensure!(manager.kept.len() == 1, "{:?}", manager.kept.keys());
    let holder = Snapshotter::holder(&sandbox).context("there is no holder")?;
    plugin.kill()?;
    kill(holder, Signal::SIGKILL)?;
    let plugin = scope(|scope| -> Result<Snapshotter> {
        let reader = scope.spawn(|| (0..content.count).try_for_each(|number| content.check(&root, number)));
        sleep(Duration::from_millis(100));
        let plugin = manager.start(&sandbox, &flags)?;
        reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        Ok(plugin)
    })?;
    ensure!(Snapshotter::holder(&sandbox).is_some_and(|other| other != holder), "no holder has it");
    // Between a stop and a start it forgets, and the holder does not.
    manager.listen()?;
    manager.kept.clear();
    ensure!(plugin.terminate()?.success(), "the plugin did not end well");
    let plugin = manager.start(&sandbox, &flags)?;
    manager.listen()?;
    ensure!(manager.kept.len() == 1, "{:?}", manager.kept.keys());
    containerd.wait_for_plugin()?;
    containerd.run("di3fs", NAME, &["/bin/cat", "/data/0/7"])?;
    end(containerd, plugin)?;
    manager.listen()?;
    ensure!(manager.kept.is_empty(), "never forgotten: {:?}", manager.kept.keys());
    sandbox.close()
}

/// 64 readers at once of files that are not made yet, the plugin and the container in one cgroup of little memory: each
/// content is made once, within the memory that the plugin is told to, and nobody waits for ever. Of the readers of the one half of the files the
/// container's own init is the parent, and one.
fn many_readers_in_little_memory(route: &str) -> Result<()> {
    // All of it is more than the limit.
    let (count, most_bytes, limit) =
        if kills() > 100 { (48, 12 << 20, 256 << 20) } else { (24, 4 << 20, 96 << 20) };
    let makers = limit / 4;
    let sandbox = Sandbox::new()?;
    let content = Files { count, most_bytes };
    let files = content.deltas(&sandbox)?;
    let flags = ["--route", route, "--finish-after", "100000", "--memory", &makers.to_string()];
    let plugin = Snapshotter::start(&sandbox, &flags)?;
    let containerd = Containerd::start(&sandbox, Version::Two)?;
    let limited = Limited::new(&sandbox, limit)?;
    for file in &files {
        containerd.d4c(["load", file, "--name", NAME])?.success()?;
    }
    let made = || -> Result<u64> {
        let status: serde_json::Value =
            serde_json::from_str(&containerd.d4c(["--json", "status"])?.success()?.stdout)?;
        status["contents_made"].as_u64().with_context(|| format!("no contents_made in {status}"))
    };
    limited.add(plugin.pid())?;
    let before = made()?;
    let idle = anonymous(plugin.pid());
    let (ended, peak) = (AtomicBool::new(false), AtomicU64::new(idle));
    let all = |which: &str| {
        let read = format!("cat /data/*/*[{which}] > /dev/null && echo read");
        format!("for reader in $(seq 63); do {read} & done; {read}; wait")
    };
    scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous(plugin.pid()), Ordering::Relaxed);
                sleep(Duration::from_millis(2));
            }
        });
        let read = || -> Result<()> {
            let (init, beside) = (limited.inner("init"), limited.inner("beside"));
            let command = ["/bin/sh", "-c", &all("02468")];
            let by_init = containerd.run_with("di3fs", NAME, &["--cgroup", &init], &command)?;
            let options = ["--cgroup", &beside];
            containerd.run_detached_with("di3fs", NAME, "reader", &options, &["/bin/sleep", "1000"])?;
            for read in [by_init, containerd.exec("reader", &["/bin/sh", "-c", &all("0-9")])?] {
                ensure!(read.lines().count() == 64, "{} of 64 readers read all", read.lines().count());
            }
            Ok(())
        };
        let read = read();
        ended.store(true, Ordering::Relaxed);
        read
    })?;
    let made = made()? - before;
    // The shell, too, is a content.
    ensure!(made <= count as u64 + 1 && made >= count as u64, "{made} contents were made for {count} files");
    let peak = peak.into_inner();
    ensure!(peak <= idle + makers + (16 << 20), "{peak} bytes, idle {idle}, of which makers have {makers}");
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

/// A cgroup that may have so much memory, with those of the plugin and of containers in it. All bear the name of the sandbox, which
/// removes them when the test fails.
struct Limited {
    sandbox: String,
    /// Its folder, in the hierarchy of memory.
    group: PathBuf,
}

impl Limited {
    fn new(sandbox: &Sandbox, bytes: u64) -> Result<Self> {
        let name = sandbox.root().file_name().context("a sandbox has a name")?;
        let sandbox = name.to_string_lossy().into_owned();
        let (unified, own) = (Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/memory"));
        let (parent, limit) =
            if own.exists() { (own, "memory.limit_in_bytes") } else { (unified, "memory.max") };
        let group = parent.join(format!("{sandbox}-limited"));
        let limited = Self { sandbox, group };
        let plugin = limited.of_plugin();
        fs::create_dir_all(&plugin).with_context(|| format!("make {}", plugin.display()))?;
        let limit = limited.group.join(limit);
        fs::write(&limit, bytes.to_string()).with_context(|| format!("write {}", limit.display()))?;
        Ok(limited)
    }

    fn of_plugin(&self) -> PathBuf {
        self.group.join(format!("{}-plugin", self.sandbox))
    }

    /// Puts the plugin in.
    fn add(&self, plugin: Pid) -> Result<()> {
        fs::write(self.of_plugin().join("cgroup.procs"), plugin.to_string())
            .context("limit the plugin's memory")
    }

    /// What `ctr --cgroup` takes for a container in it.
    fn inner(&self, container: &str) -> String {
        format!("/{0}-limited/{0}-{container}", self.sandbox)
    }

    fn remove(self) -> Result<()> {
        for group in [self.of_plugin(), self.group] {
            fs::remove_dir(&group).with_context(|| format!("remove {}", group.display()))?;
        }
        Ok(())
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
