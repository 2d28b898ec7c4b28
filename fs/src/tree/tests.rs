use super::*;
use crate::testing::{Members, Memory, text};
use dimg::index::Kind;

fn merged(layers: &[Arc<LayerIndex>]) -> String {
    text(&Tree::merge(layers).unwrap())
}

fn refused(layer: Members) -> Why {
    Tree::merge(&[layer.index()]).unwrap_err().why
}

#[test]
fn names_are_cleaned_and_stay_in_the_root() {
    let layer = Members::default()
        .dir("./")
        .dir("./usr/")
        .empty("/usr/./a")
        .empty("usr//x/../b")
        .empty("../../c")
        .empty("..")
        .empty("d/e/f");
    let want = "f 644 c 0\nd 755 d\nd 755 d/e\nf 644 d/e/f 0\nd 755 usr\nf 644 usr/a 0\nf 644 usr/b 0\n";
    assert_eq!(merged(&[layer.index()]), want);
}

#[test]
fn links_on_the_way_are_followed_within_the_layer_and_the_root() {
    let layer = Members::default()
        .symlink("a", "/etc")
        .empty("a/passwd")
        .symlink("up", "../../../..")
        .empty("up/up/top")
        .dir("x/y")
        .symlink("x/z", "./y/../y")
        .empty("x/z/deep");
    let want = "l a -> /etc\nd 755 etc\nf 644 etc/passwd 0\nf 644 top 0\nl up -> ../../../..\nd 755 x\nd 755 x/y\n\
                f 644 x/y/deep 0\nl x/z -> ./y/../y\n";
    assert_eq!(merged(&[layer.index()]), want);
    // On overlayfs the applier sees its own layer only: a link below is replaced.
    let lower =
        Members::default().add(Kind::Directory, b"usr/bin", |e| e.mode = 0o711).symlink("bin", "usr/bin");
    let upper = Members::default().empty("bin/tool");
    let want = "d 711 bin\nf 644 bin/tool 0\nd 755 usr\nd 711 usr/bin\n";
    assert_eq!(merged(&[lower.index(), upper.index()]), want);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = || Members::default().empty("d/a").empty("d/b").empty("e/a").empty("f").empty("g/a").index();
    let upper = Members::default()
        .empty("d/.wh.a")
        .empty("e/new")
        .empty("e/.wh..wh..opq")
        .empty(".wh.f")
        .empty("new")
        .empty(".wh.new")
        .dir("g")
        .empty("g/b")
        .empty(".wh.g")
        .empty(".wh..wh.plnk")
        .empty("none/.wh.x");
    let want =
        "d 755 d\nf 644 d/b 0\nd 755 e\nf 644 e/new 0\nd 755 g\nf 644 g/b 0\nf 644 new 0\nd 755 none\n";
    assert_eq!(merged(&[lower(), upper.index()]), want);
    let again = Members::default().empty(".wh.d").empty("d/sub/c").empty(".wh.e").dir("e");
    let want = "d 755 d\nd 755 d/sub\nf 644 d/sub/c 0\nd 755 e\nf 644 f 0\nd 755 g\nf 644 g/a 0\n";
    assert_eq!(merged(&[lower(), again.index()]), want);
    let root = Members::default().empty(".wh..wh..opq").dir("d").empty("h");
    assert_eq!(merged(&[lower(), root.index()]), "d 755 d\nf 644 h 0\n");
}

/// A first layer's tree becomes the whole; one that hides what is not there, or comes after an empty one, goes node by node.
#[test]
fn the_first_layer_is_the_tree() {
    let layer = || {
        Members::default()
            .add(Kind::Directory, b".", |e| e.mode = 0o711)
            .empty("d/.wh..wh..opq")
            .empty("d/a")
            .link("b", "d/a")
            .symlink("d", "e")
            .dir("e")
            .empty("e/f")
            .empty("e/f")
            .empty("g/h")
    };
    let want = "f 644 b 0\nl d -> e\nd 755 e\nf 644 e/f 0\nd 755 g\nf 644 g/h 0\n";
    let hides = layer().empty("g/.wh.none");
    for layers in
        [vec![layer().index()], vec![hides.index()], vec![Members::default().index(), layer().index()]]
    {
        let tree = Tree::merge(&layers).unwrap();
        assert_eq!((text(&tree), tree.node(Tree::ROOT).attributes.mode), (want.to_owned(), 0o711));
        let flags = |id| tree.node(id).as_directory().map(|directory| (directory.opaque, directory.implied));
        let marked = tree.walk().filter_map(|(_, id)| flags(id)).any(|flags| flags != (false, false));
        assert!(!marked && flags(Tree::ROOT) == Some((false, false)));
    }
}

#[test]
fn an_opaque_root_becomes_whiteouts() {
    let lower = Tree::merge(&[Members::default().empty("d/a").empty("e").empty("f").index()]).unwrap();
    let layer =
        Layer::new(&Members::default().empty(".wh..wh..opq").empty("d/b").empty("f").index()).unwrap();
    assert_eq!(text(&layer.on(&lower).unwrap()), "d 755 d opaque\nf 644 d/b 0\nw e\nf 644 f 0\n");
}

#[test]
fn later_members_replace_earlier_ones_and_directories_merge() {
    let layer = Members::default()
        .add(Kind::Directory, b"d", |e| e.mode = 0o700)
        .empty("d/a")
        .add(Kind::Directory, b"d/", |e| e.mode = 0o1777)
        .dir("x/y")
        .empty("x/y/z")
        .empty("x")
        .empty("f")
        .dir("f");
    assert_eq!(merged(&[layer.index()]), "d 1777 d\nf 644 d/a 0\nd 755 f\nf 644 x 0\n");
    let (lower, upper) = (Members::default().dir("a/b").empty("f"), Members::default().empty("a").dir("f/g"));
    assert_eq!(merged(&[lower.index(), upper.index()]), "f 644 a 0\nd 755 f\nd 755 f/g\n");
}

#[test]
fn what_empties_a_directory_leaves_its_attributes() {
    let lower = || {
        Members::default()
            .add(Kind::Directory, b"d", |e| e.mode = 0o1777)
            .add(Kind::Directory, b"d/e", |e| e.mode = 0o700)
            .empty("d/a")
            .index()
    };
    let emptied = Members::default().empty("d/.wh..wh..opq").empty("d/e/f");
    assert_eq!(merged(&[lower(), emptied.index()]), "d 1777 d\nd 755 d/e\nf 644 d/e/f 0\n");
    let cases: [&[&str]; 4] = [
        &[".wh.d", "d/f"],
        &["d/f", ".wh.d"],
        &["d/.wh..wh..opq", ".wh.d", "d/f"],
        &[".wh.d", "d/f", "d/.wh..wh..opq"],
    ];
    for names in cases {
        let hidden = names.iter().fold(Members::default(), |all, name| all.empty(name));
        assert_eq!(merged(&[lower(), hidden.index()]), "d 755 d\nf 644 d/f 0\n", "{names:?}");
    }
}

#[test]
fn directories_that_no_member_describes_look_as_below() {
    let lower = Members::default().with_xattrs(Kind::Directory, b"tmp", &[("user.x", b"1")], |entry| {
        (entry.mode, entry.uid, entry.mtime) = (0o1777, 5, 7);
    });
    let lower = Tree::merge(&[lower.index()]).unwrap();
    let upper = Layer::new(&Members::default().empty("tmp/a/b").index()).unwrap().on(&lower).unwrap();
    let of = |path: &[u8]| &upper.node(upper.find(path).unwrap()).attributes;
    assert_eq!(of(b"tmp"), &lower.node(lower.find(b"tmp").unwrap()).attributes);
    assert_eq!(of(b"tmp/a"), &Attributes::of_missing_directory());
    // Hidden ones do not shine through.
    let hiding = Members::default().empty(".wh.tmp").empty("tmp/a");
    let upper = Layer::new(&hiding.index()).unwrap().on(&lower).unwrap();
    assert_eq!(upper.node(upper.find(b"tmp").unwrap()).attributes, Attributes::of_missing_directory());
}

#[test]
fn hard_links_within_a_layer_and_to_lower_ones() {
    let memory = Memory::default();
    let lower = Members::default()
        .file("lib/one", &memory, "1")
        .link("lib/two", "./lib/one")
        .symlink("s", "lib/one")
        .index();
    assert_eq!(
        merged(&[Arc::clone(&lower)]),
        "d 755 lib\nf 644 lib/one 1\nh lib/two = lib/one\nl s -> lib/one\n"
    );
    let upper = Members::default().link("bin/three", "lib/two").link("t", "s").empty("lib/.wh.two").index();
    let want = "d 755 bin\nf 644 bin/three 1\nd 755 lib\nh lib/one = bin/three\nl s -> lib/one\nh t = s\n";
    assert_eq!(merged(&[Arc::clone(&lower), Arc::clone(&upper)]), want);
    // As a layer: the names that stay are copied up with it.
    let tree = Tree::merge(&[lower]).unwrap();
    let on = text(&Layer::new(&upper).unwrap().on(&tree).unwrap());
    let want = "d 755 bin\nf 644 bin/three 1\nd 755 lib\nh lib/one = bin/three\nw lib/two\nl s -> lib/one\nh t = s\n";
    assert_eq!(on, want);
    assert_eq!(refused(Members::default().link("a", "b")), Why::NoLinkTarget);
    assert_eq!(refused(Members::default().dir("b").link("a", "b")), Why::NoLinkTarget);
    assert_eq!(refused(Members::default().link("a", "/")), Why::NoLinkTarget);
}

#[test]
fn the_last_name_gives_the_attributes() {
    let layer = Members::default()
        .with_xattrs(Kind::Regular, b"a", &[("security.capability", b"c"), ("user.x", b"1")], |entry| {
            (entry.mode, entry.uid) = (0o4755, 5);
        })
        .with_xattrs(Kind::HardLink, b"b", &[("user.x", b"2")], |entry| {
            (entry.link, entry.mode, entry.uid, entry.mtime) = ((*b"a").into(), 0o600, 7, 9);
        });
    let tree = Tree::merge(&[layer.index()]).unwrap();
    let of = |path: &[u8]| &tree.node(tree.find(path).unwrap()).attributes;
    let xattrs: Vec<_> = of(b"a").xattrs.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!((of(b"a").mode, of(b"a").uid, of(b"a").mtime), (0o600, 7, 9));
    assert_eq!(xattrs, [(&b"security.capability"[..], &b"c"[..]), (b"user.x", b"2")]);
    assert_eq!(of(b"a"), of(b"b"));
}

#[test]
fn replacing_one_name_leaves_the_others() {
    let memory = Memory::default();
    let lower = Members::default().file("a", &memory, "1").link("b", "a").index();
    let upper = Members::default().file("a", &memory, "22").index();
    assert_eq!(merged(&[lower, upper]), "f 644 a 2\nf 644 b 1\n");
}

#[test]
fn names_of_any_length_that_there_is_are_hidden() {
    let name = "n".repeat(255);
    let lower = Members::default().empty(&format!("d/{name}")).empty("d/a");
    let upper = Members::default().empty(&format!("d/.wh.{name}"));
    assert_eq!(merged(&[lower.index(), upper.index()]), "d 755 d\nf 644 d/a 0\n");
    assert_eq!(refused(Members::default().empty(&format!(".wh.{name}n"))), Why::BadName);
    assert_eq!(refused(Members::default().empty(&format!(".wh.{name}/f"))), Why::BadName);
    assert_eq!(refused(Members::default().link("a", &format!(".wh.{name}"))), Why::NoLinkTarget);
}

/// What is deeper than any path may be would take memory by its depth for each file.
#[test]
fn links_lead_no_deeper_than_a_path() {
    let deep = |dirs: usize| "d/".repeat(dirs);
    let links = || {
        Members::default()
            .symlink("l", &deep(1000))
            .symlink("back", &format!("l/{}{}", "../".repeat(500), deep(500)))
            .symlink("top", "l/again")
            .symlink(&format!("{}again", deep(1000)), "/l")
    };
    for link in ["l", "back", "top"] {
        let layer = |dirs| links().empty(&format!("{link}/{}f", deep(dirs)));
        assert!(Layer::new(&layer(1000).index()).is_ok(), "{link}");
        assert_eq!(refused(layer(1100)), Why::BadName, "{link}");
    }
}

#[test]
fn what_can_be_no_file_is_refused() {
    assert_eq!(refused(Members::default().empty("f").empty("f/g")), Why::NotADirectory);
    assert_eq!(
        refused(Members::default().symlink("a", "b").symlink("b", "a").empty("a/x")),
        Why::TooManyLinks
    );
    assert_eq!(refused(Members::default().empty(&"n".repeat(256))), Why::BadName);
    assert_eq!(refused(Members::default().empty(&"n/".repeat(3000))), Why::BadName);
    assert_eq!(refused(Members::default().empty("a\0b")), Why::BadName);
    assert_eq!(refused(Members::default().symlink("a", "")), Why::BadName);
    for bad in ["d/.wh.", "d/.wh..", "d/.wh..."] {
        assert_eq!(refused(Members::default().empty(bad)), Why::BadWhiteout);
    }
    let owner = |id| Members::default().add(Kind::Regular, b"f", |entry| entry.uid = id);
    assert_eq!(refused(owner(u64::from(u32::MAX))), Why::BadOwner);
    assert!(Layer::new(&owner(u64::from(u32::MAX) - 1).index()).is_ok());
    let device = Members::default().add(Kind::BlockDevice, b"f", |entry| entry.dev_major = 1 << 12);
    assert_eq!(refused(device), Why::BadDevice);
    let error = Tree::merge(&[Members::default().empty("d/.wh.").index()]).unwrap_err();
    assert_eq!(error.to_string(), "layer member \"d/.wh.\": not a valid whiteout");
}

#[test]
fn members_of_other_types_make_nothing() {
    let layer = Members::default().add(Kind::Other(b'g'), b"pax_global_header", |_| {}).empty("a");
    assert_eq!(merged(&[layer.index()]), "f 644 a 0\n");
}

#[test]
fn deep_trees_need_no_stack() {
    let mut layer = Members::default();
    for first in 0..20 {
        layer = layer.empty(&format!("{first}/{}f", "d/".repeat(2000)));
    }
    let tree = Tree::merge(&[layer.index(), Members::default().empty("0/x").index()]).unwrap();
    assert_eq!(tree.walk().count(), 20 * 2002 + 1);
}
