//! Three nodes of one zone, each a process of this program.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::site::AS_PRODUCT;
use zoneward::daemon::client::Client;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{CheckpointKind, CheckpointState, State};
use zoneward_consensus::plan::{Work, plan};
use zoneward_sectors::ids::{CheckpointId, NodeId};

use super::source::Source;

const NODES: usize = 3;
/// A daemon is up well before this.
const UP: Duration = Duration::from_secs(60);
const PORT: u16 = 27_441;
/// A node sends at most such a part of the source in a second: its share of a checkpoint takes it about as long.
const UPLOAD_PART: u64 = 60;

/// The nodes and their folder, removed at the end.
pub struct Fleet {
    pub dir: PathBuf,
    up: [Option<Child>; NODES],
    ids: [NodeId; NODES],
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.up.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Commits a command through a node.
pub fn propose(client: &Client, command: &Command) -> Result<()> {
    client.send(hyper::Method::POST, "/local/commands", command).context("proposing a command")?;
    Ok(())
}

/// Whether nothing is left to do for a checkpoint.
pub fn is_over(state: &State, id: CheckpointId) -> bool {
    let published = state.checkpoints.get(&id).is_some_and(|c| c.state == CheckpointState::Published);
    let rest = |w: &Work| matches!(w, Work::Copy { .. } | Work::Publish { .. } | Work::WriteSystem { .. });
    published && state.leases.is_empty() && !plan(state, 0).iter().any(rest)
}

impl Fleet {
    pub fn open() -> Result<Self> {
        let base = Path::new("/dev/shm");
        let base = if base.is_dir() { base.to_owned() } else { std::env::temp_dir() };
        let dir = base.join(format!("zoneward-failover-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir, up: [None, None, None], ids: [NodeId::default(); NODES] })
    }

    fn home(&self, i: usize) -> PathBuf {
        self.dir.join(format!("home{i}"))
    }

    pub fn command(&self, i: usize, args: &[&str]) -> Result<Process> {
        let mut c = Process::new(std::env::current_exe()?);
        c.arg(AS_PRODUCT).arg("--home").arg(self.home(i)).args(args);
        c.env("ZONEWARD_PASSPHRASE", "correct horse battery staple").stdin(Stdio::null());
        Ok(c)
    }

    /// Runs a command of node `i` that must end with this code; answers what it said.
    pub fn expect(&self, i: usize, code: i32, args: &[&str]) -> Result<String> {
        let o = self.command(i, args)?.output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        ensure!(o.status.code() == Some(code), "{args:?} on node {i} ended with {:?}: {said}", o.status.code());
        Ok(said)
    }

    /// Makes the zone: three voters, two targets, the source shared by all.
    pub fn found(&mut self, source: &Source) -> Result<()> {
        let target = |n: u8| self.dir.join(format!("target{n}")).display().to_string();
        let (one, two) = (target(1), target(2));
        self.expect(0, 0, &["init", "--target", &one, "--target", &two, "--sector-min", "16MiB"])?;
        // Nothing begins by itself.
        self.expect(0, 0, &["schedule", "remove", "daily"])?;
        self.join_all()?;
        self.add_source(source, 2)
    }

    /// Makes a zone with one directory, not up yet.
    #[cfg(feature = "tale")]
    pub fn begin(&self, directory: &Path) -> Result<()> {
        self.begin_with(directory, "1MiB")
    }

    /// The same, with sectors of at least this size.
    #[cfg(feature = "tale")]
    pub fn begin_with(&self, directory: &Path, sector_min: &str) -> Result<()> {
        self.expect(0, 0, &["init", "--target", &directory.display().to_string(), "--sector-min", sector_min])?;
        self.expect(0, 0, &["schedule", "remove", "daily"])?;
        Ok(())
    }

    /// Starts the first node and lets the others in.
    pub fn join_all(&mut self) -> Result<()> {
        self.start(0)?;
        for i in 1..NODES {
            let mut invite = self.command(0, &["--quiet", "node", "invite", "--name", &format!("node{i}")])?;
            let mut invite = invite.stdout(Stdio::piped()).spawn()?;
            let mut code = String::new();
            BufReader::new(invite.stdout.take().context("no output")?).read_line(&mut code)?;
            self.expect(i, 0, &["join", code.trim()])?;
            ensure!(invite.wait()?.success(), "the invite failed");
            self.start(i)?;
        }
        let begun = Instant::now();
        while self.client(0)?.status()?.voters.len() < NODES {
            ensure!(begun.elapsed() < UP, "the nodes do not all get a vote");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Makes a folder that all nodes reach a source.
    pub fn add_source(&self, source: &Source, copies: u8) -> Result<()> {
        let folder = source.dir.display().to_string();
        self.expect(0, 0, &["source", "add", &folder, "--shared", "--copies", &copies.to_string()])?;
        Ok(())
    }

    /// The 24 words, from the recovery kit of the first node.
    #[cfg(feature = "tale")]
    pub fn words(&self) -> Result<String> {
        let page = std::fs::read_to_string(self.home(0).join("recovery-kit.html"))?;
        let word = |w: &str| Some(w.split_once("</span>")?.1.split_once("</li>")?.0.to_owned());
        let words: Vec<String> = page.split("<li><span>").skip(1).take(24).filter_map(word).collect();
        ensure!(words.len() == 24, "the kit has {} words", words.len());
        Ok(words.join(" "))
    }

    /// All nodes die, and their disks with them.
    #[cfg(feature = "tale")]
    pub fn lose_all(&mut self) -> Result<()> {
        for i in self.alive() {
            self.kill(i)?;
        }
        (0..NODES).try_for_each(|i| Ok(std::fs::remove_dir_all(self.home(i))?))
    }

    /// On a new machine, which takes the first node's place: everything back, from one target and the words.
    #[cfg(feature = "tale")]
    pub fn recover(&self, words: &str, url: &str, credentials: &Path, to: &Path) -> Result<()> {
        let (to, credentials) = (to.display().to_string(), credentials.display().to_string());
        let args = ["recover", "--target", url, "--credentials-file", &credentials, "--to", &to];
        let o = self.command(0, &args)?.env("ZONEWARD_PASSPHRASE", words).output()?;
        let said = format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
        ensure!(o.status.success(), "recover ended with {:?}: {said}", o.status.code());
        Ok(())
    }

    /// From now on work takes long enough to be cut in its middle.
    pub fn slow_down(&self, source: &Source) -> Result<()> {
        let upload = (source.len() / UPLOAD_PART).to_string();
        self.expect(0, 0, &["schedule", "limit", "--window", "00:00-24:00", "--upload", &upload])?;
        Ok(())
    }

    pub fn start(&mut self, i: usize) -> Result<()> {
        let listen = format!("127.0.0.{}:{PORT}", i + 1);
        let mut child = self
            .command(i, &["--json", "up", "--listen", &listen, "--api", "off"])?
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let said: serde_json::Value = serde_json::from_str(&line).with_context(|| format!("node {i} said {line:?}"))?;
        self.ids[i] = said["node"].as_str().and_then(|id| id.parse().ok()).context("the node has no id")?;
        self.up[i] = Some(child);
        Ok(())
    }

    pub fn kill(&mut self, i: usize) -> Result<()> {
        let mut child = self.up[i].take().context("the node is dead already")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    pub fn id(&self, i: usize) -> NodeId {
        self.ids[i]
    }

    pub fn alive(&self) -> Vec<usize> {
        (0..NODES).filter(|i| self.up[*i].is_some()).collect()
    }

    pub fn client(&self, i: usize) -> Result<Client> {
        Ok(Client::connect(&self.home(i))?)
    }

    /// Whom node `i` takes for the leader.
    pub fn leader(&self, i: usize) -> Result<Option<NodeId>> {
        Ok(self.client(i)?.status()?.leader)
    }

    /// Whether all nodes run and hear each other: another one may die.
    pub fn full(&self) -> bool {
        let Some(i) = self.alive().first().copied().filter(|_| self.alive().len() == NODES) else { return false };
        let Ok(status) = self.client(i).and_then(|c| Ok(c.status()?)) else { return false };
        let newest = status.reports.values().map(|r| r.at_ms).max().unwrap_or(0);
        let fresh = |r: &&zoneward_actors::node::NodeReport| newest.saturating_sub(r.at_ms) < 1_000;
        let applied = status.reports.values().filter(fresh).map(|r| r.applied);
        status.leader.is_some() && applied.clone().count() == NODES && applied.min().unwrap_or(0) + 50 > status.applied
    }

    /// Waits until all nodes run and hear each other.
    pub fn all_up(&mut self) -> Result<()> {
        let begun = Instant::now();
        while !self.full() {
            ensure!(begun.elapsed() < UP, "the nodes do not find each other again");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The state as some node has it.
    pub fn any_state(&self) -> Result<State> {
        let i = *self.alive().first().context("no node runs")?;
        self.client(i)?.state(None)?.context("a node without a state")
    }

    /// Begins a checkpoint of all sources through node `i`.
    pub fn open_checkpoint(&self, i: usize) -> Result<CheckpointId> {
        let sources = self.any_state()?.sources.into_keys().collect();
        let checkpoint = CheckpointId::random();
        let checkpoint_kind = CheckpointKind::Incremental;
        let open = Command::OpenCheckpoint { checkpoint, checkpoint_kind, sources, allow_empty: false };
        propose(&self.client(i)?, &open)?;
        Ok(checkpoint)
    }

    /// Waits until nothing is to be done and all nodes have applied the same; answers their states.
    pub fn settle(&self, limit: Duration) -> Result<Vec<State>> {
        let begun = Instant::now();
        loop {
            let states = (0..NODES).map(|i| self.client(i)?.state(None)?.context("a node without a state"));
            let states: Vec<State> = states.collect::<Result<_>>()?;
            let same = states.windows(2).all(|w| w[0].revision == w[1].revision);
            if same && states[0].leases.is_empty() && plan(&states[0], 0).is_empty() {
                return Ok(states);
            }
            ensure!(begun.elapsed() < limit, "the zone does not come to rest: {:?}", plan(&states[0], 0));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the living nodes know, for a person who looks for what went wrong.
    pub fn told(&self, work: &[Work]) -> String {
        let mut text = format!("work: {work:?}\n");
        for i in self.alive() {
            let Ok(client) = self.client(i) else { continue };
            let Ok(Some(state)) = client.state(None) else { continue };
            let leader = client.status().map(|s| s.leader);
            text += &format!("node {i} = {:?}, leader {leader:?}, revision {}\n", self.id(i), state.revision);
            text += &format!("  steps: {:?}\n", client.steps());
            text += &format!("  leases: {:?}\n  plan: {:?}\n", state.leases, plan(&state, 0));
        }
        text
    }

    /// MiB of memory and percent of a core that node `i` takes over a while.
    pub fn idle(&self, i: usize, period: Duration) -> Result<(f64, f64)> {
        let pid = self.up[i].as_ref().context("the node is dead")?.id();
        let ticks = || -> Result<u64> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).context("odd /proc/PID/stat");
            Ok(field(11)? + field(12)?)
        };
        let before = ticks()?;
        std::thread::sleep(period);
        let used = (ticks()? - before) as f64 / rustix::param::clock_ticks_per_second() as f64;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss =
            status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        Ok((rss.context("odd /proc/PID/status")? / 1024.0, used / period.as_secs_f64() * 100.0))
    }
}
