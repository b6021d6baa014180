//! Runs a program with a limit: on its time, on what is kept of its words, on what it leaves running.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use rustix::process::{Pid, Signal, kill_process_group};

/// Bytes kept of what a program says, on each of its two outputs.
const SAID_LEN_MAX: usize = 4096;
/// How often is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// Between the request to end and the end.
const GRACE: Duration = Duration::from_secs(5);
/// After its end, for what is still on the way; what it left running may hold its outputs open for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why a program did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{program} cannot be started")]
    Start { program: String, source: io::Error },
    #[error("it took longer than {0} s and was ended")]
    TooLong(u64),
    #[error("{0}")]
    Failed(String),
    #[error("interrupted")]
    Stopped,
}

/// Runs it to its end; what it wrote to its standard output. Its whole process group ends with its time.
pub fn run(command: &mut Command, limit: Duration, stop: Option<&AtomicBool>) -> Result<Vec<u8>, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source| RunError::Start { program: program.clone(), source };
    zoneward_sectors::child::without_secrets(command);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(start)?;
    let out = child.stdout.take().map(listen);
    let err = child.stderr.take().map(listen);
    let status = wait(&mut child, limit, stop).map_err(|e| match e {
        Ended::Io(e) => start(e),
        Ended::TooLong => RunError::TooLong(limit.as_secs()),
        Ended::Stopped => RunError::Stopped,
    })?;
    let last = |r: Option<Receiver<Vec<u8>>>| r.and_then(|r| r.recv_timeout(LAST_WORDS).ok()).unwrap_or_default();
    let (out, err) = (last(out), last(err));
    if status.success() {
        return Ok(out);
    }
    let said = if err.iter().all(u8::is_ascii_whitespace) { &out } else { &err };
    Err(RunError::Failed(failure(status, said)))
}

fn failure(status: ExitStatus, said: &[u8]) -> String {
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("signal {signal} ended it"),
        (None, None) => "it failed".into(),
    };
    let text = String::from_utf8_lossy(said);
    let text: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    if text.is_empty() { end } else { format!("{end}: {text}") }
}

/// Reads to the end and keeps the beginning: a program that says much must not wait for a reader.
fn listen(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (tell, told) = bounded(1);
    std::thread::spawn(move || {
        let (mut kept, mut buf) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = from.read(&mut buf) {
            let room = SAID_LEN_MAX - kept.len();
            kept.extend(buf.iter().take(n.min(room)));
        }
        // Nobody may be listening any more.
        let _ = tell.send(kept);
    });
    told
}

enum Ended {
    Io(io::Error),
    TooLong,
    Stopped,
}

fn wait(child: &mut Child, limit: Duration, stop: Option<&AtomicBool>) -> Result<ExitStatus, Ended> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(Ended::Io)? {
            return Ok(status);
        }
        let stopped = stop.is_some_and(|s| s.load(Ordering::Relaxed));
        if stopped || begun.elapsed() >= limit {
            end(child);
            return Err(if stopped { Ended::Stopped } else { Ended::TooLong });
        }
        std::thread::sleep(LOOK);
    }
}

/// Asks the program and what it started to end, and sees to it.
fn end(child: &mut Child) {
    let pid = Pid::from_child(child);
    // It may have ended by itself meanwhile; its number is kept until it is waited for.
    let _ = kill_process_group(pid, Signal::TERM);
    let begun = Instant::now();
    while begun.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(LOOK);
    }
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(text: &str) -> Command {
        let mut c = Command::new("/bin/sh");
        c.args(["-c", text]);
        c
    }

    #[test]
    fn what_it_says_and_how_it_ends_is_told() {
        let limit = Duration::from_secs(10);
        assert_eq!(run(&mut sh("echo here; pwd"), limit, None).unwrap(), b"here\n/\n");
        let text = |c: &str| run(&mut sh(c), limit, None).unwrap_err().to_string();
        assert_eq!(text("echo why >&2; exit 7"), "it ended with exit code 7: why");
        assert_eq!(text("echo why; exit 1"), "it ended with exit code 1: why");
        assert_eq!(text("kill -9 $$"), "signal 9 ended it");
        let missing = run(&mut Command::new("/no/such/program"), limit, None).unwrap_err();
        assert!(matches!(missing, RunError::Start { .. }), "{missing:?}");
    }

    #[test]
    fn much_noise_neither_blocks_it_nor_is_kept() {
        let noise = "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done";
        assert_eq!(run(&mut sh(noise), Duration::from_secs(20), None).unwrap().len(), SAID_LEN_MAX);
    }

    #[test]
    fn its_time_is_limited_and_its_children_end_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        let begun = Instant::now();
        let text = format!("sleep 60 & echo $! > {}; wait", mark.display());
        let e = run(&mut sh(&text), Duration::from_millis(300), None).unwrap_err();
        assert!(matches!(e, RunError::TooLong(_)), "{e:?}");
        assert!(begun.elapsed() < Duration::from_secs(20));
        let child: u32 = std::fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        // Ended, or waiting for init to take note of it.
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z") || state.contains(") X"), "{state}");
        let stop = AtomicBool::new(true);
        let e = run(&mut sh("sleep 60"), Duration::from_secs(60), Some(&stop)).unwrap_err();
        assert!(matches!(e, RunError::Stopped), "{e:?}");
    }
}
