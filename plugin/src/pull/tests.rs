use std::net::TcpListener;

use super::*;
use crate::store::Store;

const DEADLINE: Duration = Duration::from_millis(400);

fn puller(dir: &Path) -> Arc<Puller> {
    let store = Arc::new(Store::open(&dir.join("root")).unwrap());
    let importer = Arc::new(Importer::open(store).unwrap());
    let settings = PullSettings {
        deadline: DEADLINE,
        content: dir.join("content"),
        auth_file: None,
        hosts_dirs: Some(Vec::new()),
        insecure: false,
        trusted_keys: Vec::new(),
        serve: None,
        partial_bytes: 10_000,
    };
    Puller::open(importer, settings).unwrap()
}

fn labels(registry: &str) -> Labels {
    let (manifest, layer) = (Digest::of(b"manifest").to_string(), Digest::of(b"layer").to_string());
    let labels = [
        (LABEL_IMAGE_REF, format!("{registry}/app:v1")),
        (LABEL_MANIFEST_DIGEST, manifest),
        (LABEL_LAYER_DIGEST, layer),
    ];
    labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// How long a Prepare of the layer waits in vain.
fn waits(puller: &Arc<Puller>, chain_id: &str, labels: &Labels) -> Duration {
    let started = Instant::now();
    assert_eq!(puller.lookup(&Parent { name: "" }, chain_id, labels).unwrap(), None);
    started.elapsed()
}

#[test]
fn of_what_a_predecessor_left_downloads_stay() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join("root/pull");
    drop(puller(dir.path()));
    std::fs::create_dir(left.join("folder")).unwrap();
    for name in ["base", "folder/within"] {
        std::fs::write(left.join(name), "left").unwrap();
    }
    let part = |content: &[u8]| left.join(format!("sha256-{}.part", Digest::of(content).hex()));
    let (small, large) = (part(b"small"), part(b"large"));
    std::fs::write(&small, "left").unwrap();
    std::fs::write(&large, vec![1; 20_000]).unwrap();
    std::fs::File::open(&large).unwrap().set_modified(std::time::UNIX_EPOCH + REMEMBERED).unwrap();
    drop(puller(dir.path()));
    let names: Vec<_> = std::fs::read_dir(&left).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, [small]);
}

#[test]
fn only_labels_of_a_pull_ask() {
    let whole = labels("r.example");
    let asked = Asked::of("c", &whole).unwrap();
    assert_eq!((asked.image.as_str(), asked.layer), ("r.example/app:v1", Some(Digest::of(b"layer"))));
    for missing in [LABEL_IMAGE_REF, LABEL_MANIFEST_DIGEST] {
        let mut labels = whole.clone();
        labels.remove(missing);
        assert_eq!(Asked::of("c", &labels), None);
    }
}

#[test]
fn a_registry_that_does_not_answer_is_waited_for_until_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let puller = puller(dir.path());
    // Connections are made, and nothing comes.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let labels = labels(&silent.local_addr().unwrap().to_string());
    let first = waits(&puller, "one", &labels);
    assert!(first >= DEADLINE && first < 10 * DEADLINE, "{first:?}");
    // The next layer of the same pull does not wait; a new pull does.
    assert!(waits(&puller, "two", &labels) < DEADLINE);
    assert!(waits(&puller, "one", &labels) >= DEADLINE);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waits(&puller, "one", &labels));
        puller.close();
        assert!(waiting.join().unwrap() < DEADLINE);
    });
    assert!(started.elapsed() < DEADLINE);
    // What looks for deltas notes what it learns of the registry, and has to end before its directory does.
    drop(silent);
    while Arc::strong_count(&puller) > 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_failure_is_remembered_for_the_layers_above() {
    let dir = tempfile::tempdir().unwrap();
    let puller = puller(dir.path());
    let labels = labels("bad name");
    assert!(waits(&puller, "one", &labels) < DEADLINE);
    let since = |puller: &Puller| match puller.lock()[&Digest::of(b"manifest")].state {
        State::Failed { since } => since,
        _ => panic!("it did not fail"),
    };
    let first = since(&puller);
    assert!(waits(&puller, "two", &labels) < DEADLINE);
    assert_eq!(since(&puller), first);
    assert!(waits(&puller, "one", &labels) < DEADLINE);
    assert!(since(&puller) > first);
}
