//! The tables of the file: what is in them, how it is read, and the only way to write it.

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::seal::{Sum, Tally, seal, unseal};
use super::{StoreError, rows, unreadable, write_error};
use crate::model::State;

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
    pub revision: u64,
    pub next_seq: u64,
    pub last_time_ms: u64,
    pub rows: Tally,
    pub log: Tally,
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("{what}: its checksum is wrong"))
}

/// What is in the file; `None` if it is new. Every row is checked.
pub fn load(db: &Database) -> Result<Option<(Head, State)>, StoreError> {
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
    let row = |key: &str| -> Result<Vec<u8>, StoreError> {
        let row = meta.get(key).map_err(unreadable)?;
        let row = row.ok_or_else(|| StoreError::Damaged(format!("the record {key} is missing")))?;
        Ok(unseal("meta", key.as_bytes(), row.value()).ok_or_else(|| damaged(key))?.0.to_vec())
    };
    let text = row("schema")?;
    match std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok()) {
        Some(SCHEMA) => {}
        Some(n) if n < SCHEMA => return Err(StoreError::Older(n)),
        Some(n) => return Err(StoreError::Newer(n)),
        None => return Err(StoreError::Damaged("its version is no number".into())),
    }
    let head: Head = serde_json::from_slice(&row("head")?).map_err(|e| StoreError::Damaged(e.to_string()))?;
    let state = load_rows(&read, &head)?;
    check_log(&read, &head)?;
    Ok(Some((head, state)))
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
    let mut state =
        State { revision: head.revision, next_seq: head.next_seq, last_time_ms: head.last_time_ms, ..State::default() };
    let mut tally = Tally::default();
    let table = read.open_table(ROWS).map_err(unreadable)?;
    for row in table.iter().map_err(unreadable)? {
        let (key, value) = row.map_err(unreadable)?;
        let key = key.value();
        let (value, sum) = unseal("rows", key.as_bytes(), value.value()).ok_or_else(|| damaged(key))?;
        tally.add(sum);
        rows::load(&mut state, key, value).map_err(StoreError::Damaged)?;
    }
    if tally != head.rows {
        return Err(StoreError::Damaged("records are missing or old".into()));
    }
    Ok(state)
}

/// The log is whole, without a gap, and ends at the newest entry.
fn check_log(read: &ReadTransaction, head: &Head) -> Result<(), StoreError> {
    let mut tally = Tally::default();
    let mut last: Option<u64> = None;
    let table = read.open_table(LOG).map_err(unreadable)?;
    for row in table.iter().map_err(unreadable)? {
        let (key, value) = row.map_err(unreadable)?;
        let index = key.value();
        let (_, sum) = unseal("log", &index.to_be_bytes(), value.value())
            .ok_or_else(|| damaged(format_args!("entry {index} of the log")))?;
        tally.add(sum);
        if last.is_some_and(|l| l.checked_add(1) != Some(index)) {
            return Err(StoreError::Damaged(format!("the log has a gap before entry {index}")));
        }
        last = Some(index);
    }
    if tally != head.log {
        return Err(StoreError::Damaged("entries of the log are missing or old".into()));
    }
    Ok(())
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

    /// Puts entries into the log.
    pub fn append(&mut self, entries: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Result<(), StoreError> {
        let mut table = self.tx.open_table(LOG).map_err(write_error)?;
        for (index, value) in entries {
            let (row, sum) = seal("log", &index.to_be_bytes(), &value);
            self.head.log.add(sum);
            if let Some(old) = table.insert(index, &row[..]).map_err(write_error)? {
                self.head.log.remove(Sum::carried(old.value()).ok_or_else(|| damaged("an entry of the log"))?);
            }
        }
        Ok(())
    }

    /// Takes entries of these numbers out of the log.
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
            for (key, value) in [("schema", SCHEMA.to_string().as_bytes()), ("head", &head[..])] {
                let (row, _) = seal("meta", key.as_bytes(), value);
                meta.insert(key, &row[..]).map_err(write_error)?;
            }
        }
        self.tx.commit().map_err(write_error)?;
        Ok(self.head)
    }
}
