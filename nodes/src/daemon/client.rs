//! The command line's side of the socket in the home.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use zoneward_actors::board::StepReport;
use zoneward_actors::cluster::CommandError;
use zoneward_actors::errors::ZoneError;
use zoneward_actors::home::Home;
use zoneward_actors::zone::Authority;
use zoneward_consensus::command::Command;
use zoneward_consensus::limits::EXPORT_LEN_MAX;
use zoneward_consensus::model::State;

use super::local::{Refused, Status};

/// How long the daemon may take for an answer: a command waits for a majority.
const WAIT: Duration = Duration::from_secs(60);

/// Why the daemon gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon serves {0}")]
    NoDaemon(PathBuf),
    #[error("the daemon broke off")]
    Broken(#[source] std::io::Error),
    #[error("the daemon gave no answer within {} s", WAIT.as_secs())]
    Late,
    #[error("the daemon's answer cannot be read: does it run another release?")]
    Answer,
    #[error("{}", .0.text)]
    Refused(Refused),
    #[error("the daemon does not know this")]
    NotFound,
}

impl From<ClientError> for ZoneError {
    fn from(e: ClientError) -> Self {
        match e {
            ClientError::Refused(r) if r.code == "lease" => ZoneError::LeaseEnded,
            ClientError::Refused(r) if r.code == "no_leader" => CommandError::NoLeader.into(),
            // The daemon could not, which is no refusal by the zone.
            ClientError::Refused(r) if r.code == "failed" => CommandError::Stopped(r.text).into(),
            ClientError::Refused(r) => {
                CommandError::Refused { code: r.code, text: r.text.trim_start_matches("the zone refuses: ").to_owned() }
                    .into()
            }
            ClientError::Late => CommandError::Unknown.into(),
            e => CommandError::Stopped(crate::errors::chain(&e)).into(),
        }
    }
}

/// Talks to the daemon of a home.
#[derive(Clone, Debug)]
pub struct Client {
    dir: PathBuf,
}

impl Client {
    /// The daemon of this home, if one answers.
    pub fn connect(dir: &Path) -> Result<Self, ClientError> {
        let client = Self { dir: dir.to_owned() };
        let folder = std::fs::File::open(dir).map_err(|_| ClientError::NoDaemon(dir.to_owned()))?;
        std::os::unix::net::UnixStream::connect(super::socket::short(&folder))
            .map_err(|_| ClientError::NoDaemon(dir.to_owned()))?;
        Ok(client)
    }

    /// Asks; 204 and empty answers are `None`.
    fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Option<Bytes>, ClientError> {
        let broken = |e: std::io::Error| ClientError::Broken(e);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
        let asked = async { tokio::time::timeout(WAIT, self.exchange(method, path, body)).await };
        runtime.block_on(asked).unwrap_or(Err(ClientError::Late))
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Option<Bytes>, ClientError> {
        let broken = |e: hyper::Error| ClientError::Broken(std::io::Error::other(e));
        let no_daemon = |_| ClientError::NoDaemon(self.dir.clone());
        let folder = std::fs::File::open(&self.dir).map_err(no_daemon)?;
        let stream = UnixStream::connect(super::socket::short(&folder)).await.map_err(no_daemon)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let exchange = async move {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "localhost")
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))
                .map_err(|_| ClientError::Answer)?;
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            let limited = Limited::new(answer.into_body(), EXPORT_LEN_MAX as usize);
            let bytes = limited.collect().await.map_err(|e| ClientError::Broken(std::io::Error::other(e)))?.to_bytes();
            match status {
                StatusCode::OK | StatusCode::CREATED => Ok(Some(bytes)),
                StatusCode::NO_CONTENT => Ok(None),
                StatusCode::NOT_FOUND => Err(ClientError::NotFound),
                _ => Err(serde_json::from_slice(&bytes).map_or(ClientError::Answer, ClientError::Refused)),
            }
        };
        tokio::pin!(exchange);
        tokio::pin!(connection);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection may end just before its last answer is read.
            _ = &mut connection => exchange.await,
        }
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ClientError> {
        let bytes = self.ask(Method::GET, path, Vec::new())?;
        bytes.map(|b| serde_json::from_slice(&b).map_err(|_| ClientError::Answer)).transpose()
    }

    /// Sends JSON; the answer, if there is one, is dropped.
    pub fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Result<Option<Bytes>, ClientError> {
        let body = serde_json::to_vec(body).map_err(|_| ClientError::Answer)?;
        self.ask(method, path, body)
    }

    pub fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.ask(Method::DELETE, path, Vec::new()).map(|_| ())
    }

    /// The state, if it is newer than revision `after`.
    pub fn state(&self, after: Option<u64>) -> Result<Option<State>, ClientError> {
        let after = after.map_or_else(String::new, |a| format!("?after={a}"));
        self.get(&format!("/local/state{after}"))
    }

    pub fn status(&self) -> Result<Status, ClientError> {
        self.get("/local/status")?.ok_or(ClientError::Answer)
    }

    /// What the node itself works on.
    pub fn steps(&self) -> Result<Vec<StepReport>, ClientError> {
        self.get("/local/steps")?.ok_or(ClientError::Answer)
    }

    /// The home as a guest of its daemon, and who keeps its state.
    pub fn authority(&self) -> Result<(Arc<Home>, Arc<dyn Authority>), ClientError> {
        let state = self.state(None)?.ok_or(ClientError::Answer)?;
        let authority = Guest { client: self.clone(), state: Mutex::new(Arc::new(state)) };
        Ok((Arc::new(Home::guest(&self.dir)), Arc::new(authority)))
    }
}

/// The state by way of the daemon.
struct Guest {
    client: Client,
    state: Mutex<Arc<State>>,
}

impl Guest {
    fn put(&self, state: State) -> Arc<State> {
        let mut kept = self.state.lock().unwrap_or_else(|e| e.into_inner());
        if state.revision >= kept.revision {
            *kept = Arc::new(state);
        }
        kept.clone()
    }
}

impl Authority for Guest {
    fn view(&self) -> Arc<State> {
        let revision = self.state.lock().unwrap_or_else(|e| e.into_inner()).revision;
        match self.client.state(Some(revision)) {
            Ok(Some(newer)) => self.put(newer),
            // The daemon is away for a moment, or there is nothing newer: what is known stays known.
            Ok(None) | Err(_) => self.state.lock().unwrap_or_else(|e| e.into_inner()).clone(),
        }
    }

    fn propose(&self, command: Command) -> Result<Arc<State>, ZoneError> {
        let answer = self.client.send(Method::POST, "/local/commands", &command)?;
        let state = answer.and_then(|b| serde_json::from_slice(&b).ok()).ok_or(ClientError::Answer)?;
        Ok(self.put(state))
    }
}
