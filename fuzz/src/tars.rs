//! Tars of several writers, all of them on the machine: GNU tar and Python's `tarfile` in each of their formats, bsdtar, and the crate `tar`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

const PYTHON: &str = "
import sys, tarfile
def odd(member):
    if member.name.endswith('text'):
        member.uid, member.mtime = 2**31, member.mtime + 0.25
    return member
with tarfile.open(sys.argv[1], 'w', format=getattr(tarfile, sys.argv[2])) as tar:
    tar.add('.', filter=odd)
";

/// Each writer's name and its tar of the same tree.
///
/// # Errors
/// A writer fails or is not there.
pub fn all() -> io::Result<Vec<(String, Vec<u8>)>> {
    let dir = tempfile::tempdir()?;
    let (tree, out) = (dir.path().join("tree"), dir.path().join("out.tar"));
    make_tree(&tree)?;
    let mut tars = Vec::new();
    let mut made = |name: String, command: &mut Command| {
        let status =
            command.current_dir(&tree).status().map_err(|error| failed(&name, &error.to_string()))?;
        if !status.success() {
            return Err(failed(&name, &status.to_string()));
        }
        tars.push((name, fs::read(&out)?));
        fs::remove_file(&out)
    };
    // Neither v7 nor ustar can say all of the tree.
    for (format, tree) in [("v7", "short"), ("ustar", "short"), ("oldgnu", "."), ("gnu", "."), ("posix", ".")]
    {
        let mut tar = Command::new("tar");
        tar.arg(format!("--format={format}")).args(["--sort=name", "-b1"]);
        if tree == "." {
            tar.arg("--sparse");
        }
        tar.arg("-cf").arg(&out).arg(tree);
        made(format!("gnu-tar-{format}"), &mut tar)?;
    }
    for version in ["0.0", "0.1", "1.0"] {
        let mut tar = Command::new("tar");
        tar.args(["--format=posix", "--sparse", "-b1"]).arg(format!("--sparse-version={version}"));
        made(format!("gnu-tar-sparse-{version}"), tar.arg("-cf").arg(&out).arg("sparse"))?;
    }
    for format in ["GNU_FORMAT", "PAX_FORMAT"] {
        made(format!("python-{format}"), Command::new("python3").args(["-c", PYTHON]).arg(&out).arg(format))?;
    }
    for format in ["gnutar", "pax", "ustar"] {
        let mut tar = Command::new("bsdtar");
        made(
            format!("bsdtar-{format}"),
            tar.args(["--format", format, "-b1", "-cf"]).arg(&out).arg("short"),
        )?;
    }
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", &tree)?;
    tars.push(("crate-tar".to_owned(), builder.into_inner()?));
    Ok(tars)
}

fn failed(name: &str, why: &str) -> io::Error {
    io::Error::other(format!("make a tar: {name}: {why}"))
}

/// Files, links, a long name, a name that is not ASCII, a sparse file.
fn make_tree(tree: &Path) -> io::Result<()> {
    let short = tree.join("short");
    fs::create_dir_all(short.join("empty"))?;
    fs::write(short.join("text"), "some text\n")?;
    fs::write(short.join("none"), "")?;
    fs::hard_link(short.join("text"), short.join("zz-hard"))?;
    symlink("text", short.join("link"))?;
    fs::write(tree.join("l".repeat(120)), "long")?;
    symlink("t".repeat(130), tree.join("long-link"))?;
    fs::write(tree.join("größe"), "name")?;
    let sparse = File::create(tree.join("sparse"))?;
    sparse.set_len(36 << 10)?;
    for block in [1, 4, 7] {
        sparse.write_all_at(b"data", block * 4096)?;
    }
    Ok(())
}
