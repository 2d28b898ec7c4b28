//! Ordinary pulls with a `d4c serve` to ask, and with what only seems to be one.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use d4c_integration::Sandbox;
use d4c_integration::containerd::{Containerd, Version};
use d4c_integration::faults::Proxy;
use d4c_integration::images::Series;
use d4c_integration::program::d4c;
use d4c_integration::registry::{Kind, Registry};
use d4c_integration::serve::Serve;
use d4c_integration::snapshotter::Snapshotter;

use super::within::{MADE, PULLED, pull, release};
use crate::VERSION;

const DEADLINE: u32 = 3;

/// What a server that is none answers.
#[derive(Clone)]
enum Lie {
    Status(u16),
    /// These bytes, as a whole delta.
    Body(Vec<u8>),
    /// The first half of these, again and again.
    Half(Vec<u8>),
    /// Nothing, for longer than a pull waits.
    Silence,
}

/// A server whose answers are given one after the other; what it was asked.
struct Liar {
    url: String,
    lie: Arc<Mutex<Lie>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Liar {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let (lie, asked) = (Arc::new(Mutex::new(Lie::Silence)), Arc::new(Mutex::new(Vec::new())));
        let (lies, questions) = (Arc::clone(&lie), Arc::clone(&asked));
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut head = [0; 8192];
                let read = client.read(&mut head).unwrap_or(0);
                let line =
                    String::from_utf8_lossy(&head[..read]).lines().next().unwrap_or_default().to_owned();
                questions.lock().expect("no panic").push(line);
                let lie = lies.lock().expect("no panic").clone();
                let _ = match lie {
                    Lie::Status(status) => {
                        write!(client, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n")
                    }
                    Lie::Body(body) => answer(&mut client, &body, body.len()),
                    Lie::Half(body) => answer(&mut client, &body, body.len() / 2),
                    Lie::Silence => {
                        thread::spawn(move || (thread::sleep(Duration::from_secs(60)), client));
                        Ok(())
                    }
                };
            }
        });
        Ok(Self { url, lie, asked })
    }

    fn will(&self, lie: Lie) {
        *self.lie.lock().expect("no panic") = lie;
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }
}

fn answer(client: &mut impl Write, body: &[u8], sent: usize) -> std::io::Result<()> {
    write!(
        client,
        "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    client.write_all(&body[..sent])
}

/// A registry without deltas: of who makes them on demand the image after the first comes, started from what containerd pulled itself, with the
/// registry's login; the one after that starts from the plugin's.
#[test]
fn a_server_is_asked_where_the_registry_has_no_delta() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let registry = Registry::start_as(&sandbox, Kind::WithoutReferrers, true)?;
    let series = Series::named("tiny")?;
    for tag in ["v1", "v2", "v3"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    let options = registry.options();
    let [_, auth_file, _, hosts_dir] = options.as_slice() else { anyhow::bail!("{options:?}") };
    let dir = sandbox.dir("made")?.to_string_lossy().into_owned();
    let words = ["--registry", &registry.address(), "--dir", &dir, "--hosts-dir", hosts_dir];
    let serve = Serve::start(&sandbox, &words.map(str::to_owned))?;
    let within =
        format!("serve = \"{}\"\nauth_file = {auth_file:?}\nhosts_dirs = [{hosts_dir:?}]\n", serve.url());
    let plugin = Snapshotter::start_pulling_with(&sandbox, 30, "", &within, &[])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let name = |tag: &str| registry.reference(&format!("app:{tag}"));
    for (tag, made) in [("v1", 0), ("v2", 1), ("v3", 2)] {
        let name = name(tag);
        let pull = [
            "images",
            "pull",
            "--hosts-dir",
            hosts_dir,
            "--user",
            "tester:secret",
            "--snapshotter",
            "di3fs",
            &name,
        ];
        containerd.ctr(pull)?.success()?;
        let log = plugin.log();
        ensure!(log.matches(MADE).count() == made && log.matches(PULLED).count() == 1, "{tag}: {log}");
        ensure!(
            serve.metric("d4c_serve_jobs_total{how=\"made\"}")? == made.to_string(),
            "{tag}: not by the server"
        );
    }
    ensure!(plugin.log().matches("took over an image").count() == 1, "{}", plugin.log());
    let pulled = |tag: &str| -> Result<bool> {
        let (image, blobs) = (series.image(tag)?, containerd.blobs()?);
        Ok(image.layers().iter().skip(1).any(|(layer, _)| blobs.contains(layer)))
    };
    ensure!(pulled("v1")? && !pulled("v2")? && !pulled("v3")?, "layers were pulled");
    for (tag, expected) in [("v2", "v1\nversion 2\n"), ("v3", "v3\nversion 2\n")] {
        let seen = release(&containerd, &name(tag))?;
        ensure!(seen == expected, "{tag}: {seen}");
    }
    serve.stop()?;
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}

/// A server that is not there, refuses, lies, breaks off or is silent: within the deadline the image comes by its layers, and one line tells why.
/// One delta of the registry is better than asking.
#[test]
fn a_server_of_no_use_leads_to_the_layers() -> Result<()> {
    if VERSION != Version::Two {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    let series = Series::named("tiny")?;
    for tag in ["v1", "v2", "v3"] {
        registry.push(&series, tag, &format!("app:{tag}"))?;
    }
    let image = |tag: &str| format!("docker://{}", registry.reference(&format!("app:{tag}")));
    let delta = |old: &str, new: &str| -> Result<Vec<u8>> {
        let path = sandbox.path(&format!("{old}-{new}.cdimg"));
        d4c(["diff", &image(old), &image(new), &path.to_string_lossy()])?.success()?;
        Ok(std::fs::read(path)?)
    };
    let (right, other, elsewhere) = (delta("v1", "v2")?, delta("v1", "v3")?, delta("v3", "v2")?);
    let mut damaged = right.clone();
    let middle = damaged.len() * 2 / 3;
    damaged[middle] ^= 1;
    let liar = Liar::start()?;
    let within = format!("serve = \"{}\"", liar.url);
    let plugin = Snapshotter::start_pulling_with(&sandbox, DEADLINE, "", &within, &["--diff-ids", "eager"])?;
    let containerd = Containerd::start(&sandbox, VERSION)?;
    let proxy = Proxy::start(&registry.address(), Box::new(|_, _| None))?;
    pull(&containerd, &proxy.reference("app:v1"))?.success()?;
    ensure!(liar.asked().is_empty(), "asked without an image to start from");
    let (have, want) = (series.image("v1")?.digest, series.image("v2")?.digest);
    let second = proxy.reference("app:v2");
    let cases = [
        (Lie::Status(404), "status 404"),
        (Lie::Status(500), "status 500"),
        (Lie::Body(b"no delta".to_vec()), "is no cdimg"),
        (Lie::Body(other), "makes another image"),
        (Lie::Body(elsewhere), "an image that is not here"),
        (Lie::Half(right.clone()), ""),
        (Lie::Body(damaged), ""),
        (Lie::Silence, "timed out"),
    ];
    for (number, (lie, told)) in cases.into_iter().enumerate() {
        liar.will(lie);
        let (before, started) = (plugin.log().lines().count(), Instant::now());
        pull(&containerd, &second)?.success()?;
        ensure!(started.elapsed() < Duration::from_secs(10), "case {number} took {:?}", started.elapsed());
        let asked = liar.asked();
        let is_question = |line: &String| line.contains(&format!("want={want}&have={have}"));
        ensure!(!asked.is_empty() && asked.iter().all(is_question), "case {number}: {asked:?}");
        let log: Vec<String> = plugin.log().lines().skip(before).map(str::to_owned).collect();
        let lines = log.iter().filter(|line| line.contains(PULLED) && line.contains(told));
        ensure!(lines.count() == 1 && !log.iter().any(|line| line.contains(MADE)), "case {number}: {log:?}");
        let seen = release(&containerd, &second)?;
        ensure!(seen == "v1\nversion 2\n", "case {number}: {seen}");
        containerd.ctr(["images", "rm", "--sync", &second])?.success()?;
    }
    // The right answer; then a delta of the registry, better than asking.
    liar.will(Lie::Body(right));
    pull(&containerd, &second)?.success()?;
    ensure!(plugin.log().matches(MADE).count() == 1, "{}", plugin.log());
    liar.asked();
    d4c(["diff", &image("v2"), &image("v3"), "docker://"])?.success()?;
    pull(&containerd, &proxy.reference("app:v3"))?.success()?;
    ensure!(plugin.log().matches(MADE).count() == 2 && liar.asked().is_empty(), "{}", plugin.log());
    let seen = release(&containerd, &second)?;
    ensure!(seen == "v1\nversion 2\n", "{seen}");
    containerd.stop()?;
    plugin.terminate()?;
    registry.stop()?;
    sandbox.close()
}
