//! Runs the real binary on a private root with private sockets.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running plugin; killed when dropped.
pub struct Plugin {
    pub child: Child,
    pub socket: PathBuf,
}

impl Plugin {
    /// Starts the plugin on `<dir>/root` and waits until it listens.
    pub fn start(dir: &Path) -> Self {
        let socket = dir.join("s.sock");
        let config = dir.join("config.toml");
        std::fs::write(&config, "").unwrap();
        let mut child = command(dir, &socket, &config).spawn().unwrap();
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "the plugin ended");
            assert!(began.elapsed() < Duration::from_secs(30), "the plugin does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, socket }
    }

    /// Starts one that is expected to fail; its status and what it wrote.
    #[allow(dead_code)]
    pub fn refused(dir: &Path, socket: &str, config: &str) -> (Option<i32>, String) {
        let path = dir.join("refused.toml");
        std::fs::write(&path, config).unwrap();
        let output = command(dir, &dir.join(socket), &path).stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[allow(dead_code)]
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

fn command(dir: &Path, socket: &Path, config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_di3fs-snapshotter"));
    let control = socket.with_extension("control");
    for (flag, path) in [("--root", &*dir.join("root")), ("--address", socket), ("--config", config)] {
        command.arg(flag).arg(path);
    }
    command.arg("--control").arg(control).args(["--log-level", "warn", "--unprivileged"]);
    command.arg("--containerd").arg(dir.join("no-containerd.sock"));
    command.env_remove("NOTIFY_SOCKET");
    command
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
