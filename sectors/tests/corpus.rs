//! The fuzz targets on a stable compiler: the kept seeds, and some thousand mutants of them, each time the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/src/bodies.rs"]
mod bodies;
#[path = "common/bounded.rs"]
mod bounded;

use std::fs;
use std::path::Path;

use bounded::bounded;

/// A small generator: the mutants are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

/// Texts and numbers that decoders look at.
const TOKENS: [&[u8]; 20] = [
    b"\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\0\0\0\0\0\0\0\0",
    b"-1",
    b"18446744073709551615",
    b"[",
    b"]",
    b"{\"+\":[[1]]}\n",
    b"{\"k\":1,\"sector\":\"00000000000000000000000000000000\"}\n",
    b"..",
    b"/",
    b"\n",
    b"\\u0000",
    b"null",
    b"\"",
    b",[0,0,1,\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]",
    b"1.5e9",
    b"x",
    b"999999999999",
];

fn mutate(seeds: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut data = seeds[dice.roll(seeds.len())].clone();
    for _ in 0..=dice.roll(4) {
        let at = dice.roll(data.len() + 1);
        let end = (at + dice.roll(40)).min(data.len());
        match dice.roll(8) {
            0 | 1 if at < data.len() => data[at] ^= 1 << dice.roll(8),
            2 if at < data.len() => data[at] = dice.roll(256) as u8,
            3 => data.truncate(at),
            4 => drop(data.drain(at..end)),
            5 => {
                let token = TOKENS[dice.roll(TOKENS.len())];
                let over = if dice.roll(2) == 0 { at } else { (at + token.len()).min(data.len()) };
                data.splice(at..over, token.iter().copied());
            }
            6 => {
                let copy = data[at..end].to_vec();
                let to = dice.roll(data.len() + 1);
                data.splice(to..to, copy);
            }
            _ => {
                let other = &seeds[dice.roll(seeds.len())];
                let from = dice.roll(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
        }
    }
    data
}

fn run(target: &str, body: fn(&[u8]), mutants: usize) {
    bounded(target, || {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(|f| fs::read(f).unwrap()).collect();
        assert!(seeds.len() >= 2, "{target} has too few seeds");
        body(b"");
        seeds.iter().for_each(|s| body(s));
        let mut dice = Dice(0x5eed_0000 + target.len() as u64);
        for _ in 0..mutants {
            let data = mutate(&seeds, &mut dice);
            let result = std::panic::catch_unwind(|| body(&data));
            assert!(result.is_ok(), "{target}: {}", data.escape_ascii());
        }
    });
}

macro_rules! targets {
    ($($name:ident $body:ident $mutants:literal,)*) => {
        $(#[test] fn $name() { run(stringify!($name), bodies::$body, $mutants); })*
    };
}

targets! {
    header fuzz_header 5000,
    stream fuzz_stream 5000,
    raw_sector fuzz_raw_sector 5000,
    seek_table fuzz_seek_table 20000,
    catalog fuzz_catalog 20000,
    tar fuzz_tar 20000,
    key_file fuzz_key_file 5000,
    trailer fuzz_trailer 20000,
    certificate fuzz_certificate 5000,
    zone_secret fuzz_zone_secret 20000,
    index fuzz_index 20000,
}
