//! Ctrl-C and SIGTERM: the first asks running work to stop where it loses nothing, the second ends the process at once
//! (which loses nothing either, but leaves the tidying to the next run).

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The flag that the first signal sets. Signals are taken over when this is first called.
pub fn stop() -> Arc<AtomicBool> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let take_over = || {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // Where a signal cannot be taken over it ends the process, as without this. The order matters: the first
            // signal must find the flag unset.
            let second = flag::register_conditional_default(signal, stop.clone());
            if second.is_ok() {
                let _ = flag::register(signal, stop.clone());
            }
        }
        stop
    };
    STOP.get_or_init(take_over).clone()
}
