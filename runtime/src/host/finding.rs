//! What the host device found wrong in a launch, at the author's lines.

use std::collections::HashMap;
use std::fmt;

use tilekiln_dsl::ir::Location;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FindingKind {
    /// A load outside a memory parameter.
    OutOfBoundsRead,
    /// A store outside a memory parameter.
    OutOfBoundsWrite,
    /// An access outside a shared array.
    OutOfBoundsShared,
    /// An index outside a register array.
    OutOfBoundsRegister,
    /// An index outside a constant table.
    OutOfBoundsTable,
    /// An access that is not aligned to its own size.
    Misaligned,
    /// Two lanes touch the same byte of shared memory, one writes, and no barrier is between them.
    SharedRace,
    /// Two lanes touch the same byte of global memory, one writes, and nothing orders them.
    GlobalRace,
    /// A load of shared memory nobody has stored to.
    UninitialisedShared,
    /// A read of a register-array element that was not written.
    UninitialisedRegister,
    /// A load of global memory nobody has written (or of an `Out` parameter before this launch wrote it).
    UninitialisedGlobal,
    /// Shared memory used while an async copy into it is in flight.
    AsyncNotWaited,
    /// A wait for a copy that never arrives.
    CopyNeverArrives,
    /// A barrier that not all lanes of the block reach.
    DivergentBarrier,
    /// A warp operation while some lane of the warp is inactive.
    DivergentWarpOperation,
    /// A value that was promised to be uniform is not.
    NotUniform,
    /// An integer division by zero.
    DivisionByZero,
    /// A shift amount that is not below the bit width.
    ShiftTooWide,
    /// The two copies of a replicated fragment differ.
    FragmentMismatch,
    /// The block ran more steps than allowed.
    StepLimit,
}

impl FindingKind {
    /// A stable name for scripts: `shared-race`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OutOfBoundsRead => "out-of-bounds-read",
            Self::OutOfBoundsWrite => "out-of-bounds-write",
            Self::OutOfBoundsShared => "out-of-bounds-shared",
            Self::OutOfBoundsRegister => "out-of-bounds-register",
            Self::OutOfBoundsTable => "out-of-bounds-table",
            Self::Misaligned => "misaligned",
            Self::SharedRace => "shared-race",
            Self::GlobalRace => "global-race",
            Self::UninitialisedShared => "uninitialised-shared",
            Self::UninitialisedRegister => "uninitialised-register",
            Self::UninitialisedGlobal => "uninitialised-global",
            Self::AsyncNotWaited => "async-not-waited",
            Self::CopyNeverArrives => "copy-never-arrives",
            Self::DivergentBarrier => "divergent-barrier",
            Self::DivergentWarpOperation => "divergent-warp-operation",
            Self::NotUniform => "not-uniform",
            Self::DivisionByZero => "division-by-zero",
            Self::ShiftTooWide => "shift-too-wide",
            Self::FragmentMismatch => "fragment-mismatch",
            Self::StepLimit => "step-limit",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The other party of a race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// The author's line.
    pub at: Location,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index in the block.
    pub lane: u32,
}

/// One defect, the first time it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What went wrong.
    pub kind: FindingKind,
    /// The author's line.
    pub at: Location,
    /// The earlier access of a race, the copy that was not waited for.
    pub other: Option<Other>,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index in the block.
    pub lane: u32,
    /// Author's name of the memory, array or table (empty where none is involved).
    pub memory: String,
    /// Its number of elements.
    pub elements: Option<u64>,
    /// The index, in elements.
    pub index: Option<u64>,
    /// What happened, in one line.
    pub message: String,
    /// What would be right.
    pub remedy: String,
    /// How often it happened in the launch (lanes and repetitions together).
    pub count: u64,
}

impl Finding {
    pub(super) fn new(kind: FindingKind, at: Location, block: [u32; 3], lane: usize) -> Self {
        Self {
            kind,
            at,
            other: None,
            block,
            lane: lane as u32,
            memory: String::new(),
            elements: None,
            index: None,
            message: String::new(),
            remedy: String::new(),
            count: 1,
        }
    }

    pub(super) fn of(mut self, memory: &str, elements: u64, index: u64) -> Self {
        self.memory = memory.to_owned();
        self.elements = Some(elements);
        self.index = Some(index);
        self
    }

    pub(super) fn says(mut self, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        self.message = message.into();
        self.remedy = remedy.into();
        self
    }
}

fn block_text(block: [u32; 3]) -> String {
    format!("block ({},{},{})", block[0], block[1], block[2])
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.message)?;
        writeln!(f, "  --> {}", self.at)?;
        write!(f, "  {}, lane {}", block_text(self.block), self.lane)?;
        if let (Some(index), Some(elements)) = (self.index, self.elements) {
            write!(f, ", index {index} of `{}` [{elements} elements]", self.memory)?;
        }
        if let Some(other) = &self.other {
            write!(
                f,
                "\n  the other: {}, lane {} at {}",
                block_text(other.block),
                other.lane,
                other.at
            )?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n  {}", self.remedy)?;
        }
        if self.count > 1 {
            write!(f, "\n  {} times in this launch", self.count)?;
        }
        Ok(())
    }
}

/// What the sanitizer saw in one launch.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Symbol of the kernel.
    pub kernel: String,
    /// Findings in the order they were first seen (blocks in grid order).
    pub findings: Vec<Finding>,
    /// Evaluated IR operations, summed over the lanes active at each.
    pub lane_operations: u64,
}

impl Report {
    /// Nothing was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return write!(f, "{}: no findings", self.kernel);
        }
        let plural = if self.findings.len() == 1 { "" } else { "s" };
        write!(f, "{}: {} finding{plural}", self.kernel, self.findings.len())?;
        for finding in &self.findings {
            write!(f, "\n\n{finding}")?;
        }
        Ok(())
    }
}

/// Findings while a launch runs, one per kind and place.
#[derive(Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    known: HashMap<(FindingKind, Location, Option<Location>), usize>,
}

impl Findings {
    /// Counts a repetition; `make` is only called the first time.
    pub fn add(&mut self, kind: FindingKind, at: Location, other: Option<Location>, make: impl FnOnce() -> Finding) {
        match self.known.get(&(kind, at, other)) {
            Some(&known) => self.list[known].count += 1,
            None => {
                self.known.insert((kind, at, other), self.list.len());
                self.list.push(make());
            }
        }
    }

    pub fn take(&mut self) -> Vec<Finding> {
        self.known.clear();
        std::mem::take(&mut self.list)
    }
}
