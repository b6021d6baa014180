//! The `zoneward` program: command line and composition of everything below. The only place that reads configuration.
//!
//! Start at [`run`], then [`cli`] for what can be typed and `commands` for what it does.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
mod commands;
pub mod daemon;
pub mod errors;
mod interrupt;
pub mod kit;
mod output;
mod passphrase;
mod progress;
mod summary;
mod translate;
pub mod units;

use clap::{CommandFactory, Parser};

/// Runs a command line and answers the exit code.
pub fn run(args: impl IntoIterator<Item = std::ffi::OsString>) -> i32 {
    let args: Vec<_> = args.into_iter().collect();
    if args.len() <= 1 {
        return commands::first_steps();
    }
    let cli = match cli::Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => return commands::usage_error(&e, &args),
    };
    let json = cli.global.json;
    let code = match commands::run(cli) {
        Ok(code) => code,
        Err(failure) => {
            failure.show(json);
            failure.exit
        }
    };
    zoneward_sectors::fsx::report();
    code
}

/// The command tree, for completions, manual pages and tests.
pub fn command_tree() -> clap::Command {
    cli::Cli::command()
}
