use super::*;
use std::sync::Mutex;
use tonic::Code;

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Hooks for Seen {
    fn adopted(&self, chain_id: &str, key: &str, name: &str) {
        self.0.lock().unwrap().push(format!("{chain_id} {key} {name}"));
    }
    fn removed(&self) {
        self.0.lock().unwrap().push("removed".into());
    }
    fn unused(&self) {
        self.0.lock().unwrap().push("unused".into());
    }
    fn cleanup(&self) {
        self.0.lock().unwrap().push("cleanup".into());
    }
}

struct Fails;

impl LayerProvider for Fails {
    fn lookup(&self, _: &Parent<'_>, _: &str, _: &Labels) -> Result<Option<ReadyLayer>> {
        Err(Error::Unavailable { what: "lookup".into() })
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

struct Fixture {
    _tmp: tempfile::TempDir,
    store: Arc<Store>,
    seen: Arc<Seen>,
    snapshotter: Snapshotter,
}

fn fixture() -> Fixture {
    let tmp = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&tmp.path().join("root")).unwrap());
    let seen = Arc::new(Seen::default());
    let snapshotter =
        Snapshotter::new(store.clone(), store.clone(), Arc::new(()), seen.clone(), OverlayOptions::default());
    Fixture { _tmp: tmp, store, seen, snapshotter }
}

fn register(store: &Store, chain_id: &str) -> u64 {
    let dir = store.new_tree_dir().unwrap();
    fs::write(dir.fs.join("file"), chain_id).unwrap();
    store.register_tree(chain_id, dir.number, "image").unwrap()
}

#[test]
fn a_ready_layer_is_committed_per_parent_and_found_by_its_label() {
    let f = fixture();
    let ask = |key, parent, chain| f.snapshotter.prepare(key, parent, labels(&[(LABEL_SNAPSHOT_REF, chain)]));
    // Not ready: an ordinary snapshot to unpack into.
    assert_eq!(ask("a/1/extract", "", "sha256:1").unwrap()[0].kind, "bind");
    f.snapshotter.remove("a/1/extract").unwrap();

    register(&f.store, "sha256:1");
    let top = register(&f.store, "sha256:2");
    assert_eq!(ask("a/2/extract", "", "sha256:1").unwrap_err().code(), Code::AlreadyExists);
    let find = |chain: &str, parent: &str| {
        let filter = format!("labels.\"{LABEL_SNAPSHOT_REF}\"=={chain},parent==\"{parent}\"");
        f.snapshotter.list(&[filter]).unwrap()
    };
    let base = &find("sha256:1", "")[0];
    assert_eq!(base.kind, Kind::Committed);
    // Another namespace shares the bottom layer's name, and is answered again.
    assert_eq!(ask("b/3/extract", "", "sha256:1").unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(find("sha256:1", "").len(), 1);

    // On another parent the same layer has another name and the same directory.
    f.snapshotter.prepare("o", "", Labels::new()).unwrap();
    f.snapshotter.commit("b/4/other", "o", "", Labels::new()).unwrap();
    assert_eq!(ask("a/5/extract", &base.name, "sha256:2").unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(ask("b/6/extract", "b/4/other", "sha256:2").unwrap_err().code(), Code::AlreadyExists);
    let (one, two) = (&find("sha256:2", &base.name)[0], &find("sha256:2", "b/4/other")[0]);
    assert_ne!(one.name, two.name);
    assert_eq!(f.store.tree("sha256:2").unwrap().unwrap().refs, 2);
    let view = f.snapshotter.view("v", &two.name, Labels::new()).unwrap();
    assert!(view[0].options.iter().any(|o| o.contains(&format!("/snapshots/{top}/fs:"))), "{view:?}");
    assert_eq!(ask("x", "none", "sha256:2").unwrap_err().code(), Code::NotFound);

    f.snapshotter.remove("v").unwrap();
    f.snapshotter.remove(&one.name).unwrap();
    let seen = f.seen.0.lock().unwrap();
    assert_eq!(seen.len(), 7, "{seen:?}");
    assert_eq!(seen[..2], ["unused".to_owned(), format!("sha256:1 a/2/extract {}", base.name)]);
    assert_eq!(seen[5..], ["unused", "removed"]);
}

#[test]
fn a_provider_that_fails_leaves_the_layer_to_containerd() {
    let f = fixture();
    let s = Snapshotter::new(
        f.store.clone(),
        Arc::new(Fails),
        Arc::new(()),
        Arc::new(()),
        OverlayOptions::default(),
    );
    assert_eq!(s.prepare("k", "", labels(&[(LABEL_SNAPSHOT_REF, "sha256:1")])).unwrap().len(), 1);
    s.cleanup().unwrap();
}

#[test]
fn update_follows_the_paths() {
    let f = fixture();
    let s = &f.snapshotter;
    s.prepare("k", "", labels(&[("a", "1"), ("b", "2")])).unwrap();
    let update = |new: &[(&str, &str)], paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        s.update("k", &labels(new), &paths).map(|i| i.labels)
    };
    assert_eq!(update(&[("c", "3")], &["labels.c"]).unwrap(), labels(&[("a", "1"), ("b", "2"), ("c", "3")]));
    assert_eq!(update(&[], &["labels.a"]).unwrap(), labels(&[("b", "2"), ("c", "3")]));
    assert_eq!(update(&[("d", "4"), ("e", "")], &["labels"]).unwrap(), labels(&[("d", "4")]));
    assert_eq!(update(&[("f", "5")], &[]).unwrap(), labels(&[("f", "5")]));
    for path in ["name", "parent", "kind", "created_at", "label"] {
        assert_eq!(update(&[("g", "6")], &["labels", path]).unwrap_err().code(), Code::InvalidArgument);
    }
    assert_eq!(s.stat("k").unwrap().labels, labels(&[("f", "5")]), "a refused update changes nothing");
}

#[test]
fn usage_is_counted_while_active_and_recorded_on_commit() {
    let f = fixture();
    let s = &f.snapshotter;
    s.prepare("k", "", Labels::new()).unwrap();
    let fs_dir = f.store.fs_path(f.store.layers("k").unwrap().number);
    fs::write(fs_dir.join("a"), vec![1; 100_000]).unwrap();
    let active = s.usage("k").unwrap();
    assert_eq!(active.inodes, 2);
    assert!(active.bytes >= 100_000);
    s.commit("n", "k", "", Labels::new()).unwrap();
    assert_eq!(s.usage("n").unwrap(), active);
    fs::remove_file(fs_dir.join("a")).unwrap();
    assert_eq!(s.usage("n").unwrap(), active, "a committed snapshot's files are not looked at");
    assert_eq!(s.usage("none").unwrap_err().code(), Code::NotFound);
}
