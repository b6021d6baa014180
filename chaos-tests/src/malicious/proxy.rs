//! The malicious server: it stands before a right one, with that one's key and address, and bends what passes.
//!
//! Each connection has a thread; what a trick makes of a request is written as it says, as slowly and as long as it says,
//! until the client leaves.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use zoneward_targets::server::{Running, Server, Settings};

/// What a request is about (`docs/target-protocol.md` section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Document,
    Zones,
    List,
    Begin,
    Append,
    Seal,
    Length,
    Range,
    Prove,
    Pointer,
    OwnerKey,
    Other,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn kind(&self) -> Kind {
        let plain = self.path.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = plain.trim_matches('/').split('/').collect();
        match (self.method.as_str(), parts.as_slice()) {
            ("GET", ["v1"]) => Kind::Document,
            ("GET", ["v1", "zones"]) => Kind::Zones,
            ("GET", ["v1", "zones", _, "sectors"]) => Kind::List,
            ("PUT", ["v1", "zones", _, "incoming", _]) => Kind::Begin,
            ("PATCH", ["v1", "zones", _, "incoming", _]) => match self.field("upload-complete") {
                Some("?1") => Kind::Seal,
                _ => Kind::Append,
            },
            ("HEAD", ["v1", "zones", _, "sectors", _]) => Kind::Length,
            ("GET", ["v1", "zones", _, "sectors", _]) => Kind::Range,
            ("POST", ["v1", "zones", _, "sectors", _, "prove"]) => Kind::Prove,
            ("GET", ["v1", "zones", _, "objects", "pointer.json"]) => Kind::Pointer,
            ("GET", ["v1", "zones", _, "objects", "owner-key.json"]) => Kind::OwnerKey,
            _ => Kind::Other,
        }
    }

    /// The same person's question for something else.
    pub fn instead(&self, method: &str, path: &str) -> Self {
        let kept = |n: &str| n == "authorization" || n == "zoneward-writer";
        let fields = self.fields.iter().filter(|(n, _)| kept(n)).cloned().collect();
        Self { method: method.to_owned(), path: path.to_owned(), fields, body: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.retain(|(n, _)| n != name);
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where the zone's sectors are listed.
    pub fn list_path(&self) -> String {
        let zone = self.path.split('/').nth(3).unwrap_or_default();
        format!("/v1/zones/{zone}/sectors")
    }

    /// The copy that the path names.
    pub fn copy(&self) -> &str {
        self.path.split(['/', '?']).nth(5).unwrap_or_default()
    }

    /// First and last byte that are asked for.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn new(status: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: status.to_owned(), fields: Vec::new(), body: body.into() }
    }

    pub fn field(mut self, name: &str, value: impl ToString) -> Self {
        self.fields.retain(|(n, _)| n != name);
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Status line and fields, with the length of the body.
    pub fn head(&self) -> Vec<u8> {
        let length = (!self.status.starts_with("204")).then(|| format!("content-length: {}\r\n", self.body.len()));
        self.head_with(&length.unwrap_or_default())
    }

    pub fn head_with(&self, more: &str) -> Vec<u8> {
        let of_line = ["connection", "content-length", "transfer-encoding", "date"];
        let fields = self.fields.iter().filter(|(n, _)| !of_line.contains(&n.as_str()));
        let fields: String = fields.map(|(n, v)| format!("{n}: {v}\r\n")).collect();
        format!("HTTP/1.1 {}\r\n{fields}{more}\r\n", self.status).into_bytes()
    }

    pub fn part(&self) -> Part {
        Part::Bytes([self.head(), self.body.clone()].concat())
    }
}

/// A part of what is sent.
#[derive(Clone, Debug)]
pub enum Part {
    Bytes(Vec<u8>),
    /// A byte a second.
    Drip(Vec<u8>),
    /// Nothing, until the client leaves.
    Silence,
    /// The same bytes again and again, as fast as they are taken.
    Forever(Vec<u8>),
    /// The connection ends.
    Cut,
}

/// The right servers behind: of now, and of an older moment if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    now: u16,
    then: Option<u16>,
}

impl Behind {
    pub fn ask(&self, asked: &Asked) -> Result<Answer> {
        ask(self.now, asked)
    }

    pub fn ask_then(&self, asked: &Asked) -> Result<Answer> {
        ask(self.then.context("there is no older server")?, asked)
    }

    /// Copies and their lengths.
    pub fn list(&self, asked: &Asked) -> Result<Vec<(String, u64)>> {
        let all = self.ask(&asked.instead("GET", &asked.list_path()))?;
        let all: serde_json::Value = serde_json::from_slice(&all.body)?;
        Ok(serde_json::from_value(all["sectors"].clone())?)
    }

    /// All bytes of a sector.
    pub fn sector(&self, asked: &Asked, copy: &str) -> Result<Vec<u8>> {
        let path = format!("{}/{copy}", asked.list_path());
        let len = self.ask(&asked.instead("HEAD", &path))?;
        let Some(len) = len.get("zoneward-length").and_then(|t| t.parse::<u64>().ok()) else { return Ok(Vec::new()) };
        let range = format!("bytes=0-{}", len.saturating_sub(1));
        Ok(self.ask(&asked.instead("GET", &path).with("range", &range))?.body)
    }
}

/// One exchange with a right server, without encryption.
fn ask(port: u16, asked: &Asked) -> Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let kept = |n: &str| n != "host" && n != "connection" && n != "content-length";
    let fields: String = asked.fields.iter().filter(|(n, _)| kept(n)).map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let len = match asked.method.as_str() {
        "GET" | "HEAD" => String::new(),
        _ => format!("content-length: {}\r\n", asked.body.len()),
    };
    let head =
        format!("{} {} HTTP/1.1\r\nhost: behind\r\nconnection: close\r\n{len}{fields}\r\n", asked.method, asked.path);
    stream.write_all(&[head.as_bytes(), &asked.body].concat())?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").context("half an answer")?;
    let body = all.split_off(end + 4);
    let (status, fields) = lines(&all);
    let status = status.split_once(' ').map(|(_, s)| s.to_owned()).context("no status")?;
    Ok(Answer { status, fields, body })
}

/// First line and fields, names in lower case.
fn lines(head: &[u8]) -> (String, Vec<(String, String)>) {
    let text = String::from_utf8_lossy(head).into_owned();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let fields = lines.filter_map(|l| l.split_once(':'));
    (first, fields.map(|(n, v)| (n.to_lowercase(), v.trim().to_owned())).collect())
}

/// What is made of a request.
pub type Trick = Arc<dyn Fn(&Asked, &Behind) -> Result<Vec<Part>> + Send + Sync>;

/// How the server meets those who come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Open,
    /// Takes connections and says nothing.
    Deaf,
    /// Ends every connection.
    Shut,
}

struct Way {
    door: Door,
    trick: Trick,
}

/// The malicious server.
pub struct Mallory {
    pub url: String,
    pub port: u16,
    way: Arc<Mutex<Way>>,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    _behind: Vec<Running>,
}

impl Drop for Mallory {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let woken = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        // Its port is free then.
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

/// What a right server does.
pub fn honest() -> Trick {
    Arc::new(|asked, behind| Ok(vec![behind.ask(asked)?.part()]))
}

impl Mallory {
    /// Serves a folder, honestly at first; `then` is the same folder at an older moment. Port 0 is any.
    pub fn start(data: &Path, then: Option<&Path>, port: u16) -> Result<Self> {
        let serve = |data: &Path| -> Result<_> {
            let server = Server::open(data, Settings::default(), Box::new(|_| {}))?;
            let running = server.start_plain_to_measure(TcpListener::bind("127.0.0.1:0")?)?;
            Ok((server.fingerprint(), running))
        };
        let (fingerprint, now) = serve(data)?;
        let then = then.map(|d| Ok::<_, anyhow::Error>(serve(d)?.1)).transpose()?;
        let behind = Behind { now: now.address.port(), then: then.as_ref().map(|r| r.address.port()) };
        let tls = Arc::new(tls(data)?);
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let port = listener.local_addr()?.port();
        let way = Arc::new(Mutex::new(Way { door: Door::Open, trick: honest() }));
        let ended = Arc::new(AtomicBool::new(false));
        let (all, over) = (way.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (way, tls) = (all.clone(), tls.clone());
                // A client that leaves ends its thread.
                std::thread::spawn(move || drop(meet(stream, tls, &way, behind)));
            }
        });
        let url = format!("zoneward://127.0.0.1:{port}/#{fingerprint}");
        let behind = std::iter::once(now).chain(then).collect();
        Ok(Self { url, port, way, ended, thread: Some(thread), _behind: behind })
    }

    pub fn play(&self, door: Door, trick: Trick) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = Way { door, trick };
    }
}

/// The key of the server behind: whoever pinned it believes this one too.
fn tls(data: &Path) -> Result<ServerConfig> {
    let own = data.join("server");
    let chain = CertificateDer::pem_slice_iter(&fs::read(own.join("certificate.pem"))?).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(&fs::read(own.join("key.pem"))?);
    let (chain, key) = (chain.ok().context("no certificate")?, key.ok().context("no key")?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(tls.with_no_client_auth().with_single_cert(chain, key)?)
}

type Stream = StreamOwned<ServerConnection, TcpStream>;

fn meet(mut socket: TcpStream, tls: Arc<ServerConfig>, way: &Mutex<Way>, behind: Behind) -> Result<()> {
    let door = || way.lock().unwrap_or_else(PoisonError::into_inner).door;
    match door() {
        Door::Open => {}
        Door::Deaf => return Ok(until_it_leaves(&mut socket)?),
        Door::Shut => return Ok(()),
    }
    socket.set_nodelay(true)?;
    let mut stream = StreamOwned::new(ServerConnection::new(tls)?, socket);
    while let Some(asked) = request(&mut stream)? {
        if door() != Door::Open {
            return Ok(stream.sock.shutdown(Shutdown::Both)?);
        }
        let trick = way.lock().unwrap_or_else(PoisonError::into_inner).trick.clone();
        for part in trick(&asked, &behind)? {
            match part {
                Part::Bytes(bytes) => stream.write_all(&bytes)?,
                Part::Drip(bytes) => {
                    for byte in bytes {
                        stream.write_all(&[byte])?;
                        stream.flush()?;
                        std::thread::sleep(Duration::from_secs(1));
                    }
                }
                Part::Silence => {
                    stream.flush()?;
                    return Ok(until_it_leaves(&mut stream)?);
                }
                Part::Forever(bytes) => loop {
                    stream.write_all(&bytes)?;
                },
                Part::Cut => return Ok(stream.sock.shutdown(Shutdown::Both)?),
            }
        }
        stream.flush()?;
    }
    Ok(())
}

fn until_it_leaves(stream: &mut impl Read) -> io::Result<()> {
    let mut sink = [0u8; 4096];
    while stream.read(&mut sink)? > 0 {}
    Ok(())
}

/// The next request; `None` when the client is done.
fn request(stream: &mut Stream) -> Result<Option<Asked>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0u8];
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.extend(byte);
    }
    let (first, fields) = lines(&head);
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut asked = Asked { method, path, fields, body: Vec::new() };
    let len = asked.field("content-length").and_then(|t| t.parse().ok()).unwrap_or(0);
    asked.body.resize(len, 0);
    stream.read_exact(&mut asked.body)?;
    Ok(Some(asked))
}
