//! Opening copies: a fresh data key, its header, and both in the zone's state before the first byte leaves.

use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zoneward_consensus::command::Command;
use zoneward_consensus::stripes::StripeSet;
use zoneward_sectors::crypto::Secret32;
use zoneward_sectors::fsx;
use zoneward_sectors::header::{Core, Header};
use zoneward_sectors::ids::{CopyId, SectorId, TargetId};
use zoneward_sectors::sector_writer::SectorOut;
use zoneward_sectors::stream::{Layout, RecordKeys};
use zoneward_sectors::stripes::Stripes;
use zoneward_targets::{Incoming, Target, TargetError};

use crate::audit::SAMPLES;
use crate::errors::ZoneError;
use crate::pace::Pace;
use crate::zone::Zone;

/// A sector on its way into a target.
pub(crate) struct TargetOut {
    incoming: RwLock<Option<Box<dyn Incoming>>>,
    pace: Arc<Pace>,
    /// Learns what the target will have to answer, where it can.
    stripes: Option<Stripes>,
}

impl TargetOut {
    pub fn new(incoming: Box<dyn Incoming>, pace: Arc<Pace>, stripes: Option<Stripes>) -> Arc<Self> {
        Arc::new(Self { incoming: RwLock::new(Some(incoming)), pace, stripes })
    }

    /// What the target has to answer about the sector of `len` bytes; none if it proves nothing, or not all of it passed here.
    fn learned(&self, copy: CopyId, len: u64) -> Option<StripeSet> {
        let stripes = self.stripes.as_ref()?;
        // What is read whole whenever it is looked at needs no answers.
        Layout::of_file(len).filter(|l| l.segments() > SAMPLES)?;
        Some(StripeSet::new(copy, stripes.first(), &stripes.answers(len)?))
    }

    fn take(&self) -> Option<Box<dyn Incoming>> {
        self.incoming.write().unwrap_or_else(|e| e.into_inner()).take()
    }

    /// Makes the sector durable and final.
    pub fn seal(&self, len: u64) -> Result<(), TargetError> {
        match self.take() {
            Some(i) => i.seal(len),
            None => Ok(()),
        }
    }

    /// Throws away what was written.
    pub fn abandon(&self) {
        if let Some(i) = self.take() {
            // What cannot be removed now is found and removed by the next run.
            let _ = i.abandon();
        }
    }
}

impl SectorOut for TargetOut {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.pace.send(bytes.len());
        if let Some(s) = &self.stripes {
            s.pass(offset, bytes);
        }
        // Threads are in here together: a target that takes bytes in order lets a stretch wait for those before it.
        match &*self.incoming.read().unwrap_or_else(|e| e.into_inner()) {
            Some(i) => i.write_at(offset, bytes).map_err(std::io::Error::other),
            None => Err(std::io::Error::other("the sector is closed already")),
        }
    }
}

/// A copy that may now be written.
pub(crate) struct Minted {
    pub copy: CopyId,
    pub header: Header,
    pub keys: RecordKeys,
    pub out: Arc<TargetOut>,
}

/// Goes on with a copy that was minted before, by any node: its header and key are in the zone's state. Answers how many
/// bytes of it its target has.
pub(crate) fn resume_copy(zone: &Zone, known: &zoneward_consensus::model::Copy) -> Result<(Minted, u64), ZoneError> {
    let bad = |what| ZoneError::State { what };
    let used = STANDARD.decode(&known.header).map_err(|_| bad("the header of a copy"))?;
    let header = Header::from_used(&used).map_err(|_| bad("the header of a copy"))?;
    if header.hash() != known.header_hash {
        return Err(bad("the header of a copy"));
    }
    let sealed = STANDARD.decode(&known.sealed_dek).map_err(|_| bad("the key of a copy"))?;
    let dek = zone.keys().open_dek(known.id, &sealed).map_err(|_| bad("the key of a copy"))?;
    header.check_commitment(&dek).map_err(|_| bad("the key of a copy"))?;
    let keys = RecordKeys::derive(&dek, &header);
    let t = zone.target(known.target).ok_or_else(|| ZoneError::NoTarget("it is not reachable".into()))?;
    t.lock_for(crate::guard::lock_s(zone.state()));
    let incoming = t.open_in_turn(known.alias, known.id, zone.turn())?;
    // What a target cannot hold across an interruption is sent again: the same bytes.
    let held = if t.capabilities().resume { incoming.offset() } else { 0 };
    // Of what was sent before, nothing is learned: the next reading of all of it does that.
    let stripes = (held == 0).then(|| stripes(t.as_ref(), &keys, known.id)).flatten();
    Ok((Minted { copy: known.id, header, keys, out: TargetOut::new(incoming, zone.pace().clone(), stripes) }, held))
}

fn stripes(target: &dyn Target, keys: &RecordKeys, copy: CopyId) -> Option<Stripes> {
    target.capabilities().proves.then(|| Stripes::new(keys.audit_root(), copy, 0))
}

/// Tells the zone what the target of a copy that was just stored has to answer.
pub(crate) fn record_stripes(zone: &mut Zone, copy: CopyId, out: &TargetOut, len: u64) -> Result<(), ZoneError> {
    match out.learned(copy, len) {
        Some(set) => zone.propose(Command::SetStripes { sets: vec![set] }).map(|_| ()),
        None => Ok(()),
    }
}

/// Mints a copy of `sector` for `target`.
pub(crate) fn mint_copy(
    zone: &mut Zone,
    sector: SectorId,
    class_log2: u8,
    target: TargetId,
) -> Result<Minted, ZoneError> {
    let copy = CopyId::random();
    let dek = Secret32::random();
    let alias = zone.keys().alias(target);
    let cert = zone.identity().certificate().clone();
    let core =
        Core { class_log2, signer_epoch: cert.epoch, alias, copy, owner_fingerprint: zone.owner().fingerprint() };
    let wrapped = zone.owner().wrap(&dek, &core.label().0);
    let header = Header::mint(core, &wrapped, &dek, &cert, zone.signer());
    let sealed_dek = zone.keys().seal_dek(copy, &dek);
    fsx::point("open-copy:before");
    zone.propose(Command::OpenCopy {
        copy,
        sector,
        target,
        alias,
        header: STANDARD.encode(header.used()),
        header_hash: header.hash(),
        sealed_dek: STANDARD.encode(sealed_dek),
        relayed: None,
    })?;
    fsx::point("open-copy:after");
    let keys = RecordKeys::derive(&dek, &header);
    let t = zone.target(target).ok_or_else(|| ZoneError::NoTarget("it is not reachable".into()))?;
    let stripes = stripes(t.as_ref(), &keys, copy);
    t.lock_for(crate::guard::lock_s(zone.state()));
    let out = TargetOut::new(t.open_in_turn(alias, copy, zone.turn())?, zone.pace().clone(), stripes);
    Ok(Minted { copy, header, keys, out })
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use super::*;

    /// A target that takes bytes in order, as one behind a network may.
    #[derive(Clone, Default)]
    struct Ordered(Arc<(Mutex<(u64, bool)>, Condvar)>);

    impl Ordered {
        fn wait_until(&self, fits: impl Fn(&(u64, bool)) -> bool) -> bool {
            let state = self.0.0.lock().unwrap();
            !self.0.1.wait_timeout_while(state, Duration::from_secs(60), |s| !fits(s)).unwrap().1.timed_out()
        }
    }

    impl Incoming for Ordered {
        fn offset(&self) -> u64 {
            0
        }

        fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
            self.0.0.lock().unwrap().1 |= offset > 0;
            self.0.1.notify_all();
            assert!(self.wait_until(|(end, _)| *end == offset), "the stretch before {offset} never came");
            self.0.0.lock().unwrap().0 += bytes.len() as u64;
            self.0.1.notify_all();
            Ok(())
        }

        fn seal(self: Box<Self>, _: u64) -> Result<(), TargetError> {
            Ok(())
        }

        fn abandon(self: Box<Self>) -> Result<(), TargetError> {
            Ok(())
        }
    }

    #[test]
    fn a_stretch_that_waits_for_its_turn_keeps_no_other_out() {
        let target = Ordered::default();
        let out = TargetOut::new(Box::new(target.clone()), Arc::default(), None);
        std::thread::scope(|scope| {
            let later = scope.spawn(|| out.write_at(3, b"def"));
            // The later stretch is in the target's hands before the first one sets out.
            assert!(target.wait_until(|(_, waits)| *waits));
            out.write_at(0, b"abc").unwrap();
            later.join().unwrap().unwrap();
        });
        assert!(target.wait_until(|(end, _)| *end == 6));
    }
}
