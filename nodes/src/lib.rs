//! The `zoneward` program: command line and composition of everything below. The only place that reads configuration.
//!
//! Start at [`run`], then [`cli`] for what can be typed and `commands` for what it does.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod api;
pub mod cli;
mod commands;
pub mod daemon;
pub mod errors;
mod full;
mod interrupt;
pub mod kit;
mod output;
mod passphrase;
mod progress;
mod qr;
mod seen;
mod summary;
mod terms;
mod translate;
pub mod units;
pub mod words;

use std::sync::atomic::{AtomicBool, Ordering};

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
    let code = match guarded(|| commands::run(cli)) {
        Ok(code) => code,
        Err(failure) => {
            failure.show(json);
            failure.exit
        }
    };
    zoneward_sectors::fsx::report();
    if output::is_lost() && code == 0 {
        let failure = errors::Failure::new(1702, errors::exit::FAILED, "the answer cannot be written")
            .help("is the disk full? what the command did is done: zoneward status");
        failure.show(false);
        return failure.exit;
    }
    code
}

/// Runs a command. The state's database asserts on some damaged pages: that is damage, and is told as such.
fn guarded(command: impl FnOnce() -> Result<i32, errors::Failure>) -> Result<i32, errors::Failure> {
    static DAMAGED: AtomicBool = AtomicBool::new(false);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let main = std::thread::current().name() == Some("main");
        let damaged = main && info.location().is_some_and(|l| l.file().contains("/redb-"));
        if main {
            DAMAGED.store(damaged, Ordering::Relaxed);
        }
        if !damaged {
            usual(info);
        }
    }));
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(command)) {
        Ok(done) => done,
        Err(_) if DAMAGED.load(Ordering::Relaxed) => {
            Err(errors::Failure::new(1202, errors::exit::DAMAGE, "the state in this home is damaged")
                .why("the pages of zone.redb contradict each other")
                .help("the zone can be rebuilt from a target and the recovery kit: docs/rescue/README.md"))
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The command tree, for completions, manual pages and tests.
pub fn command_tree() -> clap::Command {
    cli::Cli::command()
}
