//! The plugin, started in a sandbox.

use std::path::PathBuf;
use std::process::ExitStatus;

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
        let mut command = sandbox.command(built("di3fs-snapshotter"));
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
        let config = sandbox.path("di3fs.toml");
        let content = Containerd::content(sandbox);
        std::fs::write(&config, format!("[pull]\ndeadline = {deadline}\ncontent = {content:?}\n"))?;
        Self::start(sandbox, &[&["--config", &config.to_string_lossy()], arguments].concat())
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.daemon.pid()
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
