//! The plugin, started in a sandbox.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::Result;
use nix::unistd::Pid;

use crate::containerd::Containerd;
use crate::program::built;
use crate::sandbox::{Daemon, Sandbox};

/// A running `di3fs-snapshotter` with its root, sockets and log in a sandbox.
pub struct Snapshotter {
    daemon: Daemon,
}

impl Snapshotter {
    /// Where it listens for containerd.
    pub fn socket(sandbox: &Sandbox) -> PathBuf {
        sandbox.path("di3fs.sock")
    }

    /// Where it listens for `d4c`.
    pub fn control(sandbox: &Sandbox) -> PathBuf {
        sandbox.path("control.sock")
    }

    /// Its root.
    pub fn root(sandbox: &Sandbox) -> PathBuf {
        sandbox.path("di3fs")
    }

    /// Starts it, on what an earlier one left in the sandbox, and waits until it listens.
    ///
    /// # Errors
    /// Fails when it does not listen.
    pub fn start(sandbox: &Sandbox, arguments: &[&str]) -> Result<Self> {
        Self::start_by(sandbox, sandbox.command(built("di3fs-snapshotter")), arguments)
    }

    /// As [`Snapshotter::start`], of another copy of the program.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn start_from(sandbox: &Sandbox, program: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_by(sandbox, sandbox.command(program), arguments)
    }

    /// As [`Snapshotter::start`], by a command of the sandbox that lacks nothing but arguments.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn start_by(sandbox: &Sandbox, mut command: Command, arguments: &[&str]) -> Result<Self> {
        command.arg("--root").arg(Self::root(sandbox));
        command.arg("--address").arg(Self::socket(sandbox)).arg("--control").arg(Self::control(sandbox));
        command.args(arguments);
        let mut daemon = sandbox.start("di3fs-snapshotter", command)?;
        daemon.wait_for_socket(&Self::socket(sandbox))?;
        daemon.wait_for_socket(&Self::control(sandbox))?;
        Ok(Self { daemon })
    }

    /// As [`Snapshotter::start`], of one that looks for deltas within ordinary pulls, and lets them wait for so many seconds.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn start_pulling(sandbox: &Sandbox, deadline: u32, arguments: &[&str]) -> Result<Self> {
        Self::start_pulling_with(sandbox, deadline, "", "", arguments)
    }

    /// As [`Snapshotter::start_pulling`], with lines of configuration before and in the table of pulls.
    ///
    /// # Errors
    /// As for [`Snapshotter::start`].
    pub fn start_pulling_with(
        sandbox: &Sandbox,
        deadline: u32,
        before: &str,
        within: &str,
        arguments: &[&str],
    ) -> Result<Self> {
        let config = sandbox.path("di3fs.toml");
        let content = Containerd::content(sandbox);
        fs::write(
            &config,
            format!("{before}\n[pull]\ndeadline = {deadline}\ncontent = {content:?}\n{within}\n"),
        )?;
        Self::start(sandbox, &[&["--config", &config.to_string_lossy()], arguments].concat())
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.daemon.pid()
    }

    /// The process that holds what must outlive it; none when there is nothing to hold.
    pub fn holder(sandbox: &Sandbox) -> Option<Pid> {
        let socket = Self::root(sandbox).join("holder.sock");
        let is_holder = |line: &[u8]| {
            let mut words = line.split(|byte| *byte == 0).skip(1);
            words.next() == Some(b"--hold") && words.next() == Some(socket.as_os_str().as_bytes())
        };
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let found = numbers
            .find(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_holder(&line)));
        found.map(Pid::from_raw)
    }

    /// What it and its predecessors logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// kill -9.
    ///
    /// # Errors
    /// Fails when it has ended already.
    pub fn kill(self) -> Result<()> {
        self.daemon.kill()
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn terminate(self) -> Result<ExitStatus> {
        self.daemon.terminate()
    }
}
