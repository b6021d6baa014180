//! `target serve`: our own target server, until Ctrl-C.

use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::time::Duration;

use zoneward_sectors::ids::hex;
use zoneward_targets::server::{Event, GivenCertificate, ServeError, Server, Settings};
use zoneward_targets::{ServerUrl, Url};

use super::make::host_name;
use crate::cli::ServeArgs;
use crate::errors::{Failure, chain, exit};
use crate::output::Out;

/// How often it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(200);

impl From<ServeError> for Failure {
    fn from(e: ServeError) -> Self {
        match &e {
            ServeError::Busy(_) => Failure::new(1331, exit::BUSY, chain(&e)).help("stop the other one first"),
            _ => Failure::new(1331, exit::FAILED, chain(&e)),
        }
    }
}

/// What an operator reads of an event.
fn told(event: &Event) -> String {
    match event {
        Event::ClockJumped(jump) => {
            format!("the clock jumped by {} s: no lock moved", jump.by_ms / 1000)
        }
        Event::Damaged(zone, copy) => {
            format!("DAMAGED: sector {copy} of zone {zone} is not what was received; look at the disk")
        }
        Event::Purged(zone, copy) => format!("sector {copy} of zone {zone} is gone: its lock ended"),
        Event::Failed(why) => format!("a chore failed and will be tried again: {why}"),
    }
}

pub fn serve(out: Out, a: &ServeArgs) -> Result<i32, Failure> {
    let failed = |what: String, e: &dyn std::fmt::Display| Failure::new(1331, exit::FAILED, what).why(e.to_string());
    let certificate = match (&a.certificate, &a.key) {
        (Some(certificate), Some(key)) => Some(GivenCertificate { certificate: certificate.clone(), key: key.clone() }),
        _ => None,
    };
    let settings = Settings {
        lock_days: a.lock_days,
        fixed_sectors: a.fixed,
        max_class_log2: a.largest,
        price: a.price.clone(),
        certificate,
        scrub_rate: a.scrub_rate,
    };
    let listener =
        TcpListener::bind(a.listen.as_str()).map_err(|e| failed(format!("cannot listen at {}", a.listen), &e))?;
    let server = Server::open(&a.data, settings, Box::new(|event| crate::output::tell(&told(&event))))?;
    let stop = crate::interrupt::stop();
    let running = server.start(listener)?;
    let host = a.host.clone().unwrap_or_else(host_name).to_lowercase();
    let pin = server.fingerprint();
    let url = Url::Server(ServerUrl { host, port: running.address.port(), pin: Some(pin) });
    out.json(&serde_json::json!({
        "schema": "zoneward.target-serve/1", "url": url.to_string(), "listening": running.address.to_string(),
        "fingerprint": hex(&pin.0),
    }));
    out.answer(url.to_string());
    out.say(format!("listening at {}; Ctrl-C ends it", running.address));
    out.say("zones need a token too: zoneward target token add --data … --account NAME");
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
    }
    out.say("stopping; what was acknowledged is kept");
    running.stop();
    Ok(0)
}
