//! `target`: where backups lie, and the server that others' backups lie on.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use zoneward_consensus::terms::Price;

use crate::terms::Said;

#[derive(Debug, Subcommand)]
pub enum TargetCommand {
    /// List targets
    Ls,
    /// Add a target
    Add {
        /// A path, file:///path, s3://host/bucket/folder, …; the text of another device's `target qr`; - reads it from
        /// standard input
        url: String,
        /// File with its credentials, for a target over the network: JSON, readable by you alone (docs/cli.md)
        #[arg(long, env = "ZONEWARD_CREDENTIALS_FILE", value_name = "FILE")]
        credentials_file: Option<PathBuf>,
        /// Its name
        #[arg(long)]
        name: Option<String>,
        /// Failure domain: copies of one sector never share one; it names another place, unless it is `site` or `site/…`
        #[arg(long)]
        domain: Option<String>,
    },
    /// Show a target as a text and a QR code, for another zone or device: target add takes it
    Qr {
        /// Its name
        target: String,
        /// Also what opens it: whoever has the text can use the target as this zone does
        #[arg(long)]
        with_credentials: bool,
    },
    /// Give a target nothing new; what it has stays and is still read
    Pause {
        /// Its name
        target: String,
    },
    /// Let a paused target take sectors again
    Resume {
        /// Its name
        target: String,
    },
    /// Change a target's name, place, failure domain, price or room; at a new place it must be the same target
    Set(SetTargetArgs),
    /// Try a target: what it can do, how fast it writes and reads; nothing is left behind
    Test {
        /// Its name
        target: String,
        /// How much is written and read
        #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = crate::units::parse_rate)]
        size: u64,
    },
    /// Make copies elsewhere of all that a target holds, and give it nothing new; then it can be removed
    Evacuate {
        /// Its name
        target: String,
        /// It is to stay after all
        #[arg(long)]
        undo: bool,
    },
    /// Forget a target, if all that is needed lies elsewhere too; what it holds is left as it is
    Remove {
        /// Its name
        target: String,
        /// Also where it holds the only copy of something: that is lost to the zone
        #[arg(long)]
        lose_copies: bool,
    },
    /// Give a target other credentials; they are tried first
    Credentials {
        /// Its name
        target: String,
        /// File with them: JSON, readable by you alone (docs/cli.md)
        #[arg(long, env = "ZONEWARD_CREDENTIALS_FILE", value_name = "FILE")]
        credentials_file: PathBuf,
    },
    /// Run a target server on this machine: it keeps sectors of zones it knows nothing of, and has no key
    Serve(ServeArgs),
    /// Tokens that let zones use the target server on this machine
    #[command(subcommand)]
    Token(TargetTokenCommand),
}

#[derive(Debug, Args)]
pub struct SetTargetArgs {
    /// Its name
    pub target: String,
    /// Its new name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where it is now; it is opened there first
    #[arg(long)]
    pub url: Option<String>,
    /// File with its credentials at the new place: JSON, readable by you alone (docs/cli.md)
    #[arg(long, env = "ZONEWARD_CREDENTIALS_FILE", value_name = "FILE", requires = "url")]
    pub credentials_file: Option<PathBuf>,
    /// Its failure domain; none takes it away
    #[arg(long)]
    pub domain: Option<String>,
    /// What it costs: 4.99EUR/month, or 5.49EUR/TiB/month for what lies there; '' takes it away
    #[arg(long, value_name = "PRICE", value_parser = crate::terms::parse_price)]
    pub price: Option<Said<Price>>,
    /// The day until which it is paid for, as in 2027-03-01; '' takes it away
    #[arg(long, value_name = "DATE", value_parser = crate::terms::parse_day)]
    pub paid_until: Option<Said<u64>>,
    /// Bytes of this zone that may lie there, as in 2TiB; '' takes it away
    #[arg(long, value_name = "SIZE", value_parser = crate::terms::parse_quota)]
    pub quota: Option<Said<u64>>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where it keeps everything
    #[arg(long, value_name = "DIR", env = "ZONEWARD_TARGET_DATA")]
    pub data: PathBuf,
    /// Where it listens (TCP)
    #[arg(long, value_name = "ADDR", env = "ZONEWARD_TARGET_LISTEN", default_value = "0.0.0.0:7443")]
    pub listen: String,
    /// The name or address in the URL that it shows [default: this device's name]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Days that a removed sector is kept; no token shortens it
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(0..=3650))]
    pub lock_days: u32,
    /// Largest sector class that it takes
    #[arg(long, value_name = "SIZE", default_value = "64GiB", value_parser = crate::units::parse_class)]
    pub largest: u8,
    /// Tell zones that every sector takes the room of its whole class
    #[arg(long)]
    pub fixed: bool,
    /// What a GiB costs a month, as in 'EUR 0.004'; zones are told, nothing is billed
    #[arg(long, value_name = "PRICE", value_parser = crate::units::parse_price)]
    pub price: Option<zoneward_targets::protocol::Price>,
    /// Certificate chain of your own (PEM) [default: one that is made at the first start]
    #[arg(long, value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Bytes a second that it reads to check what it keeps
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = crate::units::parse_rate)]
    pub scrub_rate: u64,
}

#[derive(Debug, Subcommand)]
pub enum TargetTokenCommand {
    /// Make a token and show it, once
    Add {
        /// Where the server keeps everything
        #[arg(long, value_name = "DIR", env = "ZONEWARD_TARGET_DATA")]
        data: PathBuf,
        /// Whose place it opens; a new name makes a new place
        #[arg(long, value_name = "NAME")]
        account: String,
        /// Bytes that the account may keep, as in 500GiB [default: what it has; a new one: what the disk holds]
        #[arg(long, value_name = "SIZE", value_parser = crate::units::parse_rate)]
        quota: Option<u64>,
        /// What it lets its bearer do: writer, auditor, marker (repeat it) [default: all three]
        #[arg(long, value_name = "ROLE", value_parser = zoneward_targets::protocol::Role::parse)]
        role: Vec<zoneward_targets::protocol::Role>,
        /// Days until it ends [default: it does not]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
        /// Zone folders that the account may begin [default: what it has; a new one: 16]
        #[arg(long, value_name = "N")]
        zones: Option<u32>,
        /// A zone folder that lies there already and is to be this account's
        #[arg(long, value_name = "ALIAS")]
        zone: Option<zoneward_sectors::ids::ZoneAlias>,
    },
    /// List tokens and accounts, never a secret
    Ls {
        /// Where the server keeps everything
        #[arg(long, value_name = "DIR", env = "ZONEWARD_TARGET_DATA")]
        data: PathBuf,
    },
    /// End a token; what its account keeps stays
    Remove {
        /// Where the server keeps everything
        #[arg(long, value_name = "DIR", env = "ZONEWARD_TARGET_DATA")]
        data: PathBuf,
        /// Its id or the beginning of it
        token: String,
    },
}
