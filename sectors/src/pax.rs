//! Pax tar headers: what a raw sector's members begin with (`docs/format.md` §4.1).
//!
//! [`append_header`] and its neighbours write into a growing buffer; [`Reader`] walks over a tar that anyone may have
//! written. A member gets an extended header only if the plain one (ustar) cannot hold something of it, so most headers
//! of an ordinary tree whose times are whole seconds are one block.
//!
//! Names are bytes. In the names of extended attributes `%` and `=` are written as `%25` and `%3D`, as GNU tar does,
//! because `=` ends a record's key.

mod read;
mod write;

pub use read::{Member, MemberKind, ReadError, Reader};
pub use write::{append_header, append_simple, append_sparse_map, finish, sparse_map_len};

/// Bytes of a header; contents are padded to a multiple of it.
const BLOCK: usize = 512;
/// Bytes of one extended header's records at most. It must hold all attributes of an entry (1 MiB, with up to 30 bytes
/// around each) and two long names.
const EXTENDED_MAX: u64 = 2 << 20;
/// What comes before an extended attribute's name in the key of its record.
const XATTR_KEY: &[u8] = b"SCHILY.xattr.";

const _: () = assert!(EXTENDED_MAX as usize > crate::limits::XATTRS_LEN_MAX + 4 * crate::limits::PATH_LEN_MAX);

/// Where a sparse file holds data.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SparseMap {
    /// Size of the whole file, bytes.
    pub real_size: u64,
    /// (start, end) of each stretch of data, ascending, none empty, none beyond the size. All but the last must be a
    /// multiple of 512 bytes long: the data follows without gaps, but GNU tar looks for each stretch in a new block.
    pub spans: Vec<(u64, u64)>,
}

/// Zeros after `size` bytes of content.
pub fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

#[cfg(test)]
mod tests;
