//! The zone that is simulated: its nodes, targets and sources.

use zoneward_sectors::ids::{Digest, NodeId, SourceId, TargetId, ZoneAlias, ZoneId};

use crate::audits::Audits;
use crate::command::Command;
use crate::model::Source;
use crate::raft::net::n;

fn id(n: u64) -> [u8; 16] {
    NodeId::from(n).0
}

pub fn create() -> Command {
    Command::CreateZone {
        zone: ZoneId(id(9)),
        name: "home".into(),
        owner_fingerprint: Digest([1; 32]),
        owner_public: "cHVi".into(),
        owner_sign_public: "c2ln".into(),
        sector_min_log2: 20,
        sector_max_log2: 36,
        zstd_level: 3,
        secret_epoch: 1,
    }
}

pub fn add_node(number: u64) -> Command {
    Command::AddNode {
        node: n(number),
        name: format!("node-{number}"),
        public_key: format!("key-{number}"),
        certificate: "Y2Vy".into(),
    }
}

/// Four targets, two of them in one place, and three sources that want three, two and one copies. A calm zone audits less.
pub fn furnish(calm: u64) -> Vec<Command> {
    let target = |n, domain: Option<&str>| Command::AddTarget {
        target: TargetId(id(n)),
        name: format!("t{n}"),
        url: format!("file:///t{n}"),
        alias: ZoneAlias(id(n)),
        domain: domain.map(str::to_owned),
        credentials: None,
    };
    let source = |n, priority| Command::PutSource {
        source: Source {
            id: SourceId(id(n)),
            path: format!("/home/{n}").into_bytes(),
            priority,
            copies: None,
            excludes: Vec::new(),
            exclude_caches: true,
            one_file_system: false,
            added_ms: 0,
            grounds: Default::default(),
            last_entries: 0,
            nodes: Vec::new(),
            reading: Default::default(),
            write_only: false,
        },
    };
    vec![
        target(1, None),
        target(2, Some("cellar")),
        target(3, Some("cellar")),
        target(4, None),
        source(1, 17),
        source(2, 0),
        source(3, -20),
        Command::SetAudits {
            audits: Audits { every_s: 450 * calm as u32, read_s: 900 * calm as u32, paid_read_s: 0, silence_s: 20 },
        },
    ]
}
