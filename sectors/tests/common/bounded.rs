//! A bound on memory that the kernel keeps: an allocation beyond it ends the process. (A counting allocator would need
//! `unsafe`, which the workspace forbids.)

use std::process::Command;

/// Address space that a hostile input may make a reader take, bytes.
pub const MEMORY_MAX: u64 = 256 << 20;
const CHILD: &str = "ZONEWARD_BOUNDED_CHILD";

/// Runs `body` in a process of its own whose address space may grow by [`MEMORY_MAX`]. `test` is the caller's name.
pub fn bounded(test: &str, body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        // One arena: each would reserve 64 MiB of address space.
        child.args(["--exact", test, "--test-threads=1"]).env("MALLOC_ARENA_MAX", "1").env(CHILD, "1");
        let out = child.output().unwrap();
        let text = [out.stdout, out.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(out.status.success(), "{test}: {}\n{text}", out.status);
        assert!(text.contains("1 passed"), "no test has the name {test}");
        return;
    }
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').next().unwrap().parse().unwrap();
    let current = Some(pages * rustix::param::page_size() as u64 + MEMORY_MAX);
    rustix::process::setrlimit(rustix::process::Resource::As, rustix::process::Rlimit { current, maximum: current })
        .unwrap();
    body();
}
