//! A folder for one test with everything that the test starts: it ends with the test, however the test ends.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::leftovers::{self, Ticks};
use crate::program::line;

/// The time after which something that should have happened has not.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test's own folder. When dropped, also by a panic: kills every process started through it, unmounts all below it, removes it; when it was
/// not closed first, the test failed, and what its daemons logged is shown.
pub struct Sandbox {
    root: PathBuf,
    since: Ticks,
    passed: bool,
}

impl Sandbox {
    /// An empty sandbox in the folder for temporary files; its path is short, for sockets.
    ///
    /// # Errors
    /// Fails when the folder cannot be made.
    pub fn new() -> Result<Self> {
        let since = Ticks::now();
        let root = tempfile::Builder::new().prefix("d4c-").tempdir().context("cannot make a sandbox")?.keep();
        // Containers that are not root pass through.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        Ok(Self { root, since, passed: false })
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A folder in it, made when missing.
    ///
    /// # Errors
    /// Fails when it cannot be made.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// A small tmpfs in it, to be full soon.
    ///
    /// # Errors
    /// Fails when it cannot be mounted.
    pub fn tmpfs(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.dir(name)?;
        let options = format!("size={bytes},mode=0755");
        nix::mount::mount(
            Some("tmpfs"),
            &path,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("cannot mount a tmpfs at {}", path.display()))?;
        Ok(path)
    }

    /// A small ext4 in it, on a loop device: unlike a tmpfs it can have an EROFS image mounted from it. To be unmounted before the sandbox
    /// is closed.
    ///
    /// # Errors
    /// Fails when it cannot be made or mounted.
    pub fn ext4(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let (path, file) = (self.dir(name)?, self.path(&format!("{name}.ext4")));
        File::create(&file)?.set_len(bytes)?;
        let made = self.command("mkfs.ext4").args(["-q", "-m", "0"]).arg(&file).status()?;
        let mounted = made.success()
            && self.command("mount").args(["-o", "loop"]).arg(&file).arg(&path).status()?.success();
        ensure!(mounted, "cannot mount an ext4 at {}", path.display());
        Ok(path)
    }

    /// A command whose processes belong to the sandbox.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(leftovers::MARK, &self.root).current_dir(&self.root);
        command
    }

    /// Starts a daemon that logs to `NAME.log` in the sandbox.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn start(&self, name: &str, mut command: Command) -> Result<Daemon> {
        let log = self.path(&format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        let err = out.try_clone()?;
        command.env(leftovers::MARK, &self.root).stdin(Stdio::null()).stdout(out).stderr(err);
        let child = command.spawn().with_context(|| format!("cannot start {}", line(&command)))?;
        Ok(Daemon { child, name: name.to_owned(), log })
    }

    /// Ends the sandbox of a test whose programs have all ended: what one of them left is an error.
    ///
    /// # Errors
    /// Fails when a process, a mount or a loop device is left; it is removed all the same.
    pub fn close(mut self) -> Result<()> {
        // A process takes a moment to end, and a loop device lets go of its file only when the last look at its mount is over.
        let wait_until = Instant::now() + Duration::from_secs(5);
        let left = || {
            !leftovers::processes(&self.root, self.since).is_empty()
                || !leftovers::loops(&self.root).is_empty()
        };
        while left() && Instant::now() < wait_until {
            std::thread::sleep(Duration::from_millis(50));
        }
        let processes: Vec<String> =
            leftovers::processes(&self.root, self.since).into_iter().map(describe).collect();
        ensure!(processes.is_empty(), "processes are left: {processes:?}");
        let mounts = leftovers::mounts(&self.root);
        let own: Vec<_> = mounts.iter().filter(|point| !is_tmpfs(point)).collect();
        ensure!(own.is_empty(), "mounts are left: {own:?}");
        let loops = leftovers::loops(&self.root);
        ensure!(loops.is_empty(), "loop devices are left: {loops:?}");
        self.passed = true;
        Ok(())
    }

    /// What a power failure leaves: every process of the sandbox is killed, and all that is mounted in it is gone.
    pub fn power_off(&self) {
        self.kill_all();
        self.unmount_all();
        remove_cgroups(&self.root);
    }

    fn unmount_all(&self) {
        for point in leftovers::mounts(&self.root) {
            if let Err(error) = umount2(&point, MntFlags::MNT_DETACH) {
                eprintln!("cannot unmount {}: {error}", point.display());
            }
        }
    }

    fn kill_all(&self) {
        for _ in 0..100 {
            let left = leftovers::processes(&self.root, self.since);
            if left.is_empty() {
                return;
            }
            // No test starts so many: something is wrong with how they were found.
            if left.len() > 200 {
                eprintln!("not killing {} processes", left.len());
                return;
            }
            for pid in left {
                let sockets = leftovers::socket_files(pid);
                // It may have ended meanwhile.
                let _ = kill(pid, Signal::SIGKILL);
                sockets.iter().for_each(|socket| drop(fs::remove_file(socket)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn show_logs(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                eprintln!("-- {}\n{}", path.display(), last_lines(&path, 40));
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.passed {
            self.show_logs();
        }
        self.kill_all();
        self.unmount_all();
        for device in leftovers::loops(&self.root) {
            drop(Command::new("losetup").arg("-d").arg(device).status());
        }
        remove_cgroups(&self.root);
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("cannot remove {}: {error}", self.root.display());
        }
    }
}

fn is_tmpfs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
}

fn describe(pid: Pid) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

/// Containers killed with their shim leave their cgroups: they bear the name of the sandbox.
fn remove_cgroups(root: &Path) {
    let Some(name) = root.file_name() else { return };
    let mut pattern = name.to_owned();
    pattern.push("*");
    let mut find = Command::new("find");
    find.args(["/sys/fs/cgroup", "-depth", "-type", "d", "-name"])
        .arg(pattern)
        .args(["-exec", "rmdir", "{}", ";"]);
    drop(find.stderr(Stdio::null()).status());
}

/// The last lines of a log.
pub fn last_lines(path: &Path, count: usize) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Waits until `done` says so.
///
/// # Errors
/// Fails with `what` when it has not within [`PATIENCE`], or when `done` fails.
pub fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < end, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A running daemon of a sandbox. Dropped, it is killed.
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process numbers are below 2^22"))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until something listens at this Unix socket.
    ///
    /// # Errors
    /// Fails, with the end of its log, when the daemon ends or takes too long.
    pub fn wait_for_socket(&mut self, socket: &Path) -> Result<()> {
        let (name, log) = (self.name.clone(), self.log.clone());
        let child = &mut self.child;
        wait_for(&format!("{name} to listen at {}", socket.display()), || {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended with {status}\n{}", last_lines(&log, 20));
            }
            Ok(UnixStream::connect(socket).is_ok())
        })
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// Fails when the kernel does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// kill -9.
    ///
    /// # Errors
    /// Fails when it is no child of ours any more.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// Fails when it does not end within [`PATIENCE`].
    pub fn terminate(mut self) -> Result<ExitStatus> {
        kill(self.pid(), Signal::SIGTERM)?;
        let mut status = None;
        let name = self.name.clone();
        wait_for(&format!("{name} to end at SIGTERM"), || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context("no status")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already ended and reaped after kill and terminate.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
