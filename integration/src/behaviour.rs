//! What a file system does when it is used: a list of what calls gave, to be compared with that of another one.
//!
//! The calls are made from outside of a container, in its root file system, an overlay over the image `tiny` v2, whose files of every type
//! they find in the lower layers. What is the file system's own business is left out: numbers of inodes and devices, sizes and links of directories,
//! times of what changes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{
    FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink,
};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, OFlag, RenameFlags, fallocate, renameat2};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{AccessFlags, Whence, access, lseek, mkfifo};

use crate::tree::sha256;

/// What came of the calls, a line each.
struct Notes(Vec<String>);

impl Notes {
    fn add<T: std::fmt::Debug, E: Into<io::Error>>(&mut self, what: &str, came: Result<T, E>) {
        let came = match came.map_err(Into::into) {
            Ok(value) => format!("{value:?}"),
            Err(error) => error
                .raw_os_error()
                .map_or(error.to_string(), |errno| format!("{}", nix::errno::Errno::from_raw(errno))),
        };
        self.0.push(format!("{what}: {came}"));
    }
}

/// What `lstat` tells of a file, but for what is the file system's own business.
fn look(path: &Path) -> io::Result<String> {
    let seen = fs::symlink_metadata(path)?;
    let kind = seen.file_type();
    let links = if kind.is_dir() { (0, 0) } else { (seen.nlink(), seen.size()) };
    let device = if kind.is_char_device() || kind.is_block_device() { seen.rdev() } else { 0 };
    Ok(format!("{:o} {}:{} {links:?} {device:x}", seen.mode(), seen.uid(), seen.gid()))
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(flags & libc::O_ACCMODE != 0)
        .custom_flags(flags & !libc::O_ACCMODE)
        .open(path)
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let kind =
            [(kind.is_dir(), 'd'), (kind.is_symlink(), 'l'), (kind.is_fifo(), 'p'), (kind.is_file(), 'f')];
        let kind = kind.iter().find(|(is_it, _)| *is_it).map_or('?', |(_, kind)| *kind);
        names.push(format!("{kind} {}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(names)
}

fn hash(path: &Path) -> io::Result<String> {
    sha256(path).map_err(|error| match error.downcast() {
        Ok(error) => error,
        Err(error) => io::Error::other(error),
    })
}

/// Uses the file system at `root`; what came of it.
pub fn behaviour(root: &Path) -> Vec<String> {
    let mut notes = Notes(Vec::new());
    refused(root, &mut notes);
    written(root, &mut notes);
    attributes(root, &mut notes);
    named(root, &mut notes);
    held(root, &mut notes);
    made(root, &mut notes);
    for dir in ["", "app", "odd", "etc"] {
        let names = names(&root.join(dir)).unwrap_or_default();
        for name in &names {
            let path = root.join(dir).join(&name[2..]);
            notes.add(&format!("at the end {dir}/{name}"), look(&path));
        }
    }
    notes.0
}

/// Calls that have to fail, each in its own way.
fn refused(root: &Path, notes: &mut Notes) {
    let at = |name: &str| root.join(name);
    let release = at("app/release");
    notes.add(
        "create what is there",
        OpenOptions::new().write(true).create_new(true).open(&release).map(drop),
    );
    notes.add("mkdir of a directory", fs::create_dir(at("app")));
    notes.add("mkdir of a file", fs::create_dir(&release));
    notes.add("mkdir below a file", fs::create_dir(release.join("x")));
    notes.add("rmdir of a full one", fs::remove_dir(at("app")));
    notes.add("rmdir of a file", fs::remove_dir(&release));
    notes.add("unlink of a directory", fs::remove_file(at("odd")));
    notes.add("write to a directory", open(&at("odd"), libc::O_RDWR).map(drop));
    notes.add("a file as directory", open(&release, libc::O_DIRECTORY).map(drop));
    notes.add("a link not followed", open(&at("odd/symlink"), libc::O_NOFOLLOW).map(drop));
    notes.add("a link to nowhere", open(&at("odd/symlink-long"), 0).map(drop));
    notes.add("a long name", open(&at(&"n".repeat(256)), 0).map(drop));
    notes.add("no such file", look(&at("app/none")));
    notes.add("below no such directory", look(&at("none/none")));
    notes.add("readlink of a file", fs::read_link(&release));
    notes.add("read of a directory", File::open(at("app")).and_then(|mut dir| dir.read(&mut [0; 8])));
    notes.add("write through a reader", File::open(&release).and_then(|mut file| file.write(b"x")));
    notes.add("truncate through a reader", File::open(&release).and_then(|file| file.set_len(1)));
    notes.add("run what is not for that", access(&release, AccessFlags::X_OK));
    notes.add("run what is", access(&at("odd/setuid"), AccessFlags::X_OK));
    notes.add("read of mode 0 by root", fs::read(at("odd/mode-0")));
    notes.add("rename into itself", fs::rename(at("odd"), at("odd/opaque-later/odd")));
    notes.add("rename of a file onto a directory", fs::rename(&release, at("odd")));
    notes.add("rename of a directory onto a file", fs::rename(at("odd/default-acl"), &release));
    notes.add("rename of nothing", fs::rename(at("none"), at("some")));
    notes.add("link of a directory", fs::hard_link(at("odd"), at("odd-too")));
    notes.add("link onto what is there", fs::hard_link(&release, at("app/data.bin")));
    notes.add("symlink onto what is there", symlink("x", &release));
    notes.add("an attribute that is not there", xattr::get(&release, "user.none"));
}

/// Contents of the lower layers that are written.
fn written(root: &Path, notes: &mut Notes) {
    let at = |name: &str| root.join(name);
    let data = at("app/data.bin");
    notes.add("data", hash(&data));
    notes.add("a hole", File::open(&data).and_then(|file| Ok(lseek(&file, 0, Whence::SeekHole)?)));
    notes.add(
        "beyond the end",
        File::open(&data).and_then(|file| Ok(lseek(&file, 1 << 40, Whence::SeekData)?)),
    );
    let reader = File::open(&data);
    notes.add(
        "append",
        OpenOptions::new().append(true).open(&data).and_then(|mut file| file.write(b"appended")),
    );
    notes.add("appended", hash(&data));
    notes.add("seen by an earlier reader", reader.and_then(|file| file.read_at(&mut [0; 16], 599_999)));
    notes.add("write within", open(&data, libc::O_RDWR).and_then(|file| file.write_at(b"written", 4090)));
    notes.add("shorter", open(&data, libc::O_RDWR).and_then(|file| file.set_len(5000)));
    notes.add("longer", open(&data, libc::O_RDWR).and_then(|file| file.set_len(70_000)));
    notes.add("at last", hash(&data));
    let kept = at("app/kept.bin");
    notes.add("truncated when opened", OpenOptions::new().write(true).truncate(true).open(&kept).map(drop));
    notes.add("empty", look(&kept));
    let many = at("app/many-007.txt");
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    notes.add("punch", open(&many, libc::O_RDWR).and_then(|file| Ok(fallocate(&file, punch, 10, 50)?)));
    notes.add("punched", hash(&many));
    let more = FallocateFlags::empty();
    notes.add("allocate", open(&many, libc::O_RDWR).and_then(|file| Ok(fallocate(&file, more, 0, 9000)?)));
    notes.add("allocated", hash(&many));
    let copied = || -> io::Result<u64> {
        let (from, mut to) = (File::open(at("app/many-008.txt"))?, File::create(at("app/copied"))?);
        io::copy(&mut from.take(300), &mut to)
    };
    notes.add("copy within the kernel", copied());
    notes.add("copied", hash(&at("app/copied")));
    notes.add(
        "write to a capable program",
        OpenOptions::new().append(true).open(at("odd/capability")).and_then(|mut file| file.write(b"x")),
    );
    notes.add("its capability", xattr::get(at("odd/capability"), "security.capability"));
    notes.add(
        "write to a set-uid program",
        OpenOptions::new().append(true).open(at("odd/setuid")).and_then(|mut file| file.write(b"x")),
    );
    notes.add("its mode", look(&at("odd/setuid")));
}

/// Modes, owners, times, extended attributes.
fn attributes(root: &Path, notes: &mut Notes) {
    let at = |name: &str| root.join(name);
    notes.add("attributes of an unchanged file", xattr::list(at("odd/acl")).map(sorted));
    notes.add("its list", xattr::get(at("odd/acl"), "system.posix_acl_access"));
    notes.add("chmod", fs::set_permissions(at("odd/acl"), fs::Permissions::from_mode(0o600)));
    notes.add("its list after that", xattr::get(at("odd/acl"), "system.posix_acl_access"));
    notes.add("chown", chown(at("odd/linked"), Some(5), Some(6)));
    notes.add("its other name", look(&at("odd/linked-too")));
    notes.add("lchown", lchown(at("odd/symlink"), Some(70_000), None));
    notes.add(
        "chmod of a directory",
        fs::set_permissions(at("odd/default-acl"), fs::Permissions::from_mode(0o2770)),
    );
    notes.add("set an attribute", xattr::set(at("odd/xattr"), "user.new", b"value"));
    notes.add("remove one", xattr::remove(at("odd/xattr"), "user.long"));
    notes.add("remove one that is not there", xattr::remove(at("odd/xattr"), "user.none"));
    notes.add("those left", xattr::list(at("odd/xattr")).map(sorted));
    notes.add("one of a directory", xattr::get(at("odd/default-acl"), "user.on-directory"));
    notes.add("overlay's own", xattr::list(at("app")).map(sorted));
    let past = SystemTime::UNIX_EPOCH - Duration::new(5, 7);
    let times = fs::FileTimes::new().set_modified(past).set_accessed(past);
    notes.add("times", open(&at("odd/nanoseconds"), libc::O_RDWR).and_then(|file| file.set_times(times)));
    notes.add("its time", fs::metadata(at("odd/nanoseconds")).map(|seen| (seen.mtime(), seen.mtime_nsec())));
}

fn sorted(names: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Names that come and go.
fn named(root: &Path, notes: &mut Notes) {
    let at = |name: &str| root.join(name);
    notes.add("rename of a file", fs::rename(at("app/many-010.txt"), at("odd/moved")));
    notes.add("the old name", look(&at("app/many-010.txt")));
    notes.add("the new one", hash(&at("odd/moved")));
    notes.add("rename onto a file", fs::rename(at("app/many-011.txt"), at("app/many-012.txt")));
    notes.add("it", hash(&at("app/many-012.txt")));
    let rename = |old: &str, new: &str, flags| {
        Ok::<_, io::Error>(renameat2(nix::fcntl::AT_FDCWD, &at(old), nix::fcntl::AT_FDCWD, &at(new), flags)?)
    };
    notes.add(
        "rename, not onto",
        rename("app/many-013.txt", "app/many-014.txt", RenameFlags::RENAME_NOREPLACE),
    );
    notes.add("exchange", rename("app/many-013.txt", "app/many-014.txt", RenameFlags::RENAME_EXCHANGE));
    notes.add("exchanged", hash(&at("app/many-013.txt")));
    notes.add("rename of a directory below", fs::rename(at("odd/default-acl"), at("odd/default")));
    notes.add("rename onto a full directory", fs::rename(at("odd/default-acl"), at("app")));
    notes.add("link", fs::hard_link(at("app/many-020.txt"), at("app/link")));
    notes.add("linked", look(&at("app/many-020.txt")));
    notes.add(
        "write to a link",
        OpenOptions::new().append(true).open(at("app/link")).and_then(|mut file| file.write(b"x")),
    );
    notes.add("the other name", hash(&at("app/many-020.txt")));
    notes.add("unlink", fs::remove_file(at("app/many-021.txt")));
    notes.add("unlink again", fs::remove_file(at("app/many-021.txt")));
    notes.add("make it again", fs::write(at("app/many-021.txt"), "again"));
    notes.add("it again", fs::read_to_string(at("app/many-021.txt")));
    notes.add(
        "a directory instead of a file",
        fs::remove_file(at("app/many-022.txt")).and_then(|()| fs::create_dir(at("app/many-022.txt"))),
    );
    notes.add("remove all", fs::remove_dir_all(at("odd/opaque-later")));
    notes.add("make it new", fs::create_dir(at("odd/opaque-later")));
    notes.add("what is in it", names(&at("odd/opaque-later")));
    notes.add(
        "a link instead of a directory",
        fs::remove_dir(at("odd/opaque-later")).and_then(|()| symlink("../app", at("odd/opaque-later"))),
    );
    notes.add("through it", fs::read_to_string(at("odd/opaque-later/release")));
    notes.add("names", names(&at("app")));
}

/// Files that are open while their names change.
fn held(root: &Path, notes: &mut Notes) {
    let at = |name: &str| root.join(name);
    let path = at("app/many-030.txt");
    let removed = || -> io::Result<(u64, usize, Vec<u8>)> {
        let mut file = File::open(&path)?;
        fs::remove_file(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((file.metadata()?.nlink(), bytes.len(), bytes[..8].to_vec()))
    };
    notes.add("read of what has no name", removed());
    let reopened = || -> io::Result<String> {
        use std::os::fd::AsRawFd;
        let file = open(&at("app/many-031.txt"), libc::O_PATH)?;
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        OpenOptions::new().append(true).open(again)?.write_all(b"reopened")?;
        hash(&at("app/many-031.txt"))
    };
    notes.add("opened again", reopened());
    let locked = || -> io::Result<bool> {
        let (one, other) = (File::open(at("app/many-032.txt"))?, File::open(at("app/many-032.txt"))?);
        let _held = Flock::lock(one, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        Ok(Flock::lock(other, FlockArg::LockExclusiveNonblock).is_err())
    };
    notes.add("locked", locked());
    notes.add("flushed", File::open(at("app/many-034.txt")).and_then(|file| file.sync_all()));
    let position = || -> io::Result<(u64, u8)> {
        let mut file = File::open(at("app/many-035.txt"))?;
        let end = file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok((end, last[0]))
    };
    notes.add("its end", position());
}

/// New files of every type.
fn made(root: &Path, notes: &mut Notes) {
    let at = |name: &str| root.join(name);
    let mode = Mode::from_bits_truncate(0o640);
    notes.add("fifo", mkfifo(&at("new-fifo"), mode));
    notes.add("device", mknod(&at("new-null"), SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, 3)));
    notes.add("symlink", symlink("t".repeat(4000), at("new-symlink")));
    notes.add("its target", fs::read_link(at("new-symlink")).map(|target| target.as_os_str().len()));
    notes.add(
        "directory of a group",
        fs::create_dir(at("new-dir")).and_then(|()| chown(at("new-dir"), None, Some(77))),
    );
    notes.add("its bit", fs::set_permissions(at("new-dir"), fs::Permissions::from_mode(0o2775)));
    notes.add("in it", File::create(at("new-dir/file")).map(drop));
    notes.add("its group", look(&at("new-dir/file")));
    notes.add("below it", fs::create_dir(at("new-dir/dir")).and_then(|()| look(&at("new-dir/dir"))));
    let unnamed =
        OpenOptions::new().write(true).custom_flags(OFlag::O_TMPFILE.bits()).mode(0o600).open(at("app"));
    notes.add("without a name", unnamed.map(drop));
    notes.add("a name of 255 bytes", File::create(at(&"n".repeat(255))).map(drop));
    notes.add(
        "a name that is no text",
        File::create(root.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\xfe")))
            .map(drop),
    );
    notes.add("write through a fifo's name", look(&at("odd/fifo")));
    notes.add("longest name", nix::sys::statvfs::statvfs(root).map(|seen| seen.name_max()));
}
