//! `schedule`: when the zone backs itself up, and what that may use.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List schedules with their next moment, conditions and limits
    Ls,
    /// Add a schedule, or change one
    Set(ScheduleArgs),
    /// Forget a schedule
    Remove { name: String },
    /// When scheduled work is left alone, and when a node counts as idle
    Conditions(ConditionArgs),
    /// How often stored copies are looked at, and when silence counts as loss
    Audits(AuditArgs),
    /// What work may use in some hours of the day; a window without a limit is free again
    Limit(LimitArgs),
}

/// What a scheduled checkpoint stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    Full,
    Incremental,
    Differential,
}

/// Whether scheduled work may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Permit {
    Skip,
    Run,
}

#[derive(Debug, Args)]
pub struct ScheduleArgs {
    /// What it is called
    #[arg(default_value = "daily")]
    pub name: String,
    /// Minute, hour, day of the month, month, day of the week: '30 2 * * *' [default: '0 1 * * *']
    #[arg(long, value_name = "LINE")]
    pub cron: Option<String>,
    /// Time zone of the line, as in Europe/Berlin; local is that of the node that leads [default: local]
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// Hours in which it may begin, as in 22:00-06:00; any takes the window away
    #[arg(long, value_name = "FROM-TO")]
    pub window: Option<String>,
    /// A source by path or id (repeat it); all is every source [default: all]
    #[arg(long, value_name = "SOURCE")]
    pub source: Vec<String>,
    /// What it makes [default: incremental]
    #[arg(long, value_name = "KIND")]
    pub kind: Option<Kind>,
    /// Minutes to wait until the nodes are idle [default: 0 for a new one]
    #[arg(long, value_name = "MIN", value_parser = clap::value_parser!(u32).range(0..=10_080))]
    pub idle_wait: Option<u32>,
    /// Do not begin it until --resume
    #[arg(long, conflicts_with = "resume")]
    pub pause: bool,
    /// Begin it again when it is due
    #[arg(long)]
    pub resume: bool,
}

#[derive(Debug, Args)]
pub struct ConditionArgs {
    /// On battery
    #[arg(long, value_name = "skip|run")]
    pub battery: Option<Permit>,
    /// On a metered line
    #[arg(long, value_name = "skip|run")]
    pub metered: Option<Permit>,
    /// Percent of a node's cores that other programs may use while it counts as idle [at first: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub idle_load: Option<u8>,
    /// Percent of the time in which something waits for disks while it counts as idle [at first: 20]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub idle_io: Option<u8>,
}

/// Times are a number and a unit, as in 7d, 12h, 30min or 90s.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// In so long a time each copy is looked at once: what makes it that copy, and 16 random MiB of it [at first: 7d]
    #[arg(long, value_name = "TIME", value_parser = crate::units::parse_time)]
    pub every: Option<u32>,
    /// In so long a time all of each copy is read once; never takes it away [at first: 30d]
    #[arg(long, value_name = "TIME|never", value_parser = crate::units::parse_time_or_never)]
    pub read_all: Option<u32>,
    /// The same on s3:// targets, where reading is often paid for [at first: 180d]
    #[arg(long, value_name = "TIME|never", value_parser = crate::units::parse_time_or_never)]
    pub read_all_s3: Option<u32>,
    /// A copy that was asked for three times and has not answered for so long counts as lost [at first: 24h]
    #[arg(long, value_name = "TIME", value_parser = crate::units::parse_time)]
    pub silence: Option<u32>,
}

#[derive(Debug, Args)]
pub struct LimitArgs {
    /// Hours of the day, as in 08:00-18:00; 00:00-24:00 is the whole day
    #[arg(long, value_name = "FROM-TO", required_unless_present = "clear")]
    pub window: Option<String>,
    /// Bytes a second that each node sends to targets, as in 5MiB
    #[arg(long, value_name = "SIZE", value_parser = crate::units::parse_rate)]
    pub upload: Option<u64>,
    /// Percent of a node's cores that work may use
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub cpu: Option<u8>,
    /// Take all limits away
    #[arg(long, conflicts_with_all = ["window", "upload", "cpu"])]
    pub clear: bool,
}
