//! What a server does by itself: takes up changed tokens, credits time, purges what its lock let go, scrubs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use zoneward_sectors::fsx;
use zoneward_sectors::ids::ZoneAlias;

use super::hashes::{Health, check, path as hashes_path};
use super::tokens::TokenFile;
use super::{Event, Server};
use crate::errors::TargetError;
use crate::limits::{CHORES_EVERY, DAMAGED_MAX, SCRUB_EVERY_DAYS, TOKEN_FILE_LEN_MAX, TOKENS_EVERY};
use crate::protocol::ScrubReport;
use crate::target::Target;

/// What the last scrub found, kept over restarts.
pub(super) struct Scrubbed {
    path: PathBuf,
    state: ScrubState,
}

#[derive(Default, Serialize, Deserialize)]
struct ScrubState {
    format: u32,
    /// Credited time at which the last one ended.
    ended_ms: Option<u64>,
    zones: BTreeMap<ZoneAlias, ScrubReport>,
}

impl Scrubbed {
    /// Reads it; what cannot be understood is scrubbed anew.
    pub fn open(own: &Path) -> std::io::Result<Self> {
        let path = own.join("scrub.json");
        let state = match fsx::size(&path)? {
            None => ScrubState::default(),
            Some(_) => serde_json::from_slice(&fsx::read_limited(&path, TOKEN_FILE_LEN_MAX)?).unwrap_or_default(),
        };
        Ok(Self { path, state })
    }
}

/// The threads of a server's chores; they end with it.
pub(super) struct Chores {
    stop: Arc<(Mutex<bool>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Chores {
    pub fn start(server: &Arc<Server>) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let spawn = |name: &str, work: fn(&Server, &Stop)| {
            let (server, stop) = (server.clone(), Stop(stop.clone()));
            std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&server, &stop)).ok()
        };
        let threads = [spawn("target-chores", chores), spawn("target-scrub", scrubs)];
        Self { stop, threads: threads.into_iter().flatten().collect() }
    }
}

impl Drop for Chores {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        self.threads.drain(..).for_each(|t| drop(t.join()));
    }
}

/// Tells a chore to end.
struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Waits; true if it is time to end.
    fn after(&self, time: Duration) -> bool {
        let held = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(held, time, |stop| !*stop);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn chores(server: &Server, stop: &Stop) {
    let mut last = Instant::now();
    while !stop.after(TOKENS_EVERY) {
        server.take_up_tokens();
        if last.elapsed() >= CHORES_EVERY {
            last = Instant::now();
            server.credit_time();
            server.purge_due();
            server.uploads.sweep();
        }
    }
    server.credit_time();
}

fn scrubs(server: &Server, stop: &Stop) {
    while !stop.after(CHORES_EVERY) {
        let ended = server.scrubbed().state.ended_ms;
        let due = ended.is_none_or(|e| server.now_ms().saturating_sub(e) >= SCRUB_EVERY_DAYS * 86_400_000);
        if due && let Err(e) = server.scrub(&mut |time| stop.after(time)) {
            (server.tell)(Event::Failed(format!("scrub: {e}")));
        }
    }
}

impl Server {
    pub(super) fn now_ms(&self) -> u64 {
        self.clock().now_ms()
    }

    /// Milliseconds of credited time until what was marked at `mark` may go.
    pub(super) fn locked_ms(&self, mark: u64, now_ms: u64) -> u64 {
        mark.saturating_add(self.lock_ms()).saturating_sub(now_ms)
    }

    fn scrubbed(&self) -> MutexGuard<'_, Scrubbed> {
        self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the tokens again when their file changed. If it cannot be read, those that were known stay.
    pub(super) fn take_up_tokens(&self) {
        let file = TokenFile::of(&self.data);
        let mut stamp = self.tokens_stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let now = std::fs::metadata(file.path()).ok().and_then(|m| Some((m.len(), m.modified().ok()?)));
        if now.is_some() && now == *stamp {
            return;
        }
        match file.load() {
            Ok(tokens) => {
                *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
                *stamp = now;
            }
            Err(e) => (self.tell)(Event::Failed(e.to_string())),
        }
    }

    fn credit_time(&self) {
        let (jump, saved) = {
            let mut clock = self.clock();
            (clock.tick(), clock.save())
        };
        if let Some(jump) = jump {
            (self.tell)(Event::ClockJumped(jump));
        }
        if let Err(e) = saved {
            (self.tell)(Event::Failed(format!("the clock cannot be kept: {e}")));
        }
    }

    /// Purges what its lock let go.
    pub(super) fn purge_due(&self) {
        let now = self.now_ms();
        for (alias, account) in self.places.zones() {
            let purged = (|| -> Result<(), TargetError> {
                for aside in self.target.list_aside(alias)? {
                    if self.locked_ms(aside.mark, now) > 0 {
                        continue;
                    }
                    self.target.purge(alias, aside)?;
                    self.places.give_back(&account, aside.len);
                    if self.target.len(alias, aside.copy)?.is_none() {
                        // Without its sector a hash tells nothing; one that stays does no harm.
                        let _ = fsx::remove_file(&hashes_path(&self.own, alias, aside.copy));
                    }
                    (self.tell)(Event::Purged(alias, aside.copy));
                }
                Ok(())
            })();
            if let Err(e) = purged {
                (self.tell)(Event::Failed(e.to_string()));
            }
        }
    }

    /// What the last scrub found in a zone.
    pub(super) fn scrub_report(&self, alias: ZoneAlias) -> ScrubReport {
        let now = self.now_ms();
        let scrubbed = self.scrubbed();
        let mut report = scrubbed.state.zones.get(&alias).cloned().unwrap_or_default();
        report.age_s = scrubbed.state.ended_ms.map(|e| now.saturating_sub(e) / 1000);
        report
    }

    /// Reads every sealed sector and compares it with what was received. `pause` waits that its reading stays within
    /// the rate; it answers true to end the scrub.
    pub(super) fn scrub(&self, pause: &mut dyn FnMut(Duration) -> bool) -> std::io::Result<()> {
        let mut state = ScrubState { format: 1, ..ScrubState::default() };
        let (began, mut read, mut ended) = (Instant::now(), 0u64, false);
        for (alias, _) in self.places.zones() {
            let mut report = ScrubReport::default();
            for (copy, _) in self.target.list(alias).map_err(std::io::Error::other)?.sectors {
                let mut pace = |bytes: usize| {
                    read += bytes as u64;
                    let due = Duration::from_secs_f64(read as f64 / self.settings.scrub_rate.max(1) as f64);
                    ended = ended || pause(due.saturating_sub(began.elapsed()));
                };
                let found = self
                    .target
                    .reader(alias, copy)
                    .and_then(|reader| check(&self.own, alias, copy, reader.as_ref(), &mut pace));
                if ended {
                    return Ok(());
                }
                report.sectors += 1;
                match found {
                    Ok(Health::Whole) => {}
                    Ok(Health::Unknown) => report.unknown += 1,
                    // Removed since it was listed.
                    Err(TargetError::NotFound { .. }) => report.sectors -= 1,
                    Ok(Health::Damaged) => {
                        (self.tell)(Event::Damaged(alias, copy));
                        if report.damaged.len() < DAMAGED_MAX {
                            report.damaged.push(copy);
                        }
                    }
                    Err(e) => return Err(std::io::Error::other(e)),
                }
            }
            state.zones.insert(alias, report);
        }
        state.ended_ms = Some(self.now_ms());
        let mut scrubbed = self.scrubbed();
        scrubbed.state = state;
        fsx::write_durably(&scrubbed.path, &serde_json::to_vec(&scrubbed.state)?, 0o600)
    }
}
