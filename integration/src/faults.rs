//! A proxy in front of a registry that does to its answers what networks and registries do, and counts what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
        let mut body = start;
        server.read_to_end(&mut body)?;
        self.answer(&mut client, &line, &answer, body, fault)
    }

    fn answer(
        &self,
        client: &mut TcpStream,
        line: &str,
        answer: &str,
        mut body: Vec<u8>,
        fault: Option<Fault>,
    ) -> Result<()> {
        let is_head = line.starts_with("HEAD");
        let told = length(answer).unwrap_or(body.len() as u64);
        let told = match fault {
            Some(Fault::Longer(more)) => told + more,
            Some(Fault::Shorter) => told.saturating_sub(1),
            _ => told,
        };
        if fault == Some(Fault::Flipped)
            && let Some(byte) = body.len().checked_div(2).and_then(|middle| body.get_mut(middle))
        {
            *byte ^= 1;
        }
        if let Some(Fault::Cut(after)) = fault {
            body.truncate(after);
        }
        let is_chunked = answer.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let mut head = without(answer, &["connection", "content-length"]);
        if !is_chunked {
            head += &format!("Content-Length: {told}\r\n");
        }
        write!(client, "{head}Connection: close\r\n\r\n")?;
        if !is_head {
            self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
            let pieces = if fault == Some(Fault::Slow) { 5 } else { 1 };
            for piece in body.chunks(body.len().div_ceil(pieces).max(1)) {
                client.write_all(piece)?;
                if pieces > 1 {
                    std::thread::sleep(Duration::from_millis(25));
                }
            }
        }
        client.shutdown(Shutdown::Both).context("end")
    }
}
