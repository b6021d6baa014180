//! Links that peers open: the handshake within limits, the hello, then one task per stream.

use std::sync::Arc;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zoneward_sectors::ids::NodeId;

use crate::bulk;
use crate::endpoint::{Core, Side, transport, widen};
use crate::error::Refusal;
use crate::gate::Verdict;
use crate::join;
use crate::limits::{HANDSHAKE_MS_MAX, HEADER_MS_MAX, INCOMING_BYTES_MAX, INCOMING_MAX, LAST_WORD_MS_MAX};
use crate::members::{Admission, Direction, NotAdmitted, close};
use crate::rpc::{self, PeerLimits, ReadError, read_array, response_bytes};
use crate::tls::{self, ALPN, ALPN_JOIN, TlsError};
use crate::wire::{
    BULK_OPEN, FrameError, HELLO, HELLO_LEN, Hello, MAGIC_LEN, REQUEST, Retry, Status, VERSION, VERSION_MIN,
};

/// How to be dialed: by members only, or by joiners too.
pub(crate) struct Configs {
    pub members: quinn::ServerConfig,
    pub joins: quinn::ServerConfig,
}

impl Configs {
    pub fn new(core: &Core) -> Result<Self, TlsError> {
        let make = |joins| {
            let tls = tls::server(&core.key(), &core.members, joins)?;
            let mut config = quinn::ServerConfig::with_crypto(tls);
            config
                .transport_config(transport(Side::Serving))
                .max_incoming(INCOMING_MAX)
                .incoming_buffer_size_total(INCOMING_BYTES_MAX);
            Ok(config)
        };
        Ok(Self { members: make(false)?, joins: make(true)? })
    }
}

/// Accepts connections until the socket is closed.
pub(crate) async fn accept(core: Arc<Core>, socket: quinn::Endpoint, configs: Configs) {
    let (members, joins) = (Arc::new(configs.members), Arc::new(configs.joins));
    while let Some(incoming) = socket.accept().await {
        let ip = incoming.remote_address().ip();
        let proven = incoming.remote_address_validated() || !incoming.may_retry();
        let entered = match core.gate.enter(ip, proven) {
            Verdict::Enter(entered) => entered,
            Verdict::Prove => {
                let _ = incoming.retry(); // Fails only if it may not be asked, which was looked at.
                continue;
            }
            Verdict::Refuse => {
                incoming.refuse();
                continue;
            }
        };
        let config = if core.desk.any_open((core.clock)()) { joins.clone() } else { members.clone() };
        let core = core.clone();
        tokio::spawn(async move {
            // A handshake that fails is the peer's to report: it was told why by TLS.
            let Ok(connecting) = incoming.accept_with(config) else { return };
            let wait = Duration::from_millis(HANDSHAKE_MS_MAX);
            let Ok(Ok(connection)) = timeout(wait, connecting).await else { return };
            match tls::peer(&connection) {
                Some((protocol, key)) if protocol == ALPN_JOIN => {
                    join::host(&core, &connection, key).await;
                    drop(entered);
                }
                Some((protocol, key)) if protocol == ALPN => {
                    let link = timeout(wait, meet(&core, &connection, key)).await;
                    drop(entered);
                    if let Ok(Some((node, admission))) = link {
                        core.gate.met(ip);
                        serve(&core, &connection, node, key).await;
                        drop(admission);
                    }
                    connection.close(close::REFUSED.into(), b"no hello");
                }
                _ => connection.close(close::REFUSED.into(), b"no key or protocol"),
            }
        });
    }
}

/// Takes the peer's hello and answers it. `None`: the connection is closed and the peer knows why.
async fn meet(core: &Core, connection: &quinn::Connection, key: [u8; 32]) -> Option<(NodeId, Admission)> {
    // In join mode TLS let strangers through: none of their bytes is read.
    if core.members.snapshot().node_of(&key).is_none() {
        connection.close(close::NOT_MEMBER.into(), b"not a member");
        return None;
    }
    let (mut send, mut recv) = connection.accept_bi().await.ok()?;
    let result = match read_array::<HELLO_LEN>(&mut recv).await {
        Err(ReadError::Lost(_)) => return None,
        Err(ReadError::Frame(e)) => Err(e.into()),
        Ok(bytes) => Hello::parse(&bytes).map_err(Refusal::from).and_then(|h| judge(core, connection, key, &h)),
    };
    let answer = match &result {
        Ok((hello, ..)) => Ok(hello.to_bytes().to_vec()),
        Err(refusal) => Err(refusal.clone()),
    };
    if result.is_ok() {
        widen(connection, Side::Serving);
    }
    send.write_all(&response_bytes(&answer)).await.ok()?;
    send.finish().ok()?;
    match result {
        Ok((_, node, admission)) => Some((node, admission)),
        Err(_) => {
            last_word(&mut send).await;
            connection.close(close::REFUSED.into(), b"refused");
            None
        }
    }
}

/// Waits until the peer has what was said, so that closing does not swallow it.
pub(crate) async fn last_word(send: &mut SendStream) {
    let _ = timeout(Duration::from_millis(LAST_WORD_MS_MAX), send.stopped()).await; // Either way it is closed next.
}

fn judge(
    core: &Core,
    connection: &quinn::Connection,
    key: [u8; 32],
    theirs: &Hello,
) -> Result<(Hello, NodeId, Admission), Refusal> {
    let members = core.members.snapshot();
    let (us, node) = (core.identity.node(), theirs.node);
    let refuse = |status, text| Err(Refusal::with(status, Retry::Operator, text));
    if theirs.common_version().is_none() {
        let (a, b) = (theirs.version_min, theirs.version_max);
        let text = format!("this node speaks versions {VERSION_MIN} to {VERSION}, not {a} to {b}: upgrade the older");
        return refuse(Status::WrongVersion, text);
    }
    if theirs.zone != members.zone() {
        return refuse(Status::WrongZone, format!("this node belongs to zone {}, not {}", members.zone(), theirs.zone));
    }
    if theirs.peer != us {
        return refuse(Status::WrongNode, format!("this is node {us}, not {}: the address is wrong", theirs.peer));
    }
    match core.members.admit(node, &key, theirs.incarnation, Direction::Accepted, connection) {
        Ok(admission) => {
            let (zone, revision, incarnation) = (members.zone(), members.revision(), core.incarnation);
            let (version_min, version_max) = (VERSION_MIN, VERSION);
            let ours = Hello { version_min, version_max, zone, node: us, peer: node, incarnation, revision };
            Ok((ours, node, admission))
        }
        Err(NotAdmitted::NotMember) => refuse(Status::WrongNode, format!("the key shown is not that of node {node}")),
        Err(NotAdmitted::Stale { shown, known }) => {
            let text = format!(
                "node {node} shows start {shown} where {known} was seen: its disk was put back; let it rejoin as new"
            );
            refuse(Status::StaleIncarnation, text)
        }
    }
}

/// Serves a member's streams until the connection ends; what still runs then is dropped.
async fn serve(core: &Arc<Core>, connection: &quinn::Connection, node: NodeId, key: [u8; 32]) {
    let limits = Arc::new(PeerLimits::new());
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept_bi() => {
                let Ok((send, recv)) = accepted else { break };
                // Closed connections may still hold streams that came before.
                if !core.members.is_member(node, &key) {
                    break;
                }
                let (core, limits) = (core.clone(), limits.clone());
                streams.spawn(async move { stream(&core, send, recv, node, &limits).await });
            }
            _ = streams.join_next(), if !streams.is_empty() => {} // A panic ended its stream only.
        }
    }
}

async fn stream(core: &Core, mut send: SendStream, mut recv: RecvStream, node: NodeId, limits: &PeerLimits) {
    let first = timeout(Duration::from_millis(HEADER_MS_MAX), read_array::<MAGIC_LEN>(&mut recv)).await;
    let refusal: Refusal = match first {
        Ok(Ok(magic @ REQUEST)) => return rpc::serve(magic, send, recv, node, &core.services, limits).await,
        Ok(Ok(magic @ BULK_OPEN)) => return bulk::serve(magic, send, recv, node, &core.services, limits).await,
        Ok(Err(ReadError::Lost(_))) => return,
        Ok(Ok(HELLO)) => FrameError::Damaged("a second hello").into(),
        Ok(Ok(got)) => FrameError::Magic { got, want: "zwrq or zwbo" }.into(),
        Err(_) | Ok(Err(ReadError::Frame(_))) => FrameError::Cut.into(),
    };
    if send.write_all(&response_bytes(&Err(refusal))).await.is_ok() {
        let _ = send.finish(); // Whoever sent this may be gone already.
    }
}
