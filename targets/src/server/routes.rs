//! The requests of the target protocol (`docs/target-protocol.md`), one function each.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::{Arc, PoisonError};

use actix_web::dev::{ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::web::{self, Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse};
use zoneward_sectors::ids::{CopyId, ZoneAlias};

use super::append::{Announced, next};
use super::credit::wall_ms;
use super::range::Range;
use super::refusal::Refusal;
use super::tokens::Who;
use super::uploads::Key;
use super::{Server, failed_thread};
use crate::errors::TargetError;
use crate::limits::{APPEND_LEN_MAX, ASK_LEN_MAX, DISK_RESERVE, OBJECT_LEN_MAX, PAGE_LEN, SECTOR_LEN_MAX, WRITER_HOLD};
use crate::protocol::{
    Answer, Begun, Challenge, Code, Document, PARTIAL_UPLOAD, Page, ROOT, Removed, RemovedList, Role, STRIPES, TURN,
    UPLOAD_COMPLETE, UPLOAD_LIMIT, UPLOAD_OFFSET, VERSION, WRITER, Zones,
};
use crate::target::{ObjectName, Target};

type Reply = Result<HttpResponse, Refusal>;
type Shared = Data<Server>;

/// All routes, over one server.
pub(super) fn app(
    server: Arc<Server>,
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl actix_web::body::MessageBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    let zone = |rest: &str| format!("{ROOT}/zones/{{alias}}/{rest}");
    App::new()
        .app_data(Data::from(server))
        .route(&format!("{ROOT}/"), web::get().to(document))
        .route(&format!("{ROOT}/zones"), web::get().to(zones))
        .route(&zone("sectors"), web::get().to(sectors))
        .service(
            web::resource(zone("sectors/{copy}"))
                .route(web::head().to(length))
                .route(web::get().to(range))
                .route(web::delete().to(remove)),
        )
        .route(&zone("sectors/{copy}/prove"), web::post().to(prove))
        .route(&zone("incoming"), web::get().to(incoming))
        .service(
            web::resource(zone("incoming/{copy}"))
                .route(web::put().to(begin))
                .route(web::head().to(offset))
                .route(web::patch().to(append))
                .route(web::delete().to(discard)),
        )
        .route(&zone("incoming/{copy}/hold"), web::delete().to(let_go))
        .route(&zone("removed"), web::get().to(removed))
        .service(
            web::resource(zone("removed/{copy}")).route(web::post().to(take_back)).route(web::delete().to(purge_early)),
        )
        .service(
            web::resource(zone("objects/{name}")).route(web::get().to(get_object)).route(web::put().to(put_object)),
        )
        .route(&zone("scrub"), web::get().to(scrub))
        .default_service(web::to(nothing))
}

async fn nothing(server: Shared, req: HttpRequest) -> Reply {
    server.who(&req, None)?;
    Err(Refusal::new(Code::NotFound, "there is nothing of this name"))
}

fn bad(what: &str) -> Refusal {
    Refusal::new(Code::BadRequest, what)
}

/// An id in a path, in exactly the spelling of the protocol.
fn part<T: FromStr + Display>(req: &HttpRequest, name: &str) -> Result<T, Refusal> {
    let text = req.match_info().get(name).unwrap_or_default();
    text.parse::<T>().ok().filter(|id| id.to_string() == text).ok_or_else(|| bad("the path holds no id"))
}

fn key(req: &HttpRequest) -> Result<Key, Refusal> {
    Ok((part::<ZoneAlias>(req, "alias")?, part::<CopyId>(req, "copy")?))
}

fn field<'a>(req: &'a HttpRequest, name: &str) -> Option<&'a str> {
    req.headers().get(name)?.to_str().ok()
}

fn number(req: &HttpRequest, name: &str) -> Result<u64, Refusal> {
    let text = field(req, name).filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|t| t.parse().ok()).ok_or_else(|| bad(&format!("{name} is missing or no number")))
}

/// The writer's id: 32 hex digits of its own choice.
fn writer(req: &HttpRequest) -> Result<String, Refusal> {
    let text = field(req, WRITER).filter(|t| t.len() == 32 && t.bytes().all(|b| b.is_ascii_hexdigit()));
    text.map(str::to_owned).ok_or_else(|| bad("zoneward-writer is missing or not 32 hex digits"))
}

fn json(value: &impl serde::Serialize) -> Reply {
    let text = serde_json::to_string(value).map_err(|_| Refusal::new(Code::Store, "no answer could be made"))?;
    Ok(HttpResponse::Ok().content_type("application/json").insert_header(("cache-control", "no-store")).body(text))
}

/// Runs what touches the disk on a blocking thread.
async fn on_disk<T: Send + 'static>(
    server: &Shared,
    work: impl FnOnce(&Server) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let server = server.clone().into_inner();
    tokio::task::spawn_blocking(move || work(&server)).await.map_err(failed_thread)?
}

/// A body of at most `limit` bytes.
async fn body(mut payload: Payload, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    while let Some(chunk) = next(&mut payload).await {
        let chunk = chunk?;
        if out.len() + chunk.len() > limit {
            let mut refusal = Refusal::new(Code::TooLarge, "the body is too long");
            refusal.limit = Some(limit as u64);
            return Err(refusal);
        }
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}

impl Server {
    /// Who asks, if the token is good and covers it.
    fn who(&self, req: &HttpRequest, role: Option<Role>) -> Result<Who, Refusal> {
        let text = field(req, "authorization").and_then(|t| t.strip_prefix("Bearer "));
        let known = |t| self.tokens.read().unwrap_or_else(PoisonError::into_inner).who(t, wall_ms());
        // One that was made a moment ago is taken up at once; where nothing changed, that is one look at a file's time.
        let who = text.and_then(|t| {
            known(t).or_else(|| {
                self.take_up_tokens();
                known(t)
            })
        });
        let who = who.ok_or_else(|| Refusal::new(Code::Unauthorized, "the token is not known, or is over"))?;
        match role {
            Some(role) if !who.roles.contains(&role) => {
                Err(Refusal::new(Code::Forbidden, format!("the token is no {}'s", role.name())))
            }
            _ => Ok(who),
        }
    }

    /// Who asks about a zone, and whether the zone is there.
    fn at_zone(&self, req: &HttpRequest, role: Role) -> Result<(Who, ZoneAlias, bool), Refusal> {
        let who = self.who(req, Some(role))?;
        let alias = part(req, "alias")?;
        let mine = self.places.mine(&who, alias)?;
        Ok((who, alias, mine))
    }

    /// The same, where a zone that is not there has nothing.
    fn at_copy(&self, req: &HttpRequest, role: Role) -> Result<(Who, Key), Refusal> {
        let (who, _, mine) = self.at_zone(req, role)?;
        if mine { Ok((who, key(req)?)) } else { Err(Refusal::new(Code::NotFound, "it is not here")) }
    }
}

async fn document(server: Shared, req: HttpRequest) -> Reply {
    let who = server.who(&req, None)?;
    let document = on_disk(&server, move |s| {
        let room = s.target.capabilities();
        let used = s.places.used(&who.name);
        let free = room.free_bytes.unwrap_or(0).saturating_sub(DISK_RESERVE);
        Ok(Document {
            protocol: VERSION,
            target: s.target.id(),
            fixed_sectors: s.settings.fixed_sectors,
            max_class_log2: room.max_class_log2.min(s.settings.max_class_log2),
            resume: true,
            proofs: vec![STRIPES.to_owned()],
            lock_days: s.settings.lock_days,
            writer_hold_s: WRITER_HOLD.as_secs(),
            append_len_max: APPEND_LEN_MAX,
            free_bytes: who.account.quota_bytes.map_or(free, |q| free.min(q.saturating_sub(used))),
            quota_bytes: who.account.quota_bytes,
            used_bytes: used,
            price: s.settings.price.clone(),
            expires_ms: who.expires_ms,
            roles: who.roles.into_iter().collect(),
        })
    });
    json(&document.await?)
}

async fn zones(server: Shared, req: HttpRequest) -> Reply {
    let who = server.who(&req, Some(Role::Auditor))?;
    json(&Zones { zones: server.places.zones_of(&who.name) })
}

/// The part of a sorted list that follows `after`.
fn page<T: Clone>(req: &HttpRequest, all: &[T], copy: impl Fn(&T) -> CopyId) -> Result<(Vec<T>, bool), Refusal> {
    let after = req.query_string().strip_prefix("after=");
    let from = match after {
        None if req.query_string().is_empty() => 0,
        Some(text) => {
            let after: CopyId = text.parse().map_err(|_| bad("after is no id"))?;
            all.partition_point(|x| copy(x) <= after)
        }
        None => return Err(bad("the query is not after=…")),
    };
    let rest = all.get(from..).unwrap_or_default();
    Ok((rest.iter().take(PAGE_LEN).cloned().collect(), rest.len() > PAGE_LEN))
}

async fn sectors(server: Shared, req: HttpRequest) -> Reply {
    let (_, alias, mine) = server.at_zone(&req, Role::Auditor)?;
    if !mine {
        return json(&Page::default());
    }
    let list = on_disk(&server, move |s| Ok(s.target.list(alias)?)).await?;
    let (sectors, more) = page(&req, &list.sectors, |(copy, _)| *copy)?;
    json(&Page { sectors, foreign: list.foreign, more })
}

async fn incoming(server: Shared, req: HttpRequest) -> Reply {
    let (_, alias, mine) = server.at_zone(&req, Role::Auditor)?;
    if !mine {
        return json(&Begun::default());
    }
    let list = on_disk(&server, move |s| Ok(s.target.list_incoming(alias)?)).await?;
    let (incoming, more) = page(&req, &list, |copy| *copy)?;
    json(&Begun { incoming, more })
}

async fn begin(server: Shared, req: HttpRequest) -> Reply {
    let who = server.who(&req, Some(Role::Writer))?;
    let (key, writer) = (key(&req)?, writer(&req)?);
    let turn = if req.headers().contains_key(TURN) { Some(number(&req, TURN)?) } else { None };
    let name = who.name.clone();
    on_disk(&server, move |s| s.places.claim(&s.target, &who, key.0)).await?;
    let offset = server.clone().into_inner().begin(key, &name, &writer, turn).await?;
    Ok(HttpResponse::Created()
        .insert_header((UPLOAD_OFFSET, offset.to_string()))
        .insert_header((UPLOAD_COMPLETE, "?0"))
        .insert_header((UPLOAD_LIMIT, format!("max-size={SECTOR_LEN_MAX}, max-append-size={APPEND_LEN_MAX}")))
        .finish())
}

async fn offset(server: Shared, req: HttpRequest) -> Reply {
    let (_, key) = server.at_copy(&req, Role::Writer)?;
    if field(&req, WRITER).is_some() {
        // A writer's sign of life.
        server.uploads.held_by(key, &writer(&req)?)?;
    }
    let len = on_disk(&server, move |s| Ok(s.target.incoming_len(key.0, key.1)?)).await?;
    let len = len.ok_or_else(|| Refusal::new(Code::NotFound, "it is not here"))?;
    Ok(HttpResponse::NoContent()
        .insert_header((UPLOAD_OFFSET, len.to_string()))
        .insert_header((UPLOAD_COMPLETE, "?0"))
        .insert_header(("cache-control", "no-store"))
        .finish())
}

/// Appends; with `Upload-Complete: ?1`, seals at where the append ends.
async fn append(server: Shared, req: HttpRequest, payload: Payload) -> Reply {
    let (who, key) = server.at_copy(&req, Role::Writer)?;
    if field(&req, "content-type") != Some(PARTIAL_UPLOAD) {
        return Err(bad("the content-type of an append is application/partial-upload"));
    }
    let (writer, offset, len) = (writer(&req)?, number(&req, UPLOAD_OFFSET)?, number(&req, "content-length")?);
    let complete = match field(&req, UPLOAD_COMPLETE) {
        Some("?0") => false,
        Some("?1") => true,
        _ => return Err(bad("upload-complete is ?0 or ?1")),
    };
    let (account, inner) = (who.name.clone(), server.clone().into_inner());
    let mut held = offset;
    if len > 0 || !complete {
        let a = Announced { key, who, writer: writer.clone(), offset, len };
        // In a task of its own: what arrived is written to its end also when the connection goes.
        held = actix_web::rt::spawn(inner.clone().append(a, payload)).await.map_err(failed_thread)??;
    }
    if complete {
        let seal = async move { inner.seal(key, &account, &writer, held).await };
        actix_web::rt::spawn(seal).await.map_err(failed_thread)??;
    }
    Ok(HttpResponse::NoContent()
        .insert_header((UPLOAD_OFFSET, held.to_string()))
        .insert_header((UPLOAD_COMPLETE, if complete { "?1" } else { "?0" }))
        .finish())
}

async fn discard(server: Shared, req: HttpRequest) -> Reply {
    let (who, _, mine) = server.at_zone(&req, Role::Writer)?;
    if mine {
        let writer = if req.headers().contains_key(WRITER) { Some(writer(&req)?) } else { None };
        server.clone().into_inner().discard(key(&req)?, &who.name, writer.as_deref()).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

/// A writer lets go and leaves what it wrote.
async fn let_go(server: Shared, req: HttpRequest) -> Reply {
    let (_, key) = server.at_copy(&req, Role::Writer)?;
    let writer = writer(&req)?;
    if let Ok(slot) = server.uploads.held_by(key, &writer) {
        // Its file closes here, so that the next writer can open it.
        *slot.lock().await = None;
        server.uploads.let_go(key, &writer);
    }
    Ok(HttpResponse::NoContent().finish())
}

async fn length(server: Shared, req: HttpRequest) -> Reply {
    let (_, (alias, copy)) = server.at_copy(&req, Role::Auditor)?;
    let len = on_disk(&server, move |s| Ok(s.target.len(alias, copy)?)).await?;
    let len = len.ok_or_else(|| Refusal::new(Code::NotFound, "it is not here"))?;
    Ok(HttpResponse::NoContent().insert_header(("zoneward-length", len.to_string())).finish())
}

/// The first and last byte that a `Range: bytes=a-b` asks for; other forms are not spoken.
fn asked(req: &HttpRequest) -> Option<(u64, u64)> {
    let (first, last) = field(req, "range")?.strip_prefix("bytes=")?.split_once('-')?;
    let number = |t: &str| if t.bytes().all(|b| b.is_ascii_digit()) { t.parse::<u64>().ok() } else { None };
    Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last)
}

async fn range(server: Shared, req: HttpRequest) -> Reply {
    let (_, (alias, copy)) = server.at_copy(&req, Role::Auditor)?;
    let (first, last) = asked(&req).ok_or_else(|| bad("a range bytes=first-last is needed"))?;
    let reader = on_disk(&server, move |s| Ok(s.target.reader(alias, copy)?)).await?;
    let len = reader.len();
    if last >= len {
        return Ok(HttpResponse::RangeNotSatisfiable()
            .insert_header(("content-range", format!("bytes */{len}")))
            .finish());
    }
    Ok(HttpResponse::PartialContent()
        .insert_header(("content-range", format!("bytes {first}-{last}/{len}")))
        .content_type("application/octet-stream")
        .body(Range::new(Arc::from(reader), first, last - first + 1)))
}

/// Marks a sector: it is set aside, and purged when its lock ends.
async fn remove(server: Shared, req: HttpRequest) -> Reply {
    let (_, alias, mine) = server.at_zone(&req, Role::Marker)?;
    let copy: CopyId = part(&req, "copy")?;
    if mine {
        on_disk(&server, move |s| Ok(s.target.set_aside(alias, copy, s.now_ms())?)).await?;
    }
    Ok(HttpResponse::NoContent().finish())
}

async fn removed(server: Shared, req: HttpRequest) -> Reply {
    let (_, alias, mine) = server.at_zone(&req, Role::Auditor)?;
    if !mine {
        return json(&RemovedList::default());
    }
    let list = on_disk(&server, move |s| Ok(s.target.list_aside(alias)?)).await?;
    let now = server.now_ms();
    let of = |a: &crate::directory::Aside| Removed {
        copy: a.copy,
        len: a.len,
        locked_s: server.locked_ms(a.mark, now).div_ceil(1000),
    };
    json(&RemovedList { removed: list.iter().take(PAGE_LEN).map(of).collect() })
}

/// Takes the newest removed sector of an id back.
async fn take_back(server: Shared, req: HttpRequest) -> Reply {
    let (_, (alias, copy)) = server.at_copy(&req, Role::Writer)?;
    let work = move |s: &Server| {
        let all = s.target.list_aside(alias)?;
        let newest = all.into_iter().rfind(|a| a.copy == copy);
        let newest = newest.ok_or_else(|| Refusal::new(Code::NotFound, "it is not here"))?;
        Ok(s.target.take_back(alias, newest)?)
    };
    on_disk(&server, work).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Nobody's token purges: this says how long the lock still lasts.
async fn purge_early(server: Shared, req: HttpRequest) -> Reply {
    let (_, (alias, copy)) = server.at_copy(&req, Role::Marker)?;
    let all = on_disk(&server, move |s| Ok(s.target.list_aside(alias)?)).await?;
    let now = server.now_ms();
    let locked = all.iter().filter(|a| a.copy == copy).map(|a| server.locked_ms(a.mark, now)).max();
    let locked = locked.ok_or_else(|| Refusal::new(Code::NotFound, "it is not here"))?;
    let mut refusal = Refusal::new(Code::Locked, "the lock keeps it; no token shortens it");
    refusal.locked_s = Some(locked.div_ceil(1000));
    Err(refusal)
}

async fn prove(server: Shared, req: HttpRequest, payload: Payload) -> Reply {
    let (_, (alias, copy)) = server.at_copy(&req, Role::Auditor)?;
    let asked = body(payload, ASK_LEN_MAX).await?;
    let challenge: Challenge = serde_json::from_slice(&asked).map_err(|_| bad("this is no challenge"))?;
    if !challenge.fits() {
        return Err(bad("it asks for windows that are not there, or for too many"));
    }
    let work = move |s: &Server| {
        let reader = s.target.reader(alias, copy)?;
        challenge.answer(copy, reader.as_ref()).map_err(|e| match e {
            TargetError::Truncated { .. } => bad("a window crosses the end"),
            e => e.into(),
        })
    };
    json(&Answer { digest: on_disk(&server, work).await? })
}

fn object(req: &HttpRequest) -> Result<ObjectName, Refusal> {
    let text = req.match_info().get("name").unwrap_or_default();
    let named = ObjectName::ALL.into_iter().find(|n| n.file_name() == text);
    named.ok_or_else(|| Refusal::new(Code::NotFound, "there is no object of this name"))
}

async fn get_object(server: Shared, req: HttpRequest) -> Reply {
    let (_, alias, mine) = server.at_zone(&req, Role::Auditor)?;
    let name = object(&req)?;
    if !mine {
        return Err(Refusal::new(Code::NotFound, "it is not here"));
    }
    let bytes = on_disk(&server, move |s| Ok(s.target.get_object(alias, name, OBJECT_LEN_MAX)?)).await?;
    Ok(HttpResponse::Ok().content_type("application/json").insert_header(("cache-control", "no-store")).body(bytes))
}

async fn put_object(server: Shared, req: HttpRequest, payload: Payload) -> Reply {
    let who = server.who(&req, Some(Role::Writer))?;
    let (alias, name): (ZoneAlias, _) = (part(&req, "alias")?, object(&req)?);
    let bytes = body(payload, OBJECT_LEN_MAX as usize).await?;
    let work = move |s: &Server| {
        s.places.claim(&s.target, &who, alias)?;
        Ok(s.target.put_object(alias, name, &bytes)?)
    };
    on_disk(&server, work).await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn scrub(server: Shared, req: HttpRequest) -> Reply {
    let (_, alias, mine) = server.at_zone(&req, Role::Auditor)?;
    if mine { json(&server.scrub_report(alias)) } else { json(&crate::protocol::ScrubReport::default()) }
}
