//! Clients: they propose at any node, and read, until they are stopped.

use super::acknowledged::{Told, command};
use super::eyes;
use super::voice::{Said, Voice};

/// Proposes until it is stopped.
pub async fn writer(voice: impl Fn() -> Option<Voice>, every_ms: u64) {
    loop {
        let Some(v) = voice() else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        v.pause(20, every_ms).await;
        let Some((k, floor)) = eyes::with(|e| e.acknowledged.ask()) else { return };
        let told = match v.say(&command(k)).await {
            Said::Done(reply) => Told::Done { revision: reply.revision },
            Said::Not => Told::NotDone,
            Said::Unknown => Told::Unknown,
        };
        eyes::with(|e| e.acknowledged.tell(k, floor, told, &mut e.found));
    }
}

/// Reads until it is stopped.
pub async fn reader(voice: impl Fn() -> Option<Voice>, every_ms: u64) {
    loop {
        let Some(v) = voice() else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        v.pause(20, every_ms).await;
        if eyes::with(|_| ()).is_none() {
            return;
        }
        read(v).await;
    }
}

/// Reads once.
pub async fn read(voice: Voice) {
    let Some(floor) = eyes::with(|e| e.acknowledged.floor) else { return };
    if let Ok(state) = voice.node.linearizable().await {
        eyes::with(|e| e.acknowledged.read(floor, state.revision, &mut e.found));
    }
}
