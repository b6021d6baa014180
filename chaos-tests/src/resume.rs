//! Uploads that are cut: the node that sends a large sector to a target server dies again and again, and another one goes on
//! at the byte that the server acknowledged.
//!
//! All that passes on the way to the server is counted. What passed and is not in the server's folder was sent in vain: for
//! each kill that must be less than one window, with what the line itself takes.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use zoneward_sectors::ids::NodeId;

use crate::failover::fleet::{self, Fleet};
use crate::failover::source::{Dice, Source};
use crate::tale::{add, serve};

/// How a run is set up.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kills: usize,
    pub seed: u64,
    /// MiB of the source: one sector.
    pub size_mib: u64,
}

/// Bytes that may be sent twice for each time that an upload is cut.
const WINDOW: u64 = 8 << 20;
/// What TLS and HTTP take of a line, per thousand: 22 bytes for 16 KiB, and some hundred for each append.
const LINE_PER_MILLE: u64 = 4;
/// Seconds that the upload takes if nobody is killed.
const SECONDS: u64 = 60;
const HANG: Duration = Duration::from_secs(300);

/// Counts what passes to the server.
struct Meter {
    port: u16,
    sent: Arc<AtomicU64>,
}

impl Meter {
    fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (port, sent) = (listener.local_addr()?.port(), Arc::new(AtomicU64::new(0)));
        let counter = sent.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(io::Result::ok) {
                let counter = counter.clone();
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || drop(pass(client, server, &counter)));
            }
        });
        Ok(Self { port, sent })
    }
}

/// Passes a connection on, both ways, until one side ends.
fn pass(client: TcpStream, server: u16, sent: &AtomicU64) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server))?;
    let (mut back_from, mut back_to) = (server.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || {
        let _ = io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(Shutdown::Both);
    });
    let (mut from, mut to, mut buffer) = (client, server, vec![0; 64 << 10]);
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        sent.fetch_add(n as u64, Ordering::SeqCst);
        to.write_all(&buffer[..n])?;
    }
    to.shutdown(Shutdown::Both)?;
    let _ = back.join();
    Ok(())
}

/// Bytes of all files in a folder.
fn held(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for e in fs::read_dir(dir)? {
        let e = e?;
        sum += match e.metadata() {
            Ok(m) if m.is_dir() => held(&e.path())?,
            Ok(m) => m.len(),
            // It got its name meanwhile: the next look sees it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e.into()),
        };
    }
    Ok(sum)
}

/// What passed and what lies there, once both stand still.
fn still(meter: &Meter, data: &Path) -> Result<(u64, u64)> {
    let look = || -> Result<(u64, u64)> { Ok((meter.sent.load(Ordering::SeqCst), held(data)?)) };
    let begun = Instant::now();
    let mut before = look()?;
    loop {
        std::thread::sleep(Duration::from_millis(150));
        let now = look()?;
        if now == before {
            return Ok(now);
        }
        ensure!(begun.elapsed() < Duration::from_secs(20), "bytes still come from a node that is dead");
        before = now;
    }
}

/// The node that uploads now, once so many bytes of it have moved.
fn uploader(fleet: &Fleet, moved: u64) -> Option<(usize, NodeId)> {
    fleet.alive().into_iter().find_map(|node| {
        let steps = fleet.client(node).ok()?.steps().unwrap_or_default();
        let uploads = steps.iter().any(|s| s.kind == "upload" && s.done_bytes >= moved);
        uploads.then(|| (node, fleet.id(node)))
    })
}

pub fn run(p: Plan) -> Result<bool> {
    let begun = Instant::now();
    let mut fleet = Fleet::open()?;
    let mut dice = Dice::new(p.seed);
    let source = Source::make(&fleet.dir.join("source"), p.size_mib, p.seed)?;
    let (data, directory) = (fleet.dir.join("server"), fleet.dir.join("directory"));
    let (_serving, url, token) = serve(&fleet, &data)?;
    let port = |url: &str| url.split(':').nth(2).and_then(|p| p.split(['/', '?']).next()).and_then(|p| p.parse().ok());
    let server: u16 = port(&url).context("the server's URL has no port")?;
    let meter = Meter::start(server)?;
    let url = url.replacen(&format!(":{server}"), &format!(":{}", meter.port), 1);
    let class = (p.size_mib + 64).next_power_of_two();
    fleet.begin_with(&directory, &format!("{class}MiB"))?;
    fleet.join_all()?;
    fleet.add_source(&source, 1)?;
    let folder = source.dir.display().to_string();
    fleet.expect(0, 0, &["backup", &folder])?;
    fleet.settle(HANG)?;
    // The copy on the server is made from here on, by whoever takes it, slowly.
    let upload = ((p.size_mib << 20) / SECONDS).to_string();
    fleet.expect(0, 0, &["schedule", "limit", "--window", "00:00-24:00", "--upload", &upload])?;
    add(&fleet, "server", &url, &serde_json::json!({"token": token}))?;
    let (sent_before, held_before) = still(&meter, &data)?;
    fleet.expect(0, 0, &["source", "set", &folder, "--copies", "2"])?;
    fleet.open_checkpoint(0)?;
    println!("three nodes, a target server, one sector of {} MiB, seed {}", p.size_mib, p.seed);
    let (mut vain, mut hands) = (Vec::new(), Vec::new());
    let mut in_vain = 0;
    let since = Instant::now();
    while vain.len() < p.kills {
        ensure!(since.elapsed() < HANG, "the upload was cut {} times and does not come to the next", vain.len());
        let part = (p.size_mib << 20) / (2 * p.kills as u64);
        let Some((node, id)) = uploader(&fleet, dice.below(part) + 1) else {
            let state = fleet.any_state()?;
            ensure!(
                !state.checkpoints.keys().all(|c| fleet::is_over(&state, *c)) || vain.is_empty(),
                "the upload was over after {} kills",
                vain.len()
            );
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        std::thread::sleep(Duration::from_millis(dice.below(300)));
        fleet.kill(node)?;
        let (sent, held) = still(&meter, &data)?;
        let total = (sent - sent_before).saturating_sub(held - held_before);
        vain.push(total.saturating_sub(in_vain));
        in_vain = total;
        hands.push(id);
        fleet.start(node)?;
        fleet.all_up()?;
        let again = Instant::now();
        while uploader(&fleet, 1).is_none() && fleet.settle(Duration::ZERO).is_err() {
            ensure!(again.elapsed() < HANG, "nobody goes on\n{}", fleet.told(&[]));
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!(
            "cut {}: {:.2} s after all were up again somebody went on",
            vain.len(),
            again.elapsed().as_secs_f64()
        );
    }
    fleet.settle(HANG)?;
    let (sent, held) = still(&meter, &data)?;
    let (sent, held) = (sent - sent_before, held - held_before);
    let mib = |n: u64| n as f64 / f64::from(1 << 20);
    let line = sent * LINE_PER_MILLE / 1000;
    let most = vain.iter().copied().max().unwrap_or(0);
    let changes = hands.windows(2).filter(|w| w[0] != w[1]).count();
    println!(
        "cut {} times; {changes} times the next one was another node; {:.0} s",
        vain.len(),
        since.elapsed().as_secs_f64()
    );
    println!(
        "on the server {:.1} MiB, sent {:.1} MiB: {:.1} MiB more, {:.2} MiB for each cut, at most {:.2} MiB (goal: one window, {} MiB)",
        mib(held),
        mib(sent),
        mib(sent.saturating_sub(held)),
        mib(sent.saturating_sub(held)) / vain.len() as f64,
        mib(most),
        WINDOW >> 20
    );
    ensure!(held > p.size_mib << 20, "the server holds {held} bytes: not all of the sector");
    ensure!(most <= WINDOW + line, "{most} bytes were sent in vain at one cut");
    ensure!(sent <= held + WINDOW * vain.len() as u64 + line, "{sent} bytes were sent for {held}");
    // From the server alone, all of it.
    fs::rename(&directory, fleet.dir.join("unplugged"))?;
    let to = fleet.dir.join("restored");
    fleet.expect(1, 0, &["restore", "latest", "--to", &to.display().to_string()])?;
    let differs = source.differs(&to)?;
    ensure!(differs.is_none(), "what came from the server differs: {}", differs.unwrap_or_default());
    println!("restored from the server alone: 0 differences; {:.0} s in all", begun.elapsed().as_secs_f64());
    Ok(true)
}
