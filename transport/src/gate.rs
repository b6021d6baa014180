//! Who may start a handshake: strangers share a small room, of which one address gets a part, and members have their
//! own, so that no crowd of strangers keeps a member out.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::{
    MEMBER_HANDSHAKES_MAX, MEMBER_IPS_MAX, STRANGER_HANDSHAKES_CHEAP, STRANGER_HANDSHAKES_MAX,
    STRANGER_HANDSHAKES_PER_IP_MAX,
};

#[derive(Default)]
struct Room {
    /// Addresses at which a member was met, the newest last.
    known: VecDeque<IpAddr>,
    members: usize,
    strangers: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// Counts handshakes in progress.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Room>>);

/// What to do with a first packet.
pub(crate) enum Verdict {
    Enter(Entered),
    /// Let it show that its address is its own.
    Prove,
    Refuse,
}

/// A handshake in progress, until it is dropped.
pub(crate) struct Entered {
    gate: Gate,
    ip: IpAddr,
    member: bool,
}

impl Gate {
    /// A member was met at this address.
    pub fn met(&self, ip: IpAddr) {
        let mut room = self.lock();
        room.known.retain(|k| *k != ip);
        room.known.push_back(ip);
        if room.known.len() > MEMBER_IPS_MAX {
            room.known.pop_front();
        }
    }

    /// Asks for a first packet from `ip`; `proven` if it answered from there before.
    pub fn enter(&self, ip: IpAddr, proven: bool) -> Verdict {
        let mut room = self.lock();
        let member = room.known.contains(&ip);
        if member && room.members < MEMBER_HANDSHAKES_MAX {
            room.members += 1;
            return Verdict::Enter(Entered { gate: self.clone(), ip, member });
        }
        if !proven && room.strangers >= STRANGER_HANDSHAKES_CHEAP {
            return Verdict::Prove;
        }
        let here = room.by_ip.get(&ip).copied().unwrap_or(0);
        if room.strangers >= STRANGER_HANDSHAKES_MAX || here >= STRANGER_HANDSHAKES_PER_IP_MAX {
            return Verdict::Refuse;
        }
        room.strangers += 1;
        room.by_ip.insert(ip, here + 1);
        Verdict::Enter(Entered { gate: self.clone(), ip, member: false })
    }

    #[cfg(test)]
    pub fn strangers(&self) -> usize {
        self.lock().strangers
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        // Counters only: nothing under the lock can leave them half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut room = self.gate.lock();
        if self.member {
            room.members -= 1;
            return;
        }
        room.strangers -= 1;
        match room.by_ip.get_mut(&self.ip) {
            Some(n) if *n > 1 => *n -= 1,
            _ => {
                room.by_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_fill_their_room_and_members_still_enter() {
        let gate = Gate::default();
        let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut inside = Vec::new();
        for n in 0..200u8 {
            match gate.enter(ip(n / 20), true) {
                Verdict::Enter(e) => inside.push(e),
                Verdict::Refuse => {}
                Verdict::Prove => panic!("it was proven"),
            }
        }
        assert_eq!(inside.len(), STRANGER_HANDSHAKES_MAX);
        assert!(matches!(gate.enter(ip(250), false), Verdict::Prove));
        assert!(matches!(gate.enter(ip(250), true), Verdict::Refuse));
        gate.met(ip(250));
        assert!(matches!(gate.enter(ip(250), false), Verdict::Enter(_)));
        drop(inside);
        let room = gate.lock();
        assert_eq!((room.strangers, room.members, room.by_ip.len()), (0, 0, 0));
    }

    #[test]
    fn one_address_gets_a_part_and_the_oldest_known_address_is_forgotten() {
        let gate = Gate::default();
        let ip = IpAddr::from([10, 0, 0, 1]);
        let inside: Vec<_> = (0..50).map(|_| gate.enter(ip, true)).filter(|v| matches!(v, Verdict::Enter(_))).collect();
        assert_eq!(inside.len(), STRANGER_HANDSHAKES_PER_IP_MAX);
        gate.met(ip);
        (0..MEMBER_IPS_MAX).for_each(|n| gate.met(IpAddr::from([11, 0, (n / 256) as u8, n as u8])));
        assert!(!gate.lock().known.contains(&ip));
    }
}
