//! Which kernels wait for the launches in front of them is said in two places: in the kernel, and in [`WAITING`].

use std::sync::OnceLock;

use tilekiln_dsl::ir::{Argument, Block, Body, Kernel, Memory, Op, Place, Stmt, StmtKind};
use tilekiln_dsl::target::{TARGETS, Target};
use tilekiln_kernels::registry::{self, Settings};

use super::{Chip, WAITING};
use crate::gguf::File;
use crate::kv::{Geometry, KvType, KvTypes};
use crate::model::{Design, LoadOptions, Precision};
use crate::plan::{BufferKind, Operand};
use crate::synth::demo;

/// Kernels of which blocks without work do not wait. A launch has rows, and the first block of a group of them has work.
const SOME_BLOCKS: &[&str] = &["flash_decode", "flash_combine", "flash_combine_int8"];

fn sm_90() -> &'static Target {
    TARGETS.iter().find(|target| target.name == "sm_90").unwrap()
}

fn is_wait(stmt: &Stmt) -> bool {
    matches!(stmt.kind, StmtKind::WaitForPrerequisites)
}

fn waits_anywhere(block: &Block) -> bool {
    block
        .iter()
        .any(|stmt| is_wait(stmt) || stmt.kind.blocks().into_iter().any(waits_anywhere))
}

/// Whether every way through a block of statements waits.
fn every_way_waits(block: &Block) -> bool {
    block.iter().any(|stmt| match &stmt.kind {
        StmtKind::WaitForPrerequisites => true,
        StmtKind::If { then, otherwise, .. } => every_way_waits(then) && every_way_waits(otherwise),
        _ => false,
    })
}

/// Whether some block of every launch waits.
fn waits_always(name: &str, kernel: &Kernel) -> bool {
    let is_conditional = SOME_BLOCKS.contains(&name) && waits_anywhere(&kernel.body.block);
    is_conditional || every_way_waits(&kernel.body.block)
}

/// Adds the parameters whose memory is touched in front of the wait. Returns whether the wait was reached.
fn touched_before_wait(body: &Body, block: &Block, parameters: &mut Vec<usize>) -> bool {
    for stmt in block {
        let mut touched = Vec::new();
        match &stmt.kind {
            StmtKind::WaitForPrerequisites => return true,
            StmtKind::Eval(value) => {
                if let Op::Load(Place { memory, .. }) = &body.value(*value).op {
                    touched.push(*memory);
                }
            }
            StmtKind::Store { place, .. } => touched.push(place.memory),
            StmtKind::AsyncCopy { from, .. } | StmtKind::BulkCopy { from, .. } => touched.push(from.memory),
            StmtKind::Call { arguments, .. } => {
                touched.extend(arguments.iter().filter_map(|argument| match argument {
                    Argument::Memory(memory) => Some(*memory),
                    Argument::Value(_) => None,
                }));
            }
            _ => (),
        }
        parameters.extend(touched.into_iter().filter_map(|memory| match memory {
            Memory::Parameter(index) => Some(index as usize),
            Memory::Shared(_) => None,
        }));
        if stmt
            .kind
            .blocks()
            .into_iter()
            .any(|block| touched_before_wait(body, block, parameters))
        {
            return true;
        }
    }
    false
}

/// The demo model and its assistant, planned for an H100.
fn design(precision: Precision) -> Design {
    // tests of one process write it once
    static FILES: OnceLock<[File; 2]> = OnceLock::new();
    let [target, assistant] = FILES.get_or_init(|| {
        let files = demo().unwrap();
        [&files.target, &files.assistant].map(|path| File::open(path).unwrap())
    });
    let options = LoadOptions {
        precision,
        kv: KvTypes::uniform(KvType::F16),
        geometry: Geometry {
            slots: 2,
            context: 128,
            max_rows: 40,
            run: 4,
        },
        outputs: 4,
    };
    Design::read(target, Some(assistant), options, Chip::new(sm_90(), 132)).unwrap()
}

#[test]
fn waiting_kernels_wait_in_every_case() {
    for name in WAITING {
        let entry = registry::find(name).unwrap_or_else(|| panic!("no kernel {name}"));
        let settings = Settings::parse(entry, []).unwrap();
        let kernel = (entry.build)(&settings).unwrap().record(sm_90()).unwrap();
        assert!(waits_always(name, &kernel), "{name}");
    }
}

#[test]
fn planned_kernels_wait_as_they_say() {
    for precision in [Precision::Fast, Precision::Exact] {
        let design = design(precision);
        let mut waiting = 0;
        for spec in design.kernels() {
            let kernel = spec.record(sm_90()).unwrap();
            let says = WAITING.contains(&spec.name);
            assert_eq!(says, waits_anywhere(&kernel.body.block), "{spec}");
            assert!(!says || waits_always(spec.name, &kernel), "{spec}");
            waiting += usize::from(says);
        }
        assert!(waiting > 0, "{precision:?}");
    }
}

/// What is read in front of the wait was there before the step: the launch in front may be at work still.
#[test]
fn nothing_of_a_step_is_touched_in_front_of_the_wait() {
    for precision in [Precision::Fast, Precision::Exact] {
        let design = design(precision);
        let (plans, table) = design.all();
        let (mut stages, mut constants) = (0, 0);
        for plan in plans {
            let touched: Vec<Vec<usize>> = plan
                .kernels
                .iter()
                .map(|spec| {
                    let mut parameters = Vec::new();
                    let kernel = spec.record(sm_90()).unwrap();
                    touched_before_wait(&kernel.body, &kernel.body.block, &mut parameters);
                    parameters.sort_unstable();
                    parameters.dedup();
                    parameters
                })
                .collect();
            for stage in plan.stages.iter().filter(|stage| stage.dependent) {
                stages += 1;
                for parameter in &touched[stage.kernel] {
                    let (Operand::Buffer(id) | Operand::Slice(id, _)) = stage.operands[*parameter] else {
                        panic!("{} {parameter}: no buffer", stage.label);
                    };
                    let buffer = table.spec(id);
                    let is_there = matches!(buffer.kind, BufferKind::Constant | BufferKind::Input);
                    assert!(is_there, "{}, {}: {buffer:?}", plan.title, stage.label);
                    constants += usize::from(buffer.kind == BufferKind::Constant);
                }
            }
        }
        // weights are fetched early in most of them
        assert!(
            precision == Precision::Exact || 2 * constants > stages,
            "{constants} of {stages}"
        );
    }
}
