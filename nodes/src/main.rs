//! The `zoneward` program.

fn main() {
    std::process::exit(zoneward::run(std::env::args_os()));
}
