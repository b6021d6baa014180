//! Errors of the crates below as failures with a code, an exit code and a next step.

use zoneward_actors::cluster::CommandError;
use zoneward_actors::errors::ZoneError;
use zoneward_actors::home::HomeError;
use zoneward_consensus::apply::Refusal;
use zoneward_consensus::model::NoSuchCheckpoint;
use zoneward_consensus::store::StoreError;
use zoneward_sectors::restore::RestoreError;
use zoneward_sectors::sector_reader::SectorReadError;
use zoneward_targets::{Retry, TargetError};
use zoneward_transport::identity::IdentityError;

use crate::errors::{Failure, chain, exit};

impl From<HomeError> for Failure {
    fn from(e: HomeError) -> Self {
        match &e {
            HomeError::NoZone(home) => {
                Failure::new(1001, exit::NO_ZONE, format!("there is no zone in {}", home.display()))
                    .help("make one: zoneward init --target file:///where/backups/go (or set --home / ZONEWARD_HOME)")
            }
            HomeError::Exists(home) => {
                Failure::new(1002, exit::REFUSED, format!("{} holds a zone already", home.display()))
                    .help("use it as it is, or give another --home")
            }
            HomeError::Busy { pid, .. } => Failure::new(1003, exit::BUSY, e.to_string())
                .help(format!("wait until it is done (ps -p {pid} shows it); nothing needs to be unlocked")),
            HomeError::Wiping(_) => Failure::new(2042, exit::REFUSED, e.to_string())
                .help("zoneward up finishes it; then the folder can be removed, or used to join a zone as a new node"),
            HomeError::Io { .. } => Failure::new(1004, exit::FAILED, chain(&e))
                .help("mend what it says (rights? a full disk?), then run it again"),
        }
    }
}

impl From<ZoneError> for Failure {
    fn from(e: ZoneError) -> Self {
        let text = chain(&e);
        match e {
            ZoneError::Home(e) => e.into(),
            ZoneError::Store(StoreError::Busy) => {
                Failure::new(1003, exit::BUSY, text).help("wait until the other process is done")
            }
            ZoneError::Store(StoreError::Clustered(_)) => Failure::new(2035, exit::REFUSED, text)
                .help("its nodes decide together: zoneward up, then this command again"),
            ZoneError::Store(StoreError::Refused(Refusal::Maintenance)) => in_maintenance(text),
            ZoneError::Store(StoreError::Refused(_)) => refused(text),
            ZoneError::Store(StoreError::Damaged(_)) => Failure::new(1202, exit::DAMAGE, text)
                .help("the zone can be rebuilt from a target and the recovery kit: docs/rescue/README.md"),
            ZoneError::Store(_) => Failure::new(1203, exit::FAILED, text),
            ZoneError::Witness => {
                Failure::new(2027, exit::REFUSED, text).help("ask another node: zoneward node ls there shows them all")
            }
            ZoneError::Served => Failure::new(2051, exit::REFUSED, text),
            ZoneError::Command(e) => of_command(&e),
            ZoneError::Cluster(_) => Failure::new(2041, exit::FAILED, text)
                .help("is another program listening there? zoneward up --listen ADDR"),
            ZoneError::SecretAway { .. } => Failure::new(2036, exit::FAILED, text)
                .help("start another node of the zone: zoneward node ls shows who answers. Nothing was changed"),
            ZoneError::Unsigned { .. } => Failure::new(2038, exit::FAILED, text)
                .help("start the zone's daemons: zoneward node ls shows who answers. It is published then"),
            ZoneError::LeaseEnded => Failure::new(2034, exit::FAILED, text),
            ZoneError::Target(t) => from_target(&t),
            ZoneError::NoTarget(_) => Failure::new(1302, exit::TARGET, text)
                .help("zoneward target ls shows the targets: is the disk mounted, does the server answer? zoneward target resume ends a pause"),
            ZoneError::TargetUrl(_) => Failure::new(1303, exit::USAGE, text),
            ZoneError::SourceEmpty { .. } | ZoneError::SourceMoved { .. } | ZoneError::Source { .. } => of_source(&e),
            ZoneError::Hook { .. }
            | ZoneError::Snapshot { .. }
            | ZoneError::NotAllowed { .. }
            | ZoneError::Unmapped { .. } => of_source(&e),
            ZoneError::OwnerOnly(_) => Failure::new(1691, exit::REFUSED, text).help(OWNER_KEY),
            ZoneError::Exposed(_) => Failure::new(1105, exit::REFUSED, text),
            ZoneError::OlderHome { .. } => Failure::new(1206, exit::REFUSED, text).help(
                "put the newer home back; what is newer can be restored from the target: docs/rescue/README.md. If this home \
                 is to go on without it: zoneward backup --allow-older-home. Nothing was changed on the target",
            ),
            ZoneError::KeysWithoutState(_) => Failure::new(1008, exit::REFUSED, text)
                .help("nothing was changed; give another --home, and get the zone back: docs/rescue/README.md"),
            ZoneError::Unfinished => Failure::new(1005, exit::FAILED, text),
            ZoneError::Identity(IdentityError::Io { .. }) => Failure::new(1004, exit::FAILED, text),
            ZoneError::Identity(IdentityError::Readable { .. }) => Failure::new(1105, exit::REFUSED, text),
            ZoneError::Secret(_) | ZoneError::Identity(_) | ZoneError::State { .. } => {
                Failure::new(1204, exit::DAMAGE, text)
                    .help("the zone can be rebuilt from a target and the recovery kit: docs/rescue/README.md")
            }
            ZoneError::Interrupted => Failure::new(1900, exit::INTERRUPTED, "interrupted")
                .help("run it again: it goes on where sealed work ended"),
            ZoneError::Restore(RestoreError::Interrupted) => ZoneError::Interrupted.into(),
            e if e.is_damage() => Failure::new(1501, exit::DAMAGE, text).help("zoneward check names what is damaged"),
            // It stands among what is said of each copy.
            ZoneError::Catalogs(_) | ZoneError::Read(_) | ZoneError::NoCopy(_)
                if is_owners(&text) =>
            {
                Failure::new(1691, exit::REFUSED, text).help(OWNER_KEY)
            }
            ZoneError::Catalogs(_) | ZoneError::Read(_) | ZoneError::NoCopy(_) => {
                Failure::new(1503, exit::TARGET, text)
                    .help("nothing is known to be damaged: try again when the target, or its disk, can be read")
            }
            e => match of_target(&e) {
                Some(t) => from_target(t),
                None => Failure::new(1502, exit::FAILED, text)
                    .help("nothing that was acknowledged is lost; mend the cause and run it again"),
            },
        }
    }
}

/// What opens what the zone cannot.
pub(crate) const OWNER_KEY: &str =
    "add --with-owner-key: it asks for the passphrase, or the 24 words of the recovery kit";

/// Whether an error tells, somewhere, that only the owner's key opens what is asked for.
pub(crate) fn is_owners(text: &str) -> bool {
    text.contains(&SectorReadError::OwnerOnly.to_string())
}

/// Sources that are half of one state and half of another are not backed up.
pub fn in_maintenance(why: String) -> Failure {
    Failure::new(1656, exit::REFUSED, "nothing is backed up now")
        .why(why)
        .help("zoneward rollback on that node shows how it stands, and how it ends")
}

/// What the zone's state speaks against.
fn refused(text: String) -> Failure {
    Failure::new(1201, exit::REFUSED, text).help("nothing was changed; zoneward status shows how the zone stands")
}

/// A command that did not come through.
fn of_command(e: &CommandError) -> Failure {
    let text = chain(e);
    match e {
        CommandError::Refused { code, .. } if code == Refusal::Maintenance.code() => in_maintenance(text),
        CommandError::Refused { .. } => refused(text),
        CommandError::NoLeader => Failure::new(2031, exit::FAILED, text),
        CommandError::Unknown => Failure::new(2032, exit::FAILED, text),
        CommandError::Busy | CommandError::Decode(_) | CommandError::Stopped(_) => {
            Failure::new(2033, exit::FAILED, text).help("zoneward status shows how this node does")
        }
    }
}

/// A source's trouble.
pub fn of_source(e: &ZoneError) -> Failure {
    let text = chain(e);
    match e {
        ZoneError::SourceEmpty { .. } => Failure::new(1401, exit::REFUSED, text)
            .help("if that is right, say so: zoneward backup --allow-empty; what is stored is untouched"),
        ZoneError::SourceMoved { .. } => Failure::new(1402, exit::REFUSED, text)
            .help("mount it, or say that this is right: zoneward backup --allow-empty; what is stored is untouched"),
        ZoneError::Hook { .. } => Failure::new(1410, exit::HOOK, text)
            .help("mend it, or change it: zoneward source set PATH --before CMD; what is stored is untouched"),
        ZoneError::Snapshot { .. } => Failure::new(1411, exit::FAILED, text)
            .help("zoneward source set PATH --snapshot auto reads the live tree where there can be no snapshot"),
        ZoneError::Unmapped { .. } => {
            Failure::new(1415, exit::REFUSED, text).help("say where it lies: zoneward dfs map NAME PATH --node NODE")
        }
        ZoneError::NotAllowed { path, .. } => Failure::new(1412, exit::REFUSED, text)
            .help(format!("look at it and allow it, on that node: zoneward source allow {}", path.display())),
        _ => Failure::new(1403, exit::FAILED, text)
            .help("check the path, or stop backing it up: zoneward source remove PATH"),
    }
}

/// A target's trouble.
/// The target's own error, where one lies at the bottom of another: a full or read-only target says so.
fn of_target<'e>(e: &'e (dyn std::error::Error + 'static)) -> Option<&'e TargetError> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(t) = e.downcast_ref::<TargetError>() {
            return Some(t);
        }
        // Transparent: it hides what it holds from those who ask for its source.
        if let Some(ZoneError::Target(t)) = e.downcast_ref::<ZoneError>() {
            return Some(t);
        }
        let inner = e.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        if let Some(t) = inner.and_then(|x| x.downcast_ref::<TargetError>()) {
            return Some(t);
        }
        next = inner.map(|x| x as &(dyn std::error::Error + 'static)).or_else(|| e.source());
    }
    None
}

pub fn from_target(e: &TargetError) -> Failure {
    let code = match e {
        TargetError::Unplugged { .. } => 1311,
        TargetError::Full { .. } => 1312,
        TargetError::Denied { .. } => 1313,
        TargetError::Busy { .. } => 1314,
        TargetError::Auth { .. } => 1316,
        TargetError::Throttled { .. } => 1317,
        TargetError::Unreachable { .. } => 1318,
        TargetError::Protocol { .. } => 1319,
        TargetError::OtherTarget { .. } | TargetError::BadMarker { .. } | TargetError::Foreign { .. } => 1315,
        TargetError::Untrusted { .. } => 1322,
        TargetError::Locked { .. } => 1323,
        _ => 1310,
    };
    let exit = match e {
        TargetError::Busy { .. } => exit::BUSY,
        TargetError::OtherTarget { .. } | TargetError::Foreign { .. } | TargetError::Locked { .. } => exit::REFUSED,
        _ => exit::TARGET,
    };
    let f = Failure::new(code, exit, chain(e));
    match e.retry() {
        Retry::Later => f.help("try again when it can be reached"),
        Retry::Operator => f.help("mend what it says, then run the command again"),
        Retry::Never => f,
    }
}

impl From<NoSuchCheckpoint> for Failure {
    fn from(e: NoSuchCheckpoint) -> Self {
        Failure::new(1601, exit::FAILED, e.to_string()).help("zoneward checkpoints lists them")
    }
}
