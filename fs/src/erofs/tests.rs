use std::sync::Arc;

use dimg::Digest;
use dimg::index::{Content, Kind};

use super::*;
use crate::testing::{Members, Memory, need_root};
use crate::tree::Tree;

fn image(members: Members) -> Result<Vec<u8>, ErofsError> {
    let tree = Tree::merge(&[members.index()]).unwrap();
    let mut out = Vec::new();
    let bytes = write(&Table::new(Arc::new(tree)), &mut out)?;
    assert_eq!(out.len() as u64, bytes);
    Ok(out)
}

fn number(bytes: &[u8], at: usize, count: usize) -> u64 {
    bytes[at..at + count].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[test]
fn the_superblock_and_the_root_are_where_the_kernel_looks() {
    let memory = Memory::default();
    let out = image(Members::default().file("a", &memory, "some bytes").symlink("b", "a")).unwrap();
    assert_eq!(out.len(), 4096);
    assert_eq!(number(&out, 1024, 4), 0xe0f5_e1e2);
    assert_eq!((number(&out, 1024 + 16, 8), number(&out, 1024 + 36, 4)), (3, 1));
    let root = usize::try_from(number(&out, 1024 + 14, 2)).unwrap() * 32;
    // Extended, inline, no attributes; a directory of 0755 with two names; the entries `.`, `..`, `a`, `b`.
    assert_eq!(
        (number(&out, root, 2), number(&out, root + 2, 2), number(&out, root + 4, 2)),
        (5, 0, 0o40755)
    );
    assert_eq!((number(&out, root + 8, 8), number(&out, root + 44, 4)), (4 * 12 + 5, 2));
    assert_eq!(&out[root + 64 + 48..root + 64 + 53], b"...ab");
    let a = usize::try_from(number(&out, root + 64 + 24, 8)).unwrap() * 32;
    assert_eq!((number(&out, a, 2), number(&out, a + 8, 8)), (9, 10));
    let redirect = format!("/{}", memory.put(b"some bytes").digest.hex());
    let attributes = String::from_utf8_lossy(&out[a + 64..a + 64 + 192]).replace("/", "");
    assert!(attributes.contains("overlay.metacopy") && attributes.contains(&redirect.replace('/', "")));
}

#[test]
fn a_root_whose_names_do_not_fit_beside_it_is_found() {
    let memory = Memory::default();
    for names in [1, 150, 250, 1000] {
        let members = (0..names).fold(Members::default(), |members, number| {
            members.file(&format!("a-file-{number:04}"), &memory, "text")
        });
        let out = image(members).unwrap();
        let root = usize::try_from(number(&out, 1024 + 14, 2)).unwrap() * 32;
        assert_eq!(number(&out, root + 4, 2), 0o40755, "{names} names");
    }
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let make = || {
        let memory = Memory::default();
        let members = (0..300).fold(Members::default(), |members, number| {
            members.file(&format!("directory/{number}"), &memory, &number.to_string())
        });
        image(members).unwrap()
    };
    assert!(make() == make());
}

/// Images are kept: whoever changes what is written gives it another version, too.
#[test]
fn the_version_goes_with_the_bytes() {
    let memory = Memory::default();
    let members = (0..200).fold(Members::default().dir("d"), |members, number| {
        members.file(&format!("d/{number}"), &memory, &number.to_string())
    });
    let members = members
        .symlink("link", "d/1")
        .link("hard", "d/2")
        .add(Kind::CharDevice, b"null", |entry| (entry.dev_major, entry.dev_minor) = (1, 3))
        .with_xattrs(Kind::Regular, b"f", &[("user.one", b"1"), ("trusted.overlay.x", b"2")], |entry| {
            (entry.mtime, entry.mtime_nsec, entry.uid) = (-7, 5, 70_000);
        });
    let digest = Digest::of(&image(members).unwrap()).to_string();
    let known = "sha256:e488862636c814f473d08cb0545bd484d4495d46bd42d7684aad419030ea4fcb";
    assert_eq!((VERSION, &*digest), (2, known));
}

fn of_size(members: Members, name: &str, size: u64) -> Members {
    let content = Content { digest: Digest::of(name.as_bytes()), size };
    members.add(Kind::Regular, name.as_bytes(), |entry| entry.content = Some(content))
}

#[test]
fn sizes_alone_take_no_room() {
    let sizes = [1, 1 << 31, (1 << 40) - 1, 1 << 40, (1 << 40) + 1, 1 << 52];
    let members =
        sizes.iter().fold(Members::default(), |members, size| of_size(members, &size.to_string(), *size));
    let members =
        (0..1000).fold(members, |members, number| of_size(members, &format!("large-{number}"), 1 << 52));
    assert!(image(members).unwrap().len() < 4 << 20);
    let error = image(of_size(Members::default(), "f", (1 << 52) + 1)).unwrap_err().to_string();
    assert_eq!(error, "write erofs image: f: too large a file");
}

#[test]
fn root_the_kernel_knows_any_size() {
    need_root();
    let sizes = [0, 1, (1 << 31) + 1, 1 << 40, (1 << 40) + 1, (1 << 43) + 1, 1 << 52];
    let members =
        sizes.iter().fold(Members::default(), |members, size| of_size(members, &size.to_string(), *size));
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (file, root) = (dir.path().join("image"), dir.path().join("root"));
    std::fs::write(&file, image(members).unwrap()).unwrap();
    std::fs::create_dir(&root).unwrap();
    let flags = nix::mount::MsFlags::MS_RDONLY;
    nix::mount::mount(Some(&file), &root, Some("erofs"), flags, None::<&str>).unwrap();
    let seen = sizes.map(|size| std::fs::metadata(root.join(size.to_string())).map(|meta| meta.len()).ok());
    nix::mount::umount(&root).unwrap();
    assert_eq!(seen, sizes.map(Some));
}

#[test]
fn what_the_format_cannot_say_is_refused() {
    let value = vec![0; 65_536];
    let members = Members::default().with_xattrs(Kind::Regular, b"f", &[("user.big", &value)], |_| {});
    let error = image(members).unwrap_err().to_string();
    assert_eq!(error, "write erofs image: f: too large extended attributes");
}
