//! A containerd of our own: its roots, sockets and containers live in a sandbox, and the system's is not touched.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};
use nix::unistd::Pid;

use crate::images::{cache, script};
use crate::leftovers;
use crate::program::{Output, built, repository};
use crate::sandbox::{Daemon, Sandbox, wait_for};
use crate::snapshotter::Snapshotter;

/// The image of pod sandboxes, in namespace `k8s.io`.
pub const PAUSE: &str = "example.com/pause:1";

/// The plugin's name in containerd, unless a test says otherwise.
const PLUGIN: &str = "di3fs";

/// Which containerd.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// The distribution's: 1.6 on Debian 12.
    System,
    /// What `hack/containerd.sh containerd17` built from `integration/containerd17/go.mod`.
    Seventeen,
    /// What `hack/containerd.sh containerd20` built from `integration/containerd20/go.mod`.
    Twenty,
    /// What `hack/containerd.sh containerd2` built from `integration/containerd2/go.mod`.
    Two,
}

impl Version {
    /// The folder with its programs, if it is not the system's.
    ///
    /// # Errors
    /// Fails when it was not built.
    fn folder(self) -> Result<Option<PathBuf>> {
        let (name, package) = match self {
            Self::System => return Ok(None),
            Self::Seventeen => ("containerd17", "github.com/containerd/containerd v"),
            Self::Twenty => ("containerd20", "github.com/containerd/containerd/v2 v"),
            Self::Two => ("containerd2", "github.com/containerd/containerd/v2 v"),
        };
        let module = fs::read_to_string(repository().join("integration").join(name).join("go.mod"))?;
        let version =
            module.lines().find_map(|line| line.trim().trim_start_matches("require ").strip_prefix(package));
        let version =
            version.and_then(|found| found.split(' ').next()).context("go.mod names no containerd")?;
        let folder = cache().join(format!("containerd-{version}"));
        ensure!(
            folder.join("containerd").exists(),
            "no {}: make it with hack/containerd.sh {name}",
            folder.display()
        );
        Ok(Some(folder))
    }
}

/// What a process in a container writes, and where.
struct Log {
    path: PathBuf,
    uri: String,
}

impl Log {
    /// What was written when `ctr`, which ran the process, ended so.
    fn of(&self, ended: Output) -> Result<String> {
        let wrote = String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned();
        drop(fs::remove_file(&self.path));
        ended.success().with_context(|| format!("it wrote: {wrote}"))?;
        Ok(wrote)
    }
}

/// A running containerd with di3fs as proxy plugin. Its containers' names begin with the sandbox's.
pub struct Containerd<'a> {
    sandbox: &'a Sandbox,
    version: Version,
    cri: bool,
    /// The plugin's name in it.
    plugin: &'static str,
    folder: Option<PathBuf>,
    daemon: Option<Daemon>,
}

impl<'a> Containerd<'a> {
    /// Starts it, on what an earlier one left in the sandbox.
    ///
    /// # Errors
    /// Fails when it is not installed or does not listen.
    pub fn start(sandbox: &'a Sandbox, version: Version) -> Result<Self> {
        Self::start_as(sandbox, version, false, PLUGIN)
    }

    /// As [`Containerd::start`], with the plugin under another name than di3fs.
    ///
    /// # Errors
    /// As for [`Containerd::start`].
    pub fn start_with_plugin(sandbox: &'a Sandbox, version: Version, plugin: &'static str) -> Result<Self> {
        Self::start_as(sandbox, version, false, plugin)
    }

    /// As [`Containerd::start`], with the CRI, whose images go into di3fs and whose sandboxes run [`PAUSE`].
    ///
    /// # Errors
    /// As for [`Containerd::start`].
    pub fn start_with_cri(sandbox: &'a Sandbox, version: Version) -> Result<Self> {
        Self::start_as(sandbox, version, true, PLUGIN)
    }

    fn start_as(sandbox: &'a Sandbox, version: Version, cri: bool, plugin: &'static str) -> Result<Self> {
        let mut started = Self { sandbox, version, cri, plugin, folder: version.folder()?, daemon: None };
        started.begin()?;
        Ok(started)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.sandbox.path("c.sock")
    }

    /// Its root: content, metadata, its own snapshotters.
    pub fn root(&self) -> PathBuf {
        self.sandbox.path("containerd")
    }

    /// Its content store.
    pub fn content(sandbox: &Sandbox) -> PathBuf {
        sandbox.path("containerd/io.containerd.content.v1.content")
    }

    fn program(&self, name: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(|| PathBuf::from(name), |folder| folder.join(name))
    }

    fn path_variable(&self) -> OsString {
        let mut path = OsString::new();
        if let Some(folder) = &self.folder {
            path.push(folder);
            path.push(":");
        }
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path.push(":/usr/sbin:/sbin");
        path
    }

    fn begin(&mut self) -> Result<()> {
        let config = self.sandbox.path("containerd.toml");
        let (root, state) = (self.root(), self.sandbox.path("state"));
        let (cri_plugins, cri_config) = self.cri()?;
        let text = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [{cri_plugins}"io.containerd.internal.v1.opt",
    "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.erofs",
    "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{socket}"
[ttrpc]
address = "{socket}.ttrpc"
[debug]
level = "warn"
[plugins."io.containerd.gc.v1.scheduler"]
startup_delay = "20ms"
schedule_delay = "0ms"
[proxy_plugins.{plugin}]
type = "snapshot"
address = "{di3fs}"
capabilities = ["remap-ids"]
{exports}
[plugins."io.containerd.transfer.v1.local"]
unpack_config = [{{ platform = "linux", snapshotter = "overlayfs" }}, {{ platform = "linux", snapshotter = "{plugin}" }}]
{cri_config}
"#,
            root = root.display(),
            state = state.display(),
            socket = self.socket().display(),
            di3fs = Snapshotter::socket(self.sandbox).display(),
            plugin = self.plugin,
            exports = match self.version {
                Version::System | Version::Seventeen | Version::Twenty => String::new(),
                Version::Two => format!(
                    "[proxy_plugins.{}.exports]\nenable_remote_snapshot_annotations = \"true\"",
                    self.plugin
                ),
            },
        );
        fs::write(&config, text)?;
        let mut command = self.sandbox.command(self.program("containerd"));
        command.arg("--config").arg(&config).env("PATH", self.path_variable());
        let mut daemon = self.sandbox.start("containerd", command)?;
        daemon.wait_for_socket(&self.socket())?;
        self.daemon = Some(daemon);
        wait_for("containerd to answer", || Ok(self.ctr(["version"])?.code == 0))
    }

    /// The CRI's plugins where they are disabled, and what is configured of them where they are not.
    fn cri(&self) -> Result<(&'static str, String)> {
        const PLUGINS: &str =
            r#""io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "#;
        // Without capabilities over resources, as in many containers, runc could not start anything else.
        const RESOURCES: &str = "restrict_oom_score_adj = true\ndisable_cgroup = true";
        let hosts = self.sandbox.path("hosts");
        // Later ones have it as well, and fall back by it to their older way of pulling.
        let annotations =
            if self.version == Version::Twenty { "disable_snapshot_annotations = false" } else { "" };
        let runc = match self.version {
            Version::Two if self.cri => {
                // Pods in user namespaces need a later one than the distribution's.
                let built = Output::of(Command::new(script("gotool.sh")).arg("runc"))?.success()?;
                let options = r#"[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc"#;
                let (kind, program) = ("io.containerd.runc.v2", built.stdout.trim());
                format!("{options}]\nruntime_type = {kind:?}\n{options}.options]\nBinaryName = {program:?}\n")
            }
            _ => String::new(),
        };
        let text = match self.version {
            _ if !self.cri => return Ok((PLUGINS, String::new())),
            Version::System | Version::Seventeen => format!(
                r#"[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
{RESOURCES}
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "di3fs"
disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = {hosts:?}
"#
            ),
            Version::Twenty | Version::Two => format!(
                r#"[plugins."io.containerd.cri.v1.images"]
snapshotter = "di3fs"
{annotations}
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = {hosts:?}
[plugins."io.containerd.cri.v1.runtime"]
{RESOURCES}
{runc}
"#
            ),
        };
        Ok(("", text))
    }

    /// Has the CRI reach a registry, `host:port`, by plain HTTP.
    ///
    /// # Errors
    /// Fails when its file cannot be written.
    pub fn reach_plainly(&self, registry: &str) -> Result<()> {
        let dir = self.sandbox.dir(&format!("hosts/{registry}"))?;
        let text = format!(
            "server = \"http://{registry}\"\n[host.\"http://{registry}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        Ok(fs::write(dir.join("hosts.toml"), text)?)
    }

    /// What the kubelet does with an image: pulls it and runs a command in a pod of it; what that wrote.
    ///
    /// # Errors
    /// Fails when any of it does.
    pub fn run_by_cri(&self, image: &str, command: &[&str]) -> Result<String> {
        Ok(Output::of(self.by_cri(&[image])?.args(command))?.success()?.stdout)
    }

    /// As [`Containerd::run_by_cri`], in a user namespace whose root is the user `root` of the host.
    ///
    /// # Errors
    /// Fails when any of it does.
    pub fn run_by_cri_as(&self, root: u32, image: &str, command: &[&str]) -> Result<String> {
        Ok(Output::of(self.by_cri(&["-users", &root.to_string(), image])?.args(command))?.success()?.stdout)
    }

    /// Removes an image as the kubelet does.
    ///
    /// # Errors
    /// Fails when the CRI refuses.
    pub fn remove_by_cri(&self, image: &str) -> Result<()> {
        Output::of(&mut self.by_cri(&["-remove", image])?)?.success().map(drop)
    }

    fn by_cri(&self, arguments: &[&str]) -> Result<Command> {
        let client = Output::of(Command::new(script("gotool.sh")).arg("cri"))?.success()?;
        let mut command = self.sandbox.command(client.stdout.trim());
        command.arg("-address").arg(self.socket()).arg("-dir").arg(self.sandbox.dir("pod")?).args(arguments);
        Ok(command)
    }

    /// Ends it with SIGTERM and starts it again; containers run on.
    ///
    /// # Errors
    /// Fails when it does not end or not start.
    pub fn restart(&mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            daemon.terminate()?;
        }
        self.begin()
    }

    /// Ends it, after it has collected the snapshots of containers that have ended: as long as there is one, the plugin leaves
    /// what it lies on to its successor.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn stop(mut self) -> Result<()> {
        if UnixStream::connect(Snapshotter::socket(self.sandbox)).is_ok() {
            self.collect()?;
        }
        self.daemon.take().map_or(Ok(()), |daemon| daemon.terminate().map(drop))
    }

    /// Has it collect what is not used any more, and waits for it.
    ///
    /// # Errors
    /// Fails when it does not answer.
    pub fn collect(&self) -> Result<()> {
        // A lease that is removed with a collection: the only way to ask for one and wait.
        self.ctr(["leases", "create", "--id", "collect"])?.success()?;
        self.ctr(["leases", "rm", "--sync", "collect"])?.success().map(drop)
    }

    /// The nerdctl of the folder `tool` of `integration/` on this containerd, in a network of no kind.
    ///
    /// # Errors
    /// Fails only when it cannot be built or started.
    pub fn nerdctl(&self, tool: &str, arguments: &[&str]) -> Result<Output> {
        let built = Output::of(Command::new(script("gotool.sh")).arg(tool))?.success()?;
        let mut command = self.sandbox.command(built.stdout.trim());
        command.env("PATH", self.path_variable()).arg("--address").arg(self.socket());
        command.arg("--data-root").arg(self.sandbox.path("nerdctl"));
        command.arg("--cni-netconfpath").arg(self.sandbox.path("cni"));
        command.args(["--cgroup-manager", "cgroupfs", "--snapshotter", self.plugin]).args(arguments);
        Output::of(&mut command)
    }

    /// `ctr` with these arguments.
    ///
    /// # Errors
    /// Fails only when it cannot be started.
    pub fn ctr<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, arguments: I) -> Result<Output> {
        Output::of(self.ctr_command().args(arguments))
    }

    /// `ctr`, its arguments still to come.
    pub fn ctr_command(&self) -> Command {
        let mut command = self.sandbox.command(self.program("ctr"));
        command.arg("--address").arg(self.socket()).env("PATH", self.path_variable());
        command
    }

    /// `d4c` on this containerd and the sandbox's plugin.
    ///
    /// # Errors
    /// Fails only when it cannot be started.
    pub fn d4c<I: IntoIterator<Item: AsRef<std::ffi::OsStr>>>(&self, arguments: I) -> Result<Output> {
        Output::of(self.d4c_command().args(arguments))
    }

    /// The same, its arguments still to come.
    pub fn d4c_command(&self) -> Command {
        let mut command = self.sandbox.command(built("d4c"));
        command.arg("--address").arg(self.socket()).arg("--control").arg(Snapshotter::control(self.sandbox));
        command.env("XDG_CACHE_HOME", self.sandbox.path("cache")).env("TMPDIR", self.sandbox.root());
        command
    }

    /// Waits until containerd sees a plugin that was started again: after a failure it dials only when some time, seconds at most, has passed.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_for_plugin(&self) -> Result<()> {
        let listed = || Ok(self.ctr(["snapshots", "--snapshotter", "di3fs", "ls"])?.code == 0);
        wait_for("containerd to see the plugin again", listed)
    }

    /// The full name of a container: unique on this machine, for its cgroup.
    pub fn container(&self, name: &str) -> String {
        format!("{}-{name}", self.sandbox.root().file_name().and_then(|base| base.to_str()).unwrap_or("d4c"))
    }

    /// Runs a command in a new container, removed afterwards, and gives what it wrote, to stderr too.
    ///
    /// # Errors
    /// Fails when it does not succeed.
    pub fn run(&self, snapshotter: &str, image: &str, command: &[&str]) -> Result<String> {
        self.run_with(snapshotter, image, &[], command)
    }

    /// As [`Containerd::run`], with options of `ctr run`.
    ///
    /// # Errors
    /// As for [`Containerd::run`].
    pub fn run_with(
        &self,
        snapshotter: &str,
        image: &str,
        options: &[&str],
        command: &[&str],
    ) -> Result<String> {
        let container = self.container("once");
        let option = format!("--snapshotter={snapshotter}");
        let log = self.log("run");
        let run = ["run", "--rm", &option, "--log-uri", &log.uri].into_iter().chain(options.iter().copied());
        log.of(self.ctr(run.chain([image, &container]).chain(command.iter().copied()))?)
    }

    /// A file for what a process in a container writes. containerd's shim writes it: through its own pipes `ctr` 1.6 loses it when it is slow,
    /// since it closes its end once the process has ended, whatever is still in there.
    fn log(&self, name: &str) -> Log {
        // Tests may run several at once.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.sandbox.path(&format!("{name}-{number}.out"));
        Log { uri: format!("file://{}", path.display()), path }
    }

    /// Starts a container in the background, and waits until it runs.
    ///
    /// # Errors
    /// Fails when it does not run.
    pub fn run_detached(&self, snapshotter: &str, image: &str, name: &str, command: &[&str]) -> Result<()> {
        self.run_detached_with(snapshotter, image, name, &[], command)
    }

    /// As [`Containerd::run_detached`], with options of `ctr run`.
    ///
    /// # Errors
    /// Fails when it does not run.
    pub fn run_detached_with(
        &self,
        snapshotter: &str,
        image: &str,
        name: &str,
        options: &[&str],
        command: &[&str],
    ) -> Result<()> {
        let container = self.container(name);
        let snapshotter = format!("--snapshotter={snapshotter}");
        let run = ["run", "--detach", &snapshotter].into_iter().chain(options.iter().copied());
        self.ctr(run.chain([image, &container]).chain(command.iter().copied()))?.success()?;
        wait_for("the container to run", || self.is_running(name))
    }

    /// Whether the container's process runs.
    ///
    /// # Errors
    /// Fails when containerd does not answer.
    pub fn is_running(&self, name: &str) -> Result<bool> {
        let container = self.container(name);
        let tasks = self.ctr(["tasks", "ls"])?.success()?.stdout;
        Ok(tasks.lines().any(|line| line.starts_with(&format!("{container} ")) && line.contains("RUNNING")))
    }

    /// The container's own process.
    ///
    /// # Errors
    /// Fails when it does not run.
    pub fn pid(&self, name: &str) -> Result<Pid> {
        let container = self.container(name);
        let tasks = self.ctr(["tasks", "ls"])?.success()?.stdout;
        let task = tasks.lines().find(|line| line.starts_with(&format!("{container} ")));
        let pid =
            task.and_then(|line| line.split_whitespace().nth(1)).context("the container does not run")?;
        Ok(Pid::from_raw(pid.parse()?))
    }

    /// What is left of it after a power failure ([`Sandbox::power_off`]) is started: what was in `/run` has gone.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn power_on(&mut self) -> Result<()> {
        self.daemon = None;
        drop(fs::remove_dir_all(self.sandbox.path("state")));
        // What runc remembers of running containers, whose names begin with the sandbox's.
        let prefix = self.container("");
        for entry in fs::read_dir("/run/containerd/runc/default").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        self.begin()
    }

    /// Runs a command in a running container and gives what it wrote, to stderr too.
    ///
    /// # Errors
    /// Fails when it does not succeed.
    pub fn exec(&self, name: &str, command: &[&str]) -> Result<String> {
        self.exec_as(name, "0:0", command)
    }

    /// As [`Containerd::exec`], as another user and group.
    ///
    /// # Errors
    /// As for [`Containerd::exec`].
    pub fn exec_as(&self, name: &str, user: &str, command: &[&str]) -> Result<String> {
        let container = self.container(name);
        let log = self.log(&format!("exec-{name}"));
        let arguments =
            ["tasks", "exec", "--exec-id", "exec", "--user", user, "--log-uri", &log.uri, &container];
        log.of(self.ctr(arguments.iter().chain(command))?)
    }

    /// Kills a container and removes it with its snapshot.
    ///
    /// # Errors
    /// Fails when something is left of it.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.end(name)?;
        self.ctr(["containers", "rm", &self.container(name)])?.success()?;
        Ok(())
    }

    /// Ends a container's process. The container stays, with its snapshot.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn end(&self, name: &str) -> Result<()> {
        let container = self.container(name);
        // It may have ended by itself.
        self.ctr(["tasks", "kill", "--signal", "KILL", &container])?;
        wait_for("the container to end", || Ok(!self.is_running(name)?))?;
        self.ctr(["tasks", "rm", "--force", &container])?;
        Ok(())
    }

    /// Ends a container's process and starts it again on the same snapshot.
    ///
    /// # Errors
    /// Fails when it does not run.
    pub fn start_again(&self, name: &str) -> Result<()> {
        self.end(name)?;
        self.ctr(["tasks", "start", "--detach", &self.container(name)])?.success()?;
        wait_for("the container to run", || self.is_running(name))
    }

    /// Mounts the root file system of an image at `target`, gives it to `see`, and unmounts it.
    ///
    /// # Errors
    /// Fails when containerd does, or `see`.
    pub fn with_mounted<T>(
        &self,
        snapshotter: &str,
        image: &str,
        target: &Path,
        see: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        fs::create_dir_all(target)?;
        let path = target.to_string_lossy();
        self.ctr(["images", "mount", "--snapshotter", snapshotter, image, &path])?.success()?;
        let seen = see(target);
        self.ctr(["images", "unmount", "--rm", "--snapshotter", snapshotter, &path])?.success()?;
        // 2.x mounts a second time for itself, and keeps that until its next garbage collection.
        for point in leftovers::mounts(&self.sandbox.path("state/io.containerd.mount-manager.v1.bolt")) {
            umount2(&point, MntFlags::MNT_DETACH)?;
        }
        seen
    }

    /// The names of the snapshots that the snapshotter has.
    ///
    /// # Errors
    /// Fails when containerd does not answer.
    pub fn snapshots(&self, snapshotter: &str) -> Result<Vec<String>> {
        let list = self.ctr(["snapshots", "--snapshotter", snapshotter, "ls"])?.success()?.stdout;
        Ok(list
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    /// The digests of the blobs in the content store.
    ///
    /// # Errors
    /// Fails when containerd does not answer.
    pub fn blobs(&self) -> Result<Vec<String>> {
        let list = self.ctr(["content", "ls", "-q"])?.success()?.stdout;
        Ok(list.lines().map(str::to_owned).collect())
    }

    /// Imports an image the ordinary way: from an archive that skopeo wrote, unpacked by containerd itself into `snapshotter`.
    ///
    /// # Errors
    /// Fails when containerd does.
    pub fn import(&self, archive: &Path, snapshotter: &str) -> Result<()> {
        let Some(archive) = archive.to_str() else { bail!("{} is not UTF-8", archive.display()) };
        self.ctr(["images", "import", "--snapshotter", snapshotter, archive])?.success()?;
        Ok(())
    }
}
