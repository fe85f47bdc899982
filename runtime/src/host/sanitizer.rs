//! Shadow memory: who touched which byte since when, and what was ever written.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tilekiln_dsl::ir::Location;

use super::finding::{Finding, FindingKind, Findings, Other};
use super::machine::GlobalMemory;
use super::program::{Program, SharedArray};

const WARP: u32 = 32;
const PAGE: usize = 256;

/// One lane's latest access to a byte.
#[derive(Clone, Copy)]
struct Touch {
    block: u64,
    lane: u32,
    epoch: u32,
    /// Group barriers of the block so far: all groups reach each of them.
    group_epoch: u32,
    /// The group of warps that it belongs to.
    group: u32,
    warp_epoch: u32,
    at: Location,
}

/// What happened to one byte of memory.
#[derive(Clone, Copy, Default)]
struct Cell {
    write: Option<Touch>,
    /// Two lanes that read it, of different warps where possible.
    reads: [Option<Touch>; 2],
    written: bool,
    /// An async copy into it is in flight.
    pending: bool,
}

/// How a lane touches memory.
#[derive(Clone, Copy)]
pub(super) enum Touched {
    Read,
    /// Which bytes get another value.
    Write([bool; 16]),
    /// An asynchronous copy, done when waited for.
    Copy,
}

#[derive(Default, Clone)]
struct Copies {
    open: Vec<(u32, usize)>,
    groups: VecDeque<Vec<(u32, usize)>>,
}

pub(super) struct Sanitizer {
    pub findings: Findings,
    pub operations: u64,
    /// Instructions of the present block.
    pub steps: u64,
    pub step_limit: u64,
    /// Blocks along x and y.
    grid: [u64; 2],
    block: [u32; 3],
    number: u64,
    epoch: u32,
    group_epoch: u32,
    /// Lanes of the groups of warps that meet: those of the kernel's group barriers.
    group_lanes: u32,
    warp_epochs: Vec<u32>,
    shared: Vec<Vec<Cell>>,
    global: HashMap<(usize, usize), Box<[Cell; PAGE]>>,
    /// Per array and element: one flag per lane.
    registers: Vec<Vec<Vec<bool>>>,
    copies: Vec<Copies>,
    /// Bulk copies by barrier: how many were started, and what of the last one is not waited for.
    bulk: HashMap<(u32, usize), BulkCopies>,
}

#[derive(Default)]
struct BulkCopies {
    started: u32,
    pending: Vec<(u32, usize)>,
}

impl Touch {
    /// Nothing orders the two accesses.
    fn races(&self, later: &Touch) -> bool {
        if self.block != later.block {
            return true;
        }
        if self.lane == later.lane || self.epoch != later.epoch || self.is_before_group_barrier(later) {
            return false;
        }
        self.lane / WARP != later.lane / WARP || self.warp_epoch == later.warp_epoch
    }
}

impl Touch {
    /// A barrier of the group of both lanes was reached in between.
    fn is_before_group_barrier(&self, later: &Touch) -> bool {
        self.group == later.group && self.group_epoch != later.group_epoch
    }
}

impl Cell {
    fn note_read(&mut self, now: Touch) {
        // whom a read races with that a group barrier parts from this one, this one races with
        let fresh = |old: &Option<Touch>| {
            old.is_some_and(|old| {
                old.block == now.block && old.epoch == now.epoch && !old.is_before_group_barrier(&now)
            })
        };
        let slot = match &self.reads {
            [first, _] if !fresh(first) || first.is_some_and(|old| old.lane == now.lane) => 0,
            [_, second] if !fresh(second) || second.is_some_and(|old| old.lane == now.lane) => 1,
            [Some(first), Some(second)]
                if first.lane / WARP == second.lane / WARP && first.lane / WARP != now.lane / WARP =>
            {
                1
            }
            // Both are of this epoch; two suffice to catch any writer but one of them.
            _ => return,
        };
        self.reads[slot] = Some(now);
    }

    fn racing_read(&self, now: &Touch) -> Option<Touch> {
        self.reads.iter().flatten().find(|read| read.races(now)).copied()
    }

    fn racing_write(&self, now: &Touch) -> Option<Touch> {
        self.write.filter(|write| write.races(now))
    }
}

impl Sanitizer {
    pub fn new(program: &Program, grid: [u32; 3], step_limit: u64) -> Self {
        Self {
            findings: Findings::default(),
            operations: 0,
            steps: 0,
            step_limit,
            grid: [u64::from(grid[0]), u64::from(grid[1])],
            block: [0; 3],
            number: 0,
            epoch: 0,
            group_epoch: 0,
            group_lanes: program.group_lanes.max(1),
            warp_epochs: vec![0; program.lanes.div_ceil(WARP as usize)],
            shared: program
                .shared
                .iter()
                .map(|array| vec![Cell::default(); array.len * array.element.bytes()])
                .collect(),
            global: HashMap::new(),
            registers: program
                .registers
                .iter()
                .map(|array| vec![vec![false; program.lanes]; array.len as usize])
                .collect(),
            copies: vec![Copies::default(); program.lanes],
            bulk: HashMap::new(),
        }
    }

    pub fn enter_block(&mut self, block: [u32; 3], number: u64) {
        self.block = block;
        self.number = number;
        self.steps = 0;
        self.epoch = 0;
        self.group_epoch = 0;
        self.warp_epochs.fill(0);
        for array in &mut self.shared {
            array.fill(Cell::default());
        }
        for element in self.registers.iter_mut().flatten() {
            element.fill(false);
        }
        self.copies.fill(Copies::default());
        self.bulk.clear();
    }

    fn now(&self, lane: usize, at: Location) -> Touch {
        Touch {
            block: self.number,
            lane: lane as u32,
            epoch: self.epoch,
            group_epoch: self.group_epoch,
            group: lane as u32 / self.group_lanes,
            warp_epoch: self.warp_epochs[lane / WARP as usize],
            at,
        }
    }

    fn other(&self, touch: &Touch) -> Other {
        let [x, y] = self.grid;
        let n = touch.block;
        Other {
            at: touch.at,
            block: [(n % x) as u32, (n / x % y) as u32, (n / x / y) as u32],
            lane: touch.lane,
        }
    }

    pub fn barrier(&mut self) {
        self.epoch += 1;
    }

    pub fn group_barrier(&mut self) {
        self.group_epoch += 1;
    }

    pub fn warp_barrier(&mut self, active: &[u32]) {
        for (epoch, masks) in self.warp_epochs.iter_mut().zip(active.chunks(WARP as usize)) {
            *epoch += u32::from(masks.iter().any(|mask| *mask != 0));
        }
    }

    // Shared memory

    pub fn shared(
        &mut self,
        array: &SharedArray,
        number: u32,
        address: usize,
        bytes: usize,
        lane: usize,
        at: Location,
        how: Touched,
    ) {
        let now = self.now(lane, at);
        let index = (address / array.element.bytes()) as u64;
        let mut race = None;
        let mut unwritten = false;
        let mut in_flight = None;
        let cells = &mut self.shared[number as usize];
        for cell in cells.iter_mut().skip(address).take(bytes) {
            if cell.pending {
                in_flight = in_flight.or(cell.write);
            }
            match how {
                Touched::Read => {
                    unwritten |= !cell.written;
                    if !cell.pending {
                        race = race.or(cell.racing_write(&now).map(|it| (it, true)));
                    }
                    cell.note_read(now);
                }
                Touched::Write(_) | Touched::Copy => {
                    race = race
                        .or(cell.racing_write(&now).map(|it| (it, true)))
                        .or(cell.racing_read(&now).map(|it| (it, false)));
                    cell.write = Some(now);
                    cell.written = true;
                    cell.pending = matches!(how, Touched::Copy);
                }
            }
        }
        if matches!(how, Touched::Copy) {
            self.copies[lane].open.push((number, address));
        }
        let block = self.block;
        let (name, len) = (&array.name, array.len as u64);
        let found = |kind| Finding::new(kind, at, block, lane).of(name, len, index);
        let verb = if matches!(how, Touched::Read) { "load" } else { "store" };
        if let Some(copy) = in_flight {
            let other = self.other(&copy);
            let there = other.at;
            self.findings
                .add(FindingKind::AsyncNotWaited, at, Some(there), || Finding {
                    other: Some(other),
                    ..found(FindingKind::AsyncNotWaited).says(
                        format!("`{name}` is used while an asynchronous copy into it is in flight"),
                        format!("commit the copy at {there}, wait for its group and put a barrier before this {verb}"),
                    )
                });
        } else if unwritten {
            self.findings.add(FindingKind::UninitialisedShared, at, None, || {
                found(FindingKind::UninitialisedShared).says(
                    format!("`{name}` is read where no lane has stored to it"),
                    "store to the element first, then put a barrier before this load",
                )
            });
        }
        if let Some((earlier, was_write)) = race.filter(|_| in_flight.is_none()) {
            let other = self.other(&earlier);
            let there = other.at;
            let first = if was_write { "store" } else { "load" };
            self.findings.add(FindingKind::SharedRace, at, Some(there), || Finding {
                other: Some(other),
                ..found(FindingKind::SharedRace).says(
                    format!(
                        "race in shared memory: lane {} and lane {lane} touch the same bytes of `{name}` with no barrier between the {first} and the {verb}",
                        earlier.lane
                    ),
                    format!("put a barrier between the {first} at {there} and this {verb}"),
                )
            });
        }
    }

    pub fn commit(&mut self, active: &[u32]) {
        for (copies, _) in self.copies.iter_mut().zip(active).filter(|(_, mask)| **mask != 0) {
            let group = std::mem::take(&mut copies.open);
            copies.groups.push_back(group);
        }
    }

    pub fn wait(&mut self, active: &[u32], pending: usize) {
        for lane in (0..active.len()).filter(|lane| active[*lane] != 0) {
            while self.copies[lane].groups.len() > pending {
                let Some(group) = self.copies[lane].groups.pop_front() else {
                    break;
                };
                for (array, address) in group {
                    let (epoch, group_epoch) = (self.epoch, self.group_epoch);
                    let warp_epoch = self.warp_epochs[lane / WARP as usize];
                    for cell in self.shared[array as usize].iter_mut().skip(address).take(16) {
                        cell.pending = false;
                        // For everybody else the store happens now: a barrier has to follow.
                        if let Some(write) = &mut cell.write {
                            (write.epoch, write.group_epoch, write.warp_epoch) = (epoch, group_epoch, warp_epoch);
                        }
                    }
                }
            }
        }
    }

    /// What these lanes have touched as copies since is one copy that the barrier counts.
    pub fn start_copy(&mut self, barrier: (u32, usize), lanes: std::ops::Range<usize>) {
        let copies = self.bulk.entry(barrier).or_default();
        copies.started += 1;
        for lane in lanes {
            copies.pending.append(&mut self.copies[lane].open);
        }
    }

    /// Waits until the barrier's copy of that parity has arrived; false where it never does.
    pub fn finish_copies(&mut self, barrier: (u32, usize), parity: u32) -> bool {
        let Some(copies) = self.bulk.get_mut(&barrier) else {
            return parity == 1;
        };
        let arrived = copies.pending.drain(..);
        for (array, address) in arrived {
            for cell in self.shared[array as usize].iter_mut().skip(address).take(16) {
                // the copy engine wrote it, not a lane: whoever waits sees it
                cell.pending = false;
                cell.write = None;
            }
        }
        (copies.started + 1) % 2 == parity
    }

    // Global memory

    pub fn global(
        &mut self,
        memory: &GlobalMemory,
        only_written: bool,
        address: usize,
        bytes: usize,
        lane: usize,
        at: Location,
        how: Touched,
    ) {
        let now = self.now(lane, at);
        let buffer = Arc::as_ptr(&memory.buffer) as usize;
        let mut race = None;
        let mut unwritten = false;
        for byte in 0..bytes {
            let position = address + byte;
            let page = self
                .global
                .entry((buffer, position / PAGE))
                .or_insert_with(|| Box::new([Cell::default(); PAGE]));
            let cell = &mut page[position % PAGE];
            match how {
                Touched::Write(changed) => {
                    // Storing the value that is already there is harmless.
                    let writer = cell.racing_write(&now).filter(|_| changed[byte]).map(|it| (it, true));
                    race = race
                        .or(writer)
                        .or(cell.racing_read(&now).filter(|_| changed[byte]).map(|it| (it, false)));
                    cell.write = Some(now);
                    cell.written = true;
                }
                _ => {
                    race = race.or(cell.racing_write(&now).map(|it| (it, true)));
                    unwritten |= !cell.written && only_written;
                    cell.note_read(now);
                }
            }
        }
        let element = memory.element.bytes();
        let index = ((address - memory.offset) / element) as u64;
        let len = ((memory.end - memory.offset) / element) as u64;
        let name = &memory.name;
        let block = self.block;
        let found = |kind| Finding::new(kind, at, block, lane).of(name, len, index);
        match how {
            Touched::Write(_) => memory.buffer.mark(address, bytes),
            _ => {
                if unwritten || !memory.buffer.is_written(address, bytes) {
                    let remedy = if only_written {
                        "this parameter is only written: store to the element first, or declare it as read and written"
                    } else {
                        "upload or fill the buffer, or store to the element first"
                    };
                    self.findings.add(FindingKind::UninitialisedGlobal, at, None, || {
                        found(FindingKind::UninitialisedGlobal)
                            .says(format!("`{name}` is read where nothing was written"), remedy)
                    });
                }
            }
        }
        if let Some((earlier, was_write)) = race {
            let other = self.other(&earlier);
            let there = other.at;
            let first = if was_write { "store" } else { "load" };
            let verb = if matches!(how, Touched::Write(_)) {
                "store"
            } else {
                "load"
            };
            let remedy = if earlier.block == now.block {
                format!(
                    "put a barrier between the {first} at {there} and this {verb}, or let each lane have its own elements"
                )
            } else {
                "blocks of one launch are not ordered: let each block have its own elements, or use two launches"
                    .to_owned()
            };
            self.findings.add(FindingKind::GlobalRace, at, Some(there), || Finding {
                other: Some(other),
                ..found(FindingKind::GlobalRace).says(
                    format!("race in global memory: two lanes touch the same bytes of `{name}`, and nothing orders the {first} and the {verb}"),
                    remedy,
                )
            });
        }
    }

    // Register arrays

    pub fn declare_registers(&mut self, array: u32, len: usize, active: &[u32], filled: bool) {
        for element in self.registers[array as usize].iter_mut().take(len) {
            for (flag, mask) in element.iter_mut().zip(active) {
                if *mask != 0 {
                    *flag = filled;
                }
            }
        }
    }

    pub fn write_register(&mut self, array: u32, element: u32, lane: usize) {
        if let Some(flags) = self.registers[array as usize].get_mut(element as usize) {
            flags[lane] = true;
        }
    }

    pub fn register_written(&self, array: u32, element: u32, lane: usize) -> bool {
        self.registers[array as usize]
            .get(element as usize)
            .is_none_or(|flags| flags[lane])
    }
}
