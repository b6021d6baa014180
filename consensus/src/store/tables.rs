//! The tables of the file: what is in them, how it is read, and the only way to write it.

use std::ops::RangeBounds;

use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use zoneward_sectors::ids::NodeId;

use super::seal::{Sum, Tally, seal, unseal};
use super::{StoreError, rows, unreadable, write_error};
use crate::model::State;
use crate::raft::{LogEntry, LogId, Membership, SnapshotMeta, Vote};

/// The store's own version: any other is refused.
pub const SCHEMA: u64 = 2;

pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// `meta` as schema 1 had it.
const META_1: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// What the store knows besides log and records. One row, so that it is of one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Whose store this is; `None` until it is first used.
    pub node: Option<NodeId>,
    /// The vote given, never taken back.
    pub vote: Option<Vote>,
    /// The newest entry known to be committed. It may lag.
    pub committed: Option<LogId>,
    /// The last entry that was taken out of the log's beginning.
    pub purged: Option<LogId>,
    /// The last entry of the log, or `purged` if it is empty.
    pub last: Option<LogId>,
    /// The last entry that the records show.
    pub applied: Option<LogId>,
    /// Who belongs to the zone as of `applied`.
    pub membership: Membership,
    /// The snapshot that a node far behind is sent.
    pub snapshot: Option<SnapshotMeta>,
    /// Snapshots made or received so far: their files get names that were never used.
    pub snapshots: u64,
    pub next_seq: u64,
    pub last_time_ms: u64,
    pub rows: Tally,
    pub log: Tally,
}

impl Head {
    /// The state's revision: number of the last entry applied.
    pub fn revision(&self) -> u64 {
        self.applied.map_or(0, |id| id.index)
    }
}

/// All that is in a file.
#[derive(Debug, Default)]
pub struct Loaded {
    pub head: Head,
    pub state: State,
    /// Who belongs to the zone by the last entry of the log that says so, applied or not.
    pub effective: Membership,
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("{what}: its checksum is wrong"))
}

/// What is in the file; `None` if it is new. Every row is checked.
pub fn load(db: &Database) -> Result<Option<Loaded>, StoreError> {
    let read = db.begin_read().map_err(unreadable)?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        // A new file has no tables at all; one with others has lost the name of this one.
        Err(TableError::TableDoesNotExist(_)) if read.list_tables().map_err(unreadable)?.next().is_none() => {
            return Ok(None);
        }
        Err(TableError::TableTypeMismatch { .. }) => return Err(older(&read)),
        Err(e) => return Err(unreadable(e)),
    };
    let text = meta_row(&meta, "schema")?;
    match std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok()) {
        Some(SCHEMA) => {}
        Some(n) if n < SCHEMA => return Err(StoreError::Older(n)),
        Some(n) => return Err(StoreError::Newer(n)),
        None => return Err(StoreError::Damaged("its version is no number".into())),
    }
    let head = head_of(&meta)?;
    let state = load_rows(&read, &head)?;
    let effective = check_log(&read, &head)?;
    Ok(Some(Loaded { head, state, effective }))
}

fn meta_row(meta: &ReadOnlyTable<&str, &[u8]>, key: &str) -> Result<Vec<u8>, StoreError> {
    let row = meta.get(key).map_err(unreadable)?;
    let row = row.ok_or_else(|| StoreError::Damaged(format!("the record {key} is missing")))?;
    Ok(unseal("meta", key.as_bytes(), row.value()).ok_or_else(|| damaged(key))?.0.to_vec())
}

fn head_of(meta: &ReadOnlyTable<&str, &[u8]>) -> Result<Head, StoreError> {
    serde_json::from_slice(&meta_row(meta, "head")?).map_err(|e| StoreError::Damaged(e.to_string()))
}

/// What the store knew at the moment of this transaction.
pub fn head(read: &ReadTransaction) -> Result<Head, StoreError> {
    head_of(&read.open_table(META).map_err(unreadable)?)
}

/// Gives each record, checked, as key and JSON.
pub fn each_row(
    read: &ReadTransaction,
    mut give: impl FnMut(&str, &[u8], Sum) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let table = match read.open_table(ROWS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(e) => return Err(unreadable(e)),
    };
    for row in table.iter().map_err(unreadable)? {
        let (key, value) = row.map_err(unreadable)?;
        let key = key.value();
        let (value, sum) = unseal("rows", key.as_bytes(), value.value()).ok_or_else(|| damaged(key))?;
        give(key, value, sum)?;
    }
    Ok(())
}

/// Entries of the log from `range`, in order, until their bytes come to `len_max`; at least one if there is one.
pub fn entries(
    read: &ReadTransaction,
    range: impl RangeBounds<u64>,
    len_max: usize,
) -> Result<Vec<LogEntry>, StoreError> {
    let table = match read.open_table(LOG) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(e) => return Err(unreadable(e)),
    };
    let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
    let (mut out, mut len) = (Vec::new(), 0);
    for row in table.range(bounds).map_err(unreadable)? {
        let (key, value) = row.map_err(unreadable)?;
        let (entry, _) = entry(key.value(), value.value())?;
        len += value.value().len();
        if len > len_max && !out.is_empty() {
            break;
        }
        out.push(entry);
    }
    Ok(out)
}

fn entry(index: u64, row: &[u8]) -> Result<(LogEntry, Sum), StoreError> {
    let (value, sum) =
        unseal("log", &index.to_be_bytes(), row).ok_or_else(|| damaged(format_args!("entry {index} of the log")))?;
    let entry: LogEntry =
        serde_json::from_slice(value).map_err(|e| StoreError::Damaged(format!("entry {index} of the log: {e}")))?;
    if entry.log_id.index != index {
        return Err(StoreError::Damaged(format!("entry {index} of the log is another one")));
    }
    Ok((entry, sum))
}

/// Schema 1 kept numbers in `meta`.
fn older(read: &ReadTransaction) -> StoreError {
    let schema = read.open_table(META_1).ok().and_then(|t| t.get("schema").ok().flatten().map(|v| v.value()));
    match schema {
        Some(n) if n < SCHEMA => StoreError::Older(n),
        Some(n) => StoreError::Newer(n),
        None => StoreError::Damaged("its tables are of no known kind".into()),
    }
}

fn load_rows(read: &ReadTransaction, head: &Head) -> Result<State, StoreError> {
    let mut state = State {
        revision: head.revision(),
        next_seq: head.next_seq,
        last_time_ms: head.last_time_ms,
        ..State::default()
    };
    let mut tally = Tally::default();
    each_row(read, |key, value, sum| {
        tally.add(sum);
        rows::load(&mut state, key, value).map_err(StoreError::Damaged)
    })?;
    if tally != head.rows {
        return Err(StoreError::Damaged("records are missing or old".into()));
    }
    Ok(state)
}

/// The log is whole, without a gap, and begins and ends where the head says. Answers the membership in force.
fn check_log(read: &ReadTransaction, head: &Head) -> Result<Membership, StoreError> {
    let mut tally = Tally::default();
    let mut last = head.purged;
    let mut effective = head.membership.clone();
    let table = match read.open_table(LOG) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) if head.log == tally => return Ok(effective),
        Err(e) => return Err(unreadable(e)),
    };
    for row in table.iter().map_err(unreadable)? {
        let (key, value) = row.map_err(unreadable)?;
        let (entry, sum) = entry(key.value(), value.value())?;
        tally.add(sum);
        let id = entry.log_id;
        if last.is_some_and(|l| l.index.checked_add(1) != Some(id.index)) {
            return Err(StoreError::Damaged(format!("the log has a gap before entry {}", id.index)));
        }
        last = Some(id);
        if let (true, openraft::EntryPayload::Membership(m)) = (Some(id) > head.applied, entry.payload) {
            effective = Membership::new(Some(id), m);
        }
    }
    if tally != head.log || last != head.last {
        return Err(StoreError::Damaged("entries of the log are missing or old".into()));
    }
    Ok(effective)
}

/// One transaction under way: nothing of it is there before it is committed.
pub struct Batch {
    tx: WriteTransaction,
    /// What the store knows once this is committed.
    pub head: Head,
}

impl Batch {
    pub fn begin(db: &Database, head: &Head, durability: Durability) -> Result<Self, StoreError> {
        let mut tx = db.begin_write().map_err(write_error)?;
        tx.set_durability(durability).map_err(write_error)?;
        Ok(Self { tx, head: head.clone() })
    }

    /// Puts records in, or takes them out where there is no value.
    pub fn put_rows(&mut self, rows: impl IntoIterator<Item = (String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        let mut table = self.tx.open_table(ROWS).map_err(write_error)?;
        for (key, value) in rows {
            let old = match value {
                Some(value) => {
                    let (row, sum) = seal("rows", key.as_bytes(), &value);
                    self.head.rows.add(sum);
                    table.insert(&key[..], &row[..]).map_err(write_error)?
                }
                None => table.remove(&key[..]).map_err(write_error)?,
            };
            if let Some(old) = old {
                self.head.rows.remove(Sum::carried(old.value()).ok_or_else(|| damaged(&key))?);
            }
        }
        Ok(())
    }

    /// Takes all records out.
    pub fn clear_rows(&mut self) -> Result<(), StoreError> {
        let mut table = self.tx.open_table(ROWS).map_err(write_error)?;
        while table.pop_first().map_err(write_error)?.is_some() {}
        self.head.rows = Tally::default();
        Ok(())
    }

    /// Puts entries into the log. It never gets a gap; raft gives up old entries before it writes others in their place.
    pub fn append<'a>(&mut self, entries: impl IntoIterator<Item = &'a LogEntry>) -> Result<(), StoreError> {
        let mut table = self.tx.open_table(LOG).map_err(write_error)?;
        for entry in entries {
            let id = entry.log_id;
            if self.head.last.is_some_and(|last| id.index > last.index.saturating_add(1)) {
                return Err(StoreError::Disorder(format!("an entry {id} after {:?}", self.head.last)));
            }
            let value = serde_json::to_vec(entry).map_err(write_error)?;
            let (row, sum) = seal("log", &id.index.to_be_bytes(), &value);
            self.head.log.add(sum);
            if self.head.last.is_none_or(|last| last.index <= id.index) {
                self.head.last = Some(id);
            }
            if let Some(old) = table.insert(id.index, &row[..]).map_err(write_error)? {
                self.head.log.remove(Sum::carried(old.value()).ok_or_else(|| damaged("an entry of the log"))?);
            }
        }
        Ok(())
    }

    /// Takes entries of these numbers out of the log. The caller says what that makes of its beginning and end.
    pub fn cut(&mut self, range: std::ops::RangeInclusive<u64>) -> Result<(), StoreError> {
        let mut table = self.tx.open_table(LOG).map_err(write_error)?;
        let found = table.range(range).map_err(write_error)?;
        let indexes = found.map(|row| row.map(|(key, _)| key.value())).collect::<Result<Vec<u64>, _>>();
        for index in indexes.map_err(write_error)? {
            if let Some(old) = table.remove(index).map_err(write_error)? {
                self.head.log.remove(Sum::carried(old.value()).ok_or_else(|| damaged("an entry of the log"))?);
            }
        }
        Ok(())
    }

    /// Makes it count. The answer is what the store knows from now on.
    pub fn commit(self) -> Result<Head, StoreError> {
        let head = serde_json::to_vec(&self.head).map_err(write_error)?;
        {
            let mut meta = self.tx.open_table(META).map_err(write_error)?;
            let new = meta.get("schema").map_err(write_error)?.is_none();
            let schema = new.then(|| ("schema", SCHEMA.to_string().into_bytes()));
            for (key, value) in schema.into_iter().chain([("head", head)]) {
                let (row, _) = seal("meta", key.as_bytes(), &value);
                meta.insert(key, &row[..]).map_err(write_error)?;
            }
        }
        self.tx.commit().map_err(write_error)?;
        Ok(self.head)
    }
}
