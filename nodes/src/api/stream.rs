//! The route of the events, and the feeding of one stream.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::Bytes;
use actix_web::{HttpMessage, HttpRequest, HttpResponse, get, web};
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa::IntoParams;
use zoneward_actors::clock::now_ms;
use zoneward_sectors::ids::TokenId;

use super::events::{Next, Place, TOPICS};
use super::front::Login;
use super::{Answer, Problem, Shared};

/// Something is sent at least so often: proxies close what is silent, and who is gone is noticed.
const BEAT: Duration = Duration::from_secs(15);
/// A client that takes nothing for so long is gone.
const STUCK: Duration = Duration::from_secs(30);
/// Pieces that wait for a client.
const WAITING_MAX: usize = 16;
/// What a client waits before it comes back, ms.
const RETRY_MS: u32 = 3000;

/// The route: the only one that HEAD does not reach.
pub const PATH: &str = "/api/v1/events";

/// What to listen to.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Listen {
    /// Some of `zone,nodes,sources,targets,checkpoints,sectors,steps`; all if nothing is said.
    pub topics: Option<String>,
}

fn topics(text: Option<&str>) -> Result<BTreeSet<&'static str>, Problem> {
    let Some(text) = text else { return Ok(TOPICS.into()) };
    let find = |word: &str| TOPICS.into_iter().find(|t| *t == word);
    let unknown = |w: &str| {
        Problem::malformed("a topic is unknown").at("topics", format!("{w:?} is none of {}", TOPICS.join(", ")))
    };
    text.split(',').map(|w| find(w).ok_or_else(|| unknown(w))).collect()
}

/// Changes as they happen: `change` names what is new, other or gone, `resync` says to read everything again. The id of an
/// event is the revision; `Last-Event-ID` goes on after it.
#[utoipa::path(tag = "events", security(("token" = ["status:read"])),
    params(Listen, ("Last-Event-ID" = Option<u64>, Header, description = "The last event that was seen")),
    responses((status = 200, description = "A stream", content_type = "text/event-stream", body = String)))]
#[get("/api/v1/events")]
pub async fn events(shared: web::Data<Shared>, req: HttpRequest, q: web::Query<Listen>) -> Answer {
    let topics = topics(q.topics.as_deref())?;
    let view = shared.node.cluster.view();
    let now = view.revision;
    let last = req.headers().get("Last-Event-ID").map(|v| v.to_str().unwrap_or_default().trim().parse::<u64>());
    let from = match last {
        None => Some(now),
        Some(Ok(id)) => Some(id).filter(|id| *id <= now),
        Some(Err(_)) => return Err(Problem::malformed("Last-Event-ID is no revision").at("Last-Event-ID", "a number")),
    };
    let token =
        req.extensions().get::<Login>().map(|l| l.token).ok_or_else(|| Problem::unauthorized("there is none"))?;
    let place = shared.events.enter(token, &view)?;
    let (to, pieces) = mpsc::channel(WAITING_MAX);
    let feed = Feed { shared: shared.clone(), topics, token, to };
    // It ends when the client goes, the token ends, or the node stops.
    actix_web::rt::spawn(async move { feed.run(from).await });
    let mut answer = HttpResponse::Ok();
    answer.insert_header((CONTENT_TYPE, "text/event-stream")).insert_header((CACHE_CONTROL, "no-store"));
    answer.insert_header(("X-Accel-Buffering", "no"));
    Ok(answer.body(BoxBody::new(Stream { pieces, _place: place })))
}

/// The body: pieces as they come.
struct Stream {
    pieces: mpsc::Receiver<Bytes>,
    _place: Place,
}

impl MessageBody for Stream {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.pieces.poll_recv(cx).map(|piece| piece.map(Ok))
    }
}

struct Feed {
    shared: web::Data<Shared>,
    topics: BTreeSet<&'static str>,
    token: TokenId,
    to: mpsc::Sender<Bytes>,
}

impl Feed {
    /// `None` once nobody takes it.
    async fn send(&self, text: String) -> Option<()> {
        tokio::time::timeout(STUCK, self.to.send(Bytes::from(text))).await.ok()?.ok()
    }

    async fn resync(&self, revision: u64) -> Option<()> {
        self.send(format!("event: resync\nid: {revision}\ndata: {{\"revision\":{revision}}}\n\n")).await
    }

    /// Whether the token still lets its bearer listen.
    fn permitted(&self) -> bool {
        let state = self.shared.node.cluster.view();
        state.tokens.get(&self.token).is_some_and(|t| t.expires_ms > now_ms().max(state.last_time_ms))
    }

    async fn run(self, from: Option<u64>) -> Option<()> {
        let all = self.shared.events.clone();
        let mut newest = all.subscribe();
        let mut at = from.unwrap_or_else(|| self.shared.node.cluster.view().revision);
        self.send(format!("retry: {RETRY_MS}\nid: {at}\n: revision {at}\n\n")).await?;
        if from.is_none() {
            // What it saw last is of a future that did not come about.
            self.resync(at).await?;
        }
        let mut beat = tokio::time::interval(BEAT);
        beat.tick().await;
        loop {
            match all.after(at) {
                Next::Event(event) => {
                    at = event.revision;
                    if let Some(text) = event.text(&self.topics) {
                        self.send(text).await?;
                    }
                    continue;
                }
                Next::Resync(end) => {
                    at = end;
                    self.resync(end).await?;
                }
                Next::Wait => {}
            }
            if all.stopped() || !self.permitted() {
                return None;
            }
            tokio::select! {
                _ = self.to.closed() => return None,
                changed = newest.changed() => changed.ok()?,
                // With the id, so that who comes back need not read what does not concern it.
                _ = beat.tick() => self.send(format!("id: {at}\n: still here\n\n")).await?,
            }
        }
    }
}
