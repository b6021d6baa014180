//! What the malicious server does in each case, who must notice it, and what must be said.

use super::proxy::{Answer, Door, Kind, Part, Trick, honest};
use super::stage::Holds;
use super::tricks::{self as t, on};

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Backup,
    Check,
    /// A new machine that begins with the malicious target, or with the honest one.
    RecoverThere,
    RecoverHere,
    Restore,
    /// A daemon, by its audits: a copy comes into this state.
    Audit(&'static str),
    /// A daemon, by a challenge about all of a large copy.
    Challenge,
    /// Challenges, whose right answers are known from the disk.
    Prove,
}

/// What a look must end with.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    pub look: Look,
    pub code: i32,
    /// Words of the line that names the target; `None`: nothing is said against any target.
    pub says: Option<&'static str>,
}

/// A case.
pub struct Case {
    pub name: &'static str,
    pub holds: Holds,
    pub door: Door,
    pub trick: Trick,
    pub looks: Vec<Expect>,
    /// How a backup may end meanwhile.
    pub backup: &'static [i32],
    /// It takes deadlines of the protocol: such cases run beside each other.
    pub slow: bool,
    /// The honest target has to be named too: it shows something else.
    pub two_named: bool,
}

fn case(name: &'static str, trick: Trick) -> Case {
    let (holds, door, backup) = (Holds::Now, Door::Open, &[0, 3][..]);
    Case { name, holds, door, trick, looks: Vec::new(), backup, slow: false, two_named: false }
}

impl Case {
    fn expect(mut self, look: Look, code: i32, says: Option<&'static str>) -> Self {
        self.looks.push(Expect { look, code, says });
        self
    }

    fn check(self, code: i32, says: &'static str) -> Self {
        self.expect(Look::Check, code, Some(says))
    }

    fn backup(self, code: i32, says: &'static str) -> Self {
        self.expect(Look::Backup, code, Some(says))
    }

    /// A backup that cannot know yet.
    fn deceived(self) -> Self {
        self.expect(Look::Backup, 0, None)
    }

    fn there(self, code: i32, says: &'static str) -> Self {
        self.expect(Look::RecoverThere, code, Some(says))
    }

    fn here(mut self, code: i32, says: &'static str) -> Self {
        if self.holds == Holds::Now {
            self.holds = Holds::Published;
        }
        self.expect(Look::RecoverHere, code, Some(says))
    }

    fn audit(self, state: &'static str, says: &'static str) -> Self {
        self.expect(Look::Audit(state), 0, Some(says))
    }

    fn quiet(self, look: Look) -> Self {
        self.expect(look, 0, None)
    }

    fn holds(mut self, holds: Holds) -> Self {
        self.holds = holds;
        self
    }

    fn door(mut self, door: Door) -> Self {
        self.door = door;
        self
    }

    fn backups_end(mut self, codes: &'static [i32]) -> Self {
        self.backup = codes;
        self
    }

    fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    fn two_named(mut self) -> Self {
        self.two_named = true;
        self
    }
}

const RANGE: &[Kind] = &[Kind::Range];
const LIST: &[Kind] = &[Kind::List];
const POINTER: &[Kind] = &[Kind::Pointer];

/// All cases, in the order of the table.
pub fn all() -> Vec<Case> {
    [right(), drops(), bends(), replays(), seals(), slow(), endless(), lists(), others()]
        .into_iter()
        .flatten()
        .collect()
}

/// Nobody may be accused of anything: that is how the suite could fail the other way.
fn right() -> Vec<Case> {
    vec![
        case("an honest server", honest())
            .quiet(Look::Backup)
            .quiet(Look::Check)
            .quiet(Look::RecoverThere)
            .holds(Holds::Published)
            .quiet(Look::RecoverHere)
            .quiet(Look::Restore)
            .quiet(Look::Prove)
            .quiet(Look::Challenge)
            .expect(Look::Audit("stored"), 0, None)
            .backups_end(&[0]),
    ]
}

fn drops() -> Vec<Case> {
    vec![
        case("drops everything", t::empty()).check(5, "does not hold it").here(0, "shows nothing of this zone"),
        case("drops everything, audited", t::empty()).audit("lost", "it"),
        case("drops one sector", t::one_gone()).check(5, "does not hold it"),
        case("lists what it cannot read", t::reads_fail()).check(5, "does not hold it"),
        case("lists what it cannot read, audited", t::reads_fail()).audit("lost", "does not hold it"),
        case("answers nobody", honest())
            .door(Door::Shut)
            .check(7, "cannot be used")
            .backup(3, "cannot be used")
            .here(0, "cannot be asked"),
        case("answers nobody, audited", honest()).door(Door::Shut).audit("lost", "cannot be reached"),
    ]
}

fn bends() -> Vec<Case> {
    vec![
        case("cuts sectors short", t::shortened()).check(5, "DAMAGED").there(5, "whole copy"),
        case(
            "sends 1 byte too few",
            t::range_with(|mut a| {
                a.body.pop();
                a
            }),
        )
        .check(7, "bytes for"),
        case(
            "sends 1 byte too many",
            t::range_with(|mut a| {
                a.body.push(7);
                a
            }),
        )
        .check(7, "bytes for"),
        case("names another range", t::range_with(|a| a.field("content-range", "bytes 1-2/3")))
            .check(7, "sends the range"),
        case("ends in the middle of a range", t::half(RANGE, Part::Cut)).check(7, "does not answer").slow(),
        case("swaps sectors", t::swapped()).check(5, "DAMAGED").there(5, "whole copy"),
        case("crosses two copies", t::crossed()).check(5, "DAMAGED"),
        case("swaps segments", t::segments_swapped()).check(5, "DAMAGED"),
        case("flips a bit", t::bit_flipped()).check(5, "DAMAGED"),
        case("flips a bit, audited", t::bit_flipped()).audit("damaged", "damaged"),
    ]
}

fn replays() -> Vec<Case> {
    vec![
        case("replays the first range", t::ranges_replayed()).check(7, "sends the range"),
        case("replays bytes in any range", t::bytes_replayed()).check(5, "DAMAGED"),
        case("shows an old head", t::then(POINTER))
            .check(5, "the head (pointer.json)")
            .here(0, "shows an older state")
            .there(0, "shows an older state"),
        case("shows an old list", t::then(LIST)).check(5, "does not list it"),
        case("rolls everything back", t::all_then())
            .check(5, "the head (pointer.json)")
            .here(0, "shows an older state")
            .there(0, "shows an older state"),
        case("shows a fork", honest())
            .holds(Holds::Fork)
            .backup(4, "ZW-1206")
            .check(5, "the head (pointer.json)")
            .here(4, "both show a head")
            .backups_end(&[4])
            .two_named(),
        case(
            "shows a forged head",
            t::object_is(POINTER, r#"{"format":1,"payload":"{}","certificate":"","signature":""}"#),
        )
        .check(5, "the head (pointer.json)")
        .here(0, "shows nothing of this zone")
        .there(0, "shows no head that can be believed"),
    ]
}

fn seals() -> Vec<Case> {
    vec![
        case("seals and drops", t::seal_dropped()).deceived().check(5, "does not hold it"),
        case("seals without the end", t::tail_lost()).deceived().check(5, "DAMAGED"),
        case("acknowledges fewer bytes", t::offset(&[Kind::Append], |n| n.saturating_sub(1).to_string()))
            .backup(3, "bytes after an append"),
        case("acknowledges more bytes", t::offset(&[Kind::Append], |n| (n + 1).to_string()))
            .backup(3, "bytes after an append"),
        case("begins with bytes it has not", t::offset(&[Kind::Begin], |n| (n + 5).to_string())).backup(3, "mallory"),
        case("begins with an absurd offset", t::offset(&[Kind::Begin], |_| u64::MAX.to_string()))
            .backup(3, "more than any sector"),
        case("seals another length", t::offset(&[Kind::Seal], |n| (n + 1).to_string())).backup(3, "it sealed"),
        case("refuses in colours", t::refuses_in_colours(&[Kind::Begin, Kind::Range]))
            .backup(3, "mallory")
            .check(7, "mallory"),
    ]
}

fn slow() -> Vec<Case> {
    vec![
        case("takes connections and is silent", honest())
            .door(Door::Deaf)
            .check(7, "cannot be used")
            .backup(3, "cannot be used"),
        case("never tells of itself", t::silent(&[Kind::Document])).backup(3, "cannot be used"),
        case("never sends a range", t::silent(RANGE)).check(7, "was not done after"),
        case("sends a byte a second", t::drip(RANGE)).check(7, "was not done after"),
        case("stalls within a range", t::half(RANGE, Part::Silence)).check(7, "was not done after"),
        case("stalls within a list", t::half(LIST, Part::Silence)).check(7, "was not done after"),
        case("stalls within the head", t::half(POINTER, Part::Silence)).check(7, "was not done after"),
        case("never acknowledges bytes", t::silent(&[Kind::Append])).backup(3, "was not done after"),
        case("never answers a seal", t::silent(&[Kind::Seal])).backup(3, "was not done after"),
        case("never begins a sector", t::silent(&[Kind::Begin])).backup(3, "was not done after"),
        case("never answers a proof", t::silent(&[Kind::Prove])).quiet(Look::Challenge),
        case("silent to whoever recovers", t::silent(&[Kind::Pointer, Kind::Range])).here(0, "cannot be asked"),
    ]
    .into_iter()
    .map(Case::slow)
    .collect()
}

fn endless() -> Vec<Case> {
    let more = "is not understood";
    vec![
        case(
            "an endless list",
            t::endless(LIST, r#"{"sectors":["#, "27\r\n[\"00112233445566778899aabbccddeeff\",1],\r\n"),
        )
        .check(7, "sends more than"),
        case("an endless range", t::endless_large(RANGE)).check(7, "sends more than"),
        case("an endless range in chunks of a byte", t::endless(RANGE, "", "1\r\nx\r\n"))
            .check(7, "sends more than")
            .slow(),
        case("an endless head", t::endless_large(POINTER)).check(7, "sends more than").here(0, "cannot be asked"),
        case("an endless owner's key", t::endless_large(&[Kind::OwnerKey]))
            .check(7, "sends more than")
            .there(7, "sends more than"),
        case("an endless document", t::endless_large(&[Kind::Document])).check(7, "sends more than"),
        case("endless fields", t::raw_forever(RANGE, "HTTP/1.1 206 Partial Content\r\n", "x-field: value\r\n"))
            .check(7, "mallory")
            .slow(),
        case("an endless field", t::raw_forever(RANGE, "HTTP/1.1 206 Partial Content\r\nx-field: ", "aaaaaaaa"))
            .check(7, "mallory")
            .slow(),
        case(
            "endless chunk extensions",
            t::raw_forever(RANGE, "HTTP/1.1 206 Partial Content\r\ntransfer-encoding: chunked\r\n\r\n5;", "aaaaaaaa"),
        )
        .check(7, "mallory")
        .slow(),
        case(
            "endless trailers",
            t::raw_forever(
                RANGE,
                "HTTP/1.1 206 Partial Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
                "x-field: value\r\n",
            ),
        )
        .check(7, "mallory")
        .slow(),
        case("endless interim answers", t::raw_forever(RANGE, "", "HTTP/1.1 100 Continue\r\n\r\n"))
            .check(7, "mallory")
            .slow(),
        case(
            "JSON of a million brackets",
            on(LIST, |_, _| Ok(vec![Answer::new("200 OK", "[".repeat(1 << 20)).part()])),
        )
        .check(7, more),
    ]
}

fn lists() -> Vec<Case> {
    vec![
        case("lists less", t::list(|all| drop(all.remove(0)))).check(5, "does not list it"),
        case("lists other lengths", t::list(|all| all.iter_mut().for_each(|(_, n)| *n += 1)))
            .check(5, "does not list it"),
        case("lists more", t::list_more()).check(0, "does not know"),
        case("lists in disorder", t::list(|all| all.reverse())).check(7, "not in order"),
        case("lists a sector twice", t::list(|all| all.push(all[all.len() - 1].clone()))).check(7, "not in order"),
        case("lists for ever", t::list_pages(u64::MAX, 1)).check(7, "has no end"),
        case("a page of 90,000", t::list_pages(1, 90_000)).check(7, "on a page"),
        case("a million sectors", t::list_pages(60, 19_000))
            .check(0, "does not know")
            .here(0, "not looked through")
            .slow(),
        case("lists 900 zones more", t::zones(900)).quiet(Look::RecoverThere),
        case("lists 50,000 zones", t::zones(50_000)).there(7, "more than the limit"),
    ]
}

fn others() -> Vec<Case> {
    vec![
        case("answers proofs at random", t::proof_random()).expect(Look::Prove, 0, Some("wrong")).expect(
            Look::Challenge,
            0,
            Some("wrong answer"),
        ),
        case("replays a proof", t::proof_replayed()).expect(Look::Prove, 0, Some("wrong")),
        case("an owner's key of absurd cost", t::costly_key(u32::MAX, u32::MAX, 255))
            .check(5, "the owner's sealed key")
            .there(1, "no owner's sealed key"),
        case("an owner's key of the highest cost", t::costly_key(1 << 20, 16, 8))
            .check(5, "the owner's sealed key")
            .quiet(Look::RecoverThere),
        case("is another target", t::document(|d| d["target"] = "00112233445566778899aabbccddeeff".into()))
            .check(7, "not"),
        case(
            "a document to be obeyed",
            t::document(|d| d["roles"] = serde_json::json!([format!("\u{1b}[2J{}", "A".repeat(1 << 20))])),
        )
        .check(7, "is not understood"),
        case(
            "claims all room, and none",
            t::document(|d| {
                d["free_bytes"] = u64::MAX.into();
                d["max_class_log2"] = 0.into();
            }),
        )
        .quiet(Look::Check),
    ]
}
