//! What can be typed about keeping and forgetting.

use clap::{Args, Subcommand};

/// Rules that keep checkpoints. Each is a reason to keep one.
#[derive(Clone, Debug, Default, Args)]
pub struct KeepArgs {
    /// Keep the newest N
    #[arg(short = 'l', long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// Keep the newest of each of the last N hours that have one
    #[arg(short = 'H', long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// … of each of the last N days
    #[arg(short = 'd', long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// … of each of the last N weeks
    #[arg(short = 'w', long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// … of each of the last N months
    #[arg(short = 'm', long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// … of each of the last N years
    #[arg(short = 'y', long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// Keep all that are younger than this, counted from the newest: 30d, 12h, …
    #[arg(long, value_name = "TIME", value_parser = crate::units::parse_time)]
    pub keep_within: Option<u32>,
    /// Keep all with this tag (repeat it)
    #[arg(long, value_name = "TAG")]
    pub keep_tag: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// Checkpoints: number, id or the beginning of it. Without any, those that the rules do not keep
    #[arg(conflicts_with = "KeepArgs")]
    pub checkpoints: Vec<String>,
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Do it; without this, it is only shown
    #[arg(long)]
    pub apply: bool,
    /// Say so as the owner (asks for the passphrase), where much would go or the last copy that was found whole
    #[arg(long, requires = "apply")]
    pub owner: bool,
    /// Without the grace in which it can be taken back, as the owner (asks for the passphrase)
    #[arg(long, requires = "apply")]
    pub now: bool,
}

#[derive(Debug, Args)]
pub struct UndeleteArgs {
    /// Checkpoints: number, id or the beginning of it
    #[arg(required = true)]
    pub checkpoints: Vec<String>,
}

#[derive(Debug, Args)]
pub struct TagArgs {
    /// Checkpoints: latest, number, id or the beginning of it
    #[arg(required = true)]
    pub checkpoints: Vec<String>,
    /// Give this tag (repeat it)
    #[arg(long, value_name = "TAG")]
    pub add: Vec<String>,
    /// Take this tag away (repeat it)
    #[arg(long, value_name = "TAG")]
    pub remove: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Show the rules, and what they keep now
    Show,
    /// Set the rules: after each backup, what they do not keep is forgotten
    Set {
        #[command(flatten)]
        keep: KeepArgs,
        /// How long what was forgotten can be taken back [at first: 7d]
        #[arg(long, value_name = "TIME", value_parser = crate::units::parse_time)]
        grace: Option<u32>,
        /// Say so as the owner (asks for the passphrase), where the grace becomes shorter
        #[arg(long, requires = "grace")]
        owner: bool,
    },
    /// Keep all checkpoints
    Clear,
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Percent of what is kept that may stay dead, so that less has to be written anew
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub max_waste: u8,
    /// Do it; without this, it is only shown
    #[arg(long)]
    pub apply: bool,
    /// Say so as the owner (asks for the passphrase), where more than 30 % of all bytes would go
    #[arg(long, requires = "apply")]
    pub owner: bool,
}
