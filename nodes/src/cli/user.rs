//! Users: `user`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// List users: their sources, rights, and whether they have a key of their own
    Ls,
    /// Say that sources are somebody's, and what he may ask for
    Add(UserArgs),
    /// Change what is set of a user; what is not named stays
    Set(SetUserArgs),
    /// Let nothing of a user be changed, exported or imported; backups go on
    Lock {
        user: String,
        /// Let it again
        #[arg(long)]
        undo: bool,
    },
    /// Forget a user; his sources stay, and are nobody's
    #[command(visible_alias = "remove")]
    Rm { user: String },
    /// Give a user a key of his own, and write the kit with its 24 words for him
    Key(UserKeyArgs),
    /// Write a user's data and settings to a place, under his own key: another zone imports it
    Export(UserExportArgs),
    /// Bring in what `user export` wrote, after a look at what he had and what he gets here
    Import(UserImportArgs),
}

#[derive(Debug, Args)]
pub struct UserArgs {
    /// What he is called
    pub name: String,
    /// A source that is his, by path or id (repeat it)
    #[arg(long, value_name = "SOURCE")]
    pub source: Vec<OsString>,
    #[command(flatten)]
    pub rights: RightsArgs,
}

/// What a user may ask for.
#[derive(Debug, Default, Args)]
pub struct RightsArgs {
    /// Highest priority of a source of his [at first: 0]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-50..=50))]
    pub max_priority: Option<i32>,
    /// Most copies of a source of his [at first: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    pub max_copies: Option<u8>,
    /// Bytes that his sources may hold, as in 500GiB, or any: an import is held to it, a backup is not [at first: any]
    #[arg(long, value_name = "SIZE", value_parser = parse_quota)]
    pub quota: Option<Quota>,
}

/// A number of bytes, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota(pub Option<u64>);

fn parse_quota(text: &str) -> Result<Quota, String> {
    if text == "any" {
        return Ok(Quota(None));
    }
    crate::units::parse_size(text).map(|n| Quota(Some(n)))
}

#[derive(Debug, Args)]
pub struct SetUserArgs {
    pub user: String,
    /// Another name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A source that is his from now on, by path or id (repeat it)
    #[arg(long, value_name = "SOURCE")]
    pub source: Vec<OsString>,
    /// A source that is his no more (repeat it)
    #[arg(long, value_name = "SOURCE")]
    pub drop_source: Vec<OsString>,
    #[command(flatten)]
    pub rights: RightsArgs,
}

#[derive(Debug, Args)]
pub struct UserKeyArgs {
    pub user: String,
    /// Where his kit is written: the 24 words, which nobody else should keep
    #[arg(long, value_name = "FILE")]
    pub kit: PathBuf,
    /// A passphrase of his opens his exports too: ZONEWARD_USER_PASSPHRASE, --user-passphrase-file, or a question
    #[arg(long)]
    pub passphrase: bool,
    /// File whose first line is that passphrase
    #[arg(long, value_name = "FILE", requires = "passphrase")]
    pub user_passphrase_file: Option<PathBuf>,
    /// He has a key: make another one. What was exported before opens with the one before
    #[arg(long)]
    pub new: bool,
    /// Bits of the RSA key
    #[arg(long, value_name = "BITS", default_value = "3072", value_parser = ["3072", "4096"])]
    pub rsa_bits: String,
}

#[derive(Debug, Args)]
pub struct UserExportArgs {
    pub user: String,
    /// Where the export goes: an empty folder, file:///path, s3://host/bucket/folder, …
    #[arg(long, value_name = "PLACE")]
    pub to: String,
    /// Checkpoint: latest, its number, its id or the beginning of it [default: the newest that holds something of his]
    #[arg(long, value_name = "CP")]
    pub checkpoint: Option<String>,
    /// File with the credentials of a place over the network: JSON, readable by you alone (docs/cli.md)
    #[arg(long, env = "ZONEWARD_CREDENTIALS_FILE", value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct UserImportArgs {
    /// Where the export lies: a folder, file:///path, s3://host/bucket/folder, …
    pub from: String,
    /// Show what he had, what he gets here and what stands in the way; change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Where a source goes, SOURCE=PATH (repeat it) [default: where it was]
    #[arg(long, value_name = "SOURCE=PATH")]
    pub at: Vec<OsString>,
    /// What he is called here [default: as there]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Give him the rights that he had
    #[arg(long)]
    pub grant: bool,
    /// Go on although he has fewer rights here: priorities and copies are lowered to them
    #[arg(long, conflicts_with = "grant")]
    pub fewer_rights: bool,
    /// Give up an import that was cut: what is not in its place yet goes
    #[arg(long, conflicts_with_all = ["dry_run", "grant", "fewer_rights"])]
    pub give_up: bool,
    /// File whose first line is his 24 words or passphrase (or set ZONEWARD_USER_PASSPHRASE, or answer the prompt)
    #[arg(long, value_name = "FILE")]
    pub user_passphrase_file: Option<PathBuf>,
    /// His key file, where the export has none
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// File with the credentials of a place over the network: JSON, readable by you alone (docs/cli.md)
    #[arg(long, env = "ZONEWARD_CREDENTIALS_FILE", value_name = "FILE")]
    pub credentials_file: Option<PathBuf>,
}
