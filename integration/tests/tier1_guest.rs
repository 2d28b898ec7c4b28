//! Tier 1: `di3fs-virtiofsd` and a real guest, whose kernel reads images and directories by virtio-fs.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use d4c_integration::deltas::deltas;
use d4c_integration::guest::Guest;
use d4c_integration::program::{Output, built};
use d4c_integration::sandbox::{Daemon, wait_for};
use d4c_integration::{Sandbox, d4c};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// What busybox sees of a tree, the same on the host and in a guest: run in its root; sizes and links of directories are the file system's own.
const LIST: &str = r"
find . -type d -exec stat -c '%n %f %u %g %y' {} + | sort
find . ! -type d -exec stat -c '%n %f %u %g %s %h %t %T %y' {} + | sort
find . -type l -exec stat -c '%N' {} + | sort
find . -type f -exec sha256sum {} + | sort
";

/// A process of `di3fs-virtiofsd`.
struct Virtiofsd {
    daemon: Daemon,
    temporary: PathBuf,
}

impl Virtiofsd {
    fn new(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = sandbox.command(built("di3fs-virtiofsd"));
        command.args(arguments);
        Self::start(sandbox, name, command)
    }

    /// What it makes goes below a folder that is named after the first word of its name.
    fn start(sandbox: &Sandbox, name: &str, mut command: Command) -> Result<Self> {
        let temporary = sandbox.dir(&format!("tmp-{}", name.split('-').next().unwrap_or(name)))?;
        command.args(["--json", "--log-level", "info", "--tmpdir"]).arg(&temporary);
        let mut daemon = sandbox.start(name, command)?;
        wait_for("di3fs-virtiofsd to listen", || {
            ensure!(daemon.is_running()?, "di3fs-virtiofsd ended: {}", daemon.log());
            Ok(daemon.log().contains("\"serving\""))
        })?;
        Ok(Self { daemon, temporary })
    }

    /// Waits until it ends by itself; the object that it printed last.
    fn end(mut self) -> Result<serde_json::Value> {
        wait_for("di3fs-virtiofsd to end", || Ok(!self.daemon.is_running()?))?;
        let log = self.daemon.log();
        ensure!(!log.contains("\"error\""), "{log}");
        ensure!(fs::read_dir(&self.temporary)?.next().is_none(), "something is left: {log}");
        let line = log.lines().rev().find(|line| line.starts_with('{')).context("nothing was printed")?;
        Ok(serde_json::from_str(line)?)
    }
}

/// The objects in a store.
fn objects(store: &Path) -> Result<usize> {
    let mut count = 0;
    for fan in fs::read_dir(store.join("objects"))? {
        count += fs::read_dir(fan?.path())?.count();
    }
    Ok(count)
}

/// The list of a tree on the host, by the same busybox.
fn list_here(sandbox: &Sandbox, root: &Path) -> Result<String> {
    let bin = sandbox.dir("bin")?;
    Output::of(Command::new("busybox").args(["--install", "-s"]).arg(&bin))?.success()?;
    let mut command = Command::new(bin.join("sh"));
    command.args(["-c", LIST]).current_dir(root).env("TZ", "UTC").env("PATH", &bin);
    Ok(Output::of(&mut command)?.success()?.stdout)
}

fn words(path: &Path) -> Result<&str> {
    path.to_str().context("a path of this test is text")
}

/// Two guests of one process see the tree that `d4c patch` writes; contents are made when they are opened, each once.
#[test]
fn an_image_is_made_as_its_guests_read_it() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let files = deltas("debian-nginx")?;
    let patched = sandbox.path("patched");
    let mut arguments = vec!["patch".to_owned()];
    arguments.extend(files.iter().cloned());
    arguments.push(format!("dir:{}", patched.display()));
    d4c(&arguments)?.success()?;
    let expected = list_here(&sandbox, &patched)?;

    let sockets = [sandbox.path("first.sock"), sandbox.path("second.sock")];
    let store = sandbox.path("store");
    let mut line = vec!["--socket-path", words(&sockets[0])?, "--socket-path", words(&sockets[1])?];
    line.extend(["--store", words(&store)?, "--image"]);
    line.extend(files.iter().map(String::as_str));
    let image = Virtiofsd::new(&sandbox, "image", &line)?;
    let results = sandbox.dir("results")?;
    let start = |name: &str, socket: &Path, wait: &str| -> Result<_> {
        let out = sandbox.path(&format!("{name}-out.sock"));
        let share = ["--socket-path", words(&out)?, "--shared-dir", words(&results)?];
        let share = Virtiofsd::new(&sandbox, name, &share)?;
        let script = format!(
            "set -e; mkdir /image /out\n\
             mount -t virtiofs -o ro image /image; mount -t virtiofs out /out\n\
             cd /image; find . | wc -l; echo walked {name}\n\
             {wait}\n\
             sha256sum usr/sbin/nginx etc/passwd >/out/{name}.two; echo opened {name}\n\
             (\n{LIST}\n) >/out/{name}.list\n\
             ! touch /image/new 2>/dev/null\n\
             cd /; umount /out /image\n"
        );
        let guest = Guest::new(&sandbox, &format!("{name}-guest"), &script)?
            .share("image", socket)
            .share("out", &out);
        Ok((guest.start()?, share))
    };
    // The first waits for a file before it opens anything.
    let (mut first, first_out) = start("first", &sockets[0], "while ! [ -e /out/go ]; do sleep 1; done")?;
    first.wait_for("walked first")?;
    ensure!(objects(&store)? == 0, "contents are made by a walk");
    File::create(results.join("go"))?;
    first.wait_for("opened first")?;
    let early = objects(&store)?;
    ensure!((2..10).contains(&early), "{early} contents are made for two files");
    let (second, second_out) = start("second", &sockets[1], "")?;
    for guest in [first, second] {
        guest.end()?;
    }
    for out in [first_out, second_out] {
        out.end()?;
    }
    for name in ["first", "second"] {
        let seen = fs::read_to_string(results.join(format!("{name}.list")))?;
        ensure!(seen == expected, "{name}: {}", difference(&expected, &seen));
    }
    let ended = image.end()?;
    ensure!(ended["failed"] == 0, "{ended}");
    let kept = objects(&store)?;
    ensure!(ended["made"] == kept, "{ended}, but {kept} different ones");
    sandbox.close()
}

fn difference(expected: &str, seen: &str) -> String {
    let lines = expected.lines().zip(seen.lines()).find(|(one, other)| one != other);
    format!("{} and {} bytes, first {lines:?}", expected.len(), seen.len())
}

/// A directory, started as Kata Containers starts virtiofsd: what a guest does in it is done, and it gets no further.
#[test]
fn a_directory_is_shared_and_no_more() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (shared, outside) = (sandbox.dir("shared")?, sandbox.path("outside"));
    fs::write(&outside, "not the guest's")?;
    fs::write(shared.join("given"), "given")?;
    std::os::unix::fs::symlink("../outside", shared.join("link"))?;
    let socket = sandbox.path("socket");
    let listener = UnixListener::bind(&socket)?;
    fcntl(&listener, FcntlArg::F_SETFD(FdFlag::empty()))?;
    let mut command = sandbox.command(built("di3fs-virtiofsd"));
    command.args(["--cache=auto", &format!("--shared-dir={}", shared.display())]);
    command.args([&format!("--fd={}", listener.as_raw_fd()), "--thread-pool-size=1", "--announce-submounts"]);
    command.arg("--xattr");
    let virtiofsd = Virtiofsd::start(&sandbox, "shared", command)?;
    drop(listener);
    let script = "set -e; mkdir /shared; mount -t virtiofs shared /shared; cd /shared\n\
        [ \"$(cat given)\" = given ]; ! cat link 2>/dev/null; ! cat ../outside 2>/dev/null\n\
        mkdir -m 0750 dir; echo text >dir/file; chown 12:34 dir/file; chmod 04711 dir/file; ln dir/file dir/again\n\
        ln -s /etc/passwd dir/absolute; mknod dir/null c 1 3; mkfifo dir/fifo; touch -d '2001-02-03 00:00:00' dir/fifo\n\
        mv given dir/moved; dd if=/dev/zero of=large bs=1M count=20 2>/dev/null; truncate -s 3 dir/moved\n\
        cmp large /dev/zero 2>&1 | grep -q EOF; rm large; sync; cd /; umount /shared\n";
    Guest::new(&sandbox, "guest", script)?.share("shared", &socket).start()?.end()?;
    virtiofsd.end()?;
    let at = |name: &str| fs::symlink_metadata(shared.join(name)).with_context(|| name.to_owned());
    ensure!(at("dir")?.permissions().mode() == 0o40750);
    let file = at("dir/file")?;
    ensure!((file.uid(), file.gid(), file.mode(), file.nlink()) == (12, 34, 0o104_711, 2), "{file:?}");
    ensure!(
        fs::read(shared.join("dir/again"))? == b"text\n" && fs::read(shared.join("dir/moved"))? == b"giv"
    );
    ensure!(fs::read_link(shared.join("dir/absolute"))? == Path::new("/etc/passwd"));
    let special = (at("dir/null")?.rdev(), at("dir/fifo")?.mtime());
    ensure!(special == (0x103, 981_158_400), "{special:?}");
    ensure!(at("large").is_err() && at("given").is_err());
    sandbox.close()
}

/// A folder with programs and what they are linked with.
fn tools(sandbox: &Sandbox, names: &[&str]) -> Result<PathBuf> {
    let tools = sandbox.dir("tools")?;
    for name in names {
        let program = built(name);
        fs::copy(&program, tools.join(name))?;
        for line in Output::of(Command::new("ldd").arg(&program))?.success()?.stdout.lines() {
            if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')).map(Path::new) {
                fs::copy(library, tools.join(library.file_name().context("a library has a name")?))?;
            }
        }
    }
    Ok(tools)
}

/// On this older kernel `auto` finds by itself what works: for `d4c mount` a file system in user space, and for the plugin, whose
/// successors could not go on with that, contents made in advance. The tree is the same.
#[test]
fn an_older_kernel_gets_what_it_can() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tools = tools(&sandbox, &["d4c", "di3fs-snapshotter"])?;
    let files = deltas("tiny")?;
    for (number, file) in files.iter().enumerate() {
        fs::copy(file, tools.join(format!("{number}.cdimg")))?;
    }
    let patched = sandbox.path("patched");
    let mut arguments = vec!["patch".to_owned()];
    arguments.extend(files.iter().cloned());
    arguments.push(format!("dir:{}", patched.display()));
    d4c(&arguments)?.success()?;
    let expected = list_here(&sandbox, &patched)?;
    let results = sandbox.dir("results")?;
    let mut shares = Vec::new();
    for (name, shared) in [("tools", &tools), ("out", &results)] {
        let socket = sandbox.path(&format!("{name}.sock"));
        let line = ["--socket-path", words(&socket)?, "--shared-dir", words(shared)?];
        shares.push((name, Virtiofsd::new(&sandbox, name, &line)?, socket));
    }
    let script = format!(
        "set -e; mkdir /tools /out /image; mount -t virtiofs tools /tools; mount -t virtiofs out /out\n\
         ln -s tools /lib64; export LD_LIBRARY_PATH=/tools; uname -r >/out/kernel\n\
         /tools/d4c --json --tmpdir /tmp mount --route auto /tools/[0-9].cdimg /image >/out/mount.json 2>/out/mount.log & \n\
         while ! [ -s /out/mount.json ]; do kill -0 $!; sleep 0.2; done\n\
         (cd /image\n{LIST}) >/out/list\n\
         umount /image; wait\n\
         /tools/di3fs-snapshotter --root /tmp/di3fs --address /tmp/di3fs.sock --control /tmp/control.sock 2>/out/plugin.log & \n\
         while ! grep -q 'serving snapshots' /out/plugin.log; do kill -0 $!; sleep 0.2; done\n\
         kill $!; wait; cd /; umount /out\n"
    );
    let mut guest = Guest::new(&sandbox, "guest", &script)?.memory(512);
    for (name, _, socket) in &shares {
        guest = guest.share(name, socket);
    }
    let ended = guest.start()?.end();
    let read = |name: &str| -> Result<String> {
        let bytes = fs::read(results.join(name)).with_context(|| name.to_owned())?;
        // A name in the image is no text; the list of what was expected is read so, too.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    ended.with_context(|| format!("{:?} {:?}", read("mount.log"), read("plugin.log")))?;
    for (_, share, _) in shares {
        share.end()?;
    }
    ensure!(read("kernel")?.starts_with("6.1."), "{}", read("kernel")?);
    let mounted: serde_json::Value =
        serde_json::from_str(read("mount.json")?.lines().next().unwrap_or_default())?;
    ensure!(mounted["route"] == "fuse", "{mounted}");
    let seen = read("list")?;
    ensure!(seen == expected, "{}", difference(&expected, &seen));
    let log = read("plugin.log")?;
    ensure!(log.contains("store open") && log.contains("route=overlay"), "{log}");
    for route in ["erofs", "fuse-passthrough", "fuse"] {
        ensure!(log.contains(&format!("route does not work here route={route}")), "{log}");
    }
    sandbox.close()
}

/// What kill -9 leaves has no process, and goes with the next start.
#[test]
fn a_killed_process_leaves_nothing_that_stays() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let files = deltas("tiny")?;
    let socket = sandbox.path("socket");
    let mut line = vec!["--socket-path", words(&socket)?, "--image"];
    line.extend(files.iter().map(String::as_str));
    let first = Virtiofsd::new(&sandbox, "killed-first", &line)?;
    let temporary = first.temporary.clone();
    first.daemon.kill()?;
    ensure!(socket.exists() && fs::read_dir(&temporary)?.count() == 1);
    std::thread::sleep(std::time::Duration::from_secs(6));
    let second = Virtiofsd::new(&sandbox, "killed-second", &line)?;
    ensure!(fs::read_dir(&temporary)?.count() == 1, "what the first left is still there");
    ensure!(second.daemon.terminate()?.code() == Some(0));
    ensure!(!socket.exists() && fs::read_dir(&temporary)?.next().is_none());
    sandbox.close()
}

#[test]
fn what_cannot_be_served_is_refused() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let files = deltas("tiny")?;
    let socket = sandbox.path("socket");
    let refused = |arguments: &[&str], code: i32, about: &str| -> Result<()> {
        let mut command = sandbox.command(built("di3fs-virtiofsd"));
        let out = Output::of(command.args(["--socket-path", words(&socket)?]).args(arguments))?;
        ensure!(out.code == code && out.stderr.lines().count() == 1, "{out:?}");
        ensure!(out.stderr.starts_with("di3fs-virtiofsd: ") && out.stderr.contains(about), "{out:?}");
        ensure!(!socket.exists(), "the socket stays");
        Ok(())
    };
    refused(&[], 2, "--image or --shared-dir")?;
    refused(&["--image", &files[1]], 3, "a delta from")?;
    refused(&["--image", &files[0], &files[2]], 4, "match parent")?;
    refused(&["--shared-dir", "/nowhere"], 3, "/nowhere")?;
    refused(&["--shared-dir", "/", "--readonly"], 2, "--readonly")?;
    refused(&["--fd", "77", "--shared-dir", "/"], 1, "descriptor 77")?;
    sandbox.close()
}
