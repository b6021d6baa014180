//! The command line: what can be typed. Words and shapes follow what users of restic, Garage and etcd expect.

mod keep;
mod rollback;
mod schedule;
mod target;
mod user;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use keep::*;
pub use rollback::*;
pub use schedule::*;
pub use target::*;
pub use user::*;

/// Encrypted backups of a zone, on targets you need not trust.
#[derive(Debug, Parser)]
#[command(
    name = "zoneward",
    version,
    about = "Encrypted backups of a zone, on targets you need not trust",
    disable_help_subcommand = true,
    after_help = "First steps:\n  zoneward try ~/Documents                     see it work, in a folder of its own\n  zoneward init --target file:///mnt/backup    make a zone and its first target\n  zoneward backup ~/Documents                  back up; the zone remembers the source\n  zoneward checkpoints                         what there is\n  zoneward restore latest --to ~/restored      get it back"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The zone's home on this node [default: ~/.zoneward]
    #[arg(long, env = "ZONEWARD_HOME", global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// File whose first line is the passphrase (or set ZONEWARD_PASSPHRASE, or answer the prompt)
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Read what only the owner can: asks for the passphrase, or the 24 words. For sources that are write-only
    #[arg(long, global = true)]
    pub with_owner_key: bool,
    /// Answer as JSON: one document, or one line an event (docs/cli.md lists the shapes)
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Show no progress, not even on a terminal
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Language of what is told, en or zh-CN: the levels of `status` for now [default: LC_ALL, LC_MESSAGES or LANG]
    #[arg(long, global = true, value_name = "LANG", value_parser = crate::words::Lang::parse)]
    pub lang: Option<crate::words::Lang>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a zone, its keys and its first target
    Init(InitArgs),
    /// Back up sources: all that the zone knows, or those named (which it then remembers)
    Backup(BackupArgs),
    /// List checkpoints
    #[command(visible_alias = "snapshots")]
    Checkpoints(CheckpointsArgs),
    /// List what a checkpoint holds
    Ls(LsArgs),
    /// Find paths in checkpoints by a pattern
    Find(FindArgs),
    /// Show what differs between two checkpoints
    Diff(DiffArgs),
    /// Print a file from a checkpoint
    Cat(CatArgs),
    /// Restore a checkpoint or parts of it
    Restore(RestoreArgs),
    /// Put this node's sources back to a checkpoint, in place; what is there is kept. Shows what would be; --apply does it
    Rollback(RollbackArgs),
    /// Show checkpoints as a read-only file system, until Ctrl-C
    Mount(MountArgs),
    /// Bring a lost zone back on this machine: from one target and the 24 words (or the passphrase)
    Recover(RecoverArgs),
    /// Check that what is stored is there and whole
    Check(CheckArgs),
    /// Forget checkpoints: by name, or all that some rules do not keep. Shows what would go; --apply does it
    Forget(ForgetArgs),
    /// Take back that checkpoints were forgotten
    Undelete(UndeleteArgs),
    /// Which checkpoints the zone keeps by itself
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// Free what no checkpoint needs any more. Shows what would go; --apply does it
    Prune(PruneArgs),
    /// Give checkpoints tags, which rules can keep them by
    Tag(TagArgs),
    /// How the zone is: reliability and availability, why, and what to do; last backup, copies
    Status,
    /// Status, live, until Ctrl-C
    Top,
    /// Run this node: its place in the cluster, its schedule, its share of the work
    Up(UpArgs),
    /// Make this device a node of a zone, with the code that a member's `node invite` printed
    Join(JoinArgs),
    /// The zone's nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// The zone as a whole: what only its owner may do
    #[command(subcommand)]
    Zone(ZoneCommand),
    /// Raw sectors: list them, open one
    #[command(subcommand)]
    Sector(SectorCommand),
    /// Sources that the zone backs up
    #[command(subcommand)]
    Source(SourceCommand),
    /// Names that lie at different places on different nodes: dfs://NAME/…
    #[command(subcommand)]
    Dfs(DfsCommand),
    /// Backup Targets
    #[command(subcommand)]
    Target(TargetCommand),
    /// When the zone backs itself up, and what it may use meanwhile
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// The owner's keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Users: whose sources are whose; one user's data from zone to zone
    #[command(subcommand)]
    User(UserCommand),
    /// Tokens that let programs use the REST API
    #[command(subcommand)]
    Token(TokenCommand),
    /// See it work: back a directory up to a target beside it, check, restore, compare
    Try(TryArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages
    Man {
        /// Where to write them [default: standard output, the main page only]
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where backups go: a path, file:///path, s3://host/bucket/folder, …; repeat it for several targets
    #[arg(long, value_name = "URL", required = true)]
    pub target: Vec<String>,
    /// File with the credentials of targets over the network: JSON, readable by you alone (docs/cli.md)
    #[arg(long, env = "ZONEWARD_CREDENTIALS_FILE", value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
    /// The zone's name
    #[arg(long, default_value = "home")]
    pub name: String,
    /// Smallest sector class, a power of two (4KiB … 64GiB)
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = crate::units::parse_class)]
    pub sector_min: u8,
    /// Bits of the owner's RSA key
    #[arg(long, value_name = "BITS", default_value = "3072", value_parser = ["3072", "4096"])]
    pub rsa_bits: String,
    /// zstd level for new data (1 fast … 19 small)
    #[arg(long, value_name = "LEVEL", default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub compression: i32,
    /// Where the recovery kit is written [default: recovery-kit.html in the home]
    #[arg(long, value_name = "FILE")]
    pub kit: Option<PathBuf>,
    /// Keep the passphrase-sealed key on targets too, not only the one sealed under the 24 words
    #[arg(long)]
    pub passphrase_on_targets: bool,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Directories or files to back up; without any, all sources by priority. What is set for them is kept
    pub paths: Vec<PathBuf>,
    /// Priority of the named sources, -50 … 50 [default: 0, or what it has]
    #[arg(long, requires = "paths", value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-50..=50))]
    pub priority: Option<i32>,
    /// Copies of the named sources, 1 … 3 [default: by priority]
    #[arg(long, requires = "paths", value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    pub copies: Option<u8>,
    /// Leave out what matches (repeat it)
    #[arg(long, requires = "paths", value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Leave out what matches a line of the file
    #[arg(long, requires = "paths", value_name = "FILE")]
    pub exclude_from: Vec<PathBuf>,
    /// Leave out the content of directories marked with CACHEDIR.TAG
    #[arg(long, requires = "paths")]
    pub exclude_caches: bool,
    /// Stay on the source's file system
    #[arg(long, requires = "paths")]
    pub one_file_system: bool,
    /// A mount that all nodes share: any of them may back it up
    #[arg(long, requires = "paths", conflicts_with = "node")]
    pub shared: bool,
    /// A node that can read it (repeat it) [default: this node]
    #[arg(long, requires = "paths", value_name = "NODE")]
    pub node: Vec<String>,
    /// Say what would be done, change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Store everything anew
    #[arg(long, conflicts_with = "differential")]
    pub full: bool,
    /// Compare with the last full backup instead of the last one
    #[arg(long)]
    pub differential: bool,
    /// Read no source: write the newest checkpoint's catalogs whole again, from what is stored
    #[arg(long, conflicts_with_all = ["full", "differential", "paths", "dry_run", "allow_older_home"])]
    pub synthetic: bool,
    /// Give the checkpoint this tag (repeat it)
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Back up a source that held files and is now empty, or lies on another mount
    #[arg(long)]
    pub allow_empty: bool,
    /// Go on with this home though a target holds newer checkpoints of the zone, which are then lost to it
    #[arg(long)]
    pub allow_older_home: bool,
}

#[derive(Debug, Args)]
pub struct CheckpointsArgs {
    /// Only the newest N
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Only those that hold this source
    #[arg(long, value_name = "PATH")]
    pub source: Option<PathBuf>,
    /// Only those with this tag
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// Those that were forgotten and can still be taken back
    #[arg(long)]
    pub forgotten: bool,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// Checkpoint: latest, its number, its id or the beginning of it
    #[arg(default_value = "latest")]
    pub checkpoint: String,
    /// Absolute path: it and what lies below it
    pub path: Option<PathBuf>,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    pub long: bool,
}

#[derive(Debug, Args)]
pub struct FindArgs {
    /// Glob for a name, or for the whole path if it has a /
    pub pattern: String,
    /// Only in this checkpoint [default: all]
    #[arg(long, value_name = "CP")]
    pub checkpoint: Option<String>,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    pub from: String,
    pub to: String,
    /// Only below this absolute path
    pub path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CatArgs {
    /// Checkpoint: latest, its number, its id or the beginning of it
    pub checkpoint: String,
    /// Absolute path of the file
    pub path: PathBuf,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Checkpoint: latest, its number, its id or the beginning of it
    pub checkpoint: String,
    /// Absolute paths: they and what lies below them [default: everything]
    pub paths: Vec<PathBuf>,
    /// Restore below this directory
    #[arg(long, value_name = "DIR", required_unless_present = "in_place", conflicts_with = "in_place")]
    pub to: Option<PathBuf>,
    /// Restore to where it came from; files that are already right are left alone
    #[arg(long)]
    pub in_place: bool,
    /// Only what matches (repeat it)
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Not what matches (repeat it)
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Read everything back and compare
    #[arg(long)]
    pub verify: bool,
    /// Say what would be done, change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct MountArgs {
    /// An empty directory to mount on
    pub dir: PathBuf,
    /// Only this checkpoint, its tree at once: latest, its number, its id or the beginning of it [default: all]
    #[arg(long, value_name = "CP")]
    pub checkpoint: Option<String>,
    /// Let other users look too, each at what modes and ACLs let them see
    #[arg(long)]
    pub allow_other: bool,
}

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// A target of the lost zone: a path, file:///path, s3://host/bucket/folder, …; not needed to go on with what was cut
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// File with the target's credentials: JSON, readable by you alone (docs/cli.md)
    #[arg(long, env = "ZONEWARD_CREDENTIALS_FILE", value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
    /// The owner's key file, where the target has none [default: owner-key.json on the target]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The zone, by the beginning of its folder in zones/, where a target holds several that the keys open
    #[arg(long, value_name = "ALIAS")]
    pub zone: Option<String>,
    /// What this node is called [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The newest head that you know of, as `zoneward status` showed it: an older state, or another history, is refused
    #[arg(long, value_name = "CODE")]
    pub head: Option<String>,
    /// Take what this target shows, whatever others show
    #[arg(long)]
    pub only_this_target: bool,
    /// Bring the files below this directory
    #[arg(long, value_name = "DIR", conflicts_with = "in_place")]
    pub to: Option<PathBuf>,
    /// Bring the files to where they came from; what is already right is left alone
    #[arg(long)]
    pub in_place: bool,
    /// Bring the zone's state alone, to look at it first
    #[arg(long, conflicts_with_all = ["to", "in_place"])]
    pub state_only: bool,
    /// Absolute paths to begin with: they and what lies below them (repeat it)
    #[arg(long, value_name = "PATH")]
    pub only: Vec<PathBuf>,
    /// Checkpoint: latest, its number, its id or the beginning of it
    #[arg(long, value_name = "CP", default_value = "latest")]
    pub checkpoint: String,
    /// Read everything back and compare
    #[arg(long)]
    pub verify: bool,
    /// The files are back: end the recovery, so that backups go on
    #[arg(long, conflicts_with_all = ["target", "to", "in_place", "state_only", "only"])]
    pub finish: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Read every stored byte
    #[arg(long)]
    pub read_data: bool,
    /// Read a random part of the stored bytes
    #[arg(long, value_name = "PERCENT", conflicts_with = "read_data", value_parser = crate::units::parse_percent)]
    pub read_data_subset: Option<f64>,
}

#[derive(Debug, Subcommand)]
pub enum SectorCommand {
    /// List raw sectors and their copies; with an id, the members inside
    Ls {
        /// Sector id or the beginning of it
        id: Option<String>,
    },
    /// Write an opened sector to standard output: an ordinary .tar.zst
    Cat {
        /// Sector id or the beginning of it
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum SourceCommand {
    /// List sources
    Ls,
    /// Remember a source without backing it up now
    Add(SourceArgs),
    /// Change the settings of a source; what is not named stays
    Set(SourceArgs),
    /// Let this node run the commands of a source as they are set now: they were set on another node
    Allow {
        /// Path or id
        source: std::ffi::OsString,
    },
    /// Of a write-only source, forget also the keys of what was stored before; only the owner can read it then
    ForgetKeys {
        /// Path or id
        source: std::ffi::OsString,
    },
    /// Stop backing a source up; what is stored stays
    Remove {
        /// Path or id
        source: std::ffi::OsString,
    },
}

#[derive(Debug, Args)]
pub struct SourceArgs {
    /// Its path; for `set` also its id
    pub path: PathBuf,
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-50..=50))]
    pub priority: Option<i32>,
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    pub copies: Option<u8>,
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    #[arg(long)]
    pub exclude_caches: bool,
    #[arg(long)]
    pub one_file_system: bool,
    /// A mount that all nodes share: any of them may back it up
    #[arg(long, conflicts_with = "node")]
    pub shared: bool,
    /// A node that can read it (repeat it) [default: this node]
    #[arg(long, value_name = "NODE")]
    pub node: Vec<String>,
    /// From now on the zone forgets the keys of what it stored of it: restoring asks for the owner's key
    #[arg(long, conflicts_with = "zone_readable")]
    pub write_only: bool,
    /// From now on the zone can read what it stores of it: the default
    #[arg(long)]
    pub zone_readable: bool,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// How a source is read.
#[derive(Debug, Default, Args)]
pub struct ReadingArgs {
    /// Shell command that must succeed before it is read; '' takes it away
    #[arg(long, value_name = "CMD")]
    pub before: Option<String>,
    /// Shell command that runs after, whatever happened; '' takes it away
    #[arg(long, value_name = "CMD")]
    pub after: Option<String>,
    /// Seconds that each command may take [at first: 600]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=i64::from(zoneward_consensus::limits::HOOK_S_MAX)))]
    pub hook_limit: Option<u32>,
    /// What is read: a snapshot (auto: where btrfs or ZFS make one), clones of its files (reflink), what a command prints, or the live tree (off) [at first: auto]
    #[arg(long, value_name = "KIND", value_parser = crate::units::parse_snapshot)]
    pub snapshot: Option<zoneward_consensus::reading::SnapshotKind>,
    /// Shell command that makes a snapshot and prints the path to read, for --snapshot command
    #[arg(long, value_name = "CMD")]
    pub snapshot_command: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum DfsCommand {
    /// List names and where they lie
    Ls,
    /// Say where a name lies: a mount that nodes share, wherever each has it
    Map {
        /// NAME or dfs://NAME
        name: String,
        path: PathBuf,
        /// On this node only; it goes before what is said of all nodes
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Say that a name lies there no more
    Unmap {
        name: String,
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ZoneCommand {
    /// Go on with this node alone, because more than half of the votes are lost for good (asks for the passphrase)
    RecoverQuorum {
        /// The zone's name: that all other nodes are off, and stay off
        #[arg(long, value_name = "ZONE")]
        confirm: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Show the recovery kit again, with new words (the old ones stop working)
    ShowRecovery {
        /// Where to write the printable kit [default: recovery-kit.html in the home]
        #[arg(long, value_name = "FILE")]
        kit: Option<PathBuf>,
    },
    /// Change the passphrase; no sector is touched
    Passphrase {
        /// File whose first line is the new passphrase (or set ZONEWARD_NEW_PASSPHRASE, or answer the prompt)
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Make a new RSA key for new sectors; the kit goes on opening old ones
    Rotate {
        #[arg(long, value_name = "BITS", default_value = "3072", value_parser = ["3072", "4096"])]
        rsa_bits: String,
        /// Where to write the new printable kit [default: recovery-kit.html in the home]
        #[arg(long, value_name = "FILE")]
        kit: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct TryArgs {
    /// What to back up [default: the current directory]
    pub path: Option<PathBuf>,
    /// Where to work [default: a new folder in the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where other nodes reach this one (UDP)
    #[arg(long, value_name = "ADDR", env = "ZONEWARD_LISTEN", default_value = crate::daemon::LISTEN)]
    pub listen: String,
    /// What other nodes are told, host:port [default: this device's address towards the network]
    #[arg(long, value_name = "HOST:PORT", env = "ZONEWARD_ADDRESS")]
    pub address: Option<String>,
    /// Threads that packing and copying may use [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: Option<u8>,
    /// Where the REST API listens, on this device only; off: nowhere [default: 127.0.0.1:7440]
    #[arg(long, value_name = "ADDR", env = "ZONEWARD_API")]
    pub api: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and show it, once
    Create {
        /// What it is for
        #[arg(long)]
        label: String,
        /// What it permits (repeat it) [default: status:read]
        #[arg(long, value_name = "SCOPE", value_parser = crate::units::parse_scope)]
        scope: Vec<zoneward_consensus::model::Scope>,
        /// Days until it expires
        #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=366))]
        days: u16,
    },
    /// List tokens, never their secrets
    Ls,
    /// Take a token back, at once
    Revoke {
        /// Its id, the beginning of its id, or its label
        token: String,
    },
}

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The code, zw1-…; it is as secret as a password until it is used [default: read from standard input]
    pub code: Option<String>,
    /// File that holds the code: what is typed here, others on this device can see
    #[arg(long, value_name = "FILE", conflicts_with = "code")]
    pub code_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct InviteArgs {
    /// What the node will be called [default: node-2, node-3, …]
    #[arg(long)]
    pub name: Option<String>,
    /// Minutes until the code expires
    #[arg(long, value_name = "MIN", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=10_080))]
    pub ttl_minutes: u16,
    /// Let a witness in: it votes and holds no data
    #[arg(long)]
    pub witness: bool,
    /// Where the new node finds this one [default: this node's address]
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes: standing, role, release, when they were last heard
    Ls,
    /// Let a new node in: prints a code and stays until the node has come
    Invite(InviteArgs),
    /// Let a node end what it holds and give it nothing new
    Drain {
        node: String,
        /// It takes work again
        #[arg(long)]
        undo: bool,
    },
    /// Say that a node is broken: nobody waits for it any more
    MarkFaulty {
        node: String,
        /// It was not: it takes work again
        #[arg(long)]
        undo: bool,
    },
    /// Take a node out of the zone: nobody listens to it any more
    Remove {
        node: String,
        /// Also if only this node can read some sources
        #[arg(short, long)]
        yes: bool,
    },
    /// Put a new node in the place of an old one: what the old one alone could read, the new one reads
    Replace {
        old: String,
        new: String,
        /// The old one stays, on standby: it keeps what it has and takes no work, until it is wiped
        #[arg(long)]
        keep: bool,
    },
    /// Let a node keep what it has and take no work: another took its place
    Standby {
        node: String,
        /// It takes work again
        #[arg(long)]
        undo: bool,
    },
    /// Have a node on standby delete its keys and all it keeps of the zone, and take it out
    Wipe {
        node: String,
        /// Its name, again: it cannot be taken back
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
    },
    /// Call a node something else
    Rename { node: String, name: String },
}
