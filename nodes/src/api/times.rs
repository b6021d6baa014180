//! How long requests took, by route, method and code: as many as there are routes, never one of a client's making.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use actix_web::http::Method;

/// Upper ends of the histogram, seconds.
const BOUNDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 2.5, 10.0];

type Key = (&'static str, &'static str, u16);

#[derive(Clone, Copy, Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum_s: f64,
}

/// The times of all requests.
#[derive(Debug, Default)]
pub struct Times(Mutex<BTreeMap<Key, Histogram>>);

/// A method as a label: what is none of ours is not repeated.
fn label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

impl Times {
    pub fn count(&self, route: Option<&'static str>, method: &Method, code: u16, took: Duration) {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let h = all.entry((route.unwrap_or("other"), label(method), code)).or_default();
        let s = took.as_secs_f64();
        for (bucket, bound) in h.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(s <= bound);
        }
        h.count += 1;
        h.sum_s += s;
    }

    /// As Prometheus reads it.
    pub fn write(&self, name: &str, out: &mut String) {
        let all = self.0.lock().unwrap_or_else(|e| e.into_inner()).clone();
        for ((route, method, code), h) in all {
            let labels = format!("route=\"{route}\",method=\"{method}\",code=\"{code}\"");
            for (n, bound) in h.buckets.iter().zip(BOUNDS) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {n}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", h.count);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", h.sum_s);
            let _ = writeln!(out, "{name}_count{{{labels}}} {}", h.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let times = Times::default();
        for ms in [1, 10, 3_000, 60_000] {
            times.count(Some("/livez"), &Method::GET, 200, Duration::from_millis(ms));
        }
        times.count(None, &Method::from_bytes(b"BREW").unwrap(), 404, Duration::ZERO);
        let mut out = String::new();
        times.write("x", &mut out);
        let line = |le: &str| format!("x_bucket{{route=\"/livez\",method=\"GET\",code=\"200\",le=\"{le}\"}}");
        for (le, n) in [("0.005", 1), ("0.025", 2), ("2.5", 2), ("10", 3), ("+Inf", 4)] {
            assert!(out.contains(&format!("{} {n}\n", line(le))), "{le} in {out}");
        }
        assert!(out.contains("x_count{route=\"other\",method=\"other\",code=\"404\"} 1\n"));
    }
}
