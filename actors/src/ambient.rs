//! How busy a machine is with other things, and what it runs on: what scheduled work asks before it begins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Looked at so often.
const EVERY: Duration = Duration::from_secs(10);
/// The network manager is asked so often: that starts a process.
const METERED_EVERY: Duration = Duration::from_secs(300);
/// It may take so long to answer.
const METERED_WAIT: Duration = Duration::from_secs(5);

/// What a node observes of its machine. `None`: the machine does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ambient {
    /// Percent of the cores that other programs use, over the last look.
    pub load_percent: Option<u8>,
    /// Percent of the last minute in which something waited for disks.
    pub io_percent: Option<u8>,
    pub on_battery: Option<bool>,
    pub metered: Option<bool>,
}

/// Processor time since the start, in ticks.
#[derive(Clone, Copy, Debug)]
struct Ticks {
    all: u64,
    idle: u64,
    mine: u64,
}

/// Takes looks at a machine.
#[derive(Debug)]
pub struct Watch {
    proc: PathBuf,
    power: PathBuf,
    ticks: Option<Ticks>,
    at: Option<Instant>,
    metered_at: Option<Instant>,
    last: Ambient,
}

impl Default for Watch {
    fn default() -> Self {
        Self::on(Path::new("/proc"), Path::new("/sys/class/power_supply"))
    }
}

impl Watch {
    fn on(proc: &Path, power: &Path) -> Self {
        let (proc, power) = (proc.to_owned(), power.to_owned());
        Self { proc, power, ticks: None, at: None, metered_at: None, last: Ambient::default() }
    }

    /// A look, at most every ten seconds; what the last one saw in between.
    pub fn look(&mut self) -> Ambient {
        if self.at.is_some_and(|at| at.elapsed() < EVERY) {
            return self.last;
        }
        self.at = Some(Instant::now());
        self.last.load_percent = self.load();
        self.last.io_percent = io_pressure(&self.proc.join("pressure/io"));
        self.last.on_battery = on_battery(&self.power);
        if self.metered_at.is_none_or(|at| at.elapsed() >= METERED_EVERY) {
            self.metered_at = Some(Instant::now());
            self.last.metered = metered();
        }
        self.last
    }

    /// Percent of the cores that others used since the look before.
    fn load(&mut self) -> Option<u8> {
        let now = ticks(&self.proc)?;
        let before = self.ticks.replace(now)?;
        let all = now.all.checked_sub(before.all).filter(|n| *n > 0)?;
        let own = now.idle.saturating_sub(before.idle) + now.mine.saturating_sub(before.mine);
        u8::try_from(all.saturating_sub(own) * 100 / all).ok()
    }
}

fn ticks(proc: &Path) -> Option<Ticks> {
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let fields: Vec<u64> = line.split_whitespace().take(8).map_while(|f| f.parse().ok()).collect();
    let own = fs::read_to_string(proc.join("self/stat")).ok()?;
    let own: Vec<&str> = own.rsplit(')').next()?.split_whitespace().collect();
    let mine = own.get(11)?.parse::<u64>().ok()? + own.get(12)?.parse::<u64>().ok()?;
    Some(Ticks { all: fields.iter().sum(), idle: fields.get(3)? + fields.get(4)?, mine })
}

/// `some avg60=1.23` of the kernel's pressure figures.
fn io_pressure(path: &Path) -> Option<u8> {
    let text = fs::read_to_string(path).ok()?;
    let some = text.lines().find_map(|l| l.strip_prefix("some "))?;
    let figure: f64 = some.split_whitespace().find_map(|f| f.strip_prefix("avg60="))?.parse().ok()?;
    Some(figure.clamp(0.0, 100.0) as u8)
}

/// True if a battery is being emptied and no mains supply is there. `None` without a battery.
fn on_battery(power: &Path) -> Option<bool> {
    let (mut battery, mut discharging, mut mains) = (false, false, false);
    for entry in fs::read_dir(power).ok()?.flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default().trim().to_owned();
        // A mouse has a battery too.
        let of_the_machine = read("scope") != "Device";
        match read("type").as_str() {
            "Battery" | "UPS" if of_the_machine => {
                battery = true;
                discharging |= read("status") == "Discharging";
            }
            "Mains" => mains |= read("online") == "1",
            _ => {}
        }
    }
    battery.then_some(discharging && !mains)
}

/// What the network manager says of the line, where there is one.
fn metered() -> Option<bool> {
    let mut child = Command::new("nmcli")
        .args(["-g", "GENERAL.METERED", "device", "show"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let end = Instant::now() + METERED_WAIT;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                // One that hangs is no answer.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
    let mut said = String::new();
    std::io::Read::read_to_string(&mut std::io::Read::take(child.stdout.take()?, 4096), &mut said).ok()?;
    meters(&said)
}

/// One line for each device: `yes`, `yes (guessed)`, `no`, `no (guessed)`, `unknown`.
fn meters(said: &str) -> Option<bool> {
    let known: Vec<bool> = said
        .lines()
        .filter_map(|l| match l.trim() {
            l if l.starts_with("yes") => Some(true),
            l if l.starts_with("no") => Some(false),
            _ => None,
        })
        .collect();
    (!known.is_empty()).then(|| known.contains(&true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(stat: &str, own: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("self")).unwrap();
        fs::create_dir_all(dir.path().join("pressure")).unwrap();
        write(&dir, stat, own);
        dir
    }

    fn write(dir: &tempfile::TempDir, stat: &str, own: u64) {
        fs::write(dir.path().join("stat"), format!("{stat}\ncpu0 1 2 3\n")).unwrap();
        fs::write(dir.path().join("self/stat"), format!("7 (zone) ward) S 1 1 1 0 0 0 0 0 0 0 {own} 0 0 0")).unwrap();
    }

    #[test]
    fn what_others_use_is_load_and_what_we_use_is_not() {
        let dir = machine("cpu 100 0 100 800 0 0 0 0 0 0", 50);
        let mut watch = Watch::on(dir.path(), dir.path());
        assert_eq!(watch.load(), None, "one look says nothing");
        // 400 ticks later: 200 idle, 100 ours.
        write(&dir, "cpu 250 0 150 1000 0 0 0 0 0 0", 150);
        assert_eq!(watch.load(), Some(25));
        write(&dir, "nothing", 150);
        assert_eq!(watch.load(), None);
    }

    #[test]
    fn pressure_is_read_and_odd_text_is_no_figure() {
        let dir = machine("cpu 1 1 1 1 1 1 1 1", 0);
        let path = dir.path().join("pressure/io");
        let text = "some avg10=0.00 avg60=37.91 avg300=1.00 total=1\nfull avg10=0.00 avg60=5.00 avg300=0.00 total=1\n";
        for (text, figure) in [(text, Some(37)), ("some avg60=x", None), ("full avg60=3.00", None), ("", None)] {
            fs::write(&path, text).unwrap();
            assert_eq!(io_pressure(&path), figure, "{text}");
        }
    }

    #[test]
    fn a_battery_counts_while_it_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, files: &[(&str, &str)]| {
            let d = dir.path().join(name);
            fs::create_dir_all(&d).unwrap();
            for (f, text) in files {
                fs::write(d.join(f), text).unwrap();
            }
        };
        assert_eq!(on_battery(dir.path()), None);
        put("mouse", &[("type", "Battery\n"), ("status", "Discharging\n"), ("scope", "Device\n")]);
        assert_eq!(on_battery(dir.path()), None, "a mouse is not the machine");
        put("BAT0", &[("type", "Battery\n"), ("status", "Discharging\n")]);
        assert_eq!(on_battery(dir.path()), Some(true));
        put("AC", &[("type", "Mains\n"), ("online", "1\n")]);
        assert_eq!(on_battery(dir.path()), Some(false));
        put("AC", &[("online", "0\n")]);
        put("BAT0", &[("status", "Full\n")]);
        assert_eq!(on_battery(dir.path()), Some(false));
    }

    #[test]
    fn one_metered_line_is_enough() {
        for (said, metered) in [
            ("no\nunknown\n", Some(false)),
            ("unknown\nyes (guessed)\nno\n", Some(true)),
            ("unknown\n\n", None),
            ("", None),
        ] {
            assert_eq!(meters(said), metered, "{said:?}");
        }
    }
}
