//! `rollback`.

use clap::Args;

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Checkpoint: latest, its number, its id or the beginning of it [default: say how a rollback stands]
    #[arg(conflicts_with_all = ["undo", "release", "status"])]
    pub checkpoint: Option<String>,
    /// Do it; without this, it is only shown. Without a checkpoint: go on with what was cut
    #[arg(long)]
    pub apply: bool,
    /// Bring back what the rollback replaced
    #[arg(long, conflicts_with_all = ["release", "status"])]
    pub undo: bool,
    /// Delete what is kept: what the rollback replaced, or after --undo what had stood in its place. With --apply for good
    #[arg(long, conflicts_with = "status")]
    pub release: bool,
    /// Say how a rollback stands
    #[arg(long, conflicts_with = "apply")]
    pub status: bool,
}
