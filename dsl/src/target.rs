//! Targets as data: what a chip can do, nothing about how its source text is spelled.
//!
//! A target is one entry in [`TARGETS`]. Code generation adds the spelling (`codegen/src/{cuda,hip}/`),
//! the DSL reads the layout facts here while a kernel is recorded, and the host device executes a kernel
//! recorded for *any* target, fragment layouts included.
//!
//! Sources: NVIDIA PTX ISA 9.0 (`mma.m16n8k16`, `ldmatrix`), AMD RDNA3.5 ISA (WMMA, LDS size),
//! CUDA C programming guide (compute capabilities table).

use crate::ir::Scalar;

/// Whose chip it is; decides the language of the generated file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// CUDA C++, compiled by NVRTC or nvcc.
    Nvidia,
    /// HIP C++, compiled by hipRTC or clang.
    Amd,
    /// No source text: the IR is executed by the host device.
    Host,
}

/// How the 16×16×16 matrix fragments are spread over the 32 lanes of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FragmentLayout {
    /// Two `mma.sync.m16n8k16`, one per half of the columns. 4 registers for A, 4 for B, 8 floats for C.
    PairOfM16N8K16,
    /// One `v_wmma_f32_16x16x16_*`; A and B are replicated in both half-waves. 8 registers for A, 8 for B, 8 floats for C.
    Wmma16x16x16,
}

impl FragmentLayout {
    /// 32-bit registers per lane of an A or B fragment (two 16-bit values each).
    pub const fn operand_registers(self) -> usize {
        match self {
            Self::PairOfM16N8K16 => 4,
            Self::Wmma16x16x16 => 8,
        }
    }

    /// Floats per lane of an accumulator: 16·16/32 in both layouts.
    pub const ACCUMULATOR_REGISTERS: usize = 8;

    /// `(row, k)` of half `half` (0 low, 1 high) of register `register` of an A fragment.
    pub const fn a_position(self, lane: usize, register: usize, half: usize) -> (usize, usize) {
        match self {
            Self::PairOfM16N8K16 => (
                lane / 4 + 8 * (register % 2),
                2 * (lane % 4) + half + 8 * (register / 2),
            ),
            Self::Wmma16x16x16 => (lane % 16, 2 * register + half),
        }
    }

    /// `(k, column)` of half `half` of register `register` of a B fragment.
    pub const fn b_position(self, lane: usize, register: usize, half: usize) -> (usize, usize) {
        match self {
            Self::PairOfM16N8K16 => (
                2 * (lane % 4) + half + 8 * (register % 2),
                lane / 4 + 8 * (register / 2),
            ),
            Self::Wmma16x16x16 => (2 * register + half, lane % 16),
        }
    }

    /// `(row, column)` of accumulator element `element`.
    pub const fn accumulator_position(self, lane: usize, element: usize) -> (usize, usize) {
        match self {
            Self::PairOfM16N8K16 => (
                lane / 4 + 8 * ((element / 2) % 2),
                2 * (lane % 4) + element % 2 + 8 * (element / 4),
            ),
            Self::Wmma16x16x16 => (2 * element + lane / 16, lane % 16),
        }
    }

    /// Distinct accumulator rows one lane holds.
    pub const fn rows_per_lane(self) -> usize {
        match self {
            Self::PairOfM16N8K16 => 2,
            Self::Wmma16x16x16 => 8,
        }
    }

    /// Which of a lane's rows accumulator element `element` belongs to.
    pub const fn row_slot(self, element: usize) -> usize {
        match self {
            Self::PairOfM16N8K16 => (element / 2) % 2,
            Self::Wmma16x16x16 => element,
        }
    }

    /// Consecutive lanes that share one accumulator row: a row reduction folds over this many.
    pub const fn lanes_per_row(self) -> usize {
        match self {
            Self::PairOfM16N8K16 => 4,
            Self::Wmma16x16x16 => 16,
        }
    }
}

/// One matrix instruction as it is: 16 rows of the left operand times [`columns`](FragmentLayout::columns) of the right
/// one. A lane supplies whole 32-bit words: the values along k of [`lane_rows`](FragmentLayout::lane_rows) rows and of
/// one column, shared among [`k_parts`](FragmentLayout::k_parts) lanes. Which numbers along k these are is up to who
/// fills the words, as long as both operands agree. Sources: PTX ISA 9.0 (`mma.m16n8k16`, `mma.m16n8k32`), RDNA3.5 ISA
/// (`v_wmma_f32_16x16x16_f16`, `v_wmma_i32_16x16x16_iu8`).
impl FragmentLayout {
    /// Columns of the right operand.
    pub const fn columns(self) -> usize {
        match self {
            Self::PairOfM16N8K16 => 8,
            Self::Wmma16x16x16 => 16,
        }
    }

    /// Lanes among which the values along k of a row or column are divided.
    pub const fn k_parts(self) -> usize {
        match self {
            Self::PairOfM16N8K16 => 4,
            Self::Wmma16x16x16 => 1,
        }
    }

    /// Rows of the left operand of which one lane supplies a part.
    pub const fn lane_rows(self) -> usize {
        match self {
            Self::PairOfM16N8K16 => 2,
            Self::Wmma16x16x16 => 1,
        }
    }

    /// Words that a lane supplies for each of its rows (and for its column); of values of that many bytes.
    pub const fn words_per_row(self, value_bytes: usize) -> usize {
        match (self, value_bytes) {
            (Self::PairOfM16N8K16, _) => 2,
            (Self::Wmma16x16x16, 1) => 4,
            (Self::Wmma16x16x16, _) => 8,
        }
    }

    /// The register of the left operand that holds word `word` of the lane's row `slot`.
    pub const fn row_register(self, slot: usize, word: usize) -> usize {
        slot + self.lane_rows() * word
    }

    /// Accumulators a lane holds.
    pub const fn column_accumulators(self) -> usize {
        16 * self.columns() / 32
    }

    /// Row of the left operand that is row `slot` of a lane.
    pub const fn operand_row(self, lane: usize, slot: usize) -> usize {
        match self {
            Self::PairOfM16N8K16 => lane / 4 + 8 * slot,
            Self::Wmma16x16x16 => lane % 16,
        }
    }

    /// Column of the right operand that a lane supplies a part of.
    pub const fn operand_column(self, lane: usize) -> usize {
        match self {
            Self::PairOfM16N8K16 => lane / 4,
            Self::Wmma16x16x16 => lane % 16,
        }
    }

    /// Which part along k a lane supplies.
    pub const fn operand_part(self, lane: usize) -> usize {
        match self {
            Self::PairOfM16N8K16 => lane % 4,
            Self::Wmma16x16x16 => 0,
        }
    }

    /// `(row, column)` of accumulator `element` of one instruction.
    pub const fn column_position(self, lane: usize, element: usize) -> (usize, usize) {
        self.accumulator_position(lane, element)
    }
}

/// One chip (or chip family) kernels are generated for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Name on the command line and in file headers: `sm_90`, `gfx1150`.
    pub name: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// Language of the generated file.
    pub vendor: Vendor,
    /// Lanes of a warp (wave). Every listed target has 32.
    pub wave: usize,
    /// Most threads in a block.
    pub max_threads: usize,
    /// Bytes of shared memory a block gets without asking.
    pub shared_default: usize,
    /// Bytes of shared memory a block can get at most.
    pub shared_limit: usize,
    /// How 16×16×16 fragments lie in the lanes.
    pub fragments: FragmentLayout,
    /// Element types the 16×16×16 product takes.
    pub mma_elements: &'static [Scalar],
    /// `cp.async` from global to shared memory exists; elsewhere the copy is done by the threads.
    pub async_copy: bool,
    /// One thread can copy a whole tile from global to shared memory (`cp.async.bulk`); elsewhere a warp does it.
    pub bulk_copy: bool,
    /// Programmatic dependent launch exists; elsewhere trigger and wait produce nothing.
    pub dependent_launch: bool,
    /// `ldmatrix` exists; elsewhere fragments are loaded with ordinary loads.
    pub matrix_load: bool,
}

const F16_BF16: &[Scalar] = &[Scalar::F16, Scalar::BF16];

const NVIDIA: Target = Target {
    name: "",
    summary: "",
    vendor: Vendor::Nvidia,
    wave: 32,
    max_threads: 1024,
    shared_default: 48 * 1024,
    shared_limit: 99 * 1024,
    fragments: FragmentLayout::PairOfM16N8K16,
    mma_elements: F16_BF16,
    async_copy: true,
    bulk_copy: true,
    dependent_launch: true,
    matrix_load: true,
};

const RDNA: Target = Target {
    name: "",
    summary: "",
    vendor: Vendor::Amd,
    wave: 32,
    max_threads: 1024,
    shared_default: 64 * 1024,
    shared_limit: 64 * 1024,
    fragments: FragmentLayout::Wmma16x16x16,
    mma_elements: F16_BF16,
    async_copy: false,
    bulk_copy: false,
    dependent_launch: false,
    matrix_load: false,
};

/// Every target code is generated for. Adding a chip is adding an entry.
pub const TARGETS: &[Target] = &[
    Target {
        name: "sm_80",
        summary: "NVIDIA A100, warp 32",
        shared_limit: 163 * 1024,
        bulk_copy: false,
        dependent_launch: false,
        ..NVIDIA
    },
    Target {
        name: "sm_90",
        summary: "NVIDIA H100, warp 32",
        shared_limit: 227 * 1024,
        ..NVIDIA
    },
    Target {
        name: "sm_120",
        summary: "NVIDIA RTX 50, warp 32",
        ..NVIDIA
    },
    Target {
        name: "gfx1150",
        summary: "AMD Radeon 890M (RDNA3.5), wave 32",
        ..RDNA
    },
];

/// The target of the host device when nothing else is asked: NVIDIA's fragment layout, every feature.
pub const HOST: Target = Target {
    name: "host",
    summary: "this CPU, 32 lanes a warp",
    vendor: Vendor::Host,
    shared_default: 227 * 1024,
    shared_limit: 227 * 1024,
    bulk_copy: false,
    ..NVIDIA
};

impl Target {
    /// Looks a target up by its name (`host` included).
    pub fn named(name: &str) -> Option<&'static Target> {
        static HOST_TARGET: Target = HOST;
        if name == HOST.name {
            return Some(&HOST_TARGET);
        }
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Names of all targets, for messages.
    pub fn names() -> Vec<&'static str> {
        TARGETS.iter().map(|target| target.name).collect()
    }
}
