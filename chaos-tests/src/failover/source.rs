//! A source whose every byte follows from a seed, so that what it held at each checkpoint is known without a copy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Bytes of a file.
const FILE_LEN: usize = 4 << 20;

/// Numbers from a seed (xorshift64*).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

/// What the source holds: the seed of each file.
#[derive(Clone, Debug)]
pub struct Source {
    pub dir: PathBuf,
    files: Vec<u64>,
}

fn content(seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut bytes = Vec::with_capacity(FILE_LEN);
    while bytes.len() < FILE_LEN {
        bytes.extend_from_slice(&dice.next().to_le_bytes());
    }
    bytes
}

impl Source {
    pub fn make(dir: &Path, size_mib: u64, seed: u64) -> Result<Self> {
        let files = (0..(size_mib << 20) / FILE_LEN as u64).map(|i| seed.wrapping_mul(1_000_003).wrapping_add(i));
        let source = Self { dir: dir.to_owned(), files: files.collect() };
        for i in 0..source.files.len() {
            source.write(i)?;
        }
        Ok(source)
    }

    /// Bytes of all files.
    pub fn len(&self) -> u64 {
        (self.files.len() * FILE_LEN) as u64
    }

    /// What is restored and compared: the folders in it.
    fn folders(&self) -> Vec<PathBuf> {
        (0..3).map(|i| self.dir.join(i.to_string())).collect()
    }

    fn path(&self, i: usize) -> PathBuf {
        self.dir.join((i % 3).to_string()).join(format!("{i:05}"))
    }

    fn write(&self, i: usize) -> Result<()> {
        let path = self.path(i);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let seed = self.files.get(i).copied().unwrap_or_default();
        fs::write(&path, content(seed)).with_context(|| format!("writing {}", path.display()))
    }

    /// Gives one in `every` files new content.
    pub fn change(&mut self, every: u64, round: u64) -> Result<()> {
        for i in 0..self.files.len() {
            if (i as u64 + round).is_multiple_of(every) {
                self.files[i] = self.files[i].wrapping_mul(31).wrapping_add(round);
                self.write(i)?;
            }
        }
        Ok(())
    }

    /// What differs below a folder that a restore made.
    pub fn differs(&self, restored: &Path) -> Result<Option<String>> {
        for (i, seed) in self.files.iter().enumerate() {
            let path = self.path(i);
            let back = restored.join(path.strip_prefix("/").unwrap_or(&path));
            if fs::read(&back).ok().as_deref() != Some(&content(*seed)[..]) {
                return Ok(Some(back.display().to_string()));
            }
        }
        let mut count = 0;
        for folder in self.folders() {
            let back = restored.join(folder.strip_prefix("/").unwrap_or(&folder));
            count += fs::read_dir(&back).with_context(|| format!("listing {}", back.display()))?.count();
        }
        Ok((count != self.files.len()).then(|| format!("{count} files instead of {}", self.files.len())))
    }
}
