//! A server that speaks pinned TLS and HTTP, and answers what a test wants.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::PrivateKeyDer;

use crate::server::{fingerprint, provider};
use crate::url::ServerUrl;

/// A request, as far as a liar reads it.
pub struct Asked {
    pub method: String,
    pub path: String,
}

/// A part of an answer.
pub enum Part {
    Bytes(Vec<u8>),
    /// The last bytes before the connection is cut.
    Cut(Vec<u8>),
    /// A chunk's head and so many bytes, again and again, with a pause between.
    Forever(Vec<u8>, usize, Duration),
}

/// An answer with a length that fits.
pub fn ok(status: &str, fields: &str, body: &[u8]) -> Part {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{fields}\r\n", body.len());
    let head = if status.starts_with("204") { head.replace("content-length: 0\r\n", "") } else { head };
    Part::Bytes([head.as_bytes(), body].concat())
}

/// The answer of a server that begins well.
pub fn document() -> Vec<Part> {
    let json = r#"{"protocol":1,"target":"00112233445566778899aabbccddeeff","fixed_sectors":false,"max_class_log2":36,
        "resume":true,"proofs":[],"lock_days":7,"writer_hold_s":30,"append_len_max":8388608,"free_bytes":1000000,
        "used_bytes":0,"roles":["writer","auditor","marker"]}"#;
    vec![ok("200 OK", "", json.as_bytes())]
}

pub struct Liar {
    pub url: ServerUrl,
}

type Script = Arc<dyn Fn(&Asked) -> Vec<Part> + Send + Sync>;

impl Liar {
    /// Serves until the process ends.
    pub fn start(script: impl Fn(&Asked) -> Vec<Part> + Send + Sync + 'static) -> Liar {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let cert = rcgen::CertificateParams::new(vec!["liar".to_owned()]).unwrap().self_signed(&pair).unwrap();
        let pin = Some(fingerprint(cert.der()).unwrap());
        let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = ServerUrl { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port(), pin };
        let (tls, script): (_, Script) = (Arc::new(tls), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, script) = (tls.clone(), script.clone());
                std::thread::spawn(move || {
                    let connection = rustls::ServerConnection::new(tls).unwrap();
                    // A client that leaves ends its thread.
                    let _ = talk(rustls::StreamOwned::new(connection, stream), &script);
                });
            }
        });
        Liar { url }
    }
}

fn talk(mut stream: rustls::StreamOwned<rustls::ServerConnection, TcpStream>, script: &Script) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0u8];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let text = String::from_utf8(head).unwrap().to_lowercase();
        let len =
            text.split_once("content-length: ").map_or(0, |(_, t)| t.split("\r\n").next().unwrap().parse().unwrap());
        let mut body = vec![0u8; len];
        stream.read_exact(&mut body)?;
        let mut words = text.split(' ');
        let method = words.next().unwrap().to_uppercase();
        let path = words.next().unwrap().to_owned();
        for part in script(&Asked { method, path }) {
            match part {
                Part::Bytes(bytes) => stream.write_all(&bytes)?,
                Part::Cut(bytes) => {
                    stream.write_all(&bytes)?;
                    stream.flush()?;
                    return stream.sock.shutdown(std::net::Shutdown::Both);
                }
                Part::Forever(head, len, pause) => loop {
                    stream.write_all(&[&head[..], &vec![b'x'; len], b"\r\n"].concat())?;
                    stream.flush()?;
                    std::thread::sleep(pause);
                },
            }
        }
        stream.flush()?;
    }
}
