//! A proxy in front of a registry that does to its answers what networks and registries do, and counts what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::random::mixed;

/// What happens to an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// This status instead, with `Retry-After: 1` where a registry would send that.
    Status(u16),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// `Content-Length` says so many bytes more than there are.
    Longer(u64),
    /// `Content-Length` says one byte less than there are.
    Shorter,
    /// A bit of the body is another.
    Flipped,
    /// The body comes in pieces with pauses.
    Slow,
}

/// The fault of a request, if any: three of ten have one. The same number always has the same.
pub fn random_fault(number: u64) -> Option<Fault> {
    let mixed = mixed(number);
    if mixed % 10 >= 3 {
        return None;
    }
    let size = usize::try_from((mixed >> 16) % 2000).unwrap_or(0);
    Some(match (mixed >> 8) % 12 {
        0 => Fault::Status(401),
        1 => Fault::Status(404),
        2 => Fault::Status(429),
        3 => Fault::Status(500),
        4 => Fault::Status(503),
        5..=7 => Fault::Cut(size),
        8 => Fault::Longer(1 + size as u64),
        9 => Fault::Flipped,
        10 => Fault::Slow,
        _ => Fault::Shorter,
    })
}

/// Decides by the request's line (`GET /v2/…`) and its number from 0 on.
pub type Plan = Box<dyn Fn(&str, u64) -> Option<Fault> + Send + Sync>;

/// A running proxy. It ends with the process.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: String,
    plan: Plan,
    requests: AtomicU64,
    faults: AtomicU64,
    bytes: AtomicU64,
    lines: Mutex<Vec<String>>,
    watched: Mutex<Watched>,
    changed: Condvar,
}

/// Answers to requests that have a text in their line.
#[derive(Default)]
struct Watched {
    text: Option<String>,
    /// Bytes of their bodies passed to clients.
    passed: u64,
    /// No more are for now: who has more waits.
    limit: u64,
    /// Those that began to wait before are let go, by the end of their connection.
    round: u64,
}

impl Proxy {
    /// Starts one in front of the registry at `to`.
    ///
    /// # Errors
    /// Fails when it cannot listen.
    pub fn start(to: &str, plan: Plan) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            to: to.to_owned(),
            plan,
            requests: AtomicU64::default(),
            faults: AtomicU64::default(),
            bytes: AtomicU64::default(),
            lines: Mutex::default(),
            watched: Mutex::default(),
            changed: Condvar::new(),
        });
        let ours = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&ours);
                // What goes wrong is what the client sees: a connection that ends.
                std::thread::spawn(move || drop(shared.serve(client)));
            }
        });
        Ok(Self { port, shared })
    }

    /// A reference to an image behind it.
    pub fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// From now on counts bodies of answers to requests with `text` in their line, and stops them all together after so many bytes.
    pub fn stop_after(&self, text: &str, limit: u64) {
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        *watched = Watched { text: Some(text.to_owned()), passed: 0, limit, round: watched.round };
    }

    /// Stops no more; the connections that were stopped end.
    pub fn go_on(&self) {
        let mut watched = self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
        (watched.limit, watched.round) = (u64::MAX, watched.round + 1);
        self.shared.changed.notify_all();
    }

    /// Bytes of the bodies that [`Proxy::stop_after`] has counted.
    pub fn watched_bytes(&self) -> u64 {
        self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner).passed
    }

    /// Bytes of bodies passed to clients.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Faults made.
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }

    /// The lines of all requests so far.
    pub fn lines(&self) -> Vec<String> {
        self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Everything up to the empty line, and what came with it of the body.
fn head(from: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok((String::from_utf8(bytes)?, rest));
        }
        match from.read(&mut buffer)? {
            0 => bail!("ended within a head"),
            _ if bytes.is_empty() && buffer[0] == 0x16 => bail!("TLS, which is not spoken here"),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

/// The lines of a head without those of these headers.
fn without(head: &str, names: &[&str]) -> String {
    let is_named = |line: &str| {
        line.split_once(':').is_some_and(|(name, _)| names.iter().any(|one| one.eq_ignore_ascii_case(name)))
    };
    let kept = head.trim_end().split("\r\n").filter(|line| !is_named(line));
    kept.flat_map(|line| [line, "\r\n"]).collect()
}

fn length(head: &str) -> Option<u64> {
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    };
    head.split("\r\n").find_map(header)
}

impl Shared {
    /// One request, one answer: connections are not kept.
    fn serve(&self, mut client: TcpStream) -> Result<()> {
        let (request, body) = head(&mut client)?;
        let line = request.split(" HTTP/").next().unwrap_or_default().to_owned();
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        let fault = (self.plan)(&line, number);
        self.faults.fetch_add(u64::from(fault.is_some()), Ordering::Relaxed);
        if let Some(Fault::Status(status)) = fault {
            let wait = if matches!(status, 429 | 503) { "Retry-After: 1\r\n" } else { "" };
            write!(
                client,
                "HTTP/1.1 {status} Fault\r\n{wait}Content-Length: 0\r\nConnection: close\r\n\r\n"
            )?;
            return Ok(());
        }
        let mut server = TcpStream::connect(&self.to)?;
        server.write_all(without(&request, &["connection"]).as_bytes())?;
        server.write_all(b"Connection: close\r\n\r\n")?;
        server.write_all(&body)?;
        let sent = body.len() as u64;
        let left = length(&request).unwrap_or(0).saturating_sub(sent);
        std::io::copy(&mut client.try_clone()?.take(left), &mut server)?;
        let (answer, start) = head(&mut server)?;
        self.answer(&mut client, &line, &answer, (start, server), fault)
    }

    fn answer(
        &self,
        client: &mut TcpStream,
        line: &str,
        answer: &str,
        (start, mut server): (Vec<u8>, TcpStream),
        fault: Option<Fault>,
    ) -> Result<()> {
        let is_head = line.starts_with("HEAD");
        let is_chunked = answer.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let mut start = start;
        // Of what tells its length, each part is passed on as it comes.
        let length = match length(answer) {
            Some(length) => length,
            None => {
                server.read_to_end(&mut start)?;
                start.len() as u64
            }
        };
        let told = match fault {
            Some(Fault::Longer(more)) => length + more,
            Some(Fault::Shorter) => length.saturating_sub(1),
            _ => length,
        };
        let mut head = without(answer, &["connection", "content-length"]);
        if !is_chunked {
            head += &format!("Content-Length: {told}\r\n");
        }
        write!(client, "{head}Connection: close\r\n\r\n")?;
        if !is_head {
            self.body(client, line, &mut start.chain(server), length, fault)?;
        }
        client.shutdown(Shutdown::Both).context("end")
    }

    /// Passes a body of `length` bytes on.
    fn body(
        &self,
        client: &mut TcpStream,
        line: &str,
        from: &mut impl Read,
        length: u64,
        fault: Option<Fault>,
    ) -> Result<()> {
        let end = if let Some(Fault::Cut(after)) = fault { length.min(after as u64) } else { length };
        let flipped = (fault == Some(Fault::Flipped)).then_some(length / 2);
        let pause = (fault == Some(Fault::Slow)).then(|| length.div_ceil(5).max(1));
        let mut buffer = vec![0; 64 << 10];
        let mut at = 0;
        while at < end {
            let wanted = (end - at).min(pause.unwrap_or(u64::MAX)).min(buffer.len() as u64);
            let read = from.read(&mut buffer[..usize::try_from(wanted)?])?;
            if read == 0 {
                break;
            }
            let part = &mut buffer[..read];
            if let Some(byte) = flipped.and_then(|place| place.checked_sub(at))
                && let Some(byte) = part.get_mut(usize::try_from(byte)?)
            {
                *byte ^= 1;
            }
            self.pass(client, line, part)?;
            at += read as u64;
            if pause.is_some_and(|every| at % every < read as u64) {
                std::thread::sleep(Duration::from_millis(25));
            }
        }
        Ok(())
    }

    /// Passes a part of a body on, and counts it, once it may.
    fn pass(&self, client: &mut TcpStream, line: &str, mut part: &[u8]) -> Result<()> {
        while !part.is_empty() {
            let now = part.len().min(self.allowed(line, part.len())?);
            client.write_all(&part[..now])?;
            self.bytes.fetch_add(now as u64, Ordering::Relaxed);
            part = &part[now..];
        }
        Ok(())
    }

    /// How many of `wanted` bytes may be passed now; they are counted as passed where they are watched.
    fn allowed(&self, line: &str, wanted: usize) -> Result<usize> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let round = watched.round;
        loop {
            if !watched.text.as_ref().is_some_and(|text| line.contains(text)) {
                return Ok(wanted);
            }
            if watched.round != round {
                bail!("stopped, and let go");
            }
            let left = watched.limit.saturating_sub(watched.passed);
            if left > 0 {
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(wanted);
                watched.passed += now as u64;
                return Ok(now);
            }
            watched = self.changed.wait(watched).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
