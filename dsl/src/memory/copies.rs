//! Tiles on their way from global to shared memory, several ahead of their use.

use super::shared::Shared;
use super::*;
use crate::record::{error, statement, target, with};
use crate::value::{IntoIndex, IntoVal, barrier, lane_strided, warp_barrier, warp_index};

/// A ring of tiles for each warp of a block. A warp keeps up to `slots` copies in flight, waits for the oldest, uses it,
/// and starts the next one into the same place; other warps are not involved.
///
/// With bulk copies (`cp.async.bulk`) the first lane of a warp starts each copy and a barrier in shared memory counts
/// it; elsewhere the lanes of the warp copy 16 bytes each (`cp.async`, or plain loads and stores).
#[derive(Clone, Copy)]
pub struct CopyRing {
    /// The tiles, [warps, slots, tile bytes].
    pub tiles: Shared<u8>,
    barriers: Option<Shared<u64>>,
    slots: usize,
    tile_bytes: usize,
}

impl CopyRing {
    /// Room for `slots` tiles of `tile_bytes` (a multiple of 16) for each of `warps` warps. All threads of the block
    /// call it; it holds a block barrier where copies are counted.
    #[track_caller]
    pub fn new(warps: usize, slots: usize, tile_bytes: usize) -> Self {
        let at = Location::caller();
        if !tile_bytes.is_multiple_of(16) || warps * slots * tile_bytes == 0 {
            error(
                at,
                format!("a copy ring of {slots} tiles of {tile_bytes} bytes for each of {warps} warps"),
                "1 or more of each, tiles of whole multiples of 16 bytes",
                format!("tiles of {} bytes", tile_bytes.next_multiple_of(16).max(16)),
            );
        }
        let note = format!("[{warps} warps, {slots} tiles, {tile_bytes} bytes]");
        let tiles = Shared::with_note(warps * slots * tile_bytes, Some(note), at);
        tiles.rename("tiles");
        let barriers = target().bulk_copy.then(|| {
            let note = "one for each tile: counts its copies".to_string();
            let barriers = Shared::<u64>::with_note(warps * slots, Some(note), at);
            barriers.rename("arrived");
            if let Memory::Shared(barriers) = barriers.memory() {
                with(|r| r.push(StmtKind::InitCopyBarriers { barriers }, at));
            }
            barrier();
            barriers
        });
        Self {
            tiles,
            barriers,
            slots,
            tile_bytes,
        }
    }

    /// The byte of `tiles` at which this warp's tile `slot` starts.
    #[track_caller]
    pub fn start_of(self, slot: impl IntoVal<u32>) -> Val<u32> {
        let slot = slot.into_val(1, Location::caller());
        (warp_index() * self.slots + slot) * self.tile_bytes
    }

    fn arrived(self, barriers: Shared<u64>, slot: Val<u32>, at: Location) -> Place {
        let index = (warp_index() * self.slots + slot).id(at);
        Place {
            memory: barriers.memory(),
            index,
            access: Type::Scalar(Scalar::U64),
        }
    }

    /// Starts copying `bytes` (a multiple of 16, at most a tile) from element `index` of `from` into tile `slot`. All
    /// lanes of the warp call it with the same arguments, after they have met (`warp_barrier`) behind the last use of
    /// the tile.
    #[track_caller]
    pub fn fetch<T: Element, A: Readable>(
        self,
        slot: impl IntoVal<u32>,
        from: GlobalMemory<T, A>,
        index: impl IntoIndex,
        bytes: impl IntoVal<u32>,
    ) {
        let at = Location::caller();
        let slot = slot.into_val(1, at).settled(at);
        let bytes = bytes.into_val(1, at).settled(at);
        let from = super::global::global_place(from, index.index(at));
        let start = self.start_of(slot);
        match self.barriers {
            Some(barriers) => {
                let to = self.tiles.place(start.id(at), Type::Vector(Scalar::U32, 4));
                let barrier = self.arrived(barriers, slot, at);
                let bytes = bytes.id(at);
                let kind = StmtKind::BulkCopy {
                    to,
                    from,
                    bytes,
                    barrier,
                };
                with(|r| r.push(kind, at));
            }
            None => {
                let first: Val<u32> = Val::of_value(from.index);
                let per_chunk = 16 / T::SCALAR.bytes().min(16);
                for chunk in lane_strided(bytes / 16u32) {
                    let _mark = crate::record::enter_loop();
                    chunk.rename_place("chunk");
                    let to = (start + chunk * 16u32).id(at);
                    let to = self.tiles.place(to, Type::Vector(Scalar::U32, 4));
                    let from = Place {
                        index: (first + chunk * per_chunk).id(at),
                        ..from
                    };
                    with(|r| r.push(StmtKind::AsyncCopy { to, from }, at));
                }
                statement(StmtKind::AsyncCommit);
            }
        }
    }

    /// Stands for a fetch where nothing is left to fetch, so that [`Self::wait`] keeps counting right.
    #[track_caller]
    pub fn skip(self) {
        if self.barriers.is_none() {
            statement(StmtKind::AsyncCommit);
        }
    }

    /// Waits for the oldest fetch that has not been waited for, into tile `slot`; every lane of the warp sees it then.
    /// `slots` fetches (or skips) have to be under way. `parity` is 0 for the first fetch into a tile, 1 for the next,
    /// 0 again, …
    #[track_caller]
    pub fn wait(self, slot: impl IntoVal<u32>, parity: impl IntoVal<u32>) {
        let at = Location::caller();
        let slot = slot.into_val(1, at).settled(at);
        let parity = parity.into_val(1, at).settled(at);
        match self.barriers {
            Some(barriers) => {
                let barrier = self.arrived(barriers, slot, at);
                let parity = parity.id(at);
                with(|r| r.push(StmtKind::WaitForCopy { barrier, parity }, at));
            }
            None => {
                let pending = self.slots as u32 - 1;
                with(|r| r.push(StmtKind::AsyncWait { pending }, at));
                warp_barrier();
            }
        }
    }
}
