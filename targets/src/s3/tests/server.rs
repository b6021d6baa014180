//! A real S3 server in this process, over a folder; what it gets wrong where S3 is precise is put right here. Between it
//! and its clients stands a switch that can break single requests. Other crates' tests include this file.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result};

pub const KEY_ID: &str = "zoneward-test";
pub const SECRET: &str = "not-so-secret-9Zp";
pub const BUCKET: &str = "backups";

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What the switch does to a request.
#[derive(Clone, Debug)]
#[allow(dead_code)] // Each test crate uses those it needs.
pub enum Break {
    /// Answers by itself.
    Answer { status: u16, code: &'static str, retry_after: Option<u64> },
    /// Carries the request out, then closes the connection without an answer.
    LoseAnswer,
    /// Carries it out, and sends half of the answer's bytes with the length of all.
    Half,
    /// Carries it out, and sends bytes without end.
    Endless,
    /// Answers with these bytes.
    Nonsense(&'static str),
}

type Rule = Box<dyn FnMut(&str, &str) -> Option<Break> + Send>;

/// The server; it ends when this is dropped.
#[allow(dead_code)] // Each test crate uses what it needs.
pub struct Server {
    pub dir: tempfile::TempDir,
    pub port: u16,
    rule: Arc<Mutex<Option<Rule>>>,
    /// Requests that came in.
    pub requests: Arc<AtomicU64>,
    /// Bytes of content that went out.
    pub out_bytes: Arc<AtomicU64>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[allow(dead_code)]
impl Server {
    pub fn start() -> Server {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let rule: Arc<Mutex<Option<Rule>>> = Arc::default();
        let (requests, out_bytes): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let (path, switch, count, out) = (dir.path().to_owned(), rule.clone(), requests.clone(), out_bytes.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                let service = service(&path);
                let serve = async {
                    loop {
                        let Ok((socket, _)) = listener.accept().await else { continue };
                        let _ = socket.set_nodelay(true);
                        let (service, switch, count, out) =
                            (service.clone(), switch.clone(), count.clone(), out.clone());
                        let handler = hyper::service::service_fn(move |request: hyper::Request<_>| {
                            count.fetch_add(1, Ordering::Relaxed);
                            let (got, out) = (request.method() == hyper::Method::GET, out.clone());
                            let answer = answer(service.clone(), switch.clone(), request);
                            async move {
                                answer.await.inspect(|response| {
                                    let len = response
                                        .headers()
                                        .get("content-length")
                                        .and_then(|v| v.to_str().ok()?.parse().ok());
                                    let len =
                                        len.unwrap_or_else(|| hyper::body::Body::size_hint(response.body()).lower());
                                    out.fetch_add(if got { len } else { 0 }, Ordering::Relaxed);
                                })
                            }
                        });
                        tokio::spawn(async move {
                            let http = hyper::server::conn::http1::Builder::new();
                            let _ = http.serve_connection(TokioIo::new(socket), handler).await;
                        });
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
            runtime.shutdown_timeout(Duration::from_secs(2));
        });
        let port = told.recv().unwrap();
        Server { dir, port, rule, requests, out_bytes, stop: Some(stop), thread: Some(thread) }
    }

    /// The URL of a target in the bucket.
    pub fn url(&self, folder: &str) -> String {
        format!("s3+http://127.0.0.1:{}/{BUCKET}/{folder}", self.port)
    }

    /// Breaks requests as the rule says, by method and path with query, until the next call.
    pub fn rule(&self, rule: impl FnMut(&str, &str) -> Option<Break> + Send + 'static) {
        *self.rule.lock().unwrap() = Some(Box::new(rule));
    }

    pub fn mend(&self) {
        *self.rule.lock().unwrap() = None;
    }

    /// Names of unfinished uploads' parts in the server's folder.
    pub fn loose_parts(&self) -> usize {
        let names = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|n| n.to_string_lossy().starts_with(".upload_id-")).count()
    }

    /// All files in the bucket.
    pub fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
            for e in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                if e.file_type().unwrap().is_dir() { walk(&e.path(), out) } else { out.push(e.path()) }
            }
        }
        let mut out = Vec::new();
        walk(&self.dir.path().join(BUCKET), &mut out);
        out
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn service(dir: &Path) -> S3Service {
    let fs = s3s_fs::FileSystem::new(dir).unwrap();
    let mut builder = S3ServiceBuilder::new(Precise { fs, dir: dir.to_owned() });
    builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
    builder.build()
}

async fn answer(
    service: S3Service,
    switch: Arc<Mutex<Option<Rule>>>,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<hyper::Response<Body>, std::io::Error> {
    let (method, uri) = (request.method().to_string(), request.uri().to_string());
    let broken = switch.lock().unwrap().as_mut().and_then(|rule| rule(&method, &uri));
    let full = |bytes: Bytes| Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    if let Some(Break::Answer { status, code, retry_after }) = broken {
        // As real servers do: what is sent is read first.
        let _ = request.into_body().collect().await;
        let mut response = hyper::Response::builder().status(status);
        if let Some(seconds) = retry_after {
            response = response.header("retry-after", seconds);
        }
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>\u{1b}[2Jno</Message></Error>");
        return Ok(response.body(full(body.into())).unwrap());
    }
    let response =
        service.call(request.map(s3s::Body::from)).await.map_err(|e| std::io::Error::other(format!("{e:?}")))?;
    let (mut parts, body) = response.into_parts();
    match broken {
        None | Some(Break::Answer { .. }) => {
            let body = body.map_err(|e| std::io::Error::other(e.to_string())).boxed_unsync();
            Ok(hyper::Response::from_parts(parts, body))
        }
        Some(Break::LoseAnswer) => Err(std::io::Error::other("lost")),
        Some(Break::Nonsense(text)) => {
            parts.headers.remove("content-length");
            Ok(hyper::Response::from_parts(parts, full(text.into())))
        }
        Some(Break::Half) => {
            let bytes = BodyExt::collect(body).await.map_err(|e| std::io::Error::other(e.to_string()))?.to_bytes();
            let half = bytes.slice(..bytes.len() / 2);
            let pieces =
                futures_util::stream::iter([Ok(hyper::body::Frame::data(half)), Err(std::io::Error::other("cut"))]);
            parts.headers.insert("content-length", bytes.len().into());
            Ok(hyper::Response::from_parts(parts, BodyExt::boxed_unsync(StreamBody::new(pieces))))
        }
        Some(Break::Endless) => {
            parts.headers.remove("content-length");
            let piece = Bytes::from(vec![0x58; 64 << 10]);
            let pieces: BoxStream<'static, Result<_, std::io::Error>> =
                futures_util::stream::repeat_with(move || Ok(hyper::body::Frame::data(piece.clone()))).boxed();
            Ok(hyper::Response::from_parts(parts, BodyExt::boxed_unsync(StreamBody::new(pieces))))
        }
    }
}

/// The server crate's file system, with lists of parts as S3 gives them: in order, with tags, and none for an upload
/// that is not there.
struct Precise {
    fs: s3s_fs::FileSystem,
    dir: PathBuf,
}

macro_rules! pass {
    ($($name:ident $input:ident $output:ident),* $(,)?) => {
        #[async_trait::async_trait]
        impl S3 for Precise {
            $(async fn $name(&self, req: S3Request<$input>) -> S3Result<S3Response<$output>> {
                self.fs.$name(req).await
            })*

            async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
                let id = req.input.upload_id.clone();
                if !self.dir.join(format!(".upload-{id}.json")).exists() {
                    return Err(s3s::s3_error!(NoSuchUpload));
                }
                let mut response = self.fs.list_parts(req).await?;
                let parts = response.output.parts.get_or_insert_default();
                parts.sort_by_key(|p| p.part_number);
                for p in parts {
                    let n = p.part_number.unwrap_or(0);
                    let path = self.dir.join(format!(".upload_id-{id}.part-{n}"));
                    let bytes = std::fs::read(path).map_err(|e| s3s::s3_error!(e, InternalError))?;
                    p.e_tag = Some(ETag::Strong(zoneward_sectors::ids::hex(&<md5::Md5 as md5::Digest>::digest(&bytes))));
                }
                Ok(response)
            }

            async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
                match self.fs.delete_object(req).await {
                    Err(e) if *e.code() == s3s::S3ErrorCode::NoSuchKey => Ok(S3Response::new(DeleteObjectOutput::default())),
                    r => r,
                }
            }
        }
    };
}

pass!(
    get_object GetObjectInput GetObjectOutput,
    head_object HeadObjectInput HeadObjectOutput,
    put_object PutObjectInput PutObjectOutput,
    list_objects_v2 ListObjectsV2Input ListObjectsV2Output,
    create_multipart_upload CreateMultipartUploadInput CreateMultipartUploadOutput,
    upload_part UploadPartInput UploadPartOutput,
    complete_multipart_upload CompleteMultipartUploadInput CompleteMultipartUploadOutput,
    abort_multipart_upload AbortMultipartUploadInput AbortMultipartUploadOutput,
);
