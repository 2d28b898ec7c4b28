//! What of a sandbox is still there: processes, mounts, loop devices.
//!
//! What is found here is killed, so a process counts only when all of this is so: it is neither init, nor this process, nor an ancestor of
//! it; it started after the sandbox was made; and it bears the sandbox's mark, or descends from one that does, or has its root file
//! system in the sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Pid, SysconfVar, sysconf};

/// The variable that every process of a sandbox inherits.
pub const MARK: &str = "D4C_SANDBOX";

/// A moment in clock ticks since the machine started, as `/proc/PID/stat` has the start of a process.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Ticks(u64);

impl Ticks {
    /// The present; later than everything, so that nothing is found, when the kernel does not tell.
    pub fn now() -> Self {
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let per_second =
            sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        Self::of(&uptime, per_second.unwrap_or(0)).unwrap_or(Self(u64::MAX))
    }

    /// Of a text as in `/proc/uptime`: seconds with two decimals, rounded down.
    fn of(uptime: &str, per_second: u64) -> Option<Self> {
        let (seconds, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
        let hundredths = seconds.parse::<u64>().ok()? * 100 + hundredths.parse::<u64>().ok()?;
        (per_second > 0).then(|| Self(hundredths * per_second / 100))
    }
}

/// What decides whether a process is a sandbox's.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: i32,
    parent: i32,
    started: Ticks,
    /// It bears the mark, or its root file system is in the sandbox.
    is_marked: bool,
}

impl Process {
    /// The process, unless it has ended. A zombie is its parent's to reap, and holds nothing.
    fn read(pid: i32, root: &Path, own_mounts: Option<&Path>) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (parent, started) = parse_stat(&stat)?;
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let elsewhere = own_mounts.is_some()
            && fs::read_link(format!("/proc/{pid}/ns/mnt")).ok().as_deref() != own_mounts;
        let is_marked =
            has_mark(&read("environ"), root) || (elsewhere && has_root_in(&read("mountinfo"), root));
        Some(Self { pid, parent, started, is_marked })
    }
}

/// The parent and the start of a process from its `/proc/PID/stat`, unless it is a zombie.
fn parse_stat(stat: &str) -> Option<(i32, Ticks)> {
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    if words.next()?.starts_with(['Z', 'X']) {
        return None;
    }
    let parent = words.next()?.parse().ok()?;
    Some((parent, Ticks(words.nth(17)?.parse().ok()?)))
}

/// Whether an environment has the mark of the sandbox at `root`, as a whole variable.
fn has_mark(environ: &[u8], root: &Path) -> bool {
    let mark = [MARK.as_bytes(), b"=", root.as_os_str().as_bytes()].concat();
    environ.split(|byte| *byte == 0).any(|variable| variable == mark)
}

/// Whether the mount at `/` of a process's `mountinfo` is made of something below `root`. Only that one counts: mounts of the sandbox
/// propagate into other mount namespaces, whose processes are not ours.
fn has_root_in(mountinfo: &[u8], root: &Path) -> bool {
    let part = [root.as_os_str().as_bytes(), b"/"].concat();
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter(|line| line.split(|byte| *byte == b' ').nth(4) == Some(b"/"))
        .any(|line| line.windows(part.len()).any(|window| window == part))
}

/// Of all processes those of a sandbox that was made at `since` by the process `this`.
fn select(all: &[Process], this: i32, since: Ticks) -> BTreeSet<i32> {
    let parent = |pid: i32| all.iter().find(|process| process.pid == pid).map(|process| process.parent);
    let mut spared = BTreeSet::from([0, 1]);
    let mut next = Some(this);
    while let Some(pid) = next.filter(|pid| spared.insert(*pid)) {
        next = parent(pid);
    }
    let candidates: Vec<&Process> =
        all.iter().filter(|process| process.started >= since && !spared.contains(&process.pid)).collect();
    let mut found: BTreeSet<i32> = candidates.iter().filter(|one| one.is_marked).map(|one| one.pid).collect();
    loop {
        let before = found.len();
        let below: Vec<i32> =
            candidates.iter().filter(|one| found.contains(&one.parent)).map(|one| one.pid).collect();
        found.extend(below);
        if found.len() == before {
            return found;
        }
    }
}

/// The processes of the sandbox at `root`, made at `since`: those with its mark in their environment, their descendants, and the
/// containers whose root file system is made of it.
pub fn processes(root: &Path, since: Ticks) -> Vec<Pid> {
    // The root of a sandbox is a folder of its own, never `/` or one just below.
    if root.components().count() < 3 {
        return Vec::new();
    }
    let own_mounts = fs::read_link("/proc/self/ns/mnt").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<Process> =
        numbers.filter_map(|pid| Process::read(pid, root, own_mounts.as_deref())).collect();
    select(&all, Pid::this().as_raw(), since).into_iter().map(Pid::from_raw).collect()
}

/// The mount points below `root`, the deepest first.
pub fn mounts(root: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    // Spaces and the like are octal escapes there; the sandbox makes no such names.
    let mut below: Vec<PathBuf> = points.map(PathBuf::from).filter(|point| point.starts_with(root)).collect();
    below.sort();
    below.reverse();
    below
}

/// The loop devices backed by a file below `root`.
pub fn loops(root: &Path) -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backed = devices.filter(|device| {
        let file = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        Path::new(file.trim()).starts_with(root)
    });
    backed.map(|device| Path::new("/dev").join(device.file_name())).collect()
}

/// The listening sockets of a process that have a path: a containerd shim keeps its own outside of the sandbox.
pub fn socket_files(pid: Pid) -> Vec<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open: BTreeSet<String> = fds
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let with_path = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(6);
        let (inode, path) = (words.next()?, words.next()?);
        (open.contains(inode) && path.starts_with('/')).then(|| PathBuf::from(path))
    });
    with_path.collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    const SINCE: Ticks = Ticks(100);

    fn process(pid: i32, parent: i32, started: u64, is_marked: bool) -> Process {
        Process { pid, parent, started: Ticks(started), is_marked }
    }

    fn selected(all: &[Process]) -> Vec<i32> {
        select(all, 20, SINCE).into_iter().collect()
    }

    #[test]
    fn init_is_spared_whatever_it_looks_like() {
        assert!(selected(&[process(1, 0, 200, true), process(20, 1, 50, false)]).is_empty());
    }

    #[test]
    fn this_process_and_its_ancestors_are_spared() {
        let all = [process(1, 0, 0, false), process(10, 1, 200, true), process(20, 10, 200, true)];
        assert!(selected(&all).is_empty());
    }

    #[test]
    fn what_was_there_before_the_sandbox_is_spared() {
        let all = [process(20, 1, 50, false), process(30, 1, 99, true), process(31, 30, 200, false)];
        assert!(selected(&all).is_empty());
    }

    #[test]
    fn marked_processes_and_all_below_them_are_found() {
        let all = [
            process(20, 10, 50, false),
            process(33, 32, 300, false),
            process(32, 31, 200, false),
            process(31, 1, 100, true),
            process(40, 20, 200, false),
            process(41, 1, 200, false),
        ];
        assert_eq!(selected(&all), [31, 32, 33]);
    }

    #[test]
    fn a_loop_of_parents_ends() {
        assert!(selected(&[process(20, 21, 50, false), process(21, 20, 50, false)]).is_empty());
    }

    #[test]
    fn stat_is_read_past_any_name() {
        let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 12345 20";
        assert_eq!(parse_stat(&format!("7 (a) S 9 (b) S {rest}")), Some((1, Ticks(12345))));
        assert_eq!(parse_stat(&format!("7 (a) Z {rest}")), None);
        assert_eq!(parse_stat("7 (a) S 1 2 3"), None);
        assert_eq!(Ticks::of("12.34 56.78\n", 100), Some(Ticks(1234)));
        assert_eq!(Ticks::of("12.34 56.78\n", 0), None);
    }

    #[test]
    fn a_mark_is_a_whole_variable() {
        let root = Path::new("/tmp/d4c-x");
        assert!(has_mark(b"A=b\0D4C_SANDBOX=/tmp/d4c-x\0", root));
        assert!(!has_mark(b"D4C_SANDBOX=/tmp/d4c-xy\0", root));
        assert!(!has_mark(b"OLD_D4C_SANDBOX=/tmp/d4c-x\0", root));
        assert!(!has_mark(b"", root));
    }

    #[test]
    fn only_the_root_mount_counts() {
        let root = Path::new("/tmp/d4c-x");
        let shared = b"22 1 0:5 / / rw - ext4 /dev/vda rw\n23 22 0:6 / /tmp/d4c-x/mnt rw - tmpfs tmpfs rw\n";
        assert!(!has_root_in(shared, root));
        let container =
            b"22 1 0:5 / / rw - overlay overlay rw,lowerdir=/tmp/d4c-x/1/fs,upperdir=/tmp/d4c-x/2/fs\n";
        assert!(has_root_in(container, root));
        assert!(!has_root_in(container, Path::new("/tmp/d4c")));
    }

    #[test]
    fn the_real_table_has_just_what_was_started() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let since = Ticks::now();
        assert!(processes(dir.path(), since).is_empty());
        let mut child = Command::new("sh")
            .args(["-c", "setsid sleep 30 & sleep 30"])
            .env(MARK, dir.path())
            .stdout(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(300));
        let found = processes(dir.path(), since);
        let names: Vec<String> = found
            .iter()
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned())
            .collect();
        let later = processes(dir.path(), Ticks(since.0 + 100_000));
        // Nothing is killed that this test did not start.
        for (pid, name) in found.iter().zip(&names).filter(|(_, name)| *name == "sleep" || *name == "sh") {
            assert!(found.len() <= 3, "{name} of {names:?}");
            let _ = nix::sys::signal::kill(*pid, nix::sys::signal::Signal::SIGKILL);
        }
        child.wait()?;
        assert_eq!(names.iter().filter(|name| *name == "sleep").count(), 2, "{names:?}");
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(later.is_empty());
        Ok(())
    }
}
