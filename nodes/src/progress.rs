//! Progress: one line with rate and time left on a terminal, one JSON object a second with --json, nothing in a pipe.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::cli::Global;
use crate::units;

/// What a line shows.
#[derive(Debug, Default)]
pub struct Meter {
    pub done: AtomicU64,
    pub total: AtomicU64,
    pub label: Mutex<String>,
    /// The file under way, shown in the label's place once there is one.
    pub file: Mutex<String>,
    /// `done` and `total` are bytes, not counts.
    pub bytes: AtomicBool,
}

impl Meter {
    /// Sets the label; the file under way was of the one before.
    pub fn label(&self, text: String) {
        *self.label.lock().unwrap_or_else(|e| e.into_inner()) = text;
        self.file.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }

    /// Notes the file under way; `path` may be empty.
    pub fn file(&self, path: &[u8]) {
        *self.file.lock().unwrap_or_else(|e| e.into_inner()) = units::show_path(path);
    }

    fn now(&self) -> String {
        let file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        let label = self.label.lock().unwrap_or_else(|e| e.into_inner());
        match (label.is_empty(), file.is_empty()) {
            (_, true) => label.clone(),
            (true, false) => file.clone(),
            (false, false) => format!("{label}/{file}"),
        }
    }
}

/// Seconds over which the rate is smoothed.
const SMOOTH_SECS: f64 = 30.0;

/// A running display; it ends when dropped.
pub struct Display {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Line,
    Json,
}

impl Display {
    /// Begins to show a meter, if anyone would see it. `refresh` brings its figures up to date.
    pub fn start(g: &Global, meter: Arc<Meter>, refresh: impl Fn(&Meter) + Send + 'static) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let style = match (g.quiet || g.no_progress, g.json, std::io::stderr().is_terminal()) {
            (true, ..) | (false, false, false) => None,
            (false, true, _) => Some(Style::Json),
            (false, false, true) => Some(Style::Line),
        };
        let thread = style.and_then(|style| {
            let stop = stop.clone();
            let t = std::thread::Builder::new().name("progress".into());
            // Without a thread there is no progress to see; the work itself goes on.
            t.spawn(move || show(style, &meter, &refresh, &stop)).ok()
        });
        Self { stop, thread }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(|e| e.into_inner()) = true;
        self.stop.1.notify_all();
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

struct Rate {
    at: Instant,
    done: u64,
    rate: Option<f64>,
    moved: Instant,
}

impl Rate {
    fn update(&mut self, done: u64) {
        let secs = self.at.elapsed().as_secs_f64();
        if secs <= 0.0 {
            return;
        }
        if done != self.done {
            self.moved = Instant::now();
        }
        let now = done.saturating_sub(self.done) as f64 / secs;
        let weight = 1.0 - (-secs / SMOOTH_SECS).exp();
        self.rate = Some(self.rate.map_or(now, |r| r + (now - r) * weight));
        (self.at, self.done) = (Instant::now(), done);
    }
}

fn show(style: Style, meter: &Meter, refresh: &dyn Fn(&Meter), stop: &(Mutex<bool>, Condvar)) {
    let period = Duration::from_millis(if style == Style::Json { 1000 } else { 200 });
    let started = Instant::now();
    let mut rate = Rate { at: started, done: 0, rate: None, moved: started };
    let mut stopped = stop.0.lock().unwrap_or_else(|e| e.into_inner());
    loop {
        stopped = stop.1.wait_timeout(stopped, period).unwrap_or_else(|e| e.into_inner()).0;
        if *stopped {
            break;
        }
        refresh(meter);
        rate.update(meter.done.load(Ordering::Relaxed));
        match style {
            Style::Json => crate::output::put(&json_line(meter, &rate).to_string()),
            Style::Line => crate::output::show(&format!("\r\x1b[K{}", text_line(meter, &rate, started))),
        }
    }
    if style == Style::Line {
        crate::output::show("\r\x1b[K");
    }
}

fn seconds_left(meter: &Meter, rate: &Rate) -> Option<f64> {
    let (done, total) = (meter.done.load(Ordering::Relaxed), meter.total.load(Ordering::Relaxed));
    let r = rate.rate.filter(|r| *r > 0.0)?;
    (total > done).then(|| (total - done) as f64 / r)
}

fn json_line(meter: &Meter, rate: &Rate) -> serde_json::Value {
    serde_json::json!({
        "type": "status", "schema": "zoneward.progress/1",
        "done": meter.done.load(Ordering::Relaxed), "total": meter.total.load(Ordering::Relaxed),
        "unit": if meter.bytes.load(Ordering::Relaxed) { "bytes" } else { "items" },
        "per_second": rate.rate.map(|r| r as u64), "seconds_left": seconds_left(meter, rate).map(|s| s as u64),
        "current": meter.now(),
    })
}

fn text_line(meter: &Meter, rate: &Rate, started: Instant) -> String {
    let (done, total) = (meter.done.load(Ordering::Relaxed), meter.total.load(Ordering::Relaxed));
    let amount = |n| if meter.bytes.load(Ordering::Relaxed) { units::bytes(n) } else { units::count(n) };
    let mut line = String::new();
    if total > 0 {
        let part = (done.min(total) as f64 / total as f64 * 100.0).floor();
        let filled = (part / 10.0) as usize;
        line.push_str(&format!(
            "{}{} {part:.0} %  {}/{}",
            "▓".repeat(filled),
            "░".repeat(10 - filled),
            amount(done),
            amount(total)
        ));
    } else {
        line.push_str(&amount(done));
    }
    if crate::interrupt::stop().load(Ordering::Relaxed) {
        return format!("{line}  stopping (Ctrl-C again: at once)").chars().take(width()).collect();
    }
    if rate.moved.elapsed() > Duration::from_secs(60) {
        line.push_str(&format!("  stalled {}", units::duration(rate.moved.elapsed().as_secs_f64())));
    } else if let Some(r) = rate.rate {
        line.push_str(&format!("  {}/s", amount(r as u64)));
        // Nothing in the first seconds: a time that jumps is worse than none.
        if let Some(left) = seconds_left(meter, rate).filter(|_| started.elapsed() > Duration::from_secs(5)) {
            line.push_str(&format!("  {} left", units::duration(left)));
        }
    }
    let now = meter.now();
    if !now.is_empty() {
        line.push_str("  ");
        line.push_str(&now);
    }
    line.chars().take(width()).collect()
}

fn width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr()).map_or(79, |w| usize::from(w.ws_col).max(21) - 1)
}
