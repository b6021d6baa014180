//! A sector on its way to a target server.
//!
//! What is written is gathered into appends of [`APPEND_LEN_MAX`]. One append travels while the next one is
//! gathered; it stays in memory until the server acknowledged it, so that a broken connection or a server that is
//! started anew costs no more than asking for the offset and sending the rest.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::Method;
use tokio::task::AbortHandle;
use zoneward_sectors::ids::{CopyId, ZoneAlias};

use super::link::{Ask, Got, Link, LinkError, start};
use super::{Shared, TURN, WRITER, writer_id};
use crate::errors::{Op, TargetError};
use crate::limits::{APPEND_LEN_MAX, LINK_TRIES, REQUEST_TIME, SECTOR_LEN_MAX, TRY_PAUSE, TURN_TIME, WRITER_HOLD};
use crate::protocol::{PARTIAL_UPLOAD, ROOT, UPLOAD_COMPLETE, UPLOAD_OFFSET};
use crate::target::Incoming;

/// How often an append that was not done in its time is sent.
const SLOW_TRIES: u32 = 2;
/// Time to seal a sector, without that of its bytes.
const SEAL_TIME_MIN: Duration = Duration::from_secs(60);
/// Bytes a second at which a server makes a sector durable, at least.
const SEAL_RATE_MIN: u64 = 4 << 20;

pub(super) struct ServerIncoming {
    way: Way,
    offset: u64,
    state: Mutex<State>,
    /// Told when the end moves, or no longer can.
    moved: Condvar,
    signs: Option<AbortHandle>,
}

/// How the server is asked about this sector.
#[derive(Clone)]
struct Way {
    shared: Arc<Shared>,
    path: String,
    what: String,
    writer: String,
    turn: Option<u64>,
}

/// What was written and is not acknowledged yet.
struct State {
    /// Where the next byte belongs.
    end: u64,
    /// Bytes before `end` that are not sent yet.
    gathered: BytesMut,
    travelling: Option<Receiver<Result<BytesMut, TargetError>>>,
    /// A write failed: the sector cannot be sealed through this handle.
    failed: bool,
    /// The handle is being dropped: nobody waits for long.
    leaving: bool,
    /// Sealed or abandoned: nothing is left to be sent or let go.
    over: bool,
}

impl Way {
    fn ask(&self, method: Method) -> Ask {
        Ask::new(method, self.path.clone()).field(WRITER, self.writer.clone())
    }

    fn link(&self) -> &Link {
        &self.shared.link
    }

    /// Begins the sector or takes it up again; answers what the server holds. Safe to ask twice: the server knows the
    /// writer again.
    async fn begin(&self, op: Op) -> Result<u64, TargetError> {
        let mut ask = self.ask(Method::PUT).field(UPLOAD_COMPLETE, "?0");
        if let Some(turn) = self.turn {
            ask = ask.field(TURN, turn.to_string());
        }
        let got = self.link().exchange(ask).await.map_err(|e| e.named(op, &self.what))?;
        if !got.status.is_success() {
            return Err(got.refusal(op, &self.what));
        }
        let offset = got.number(op, &self.what, UPLOAD_OFFSET)?;
        if offset > SECTOR_LEN_MAX {
            return Err(Got::misbehaves(op, &self.what, format!("it holds {offset} bytes, more than any sector has")));
        }
        Ok(offset)
    }

    /// One append, until the server acknowledged all of it.
    async fn append(&self, at: u64, bytes: &Bytes) -> Result<(), TargetError> {
        let (op, end) = (Op::Write, at + bytes.len() as u64);
        let mut held = at;
        let mut pause = TRY_PAUSE;
        let (mut last, mut slow) = (None, 0);
        for _ in 0..LINK_TRIES {
            let rest = bytes.slice((held - at) as usize..);
            let ask = self
                .ask(Method::PATCH)
                .once()
                .field("content-type", PARTIAL_UPLOAD)
                .field(UPLOAD_OFFSET, held.to_string())
                .field(UPLOAD_COMPLETE, "?0")
                .body(rest);
            let error = match self.link().once(&ask).await {
                Ok(got) if got.status.is_success() => {
                    let now = got.number(op, &self.what, UPLOAD_OFFSET)?;
                    if now == end {
                        return Ok(());
                    }
                    return Err(Got::misbehaves(
                        op,
                        &self.what,
                        format!("it holds {now} bytes after an append to {end}"),
                    ));
                }
                Ok(got) => match got.refusal(op, &self.what) {
                    // A server that was started anew does not know its writers.
                    e @ (TargetError::Poisoned { .. } | TargetError::Busy { .. }) => e,
                    e @ TargetError::WrongLength { .. } => e,
                    e => return Err(e),
                },
                Err(e @ LinkError::Broken(_)) => e.named(op, &self.what),
                // Once it may have been the connection; whoever is slow twice is slow.
                Err(e @ LinkError::Slow(_)) => {
                    slow += 1;
                    if slow == SLOW_TRIES {
                        return Err(e.named(op, &self.what));
                    }
                    e.named(op, &self.what)
                }
                Err(e) => return Err(e.named(op, &self.what)),
            };
            tokio::time::sleep(pause).await;
            pause *= 2;
            match self.begin(op).await {
                Ok(now) if now == end => return Ok(()),
                Ok(now) if (at..end).contains(&now) => held = now,
                Ok(now) => {
                    let how = format!("it acknowledged {at} bytes and holds {now}");
                    return Err(Got::misbehaves(op, &self.what, how));
                }
                Err(TargetError::Busy { .. } | TargetError::Unreachable { .. }) => {}
                Err(e) => return Err(e),
            }
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| LinkError::Broken("no answer".into()).named(op, &self.what)))
    }
}

impl ServerIncoming {
    pub fn begin(shared: &Arc<Shared>, alias: ZoneAlias, copy: CopyId, turn: Option<u64>) -> Result<Self, TargetError> {
        let way = Way {
            shared: shared.clone(),
            path: format!("{ROOT}/zones/{alias}/incoming/{copy}"),
            what: format!("incoming sector {copy}"),
            writer: writer_id(),
            turn,
        };
        let offset = wait(&way, {
            let way = way.clone();
            async move { way.begin(Op::Open).await }
        })?;
        let signs = start(signs_of_life(way.clone())).ok().map(|task| task.abort_handle());
        let gathered = BytesMut::new();
        let state = State { end: offset, gathered, travelling: None, failed: false, leaving: false, over: false };
        Ok(Self { way, offset, state: Mutex::new(state), moved: Condvar::new(), signs })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all before `offset` is written, by other threads; no longer than [`TURN_TIME`] without any of it.
    fn turn(&self, offset: u64) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while offset > state.end && !state.failed {
            let end = state.end;
            let waited;
            (state, waited) = self.moved.wait_timeout(state, TURN_TIME).unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() && state.end == end {
                break;
            }
        }
        state
    }

    /// Waits for the append that travels, each of whose tries has its deadline; answers its buffer to be filled again.
    fn settle(state: &mut State) -> Result<BytesMut, TargetError> {
        let Some(travelling) = state.travelling.take() else { return Ok(BytesMut::new()) };
        let patience = if state.leaving { REQUEST_TIME } else { Duration::MAX };
        let lost = |_| Err(LinkError::Broken("the append did not end".into()).named(Op::Write, "a sector"));
        let done = travelling.recv_timeout(patience).unwrap_or_else(lost);
        state.failed |= done.is_err();
        done
    }

    /// Sends what was gathered, after what travels before it.
    fn send(&self, state: &mut State) -> Result<(), TargetError> {
        let mut spare = Self::settle(state)?;
        if state.gathered.is_empty() {
            return Ok(());
        }
        spare.clear();
        let bytes = std::mem::replace(&mut state.gathered, spare).freeze();
        let at = state.end - bytes.len() as u64;
        let (tell, told) = sync_channel(1);
        let way = self.way.clone();
        let travel = async move {
            let done = way.append(at, &bytes).await;
            // The buffer comes back, if the connection let go of it.
            let _ = tell.send(done.map(|()| bytes.try_into_mut().unwrap_or_default()));
        };
        start(travel).map_err(|e| e.named(Op::Write, &self.way.what))?;
        state.travelling = Some(told);
        Ok(())
    }

    /// Sends all and waits for it.
    fn flush(&self, state: &mut State) -> Result<(), TargetError> {
        self.send(state)?;
        Self::settle(state).map(drop)
    }

    fn gather(&self, state: &mut State, mut bytes: &[u8]) -> Result<(), TargetError> {
        while !bytes.is_empty() {
            let room = APPEND_LEN_MAX as usize - state.gathered.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            if state.gathered.capacity() < APPEND_LEN_MAX as usize && now.len() + state.gathered.len() > (1 << 16) {
                // Small sectors get small buffers; one that grows gets the whole of it at once.
                state.gathered.reserve(APPEND_LEN_MAX as usize - state.gathered.len());
            }
            state.gathered.extend_from_slice(now);
            state.end += now.len() as u64;
            if state.gathered.len() == APPEND_LEN_MAX as usize {
                self.send(state)?;
            }
            bytes = later;
        }
        Ok(())
    }
}

/// Waits for work that answers in the target's own errors.
fn wait<T: Send + 'static>(
    way: &Way,
    work: impl Future<Output = Result<T, TargetError>> + Send + 'static,
) -> Result<T, TargetError> {
    super::run(async move { Ok(work.await) }).map_err(|e| e.named(Op::Open, &way.what))?
}

/// Keeps the hold while the writer has nothing to send. It ends with its writer, or when the server does not know it.
async fn signs_of_life(way: Way) {
    loop {
        tokio::time::sleep(WRITER_HOLD / 3).await;
        let _ = way.link().once(&way.ask(Method::HEAD)).await;
    }
}

impl Incoming for ServerIncoming {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let (op, what) = (Op::Write, || self.way.what.clone());
        let end = offset.saturating_add(bytes.len() as u64);
        if end > SECTOR_LEN_MAX {
            return Err(TargetError::TooLarge { op, what: what(), len: end, limit: SECTOR_LEN_MAX });
        }
        let mut state = self.turn(offset);
        if state.failed {
            return Err(TargetError::Poisoned { op, what: what() });
        }
        if offset > state.end {
            return Err(TargetError::NotAtEnd { op, what: what(), offset, end: state.end });
        }
        // A copy has the same bytes whoever makes it: what the server holds already is not sent again.
        let held = (state.end - offset).min(bytes.len() as u64) as usize;
        let done = self.gather(&mut state, bytes.get(held..).unwrap_or_default());
        state.failed |= done.is_err();
        drop(state);
        self.moved.notify_all();
        done
    }

    fn seal(self: Box<Self>, len: u64) -> Result<(), TargetError> {
        let (op, what) = (Op::Seal, self.way.what.clone());
        let mut state = self.state();
        if state.failed {
            return Err(TargetError::Poisoned { op, what });
        }
        self.flush(&mut state)?;
        let ask = self
            .way
            .ask(Method::PATCH)
            .field("content-type", PARTIAL_UPLOAD)
            .field(UPLOAD_OFFSET, len.to_string())
            .field(UPLOAD_COMPLETE, "?1")
            .time(self.way.link().timing().seal.min(SEAL_TIME_MIN + Duration::from_secs(len / SEAL_RATE_MIN)));
        // Safe to repeat: what is sealed with this length is fine.
        let got = self.way.shared.ask(op, &what, ask);
        state.over = got.is_ok();
        drop(state);
        let told = got?.number(op, &what, UPLOAD_OFFSET)?;
        if told != len {
            return Err(Got::misbehaves(op, &what, format!("it sealed {told} bytes instead of {len}")));
        }
        Ok(())
    }

    fn abandon(self: Box<Self>) -> Result<(), TargetError> {
        let mut state = self.state();
        // What still travels must not arrive after it was thrown away.
        let _ = Self::settle(&mut state);
        state.over = true;
        drop(state);
        self.way.shared.ask(Op::Abandon, &self.way.what, self.way.ask(Method::DELETE)).map(drop)
    }
}

impl Drop for ServerIncoming {
    /// Sends what was written and lets go, so that the next writer goes on where this one ended.
    fn drop(&mut self) {
        if let Some(signs) = self.signs.take() {
            signs.abort();
        }
        let mut state = self.state();
        if state.over {
            return;
        }
        state.leaving = true;
        // Nobody is left to be told: the next writer asks what is held.
        let _ = if state.failed { Self::settle(&mut state).map(drop) } else { self.flush(&mut state) };
        let path = format!("{}/hold", self.way.path);
        let ask = Ask::new(Method::DELETE, path).field(WRITER, self.way.writer.clone()).once();
        let _ = self.way.link().ask(ask.time(Duration::from_secs(5)));
    }
}
