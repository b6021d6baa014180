//! The file under the store. All its calls go through the fault layer.

use std::fs::File;
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
            Some(_) => Ok(Self(fsx::open_rw(path, 0o600).map_err(fail)?)),
            None => Err(fail(io::ErrorKind::NotFound.into())),
        }
    }

    /// Makes a new file, for this user only.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let file = fsx::create_new(path, 0o600);
        Ok(Self(file.map_err(|source| StoreError::Open { path: path.to_owned(), source })?))
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
