//! The file under the store. All its calls go through the fault layer.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use redb::StorageBackend;
use zoneward_sectors::fsx::{self, Call};

use super::StoreError;

/// A redb storage in a file.
#[derive(Debug)]
pub struct FileBackend(File);

impl FileBackend {
    /// Opens an existing file.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::Open { path: path.to_owned(), source };
        match fsx::size(path).map_err(fail)? {
            Some(_) => Self::locked(path, fsx::open_rw(path, 0o600).map_err(fail)?),
            None => Err(fail(io::ErrorKind::NotFound.into())),
        }
    }

    /// Makes a new file, for this user only.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let fail = |source| StoreError::Open { path: path.to_owned(), source };
        let backend = Self::locked(path, fsx::create_new(path, 0o600).map_err(fail)?)?;
        // A command is durable only if the file's name is.
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fsx::sync_dir(dir).map_err(fail)?;
        Ok(backend)
    }

    /// Takes the file for this process alone: two writers would ruin it. The lock ends with the file.
    fn locked(path: &Path, file: File) -> Result<Self, StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Busy),
            Err(TryLockError::Error(source)) => Err(StoreError::Open { path: path.to_owned(), source }),
        }
    }
}

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        fsx::gate(Call::Stat)?;
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        fsx::read_exact_at(&self.0, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fsx::gate(Call::Resize)?;
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        fsx::gate(Call::Sync)?;
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        fsx::write_all_at(&self.0, data, offset)
    }
}
