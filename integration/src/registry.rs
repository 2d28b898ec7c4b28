//! A registry on a loopback port.

use std::fs;
use std::net::{TcpListener, TcpStream};

use anyhow::Result;

use crate::sandbox::{Daemon, Sandbox, wait_for};

/// A running `docker-registry`, which has no referrers API.
pub struct Registry {
    daemon: Daemon,
    port: u16,
}

impl Registry {
    /// Starts it, empty.
    ///
    /// # Errors
    /// Fails when it does not listen.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        // Given back at once: another process could take it, but ports are handed out in turn.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let config = sandbox.path("registry.yml");
        let storage = sandbox.dir("registry")?;
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
                storage.display()
            ),
        )?;
        let mut command = sandbox.command("docker-registry");
        command.arg("serve").arg(&config);
        let mut daemon = sandbox.start("registry", command)?;
        wait_for("docker-registry to listen", || {
            anyhow::ensure!(daemon.is_running()?, "docker-registry ended: {}", daemon.log());
            Ok(TcpStream::connect(("127.0.0.1", port)).is_ok())
        })?;
        Ok(Self { daemon, port })
    }

    /// A reference to an image in it.
    pub fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Ends it.
    ///
    /// # Errors
    /// Fails when it does not end.
    pub fn stop(self) -> Result<()> {
        self.daemon.terminate()?;
        Ok(())
    }
}
