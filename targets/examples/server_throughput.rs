//! Throughput of a target server on this machine: a sector of incompressible bytes is put over TLS, over the same
//! client and server without TLS, straight into a directory target, and copied as a plain file; then read back.
//!
//! `cargo run --release -p zoneward-targets --example server_throughput -- DIR [MiB] [rounds]`
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use zoneward_sectors::crypto::fill_random;
use zoneward_sectors::ids::{CopyId, TargetId, ZoneAlias};
use zoneward_targets::server::{NewToken, Running, Server, Settings, TokenFile};
use zoneward_targets::{Credentials, DirectoryTarget, Existing, ServerTarget, ServerUrl, Target};

const PIECE: usize = 1 << 20;

fn put(target: &dyn Target, alias: ZoneAlias, data: &[u8], mib: usize) -> CopyId {
    let copy = CopyId::random();
    let writer = target.open(alias, copy).unwrap();
    for i in 0..mib {
        // Other bytes for each piece, at no cost: a window that moves over random bytes.
        let at = (i * 4099) % (data.len() - PIECE);
        writer.write_at((i * PIECE) as u64, &data[at..at + PIECE]).unwrap();
    }
    writer.seal((mib * PIECE) as u64).unwrap();
    copy
}

fn get(target: &dyn Target, alias: ZoneAlias, copy: CopyId) {
    let reader = target.reader(alias, copy).unwrap();
    std::thread::scope(|scope| {
        for lane in 0..2 {
            let reader = reader.as_ref();
            scope.spawn(move || {
                let mut buf = vec![0u8; 8 * PIECE];
                for at in (0..reader.len()).step_by(buf.len()).skip(lane).step_by(2) {
                    let len = buf.len().min((reader.len() - at) as usize);
                    reader.read_at(&mut buf[..len], at).unwrap();
                }
            });
        }
    });
}

fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn timed(name: &str, mib: usize, work: impl FnOnce()) {
    let (cpu, start) = (cpu_s(), Instant::now());
    work();
    let s = start.elapsed().as_secs_f64();
    let gb = mib as f64 * PIECE as f64 / 1e9;
    println!("{name:<34} {:>7.0} MB/s  {:>5.2} CPU-s per GB", gb * 1000.0 / s, (cpu_s() - cpu) / gb);
}

fn served(server: &std::sync::Arc<Server>, plain: bool) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    if plain { server.start_plain_to_measure(listener) } else { server.start(listener) }.unwrap()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(args.first().expect("a directory to work in"));
    let mib: usize = args.get(1).map_or(2048, |t| t.parse().unwrap());
    let rounds: usize = args.get(2).map_or(3, |t| t.parse().unwrap());
    let mut data = vec![0u8; 16 * PIECE];
    fill_random(&mut data);
    let dir = root.join("server");
    let server = Server::open(&dir, Settings { lock_days: 0, ..Settings::default() }, Box::new(|_| {})).unwrap();
    drop(server);
    let new = NewToken { account: "a".into(), zones_max: Some(100), ..NewToken::default() };
    let (token, _) = TokenFile::of(&dir).add(&new).unwrap();
    let server = Server::open(&dir, Settings { lock_days: 0, ..Settings::default() }, Box::new(|_| {})).unwrap();
    let (tls, plain) = (served(&server, false), served(&server, true));
    let url = |r: &Running, pin| ServerUrl { host: "127.0.0.1".into(), port: r.address.port(), pin };
    let credentials = Credentials::of([("token", token.as_str())]);
    let over_tls = ServerTarget::open(&url(&tls, Some(server.fingerprint())), None, Some(&credentials)).unwrap();
    let over_plain = ServerTarget::open_plain_to_measure(&url(&plain, None), &token).unwrap();
    let disk = DirectoryTarget::create(&root.join("disk"), TargetId::random(), Existing::Refuse).unwrap();
    let alias = ZoneAlias::random();
    for _ in 0..rounds {
        let mut kept = Vec::new();
        timed("put over TLS", mib, || kept.push(put(&over_tls, alias, &data, mib)));
        timed("put over plain HTTP", mib, || kept.push(put(&over_plain, alias, &data, mib)));
        timed("put into a directory", mib, || {
            put(&disk, alias, &data, mib);
        });
        let sealed = |copy: CopyId| {
            let name = copy.to_string();
            dir.join(format!("zones/{alias}/sectors/{}/{name}.zws", name.get(..2).unwrap()))
        };
        let (from, to) = (sealed(kept[0]), root.join("copy"));
        timed("copy of the file, with sync", mib, || {
            let mut from = File::open(&from).unwrap();
            let mut to = File::create(&to).unwrap();
            let mut buf = vec![0u8; PIECE];
            loop {
                let n = std::io::Read::read(&mut from, &mut buf).unwrap();
                if n == 0 {
                    break;
                }
                std::io::Write::write_all(&mut to, &buf[..n]).unwrap();
            }
            to.sync_all().unwrap();
        });
        timed("get over TLS, two threads", mib, || get(&over_tls, alias, kept[0]));
        timed("get over plain HTTP, two threads", mib, || get(&over_plain, alias, kept[0]));
        for copy in kept {
            std::fs::remove_file(sealed(copy)).unwrap();
        }
        for (copy, _) in disk.list(alias).unwrap().sectors {
            disk.remove(alias, copy).unwrap();
        }
        std::fs::remove_file(to).unwrap();
    }
    let peak = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", peak.lines().find(|l| l.starts_with("VmHWM")).unwrap());
}
