//! A zone as it was at one moment, to read from for hours: it holds no lock, so backups go on beside it.
//!
//! Targets are opened again when they come back. What was stored later is not seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use zoneward_consensus::model::{Copy as BackupCopy, CopyState, State};
use zoneward_sectors::catalog::{Merge, SectorTable};
use zoneward_sectors::ids::{LayerId, SectorId, TargetId};
use zoneward_sectors::owner::OwnerKeys;
use zoneward_sectors::sector_reader::{SectorReadError, SectorReader};
use zoneward_sectors::zonekeys::ZoneKeys;

use crate::catalogs::Catalogs;
use crate::errors::ZoneError;
use crate::home::Home;
use crate::open::{Opener, Targets};
use crate::zone::{Zone, open_target};

/// How long a target that could not be opened is left alone.
const AGAIN: Duration = Duration::from_secs(10);

/// A zone as it was at one moment.
pub struct Still {
    home: Arc<Home>,
    state: Arc<State>,
    keys: Arc<ZoneKeys>,
    owner_sign: [u8; 32],
    owner: Option<Arc<OwnerKeys>>,
    table: SectorTable,
    reach: Mutex<Reach>,
    copies: HashMap<SectorId, Vec<BackupCopy>>,
}

struct Reach {
    targets: Targets,
    /// When a target was last tried in vain.
    tried: HashMap<TargetId, Instant>,
    /// Made of these targets.
    opener: Opener,
}

impl std::fmt::Debug for Still {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Still(revision {})", self.state.revision)
    }
}

impl Zone {
    /// What this handle sees now, to read from after the home was let go.
    pub fn still(&self) -> Still {
        let home = Arc::new(Home::guest(self.home.dir()));
        let (keys, owner_sign, state) =
            (self.keys().clone(), *self.owner().sign_public(), Arc::new(self.state().clone()));
        let (table, targets) = (self.table().clone(), self.targets().clone());
        let owner = self.owner_keys();
        let (open_on, sign, by) = (targets.clone(), owner_sign, owner.clone());
        let opener = Opener::new(&state, open_on, home.clone(), keys.clone(), sign, by, table.clone());
        let mut copies: HashMap<SectorId, Vec<BackupCopy>> = HashMap::new();
        for c in state.copies.values().filter(|c| c.state != CopyState::Open) {
            copies.entry(c.sector).or_default().push(c.clone());
        }
        // One that is known to be damaged comes last: some of it may still be read.
        copies.values_mut().for_each(|all| all.sort_by_key(|c| c.state != CopyState::Stored));
        let reach = Mutex::new(Reach { targets, tried: HashMap::new(), opener });
        Still { home, state, keys, owner_sign, owner, table, reach, copies }
    }
}

impl Still {
    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    pub fn fingerprint_key(&self) -> &[u8; 32] {
        self.keys.fingerprint_key()
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.reach.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn opener_of(&self, targets: Targets) -> Opener {
        let (home, keys, owner) = (self.home.clone(), self.keys.clone(), self.owner.clone());
        Opener::new(&self.state, targets, home, keys, self.owner_sign, owner, self.table.clone())
    }

    /// Tries a target that is not open, if it was left alone for a while.
    fn reach_again(&self, id: TargetId) {
        let Some(target) = self.state.targets.get(&id) else { return };
        {
            let mut reach = self.reach();
            if reach.targets.contains_key(&id) || reach.tried.get(&id).is_some_and(|t| t.elapsed() < AGAIN) {
                return;
            }
            reach.tried.insert(id, Instant::now());
        }
        // Without the lock: it may take long to hear nothing.
        if let Ok(opened) = open_target(target, &self.keys) {
            let mut reach = self.reach();
            reach.targets.insert(id, opened);
            reach.opener = self.opener_of(reach.targets.clone());
        }
    }

    /// The entries of a chain of layers. Every copy of their sectors gets its chance again.
    pub(crate) fn entries(&self, layers: &[LayerId]) -> Result<Merge, ZoneError> {
        self.state.targets.keys().for_each(|id| self.reach_again(*id));
        let opener = self.opener_of(self.reach().targets.clone());
        Ok(Catalogs { home: &self.home, state: &self.state, opener: &opener }.entries(layers)?)
    }

    /// The copies of a sector by its process-wide number, those that count first.
    pub(crate) fn copies(&self, number: u32) -> &[BackupCopy] {
        let id = self.table.id(number);
        id.and_then(|id| self.copies.get(&id)).map_or(&[], Vec::as_slice)
    }

    /// What a person calls a target.
    pub(crate) fn target_name(&self, id: TargetId) -> &str {
        self.state.targets.get(&id).map_or("?", |t| &t.name)
    }

    /// Opens one copy, verified against what the state knows.
    pub(crate) fn open(&self, copy: &BackupCopy) -> Result<SectorReader, SectorReadError> {
        self.reach_again(copy.target);
        let opener = self.reach().opener.clone();
        opener.copy(copy).map(|(_, reader)| reader)
    }
}
