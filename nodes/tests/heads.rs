//! Heads are signed by most of the zone's voters, and what a stolen node signs alone is not believed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fleet;
mod wait;

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet::{Zone, fill, same, text, until};
use serde_json::{Value, json};
use zoneward_sectors::cert::NodeCertificate;
use zoneward_sectors::crypto::Signer as _;
use zoneward_transport::identity::NodeIdentity;

fn pointer(target: &Path) -> PathBuf {
    let zone = fs::read_dir(target.join("zones")).unwrap().next().unwrap().unwrap().path();
    zone.join("pointer.json")
}

fn shown(target: &Path) -> Value {
    serde_json::from_slice(&fs::read(pointer(target)).unwrap()).unwrap()
}

fn payload(pointer: &Value) -> Value {
    serde_json::from_str(pointer["payload"].as_str().unwrap()).unwrap()
}

fn len(v: &Value) -> usize {
    v.as_array().unwrap().len()
}

/// The 24 words, from the kit in the first home.
fn words(zone: &Zone) -> String {
    let page = fs::read_to_string(zone.home(0).join("recovery-kit.html")).unwrap();
    let word = |w: &str| w.split_once("</span>").unwrap().1.split_once("</li>").unwrap().0.to_owned();
    let words: Vec<String> = page.split("<li><span>").skip(1).take(24).map(word).collect();
    words.join(" ")
}

/// What a thief of a node can do: sign with its key.
struct Stolen(NodeIdentity);

impl Stolen {
    fn of(zone: &Zone, i: usize, any: &Value) -> Self {
        let certificate = STANDARD.decode(any["signatures"][0]["certificate"].as_str().unwrap()).unwrap();
        let owner = NodeCertificate::parse(&certificate).unwrap().owner_sign_public;
        Self(NodeIdentity::load(&zone.home(i).join("secrets"), &owner).unwrap())
    }

    fn sign(&self, payload: &str) -> Value {
        let message = [b"zoneward/1 head", payload.as_bytes()].concat();
        json!({"certificate": STANDARD.encode(self.0.certificate().to_bytes()), "signature": STANDARD.encode(self.0.sign(&message))})
    }
}

/// Recovers as a new machine would, from the first target. Answers exit code and all that was said.
fn recover(zone: &Zone, to: usize, words: &str) -> (i32, String) {
    let target = zone.path("target").display().to_string();
    let mut c = zone.command(to, &["recover", "--state-only", "--target", &target]);
    let o = c.env("ZONEWARD_PASSPHRASE", words).output().unwrap();
    (o.status.code().unwrap(), text(&o))
}

#[test]
fn most_voters_sign_each_head_and_a_stolen_node_alone_is_not_believed() {
    let mut zone = Zone::new();
    let (first, other) = (zone.path("target"), zone.path("other"));
    zone.ok(0, &["target", "add", other.to_str().unwrap(), "--name", "other"]);
    zone.join(1, "second");
    zone.join(2, "third");
    until("three votes", || (zone.voters(0) == 3).then_some(()));
    let source = zone.path("source");
    fill(&source, 1);
    let backup = |zone: &Zone| {
        let made = zone.json(0, &["backup", source.to_str().unwrap(), "--shared", "--copies", "2"]);
        assert_eq!(made["complete"].as_bool(), Some(true), "{made}");
    };
    backup(&zone);
    for target in [&first, &other] {
        let p = shown(target);
        assert!(len(&p["signatures"]) >= 2, "{p}");
        assert_eq!((len(&p["vouched"]["handovers"]), len(&payload(&p)["voters"])), (1, 3), "{p}");
    }
    // Of three, two are enough.
    zone.kill(1);
    backup(&zone);
    let p = shown(&first);
    assert_eq!((len(&p["signatures"]), len(&p["vouched"]["handovers"])), (2, 1), "{p}");
    zone.start(1);
    let stolen = [Stolen::of(&zone, 2, &p), Stolen::of(&zone, 1, &p)];
    let third = stolen[0].0.node().to_string();
    assert!(payload(&p)["voters"].as_array().unwrap().iter().any(|v| *v == third.as_str()));

    // When a voter goes, the others hand over at once, without a new checkpoint.
    zone.ok(0, &["node", "remove", "third"]);
    zone.kill(2);
    let without = |target: &Path| {
        let p = shown(target);
        let voters = payload(&p)["voters"].as_array().unwrap().clone();
        (voters.iter().all(|v| *v != third.as_str()) && len(&p["vouched"]["handovers"]) >= 2).then_some(p)
    };
    let now = until("the others hand over", || without(&first));
    until("the other target shows it", || without(&other));
    zone.kill(0);
    zone.kill(1);
    let (words, good) = (words(&zone), fs::read(pointer(&other)).unwrap());

    let forged = |voters: Value, vouched: Value, by: &[&Stolen]| {
        let mut said = payload(&now);
        said["n"] = (said["n"].as_u64().unwrap() + 100).into();
        said["voters"] = voters;
        let said = said.to_string();
        let signatures: Vec<Value> = by.iter().map(|s| s.sign(&said)).collect();
        json!({"format": 2, "payload": said, "signatures": signatures, "vouched": vouched}).to_string()
    };
    let mut before = now["vouched"].clone();
    before["handovers"].as_array_mut().unwrap().truncate(1);
    let voters = payload(&p)["voters"].clone();
    let all: Vec<&Stolen> = stolen.iter().collect();
    for (i, (bytes, code, says)) in [
        // Alone it can only make a head that nobody vouches for: nothing is chosen for the owner.
        (forged(json!([third]), Value::Null, &all[..1]), 4, "ZW-1666"),
        // In the name of those who voted, or vote, most of them are needed.
        (forged(voters.clone(), before.clone(), &all[..1]), 0, "nothing of this zone that can be believed"),
        (
            forged(payload(&now)["voters"].clone(), now["vouched"].clone(), &all[..1]),
            0,
            "nothing of this zone that can be",
        ),
        // With the keys of two of the three it would have been enough, before they handed over.
        (forged(voters, before, &all), 0, "no longer speak for the zone"),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(pointer(&other), bytes).unwrap();
        let (got, said) = recover(&zone, 10 + i, &words);
        assert_eq!(got, code, "case {i}: {said}");
        assert!(said.contains(says), "case {i}: {said}");
    }
    fs::write(pointer(&other), good).unwrap();
    let (got, said) = recover(&zone, 20, &words);
    assert_eq!(got, 0, "{said}");
    assert!(
        !said.contains("believed") && !said.contains("no longer") && !said.contains("most of its voters"),
        "{said}"
    );
    let out = zone.path("out");
    zone.ok(20, &["recover", "--to", out.to_str().unwrap()]);
    same(&source, &out.join(source.strip_prefix("/").unwrap()));
    // The new home's first head is in the name of a new generation, for which the owner's key has vouched.
    zone.ok(20, &["recover", "--finish"]);
    let made = zone.run(20, &["backup"]);
    assert!(made.status.success(), "{}", text(&made));
    let p = shown(&first);
    assert_eq!((p["vouched"]["generation"].as_u64(), len(&p["vouched"]["handovers"])), (Some(1), 0), "{p}");
}

#[test]
fn a_target_that_was_set_back_is_named_and_gets_the_newest_head_anew() {
    let mut zone = Zone::new();
    let target = zone.path("target");
    let source = zone.path("source");
    let mut heads = Vec::new();
    for round in 1..=2 {
        fill(&source, round);
        zone.ok(0, &["backup", source.to_str().unwrap(), "--copies", "1"]);
        heads.push(fs::read(pointer(&target)).unwrap());
    }
    let misshown =
        |zone: &Zone| zone.json(0, &["target", "ls"])["targets"][0]["misshown"]["what"].as_str().map(str::to_owned);
    assert_eq!(misshown(&zone), None);
    let n = |bytes: &[u8]| payload(&serde_json::from_slice(bytes).unwrap())["n"].as_u64().unwrap();
    let newest = n(&heads[1]);
    for (shows, says) in
        [(Some(heads[0].clone()), "older than"), (Some(b"{}".to_vec()), "no head of the zone"), (None, "no head, in")]
    {
        zone.kill(0);
        match shows {
            Some(bytes) => fs::write(pointer(&target), bytes).unwrap(),
            None => fs::remove_file(pointer(&target)).unwrap(),
        }
        // A daemon looks at its targets when it begins, and then each hour.
        zone.start(0);
        until(says, || misshown(&zone).filter(|what| what.contains(says)));
        until("it shows the newest head", || fs::read(pointer(&target)).ok().filter(|b| b.len() > 2 && n(b) == newest));
        let status = zone.ok(0, &["status"]);
        assert!(status.contains("target first showed") && status.contains(says), "{status}");
    }
    zone.ok(0, &["check"]);
}
