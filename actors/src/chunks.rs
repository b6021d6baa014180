//! The chunk index made anew: it is a cache, and a home that came back, or a node that never packed, has none.

use zoneward_sectors::entry::Extent;
use zoneward_sectors::ids::SectorId;
use zoneward_sectors::index::{ChunkIndex, Place};

use crate::errors::ZoneError;
use crate::restore::sources_of;
use crate::zone::Zone;

/// Puts every chunk of the newest checkpoint that lies in an `alive` sector into an index.
pub(crate) fn learn(zone: &Zone, index: &ChunkIndex, alive: &dyn Fn(SectorId) -> bool) -> Result<(), ZoneError> {
    let Some(newest) = zone.state().complete().last().map(|c| c.id) else { return Ok(()) };
    let opener = zone.opener();
    let counts = |n: u32| zone.table().id(n).is_some_and(alive);
    for held in sources_of(zone, newest) {
        let catalogs = zone.catalogs(&opener);
        // What cannot be read is stored anew where it is still in its source.
        let Ok(entries) = catalogs.entries(&held.layers) else { continue };
        for entry in entries.map_while(Result::ok) {
            for x in &entry.extents {
                if let Extent::Data { sector, offset, len, fingerprint } = x
                    && let Ok(len) = u32::try_from(*len)
                    && counts(*sector)
                {
                    let place = Place { sector: *sector, offset: *offset, len };
                    index.insert(*fingerprint, place).map_err(crate::home::io_at("write", &zone.home.index()))?;
                }
            }
        }
    }
    Ok(())
}
