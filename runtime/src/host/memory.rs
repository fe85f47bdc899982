//! Loads, stores, register arrays, tables and asynchronous copies. Every access is checked.

use std::sync::atomic::AtomicU32;

use tilekiln_dsl::ir::{Access, Location, Scalar, Type};

use super::buffer::Words;
use super::finding::FindingKind;
use super::machine::{Bound, Context, GlobalMemory, Machine, Step};
use super::program::*;
use super::sanitizer::Touched;

/// What an asynchronous copy moves and a matrix load reads per lane.
pub(super) const SIXTEEN_BYTES: Type = Type::Vector(Scalar::U32, 4);

/// Where the bytes of a place lie.
struct Extent {
    offset: usize,
    end: usize,
    align_bits: usize,
}

fn global<'c>(context: &'c Context, index: u32) -> Option<&'c GlobalMemory> {
    match context.arguments.get(index as usize) {
        Some(Bound::Memory(memory)) => Some(memory),
        _ => None,
    }
}

fn extent(context: &Context, place: &PlaceRef) -> Extent {
    let align_bits = place.access.bytes() - 1;
    match place.memory {
        Mem::Global(index) => {
            let (offset, end) = global(context, index).map_or((0, 0), |memory| (memory.offset, memory.end));
            Extent {
                offset,
                end,
                align_bits,
            }
        }
        Mem::Shared(index) => {
            let array = &context.program.shared[index as usize];
            Extent {
                offset: 0,
                end: array.len * array.element.bytes(),
                align_bits,
            }
        }
    }
}

fn name<'c>(context: &'c Context, memory: Mem) -> &'c str {
    match memory {
        Mem::Global(index) => global(context, index).map_or("", |memory| &memory.name),
        Mem::Shared(index) => &context.program.shared[index as usize].name,
    }
}

#[inline(always)]
fn at_lane(plane: &[u32], lane: usize) -> u32 {
    if let [one] = plane { *one } else { plane[lane] }
}

/// Reads one access per lane; addresses are in range and aligned.
#[inline(always)]
fn gather<W: Words>(memory: W, access: Type, d: &mut [Vec<u32>], address: impl Fn(usize) -> usize) {
    let scalar = access.scalar();
    let part = scalar.bytes();
    let widen = access == Type::Scalar(Scalar::BF16);
    match part {
        4 | 8 => {
            for (word, plane) in d.iter_mut().enumerate() {
                for (lane, out) in plane.iter_mut().enumerate() {
                    *out = memory.get(address(lane) / 4 + word);
                }
            }
        }
        _ => {
            let f: fn(u32) -> u32 = match scalar {
                Scalar::I8 => |x| x as i8 as i32 as u32,
                Scalar::U8 => |x| x & 0xff,
                Scalar::Bool => |x| u32::from(x & 0xff != 0),
                Scalar::I16 => |x| x as i16 as i32 as u32,
                Scalar::BF16 if widen => |x| x << 16,
                _ => |x| x & 0xffff,
            };
            for (component, plane) in d.iter_mut().enumerate() {
                for (lane, out) in plane.iter_mut().enumerate() {
                    let byte = address(lane) + component * part;
                    *out = f(memory.get(byte / 4) >> (byte % 4 * 8));
                }
            }
        }
    }
}

/// Writes one lane's access.
#[inline(always)]
fn scatter_lane<W: Words>(memory: &mut W, access: Type, s: &[&[u32]], address: usize, lane: usize) {
    match access.scalar().bytes() {
        part @ (1 | 2) => {
            let mask = if part == 1 { 0xff } else { 0xffff };
            let pair = part == 2 && address.is_multiple_of(4) && s.len().is_multiple_of(2);
            if pair {
                for (word, halves) in s.chunks_exact(2).enumerate() {
                    memory.set(
                        address / 4 + word,
                        (at_lane(halves[0], lane) & 0xffff) | (at_lane(halves[1], lane) << 16),
                    );
                }
            } else if part == 1 && address.is_multiple_of(4) && s.len().is_multiple_of(4) {
                for (word, bytes) in s.chunks_exact(4).enumerate() {
                    let value = (0..4).fold(0, |sum, i| sum | ((at_lane(bytes[i], lane) & 0xff) << (8 * i)));
                    memory.set(address / 4 + word, value);
                }
            } else {
                for (component, plane) in s.iter().enumerate() {
                    let byte = address + component * part;
                    memory.set_bits(byte / 4, (byte % 4 * 8) as u32, mask, at_lane(plane, lane));
                }
            }
        }
        _ => {
            for (word, plane) in s.iter().enumerate() {
                memory.set(address / 4 + word, at_lane(plane, lane));
            }
        }
    }
}

/// Reads whole words at sound indices.
#[inline(always)]
fn gather_words<W: Words>(memory: W, index: &[u32], d: &mut [Vec<u32>]) {
    for (part, plane) in d.iter_mut().enumerate() {
        for (out, index) in plane.iter_mut().zip(index) {
            *out = memory.get(*index as usize + part);
        }
    }
}

/// Stores one word per active lane.
#[inline(always)]
fn scatter_words<W: Words>(mut memory: W, part: usize, index: &[u32], plane: &[u32], mask: Option<&[u32]>) {
    match (plane, mask) {
        ([one], None) => {
            for index in index {
                memory.set(*index as usize + part, *one);
            }
        }
        (plane, None) => {
            for (index, word) in index.iter().zip(plane) {
                memory.set(*index as usize + part, *word);
            }
        }
        (plane, Some(mask)) => {
            for (lane, (index, mask)) in index.iter().zip(mask).enumerate() {
                if *mask != 0 {
                    memory.set(*index as usize + part, at_lane(plane, lane));
                }
            }
        }
    }
}

impl Machine {
    /// Fills `addresses` and `live` (the active lanes whose access is sound) and reports the others.
    pub fn addresses_of(&mut self, context: &Context, place: &PlaceRef, at: Location, write: bool) -> Step {
        let it = extent(context, place);
        let bytes = place.access.bytes();
        let room = (it.end.saturating_sub(it.offset) as u64).checked_sub(bytes as u64);
        let last = room.map(|room| room >> place.element_shift);
        for lane in 0..self.lanes {
            if self.active[lane] == 0 {
                self.live[lane] = 0;
                continue;
            }
            let low = at_lane(&self.planes[place.index as usize], lane);
            let high = place
                .index_high
                .map_or(0, |slot| at_lane(&self.planes[slot as usize], lane));
            let index = u64::from(low) | (u64::from(high) << 32);
            let inside = last.is_some_and(|last| index <= last);
            let address = if inside {
                it.offset + ((index as usize) << place.element_shift)
            } else {
                0
            };
            self.addresses[lane] = address;
            self.live[lane] = if inside && address & it.align_bits == 0 {
                u32::MAX
            } else {
                0
            };
            if self.live[lane] == 0 {
                self.bad_access(context, place, at, write, lane, index, inside)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn bad_access(
        &mut self,
        context: &Context,
        place: &PlaceRef,
        at: Location,
        write: bool,
        lane: usize,
        index: u64,
        inside: bool,
    ) -> Step {
        let it = extent(context, place);
        let elements = (it.end.saturating_sub(it.offset) >> place.element_shift) as u64;
        let name = name(context, place.memory).to_owned();
        let (verb, access) = (if write { "store" } else { "load" }, place.access);
        if inside {
            let align = access.bytes();
            return self.report(FindingKind::Misaligned, at, lane, |found| {
                found.of(&name, elements, index).says(
                    format!(
                        "misaligned {verb} of {access} in `{name}`: the address is not a multiple of {align} bytes"
                    ),
                    format!("make the byte offset of the access a multiple of {align}, or access smaller pieces"),
                )
            });
        }
        let (kind, space) = match (place.memory, write) {
            (Mem::Shared(_), _) => (FindingKind::OutOfBoundsShared, "shared array "),
            (_, true) => (FindingKind::OutOfBoundsWrite, ""),
            (_, false) => (FindingKind::OutOfBoundsRead, ""),
        };
        self.report(kind, at, lane, |found| {
            found.of(&name, elements, index).says(
                format!("out-of-bounds {verb} of {access} at index {index} of {space}`{name}`, which has {elements} elements"),
                "guard the access with a comparison against the length, or correct the index",
            )
        })
    }

    /// Whether every active lane's access is sound, found without looking at lanes one by one.
    fn all_sound(&self, it: &Extent, place: &PlaceRef) -> bool {
        if place.index_high.is_some() {
            return false;
        }
        let Some(room) = it.end.saturating_sub(it.offset).checked_sub(place.access.bytes()) else {
            return false;
        };
        let last = (room >> place.element_shift).min(u32::MAX as usize) as u32;
        let index = &self.planes[place.index as usize];
        let element = 1usize << place.element_shift;
        let always_aligned = it.align_bits < element && it.offset & it.align_bits == 0;
        let (bits, start, shift) = (it.align_bits as u32, it.offset as u32, place.element_shift);
        if let [one] = index[..] {
            return one <= last && start.wrapping_add(one << shift) & bits == 0;
        }
        let mut bad = 0u32;
        if self.full() {
            for index in index {
                bad |= u32::from(*index > last);
            }
            if !always_aligned {
                for index in index {
                    bad |= start.wrapping_add(index << shift) & bits;
                }
            }
        } else {
            for (index, mask) in index.iter().zip(&self.active) {
                bad |= u32::from(*index > last) & mask;
                bad |= start.wrapping_add(index << shift) & bits & mask;
            }
        }
        bad == 0
    }

    pub fn load(&mut self, context: &Context, d: &[Slot], place: &PlaceRef, at: Location) -> Step {
        let it = extent(context, place);
        let sound = self.all_sound(&it, place);
        if !sound || self.sanitizer.is_some() {
            self.addresses_of(context, place, at, false)?;
            self.touch_all(context, place, at)?;
        }
        let mut out: [Vec<u32>; 16] = Default::default();
        for (out, slot) in out.iter_mut().zip(d) {
            *out = std::mem::take(&mut self.planes[*slot as usize]);
        }
        let planes = &mut out[..d.len()];
        let shift = place.element_shift;
        let words = place.access.scalar().bytes() == 4 && shift == 2;
        if sound && words && self.full() && self.planes[place.index as usize].len() > 1 {
            let index = &self.planes[place.index as usize][..];
            let base = it.offset / 4;
            match place.memory {
                Mem::Global(number) => {
                    let words: &[AtomicU32] = global(context, number).map_or(&[], |memory| &memory.buffer.words);
                    gather_words(words.get(base..).unwrap_or(&[]), index, planes);
                }
                Mem::Shared(number) => gather_words(&self.shared[number as usize][..], index, planes),
            }
        } else if sound {
            let index = &self.planes[place.index as usize];
            match index[..] {
                [one] => {
                    let address = it.offset + ((one as usize) << shift);
                    self.gather(context, place, planes, |_| address);
                }
                ref index if self.full() => {
                    let index = &index[..self.lanes];
                    self.gather(context, place, planes, |lane| {
                        it.offset + ((index[lane] as usize) << shift)
                    });
                }
                ref index => {
                    // Inactive lanes read element 0, which exists.
                    for ((clean, index), mask) in self.index.iter_mut().zip(index).zip(&self.active) {
                        *clean = index & mask;
                    }
                    let index = &self.index[..self.lanes];
                    self.gather(context, place, planes, |lane| {
                        it.offset + ((index[lane] as usize) << shift)
                    });
                }
            }
        } else {
            let first = self.live.iter().position(|live| *live != 0).unwrap_or(0);
            let one = planes.first().is_some_and(|plane| plane.len() == 1);
            let (addresses, live) = (&self.addresses, &self.live);
            // A lane without a sound access reads from the start of the memory, or 0 where that is empty.
            let address = |lane: usize| {
                let lane = if one { first } else { lane };
                if live[lane] != 0 { addresses[lane] } else { it.offset }
            };
            self.gather(context, place, planes, address);
        }
        for (out, slot) in out.iter_mut().zip(d) {
            self.planes[*slot as usize] = std::mem::take(out);
        }
        Ok(())
    }

    fn gather(&self, context: &Context, place: &PlaceRef, d: &mut [Vec<u32>], address: impl Fn(usize) -> usize) {
        match place.memory {
            Mem::Global(index) => {
                let words: &[AtomicU32] = global(context, index).map_or(&[], |memory| &memory.buffer.words);
                gather(words, place.access, d, address);
            }
            Mem::Shared(index) => gather(&self.shared[index as usize][..], place.access, d, address),
        }
    }

    pub fn store(&mut self, context: &Context, s: &[Slot], place: &PlaceRef, at: Location) -> Step {
        let it = extent(context, place);
        let sound = self.all_sound(&it, place);
        if !sound || self.sanitizer.is_some() {
            self.addresses_of(context, place, at, true)?;
        }
        if self.sanitizer.is_some() {
            return self.store_checked(context, s, place, at);
        }
        if sound && place.access.scalar().bytes() == 4 && place.element_shift == 2 && !self.one_store(s, place) {
            self.store_words(context, s, place, it.offset / 4);
            return Ok(());
        }
        let source: Vec<&[u32]> = s.iter().map(|slot| &self.planes[*slot as usize][..]).collect();
        let index = &self.planes[place.index as usize][..];
        let (full, active, shift) = (self.full(), &self.active, place.element_shift);
        let addresses = &self.addresses;
        // What is not sound was reported; what is sound but has a 64-bit index lies in `addresses`.
        let address = |lane: usize| {
            if sound {
                it.offset + ((at_lane(index, lane) as usize) << shift)
            } else {
                addresses[lane]
            }
        };
        let same = index.len() == 1 && source.iter().all(|plane| plane.len() == 1);
        let first = self.first_active();
        let lanes = if same { first..first + 1 } else { 0..self.lanes };
        match place.memory {
            Mem::Global(number) => {
                let mut words: &[AtomicU32] = global(context, number).map_or(&[], |memory| &memory.buffer.words);
                for lane in lanes {
                    if full || same || active[lane] != 0 {
                        scatter_lane(&mut words, place.access, &source, address(lane), lane);
                    }
                }
            }
            Mem::Shared(number) => {
                let mut array = std::mem::take(&mut self.shared[number as usize]);
                let mut words = &mut array[..];
                for lane in lanes {
                    if full || same || active[lane] != 0 {
                        scatter_lane(&mut words, place.access, &source, address(lane), lane);
                    }
                }
                self.shared[number as usize] = array;
            }
        }
        Ok(())
    }

    /// Index and value are the same for all lanes: one store does.
    fn one_store(&self, s: &[Slot], place: &PlaceRef) -> bool {
        let one = |slot: Slot| self.planes[slot as usize].len() == 1;
        one(place.index) && s.iter().all(|slot| one(*slot))
    }

    /// Stores of whole words at sound indices of a memory of words: the common case, kept tight.
    fn store_words(&mut self, context: &Context, s: &[Slot], place: &PlaceRef, base: usize) {
        match self.planes[place.index as usize][..] {
            [one] => self.index.fill(one),
            ref index => self.index.copy_from_slice(index),
        }
        let mask = (!self.full()).then_some(&self.active[..]);
        match place.memory {
            Mem::Global(number) => {
                let words: &[AtomicU32] = global(context, number).map_or(&[], |memory| &memory.buffer.words);
                let words = words.get(base..).unwrap_or(&[]);
                for (part, slot) in s.iter().enumerate() {
                    scatter_words(words, part, &self.index, &self.planes[*slot as usize], mask);
                }
            }
            Mem::Shared(number) => {
                let words = &mut self.shared[number as usize][..];
                for (part, slot) in s.iter().enumerate() {
                    scatter_words(&mut words[..], part, &self.index, &self.planes[*slot as usize], mask);
                }
            }
        }
    }

    /// Stores lane by lane, telling the sanitizer about each.
    fn store_checked(&mut self, context: &Context, s: &[Slot], place: &PlaceRef, at: Location) -> Step {
        let bytes = place.access.bytes();
        for lane in 0..self.lanes {
            if self.live[lane] == 0 {
                continue;
            }
            let address = self.addresses[lane];
            let before = self.bytes_at(context, place.memory, address, bytes);
            self.put_lane(context, place, s, address, lane);
            let after = self.bytes_at(context, place.memory, address, bytes);
            let changed = std::array::from_fn(|byte| before[byte] != after[byte]);
            self.touch(context, place, at, lane, Touched::Write(changed))?;
        }
        Ok(())
    }

    fn put_lane(&mut self, context: &Context, place: &PlaceRef, s: &[Slot], address: usize, lane: usize) {
        match place.memory {
            Mem::Global(number) => {
                let mut words: &[AtomicU32] = global(context, number).map_or(&[], |memory| &memory.buffer.words);
                let source: Vec<&[u32]> = s.iter().map(|slot| &self.planes[*slot as usize][..]).collect();
                scatter_lane(&mut words, place.access, &source, address, lane);
            }
            Mem::Shared(number) => {
                let mut array = std::mem::take(&mut self.shared[number as usize]);
                let source: Vec<&[u32]> = s.iter().map(|slot| &self.planes[*slot as usize][..]).collect();
                scatter_lane(&mut &mut array[..], place.access, &source, address, lane);
                self.shared[number as usize] = array;
            }
        }
    }

    fn bytes_at(&self, context: &Context, memory: Mem, address: usize, bytes: usize) -> [u8; 16] {
        let mut out = [0u8; 16];
        for (offset, out) in out.iter_mut().enumerate().take(bytes) {
            let byte = address + offset;
            let word = match memory {
                Mem::Global(index) => {
                    global(context, index).map_or(0, |it| Words::get(&&it.buffer.words[..], byte / 4))
                }
                Mem::Shared(index) => self.shared[index as usize].get(byte / 4).copied().unwrap_or(0),
            };
            *out = (word >> (byte % 4 * 8)) as u8;
        }
        out
    }

    /// The 16 bytes at an aligned address.
    pub fn read16(&self, context: &Context, memory: Mem, address: usize) -> [u32; 4] {
        std::array::from_fn(|word| match memory {
            Mem::Global(index) => {
                global(context, index).map_or(0, |it| Words::get(&&it.buffer.words[..], address / 4 + word))
            }
            Mem::Shared(index) => self.shared[index as usize]
                .get(address / 4 + word)
                .copied()
                .unwrap_or(0),
        })
    }

    /// Tells the sanitizer about the loads in `addresses`.
    pub fn touch_all(&mut self, context: &Context, place: &PlaceRef, at: Location) -> Step {
        if self.sanitizer.is_none() {
            return Ok(());
        }
        for lane in 0..self.lanes {
            if self.live[lane] != 0 {
                self.touch(context, place, at, lane, Touched::Read)?;
            }
        }
        Ok(())
    }

    fn touch(&mut self, context: &Context, place: &PlaceRef, at: Location, lane: usize, how: Touched) -> Step {
        let Some(sanitizer) = &mut self.sanitizer else {
            return Ok(());
        };
        let (address, bytes) = (self.addresses[lane], place.access.bytes());
        match place.memory {
            Mem::Shared(index) => sanitizer.shared(
                &context.program.shared[index as usize],
                index,
                address,
                bytes,
                lane,
                at,
                how,
            ),
            Mem::Global(index) => {
                if let Some(memory) = global(context, index) {
                    sanitizer.global(memory, memory.access == Access::Write, address, bytes, lane, at, how);
                }
            }
        }
        Ok(())
    }

    pub fn async_copy(&mut self, context: &Context, to: &PlaceRef, from: &PlaceRef, at: Location) -> Step {
        let from = PlaceRef {
            access: SIXTEEN_BYTES,
            ..*from
        };
        let to = PlaceRef {
            access: SIXTEEN_BYTES,
            ..*to
        };
        self.addresses_of(context, &from, at, false)?;
        self.touch_all(context, &from, at)?;
        let (source, readable) = (self.addresses.clone(), self.live.clone());
        self.addresses_of(context, &to, at, true)?;
        let Mem::Shared(array) = to.memory else {
            return Ok(());
        };
        for lane in 0..self.lanes {
            if self.live[lane] == 0 || readable[lane] == 0 {
                continue;
            }
            let words = self.read16(context, from.memory, source[lane]);
            let target = self.addresses[lane];
            for (word, value) in words.into_iter().enumerate() {
                if let Some(slot) = self.shared[array as usize].get_mut(target / 4 + word) {
                    *slot = value;
                }
            }
            self.touch(context, &to, at, lane, Touched::Copy)?;
        }
        Ok(())
    }

    /// A copy of a whole tile on behalf of each warp: done on the spot, pending for the sanitizer until waited for.
    pub fn bulk_copy(
        &mut self,
        context: &Context,
        to: &PlaceRef,
        from: &PlaceRef,
        bytes: Slot,
        barrier: &PlaceRef,
        at: Location,
    ) -> Step {
        self.whole_warps("a bulk copy", at)?;
        let [to, from] = [to, from].map(|place| PlaceRef {
            access: SIXTEEN_BYTES,
            ..*place
        });
        self.addresses_of(context, barrier, at, true)?;
        let (barriers, counted) = (self.addresses.clone(), self.live.clone());
        self.addresses_of(context, &from, at, false)?;
        let (sources, readable) = (self.addresses.clone(), self.live.clone());
        self.addresses_of(context, &to, at, true)?;
        let (Mem::Shared(array), Mem::Shared(counter)) = (to.memory, barrier.memory) else {
            return Ok(());
        };
        let (targets, writable) = (self.addresses.clone(), self.live.clone());
        for first in (0..self.lanes).step_by(32) {
            if self.active[first] == 0 || [&counted, &readable, &writable].iter().any(|live| live[first] == 0) {
                continue;
            }
            let bytes = at_lane(&self.planes[bytes as usize], first) as usize;
            if !self.copy_is_inside(context, &from, &to, [sources[first], targets[first]], bytes, first, at)? {
                continue;
            }
            for chunk in (0..bytes).step_by(16) {
                let lane = first + chunk / 16 % 32;
                self.addresses[lane] = sources[first] + chunk;
                self.touch(context, &from, at, lane, Touched::Read)?;
                let words = self.read16(context, from.memory, sources[first] + chunk);
                for (word, value) in words.into_iter().enumerate() {
                    if let Some(slot) = self.shared[array as usize].get_mut((targets[first] + chunk) / 4 + word) {
                        *slot = value;
                    }
                }
                self.addresses[lane] = targets[first] + chunk;
                self.touch(context, &to, at, lane, Touched::Copy)?;
            }
            if let Some(sanitizer) = &mut self.sanitizer {
                let lanes = first..(first + 32).min(self.lanes);
                sanitizer.start_copy((counter, barriers[first]), lanes);
            }
        }
        Ok(())
    }

    /// Both ends of a bulk copy lie in their memories.
    fn copy_is_inside(
        &mut self,
        context: &Context,
        from: &PlaceRef,
        to: &PlaceRef,
        addresses: [usize; 2],
        bytes: usize,
        lane: usize,
        at: Location,
    ) -> Step<bool> {
        for ((place, address), write) in [from, to].into_iter().zip(addresses).zip([false, true]) {
            let it = extent(context, place);
            if !bytes.is_multiple_of(16) || address + bytes > it.end {
                let index = ((address + bytes - it.offset) >> place.element_shift) as u64;
                self.bad_access(context, place, at, write, lane, index, !bytes.is_multiple_of(16))?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn wait_for_copy(&mut self, context: &Context, barrier: &PlaceRef, parity: Slot, at: Location) -> Step {
        self.whole_warps("a wait for a copy", at)?;
        self.addresses_of(context, barrier, at, false)?;
        let Mem::Shared(counter) = barrier.memory else {
            return Ok(());
        };
        if self.sanitizer.is_none() {
            return Ok(());
        }
        for first in (0..self.lanes).step_by(32) {
            if self.active[first] == 0 || self.live[first] == 0 {
                continue;
            }
            let parity = at_lane(&self.planes[parity as usize], first);
            let address = self.addresses[first];
            let arrives = self
                .sanitizer
                .as_mut()
                .is_none_or(|sanitizer| sanitizer.finish_copies((counter, address), parity));
            if !arrives {
                let it = &context.program.shared[counter as usize];
                self.report(FindingKind::CopyNeverArrives, at, first, |found| {
                    found.of(&it.name, it.len as u64, (address / 8) as u64).says(
                        format!("this wait never ends: no copy of parity {parity} has been started on the barrier"),
                        "start a copy on the barrier first; parities go 0, 1, 0, 1, … with its copies",
                    )
                })?;
            }
        }
        Ok(())
    }

    // Register arrays and tables

    /// Element index of a reference, per lane in `index` unless it is the same for all active lanes.
    fn element(&mut self, context: &Context, reference: &RegRef, at: Location) -> Step<Option<u32>> {
        let array = &context.program.registers[reference.array as usize];
        let first = self.first_active();
        let same = reference.terms.iter().all(|(slot, _, _)| {
            let plane = &self.planes[*slot as usize];
            plane.len() == 1
                || plane
                    .iter()
                    .zip(&self.active)
                    .all(|(index, mask)| (index ^ plane[first]) & mask == 0)
        });
        let mut wrong = None;
        for lane in if same { first..first + 1 } else { 0..self.lanes } {
            let mut element = 0;
            for (slot, extent, stride) in &reference.terms {
                let index = at_lane(&self.planes[*slot as usize], lane);
                if index >= *extent {
                    if self.active[lane] != 0 {
                        wrong = wrong.or(Some((lane, index, *extent)));
                    }
                    continue;
                }
                element += index * stride;
            }
            self.index[lane] = element;
        }
        if let Some((lane, index, extent)) = wrong {
            self.report(FindingKind::OutOfBoundsRegister, at, lane, |it| {
                it.of(&array.name, u64::from(extent), u64::from(index)).says(
                    format!(
                        "index {index} outside the register array `{}`, whose extent there is {extent}",
                        array.name
                    ),
                    "keep the index below the extent",
                )
            })?;
        }
        Ok(same.then(|| self.index[first]))
    }

    pub fn read_register(&mut self, context: &Context, d: &[Slot], from: &RegRef, at: Location) -> Step {
        let array = &context.program.registers[from.array as usize];
        let same = self.element(context, from, at)?;
        if self.sanitizer.is_some() {
            self.register_is_written(context, from, 0, at)?;
        }
        for (part, d) in d.iter().enumerate() {
            let plane_of = |element: u32| (array.base + element * array.planes) as usize + part;
            match same {
                Some(element) => self.declare(*d, plane_of(element) as Slot, false),
                None => {
                    let mut out = std::mem::take(&mut self.planes[*d as usize]);
                    for (lane, out) in out.iter_mut().enumerate() {
                        *out = self.planes[plane_of(self.index[lane])][lane];
                    }
                    self.planes[*d as usize] = out;
                }
            }
        }
        Ok(())
    }

    pub fn write_register(&mut self, context: &Context, to: &RegRef, s: &[Slot], take: bool, at: Location) -> Step {
        let array = &context.program.registers[to.array as usize];
        let same = self.element(context, to, at)?;
        for (part, s) in s.iter().enumerate() {
            let plane_of = |element: u32| (array.base + element * array.planes) as usize + part;
            match same {
                Some(element) => self.assign(plane_of(element) as Slot, *s, take),
                None => {
                    for lane in 0..self.lanes {
                        if self.active[lane] != 0 {
                            let word = at_lane(&self.planes[*s as usize], lane);
                            self.planes[plane_of(self.index[lane])][lane] = word;
                        }
                    }
                }
            }
        }
        if let Some(sanitizer) = &mut self.sanitizer {
            for lane in 0..self.lanes {
                if self.active[lane] != 0 {
                    let element = same.unwrap_or(self.index[lane]);
                    sanitizer.write_register(to.array, element, lane);
                }
            }
        }
        Ok(())
    }

    pub fn fill_registers(&mut self, context: &Context, number: u32, fill: Option<[u32; 2]>) {
        let array = &context.program.registers[number as usize];
        if let Some(words) = fill {
            for element in 0..array.len {
                for part in 0..array.planes {
                    self.planes[(array.base + element * array.planes + part) as usize].fill(words[part as usize]);
                }
            }
        }
        if let Some(sanitizer) = &mut self.sanitizer {
            sanitizer.declare_registers(number, array.len as usize, &self.active, fill.is_some());
        }
    }

    /// Reports a read of an element no lane wrote; `offset` counts from the referenced element.
    pub fn register_is_written(&mut self, context: &Context, from: &RegRef, offset: u32, at: Location) -> Step {
        let array = &context.program.registers[from.array as usize];
        let same = self.element(context, from, at)?;
        let Some(sanitizer) = &self.sanitizer else {
            return Ok(());
        };
        let found = (0..self.lanes).filter(|lane| self.active[*lane] != 0).find_map(|lane| {
            let element = same.unwrap_or(self.index[lane]) + offset;
            (!sanitizer.register_written(from.array, element, lane)).then_some((lane, element))
        });
        match found {
            Some((lane, element)) => self.report(FindingKind::UninitialisedRegister, at, lane, |it| {
                it.of(&array.name, u64::from(array.len), u64::from(element)).says(
                    format!(
                        "element {element} of the register array `{}` is read before it is written",
                        array.name
                    ),
                    "give the array a first value, or write the element on every path",
                )
            }),
            None => Ok(()),
        }
    }

    pub fn mark_fragment(&mut self, context: &Context, to: &RegRef, count: u32) {
        let array = to.array;
        let first = self.first_active();
        let element: u32 = to
            .terms
            .iter()
            .map(|(slot, _, stride)| at_lane(&self.planes[*slot as usize], first) * stride)
            .sum();
        let len = context.program.registers[array as usize].len;
        if let Some(sanitizer) = &mut self.sanitizer {
            for lane in (0..self.lanes).filter(|lane| self.active[*lane] != 0) {
                for offset in 0..count.min(len.saturating_sub(element)) {
                    sanitizer.write_register(array, element + offset, lane);
                }
            }
        }
    }

    pub fn lookup(&mut self, context: &Context, d: &[Slot], table: u32, index: Slot, at: Location) -> Step {
        let table = &context.program.tables[table as usize];
        let entries = table.planes.first().map_or(0, Vec::len);
        let plane = &self.planes[index as usize];
        let wrong = if plane.len() == 1 {
            (plane[0] as usize >= entries).then(|| self.first_active())
        } else {
            (0..self.lanes).find(|lane| self.active[*lane] != 0 && plane[*lane] as usize >= entries)
        };
        if let Some(lane) = wrong {
            let index = at_lane(plane, lane);
            self.report(FindingKind::OutOfBoundsTable, at, lane, |it| {
                it.of(&table.name, entries as u64, u64::from(index)).says(
                    format!(
                        "index {index} outside the table `{}`, which has {entries} entries",
                        table.name
                    ),
                    "mask or clamp the index",
                )
            })?;
        }
        for (d, words) in d.iter().zip(&table.planes) {
            let mut out = std::mem::take(&mut self.planes[*d as usize]);
            let index = &self.planes[index as usize];
            match index[..] {
                [one] => out.fill(words.get(one as usize).copied().unwrap_or(0)),
                ref index => {
                    for (out, index) in out.iter_mut().zip(index) {
                        *out = words.get(*index as usize).copied().unwrap_or(0);
                    }
                }
            }
            self.planes[*d as usize] = out;
        }
        Ok(())
    }
}
