//! Tier 0: `d4c serve` between a registry and many clients, without containerd.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use d4c_image::delta::{self, Present, Wanted};
use d4c_image::registry::{PARTIAL_BYTES, Partials, RegistryOptions};
use d4c_image::source::Source;
use d4c_integration::Sandbox;
use d4c_integration::images::Series;
use d4c_integration::program::d4c;
use d4c_integration::random::Random;
use d4c_integration::registry::{Kind, Registry};
use d4c_integration::serve::Serve;
use dimg::format::Cdimg;

const CLIENTS: usize = 100;
const LOGIN: &str = "Authorization: Basic dGVzdGVyOnNlY3JldA==\r\n";
const MADE: &str = "d4c_serve_jobs_total{how=\"made\"}";
const MERGED: &str = "d4c_serve_jobs_total{how=\"merged\"}";

fn push(registry: &Registry, series: &Series, tags: &[&str]) -> Result<()> {
    tags.iter().try_for_each(|tag| registry.push(series, tag, &format!("app:{tag}")))
}

fn question(registry: &Registry, series: &Series, have: &str, want: &str) -> Result<String> {
    let (have, want) = (series.image(have)?.digest, series.image(want)?.digest);
    Ok(format!("/v1/delta?repository={}&want={want}&have={have}", registry.reference("app")))
}

/// A hundred clients at once ask for two pairs: each is made once, the same for all, and is the delta that `d4c diff` makes; by login only.
#[test]
fn made_once_for_many_who_may_have_it() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start_as(&sandbox, Kind::Strict, true)?;
    push(&registry, &series, &["v1", "v2", "v3"])?;
    let dir = sandbox.dir("deltas")?.to_string_lossy().into_owned();
    // It has no login of its own.
    let mut arguments = vec!["--registry".to_owned(), registry.address()];
    arguments.extend(["--dir".to_owned(), dir]);
    arguments.extend(registry.options().into_iter().skip(2));
    let serve = Serve::start(&sandbox, &arguments)?;
    let questions = [question(&registry, &series, "v1", "v2")?, question(&registry, &series, "v1", "v3")?];

    let refused = serve.get(&questions[0], "")?;
    ensure!(refused.status == 401, "{}", refused.head);
    let wrong = "Authorization: Basic dGVzdGVyOndyb25n\r\n";
    ensure!(serve.get(&questions[0], wrong)?.status == 401, "served with a wrong password");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |number: usize| {
            let (serve, question) = (&serve, &questions[number % 2]);
            scope.spawn(move || serve.get(question, LOGIN))
        };
        let clients: Vec<_> = (0..CLIENTS).map(ask).collect();
        clients.into_iter().map(|client| client.join().expect("a client panicked")).collect()
    });
    let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
    for (number, answer) in answers.iter().enumerate() {
        ensure!(answer.status == 200, "{}", answer.head);
        ensure!(answer.body == answers[number % 2].body, "different answers");
    }
    ensure!(serve.metric(MADE)? == "2", "made {} times", serve.metric(MADE)?);
    // What is there already is for those alone who may fetch the images, too.
    ensure!(serve.get(&questions[0], "")?.status == 401, "served without a login");
    let file = sandbox.path("answer.cdimg");
    std::fs::write(&file, &answers[0].body)?;
    let file = file.to_string_lossy();
    let layout = sandbox.path("layout");
    d4c(["patch", &series.source("v1"), &file, &format!("oci:{}:v2", layout.display())])?.success()?;
    let part = serve.get(&questions[0], &format!("{LOGIN}Range: bytes=100-\r\n"))?;
    ensure!(part.status == 206 && part.body == answers[0].body[100..], "{}", part.head);

    let other = questions[0].replace("/app&", "x/app&");
    ensure!(serve.get(&other, LOGIN)?.status == 403, "another registry was asked");
    let unknown = questions[0].replace(&series.image("v2")?.digest, &format!("sha256:{}", "0".repeat(64)));
    ensure!(serve.get(&unknown, LOGIN)?.status == 404, "an unknown image");
    ensure!(serve.get("/v1/delta?want=x", LOGIN)?.status == 400, "a bad question");
    ensure!(serve.get("/etc/passwd", LOGIN)?.status == 404, "a path");
    serve.stop()?;
    registry.stop()?;
    sandbox.close()
}

/// Where deltas lead there they are merged, and the result is kept: in the registry, with the login of the server.
#[test]
fn deltas_of_the_registry_are_merged_and_pushed() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let series = Series::named("tiny")?;
    let registry = Registry::start(&sandbox)?;
    push(&registry, &series, &["v1", "v2", "v3"])?;
    let image = |tag: &str| format!("docker://{}", registry.reference(&format!("app:{tag}")));
    for [old, new] in [["v1", "v2"], ["v2", "v3"]] {
        d4c(["diff", &image(old), &image(new), "docker://"])?.success()?;
    }
    let serve = Serve::start(&sandbox, &["--registry".to_owned(), registry.address()])?;
    let question = question(&registry, &series, "v1", "v3")?;
    let merged = serve.get(&question, "")?;
    ensure!(merged.status == 200 && merged.head.contains("d4c-how: merged"), "{}", merged.head);
    ensure!(serve.metric(MERGED)? == "1" && serve.metric(MADE)? == "0", "not merged");
    let file = sandbox.path("merged.cdimg");
    std::fs::write(&file, &merged.body)?;
    let verified = d4c(["verify", &file.to_string_lossy(), "--base", &series.source("v1")])?;
    verified.success()?;
    let there = d4c(["diff", "--json", &image("v1"), &image("v3"), "docker://"])?.success()?.stdout;
    let there: serde_json::Value = serde_json::from_str(&there).context("no JSON")?;
    ensure!(there["pushed"] == false && there["bytes"] == merged.body.len(), "{there}");
    serve.stop()?;
    registry.stop()?;
    sandbox.close()
}

/// Passes connections on to `to`, of each answer a random part below `most` bytes, until so many bytes went through in all; then it refuses.
fn cutter(to: &str, seed: u64, most: u64, all: u64) -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let url = format!("http://{}", listener.local_addr()?);
    let to = to.trim_start_matches("http://").to_owned();
    std::thread::spawn(move || {
        let (mut random, mut left) = (Random::new(seed), all);
        for mut client in listener.incoming().flatten() {
            let mut head = [0; 8192];
            let (Ok(read), Ok(mut server)) = (client.read(&mut head), TcpStream::connect(&to)) else {
                continue;
            };
            if server.write_all(&head[..read]).is_err() {
                continue;
            }
            let part = (1 + random.number() % most).min(left);
            left -= part;
            // What the client has no use for is not waited for.
            let _ = std::io::copy(&mut server.take(part), &mut client);
        }
    });
    Ok(url)
}

/// An answer that is cut at random bytes, again and again, is gone on with by the same process and by the next ones: no byte is fetched twice but those
/// that were not recorded.
#[test]
fn an_answer_that_breaks_off_is_gone_on_with() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let dir = sandbox.dir("deltas")?;
    let [old, new] = ["old", "new"].map(|name| sandbox.path(name));
    for tree in [&old, &new] {
        std::fs::create_dir(tree)?;
        let mut bytes = Vec::new();
        std::fs::File::open("/dev/urandom")?.take(3 << 20).read_to_end(&mut bytes)?;
        std::fs::write(tree.join("file"), bytes)?;
    }
    let [old, new] = [old, new].map(|tree| format!("dir:{}", tree.display()));
    let path = dir.join("delta.cdimg");
    d4c(["diff", &old, &new, &path.to_string_lossy()])?.success()?;
    let bytes = std::fs::read(&path)?;
    let size = bytes.len() as u64;
    let delta = Cdimg::open(dimg::content::Bytes::from(bytes.clone()))?;
    let (want, source) =
        (delta.dimg().target().manifest, delta.dimg().parent().context("no parent")?.manifest);
    let serve = Serve::start(&sandbox, &["--dir".to_owned(), dir.to_string_lossy().into_owned()])?;
    let Source::Registry(reference) = Source::parse("docker://127.0.0.1:1/app:x")? else { unreachable!() };
    let have = [Present { manifest: source, chain_id: None, missing_bytes: 0, packed_bytes: 0 }];
    let ask = |server: &str, partials: &Partials| {
        let wanted = Wanted {
            server,
            reference: &reference,
            want,
            have: &have,
            max_bytes: u64::MAX,
            patience: Duration::from_secs(30),
            limit: None,
        };
        delta::ask(&wanted, &RegistryOptions::default(), partials, None)
    };
    for seed in 0..8 {
        let partials = Partials::new(sandbox.dir(&format!("partials-{seed}"))?, PARTIAL_BYTES);
        // A process that ends with what it has, then one that gets the rest.
        let all = Random::new(seed).number() % size;
        ensure!(ask(&cutter(&serve.url(), seed, size / 3, all)?, &partials).is_err(), "{seed}: all of it");
        let received: u64 = partials.list().iter().map(|kept| kept.bytes).sum();
        ensure!(received <= all, "{seed}: {received} of {all}");
        let (served, partial) = ask(&cutter(&serve.url(), seed, size / 3, u64::MAX)?, &partials)?;
        let (map, digest) = partial.digest()?;
        ensure!(*map == *bytes && digest == dimg::Digest::of(&bytes), "{seed}: other bytes");
        ensure!(received + served.received_bytes == size, "{seed}: {received} and {served:?} of {size}");
        partial.remove();
        ensure!(std::fs::read_dir(partials.dir())?.next().is_none(), "{seed}: something is left");
    }
    // What is there is another file's: all of it is fetched anew.
    let partials = Partials::new(sandbox.dir("damaged")?, PARTIAL_BYTES);
    let name = format!("sha256-{}.part", dimg::Digest::of(&bytes).hex());
    std::fs::write(partials.dir().join(name), vec![0; bytes.len()])?;
    let (served, partial) = ask(&serve.url(), &partials)?;
    ensure!(served.received_bytes == size && *partial.digest()?.0 == *bytes, "{served:?} of {size}");
    drop(partial);
    serve.stop()?;
    sandbox.close()
}
