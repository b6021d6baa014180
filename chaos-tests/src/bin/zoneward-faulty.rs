//! The `zoneward` program as the fault runs use it: with the feature `faults` it breaks where the environment says.

fn main() {
    std::process::exit(zoneward::run(std::env::args_os()));
}
