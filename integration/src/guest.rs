//! A virtual machine with Debian's 6.1 kernel and busybox (`hack/guest.sh`), run by QEMU without help from the processor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::images::cache;
use crate::sandbox::{Daemon, Sandbox, wait_for};

/// What a machine is started with.
pub struct Guest<'a> {
    sandbox: &'a Sandbox,
    name: String,
    shares: Vec<(String, PathBuf)>,
    root: PathBuf,
    megabytes: u32,
}

/// A machine that runs.
pub struct Running {
    daemon: Daemon,
}

impl<'a> Guest<'a> {
    /// A machine that runs the shell script `script` and then switches itself off.
    ///
    /// # Errors
    /// Fails when its files cannot be written.
    pub fn new(sandbox: &'a Sandbox, name: &str, script: &str) -> Result<Self> {
        let root = sandbox.dir(&format!("{name}.root"))?;
        fs::write(root.join("run.sh"), script)?;
        Ok(Self { sandbox, name: name.to_owned(), shares: Vec::new(), root, megabytes: 256 })
    }

    /// With more memory than usual.
    pub fn memory(mut self, megabytes: u32) -> Self {
        self.megabytes = megabytes;
        self
    }

    /// With a virtio-fs device of that tag, served at `socket`.
    pub fn share(mut self, tag: &str, socket: &Path) -> Self {
        self.shares.push((tag.to_owned(), socket.to_owned()));
        self
    }

    /// With a copy of `file` at the absolute path `to`.
    ///
    /// # Errors
    /// Fails when it cannot be copied.
    pub fn file(self, file: &Path, to: &str) -> Result<Self> {
        let to = self.root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a path in the guest")?)?;
        fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(self)
    }

    /// Switches it on.
    ///
    /// # Errors
    /// Fails when there is no QEMU, or no kernel for it.
    pub fn start(self) -> Result<Running> {
        let kernel = newest()?;
        let initramfs = self.sandbox.path(&format!("{}.initramfs", self.name));
        let mut bytes = fs::read(kernel.join("initramfs"))?;
        let archive = "find . | busybox cpio -o -H newc -R 0:0 2>/dev/null";
        let archive = Command::new("sh").args(["-c", archive]).current_dir(&self.root).output()?;
        ensure!(archive.status.success(), "busybox cpio: {}", archive.status);
        bytes.extend(archive.stdout);
        fs::write(&initramfs, bytes)?;
        let memory = self.megabytes;
        let mut command = self.sandbox.command("qemu-system-x86_64");
        command
            .args(["-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-serial", "stdio", "-m", &format!("{memory}M")])
            .args(["-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on")])
            .args(["-numa", "node,memdev=memory"])
            .args(["-append", "console=ttyS0 quiet panic=-1 TZ=UTC"])
            .arg("-kernel")
            .arg(kernel.join("vmlinuz"))
            .arg("-initrd")
            .arg(&initramfs);
        for (number, (tag, socket)) in self.shares.iter().enumerate() {
            command
                .args(["-chardev", &format!("socket,id=socket{number},path={}", socket.display())])
                .args(["-device", &format!("vhost-user-fs-pci,chardev=socket{number},tag={tag}")]);
        }
        let daemon =
            self.sandbox.start(&self.name, command).context("qemu-system-x86: make setup installs it")?;
        Ok(Running { daemon })
    }
}

impl Running {
    /// Waits until it is off; what it wrote to its console.
    ///
    /// # Errors
    /// Fails when its script did, or it takes too long.
    pub fn end(mut self) -> Result<String> {
        wait_for("the guest to switch itself off", || Ok(!self.daemon.is_running()?))?;
        let log = self.daemon.log();
        ensure!(log.contains("guest: run.sh ended with 0"), "the guest's script failed:\n{log}");
        Ok(log)
    }

    /// Waits until its console shows `text`.
    ///
    /// # Errors
    /// Fails when it ends before that, or takes too long.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        wait_for(&format!("the guest to say {text:?}"), || {
            let said = self.daemon.log().contains(text);
            ensure!(said || self.daemon.is_running()?, "the guest ended:\n{}", self.daemon.log());
            Ok(said)
        })
    }
}

/// The folder that `hack/guest.sh` made last.
fn newest() -> Result<PathBuf> {
    let found = fs::read_dir(cache())?.flatten().map(|entry| entry.path());
    let found = found.filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix("guest-").is_some_and(|rest| rest.parse::<u32>().is_ok())
    });
    found.max().context("no guest: make it with hack/guest.sh")
}
