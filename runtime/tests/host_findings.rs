//! Every kind of defect the sanitizer knows, planted, found at its line.

mod support;

use support::*;
use tilekiln_dsl::ir::*;
use tilekiln_dsl::target::Target;
use tilekiln_runtime::device::Argument as Given;
use tilekiln_runtime::error::DeviceError;
use tilekiln_runtime::host::{FindingKind, HostDevice};

const X: Memory = Memory::Parameter(0);
const Y: Memory = Memory::Parameter(1);

fn xy() -> Vec<Parameter> {
    vec![
        memory("x", Scalar::F32, Access::Read),
        memory("y", Scalar::F32, Access::ReadWrite),
    ]
}

fn data(len: usize) -> Vec<Data> {
    vec![
        Data::Bytes(f32_bytes(&(0..len).map(|i| i as f32 + 0.5).collect::<Vec<_>>())),
        Data::Bytes(f32_bytes(&vec![7.0; len])),
    ]
}

struct Case {
    name: &'static str,
    kind: FindingKind,
    lane: Option<u32>,
    index: Option<u64>,
    memory: &'static str,
    threads: usize,
    grid: u32,
    record: fn(&mut Recorder),
}

const CLEAN: Case = Case {
    name: "",
    kind: FindingKind::StepLimit,
    lane: None,
    index: None,
    memory: "",
    threads: 64,
    grid: 1,
    record: |_| {},
};

fn is_low(it: &mut Recorder, limit: u32) -> ValueId {
    let t = it.thread();
    let limit = it.u32(limit);
    it.compare(CompareOp::Lt, t, limit)
}

/// Each of 128 lanes stores, groups of two warps meet, and each reads what the lane `distance` from it has stored.
fn exchange_over(it: &mut Recorder, distance: u32) -> (Memory, ValueId) {
    let tile = it.shared("tile", Scalar::F32, 128);
    let t = it.thread();
    let v = it.convert(t, F32);
    it.store(tile, t, F32, v);
    it.stmt(StmtKind::GroupBarrier { warps: 2 });
    let distance = it.u32(distance);
    let mate = it.binary(BinaryOp::Xor, t, distance);
    let w = it.load(tile, mate, F32);
    let low = is_low(it, 64);
    it.when(low, |it| it.store(Y, t, F32, w));
    (tile, t)
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    use FindingKind::*;
    vec![
        Case { name: "read behind the end", kind: OutOfBoundsRead, lane: Some(60), index: Some(64), memory: "x", record: |it| {
            let t = it.thread();
            let four = it.u32(4);
            let i = it.binary(BinaryOp::Add, t, four);
            let v = it.load(X, i, F32);
            it.store(Y, t, F32, v);
        }, ..CLEAN },
        Case { name: "write behind the end", kind: OutOfBoundsWrite, lane: Some(63), index: Some(64), memory: "y", record: |it| {
            let t = it.thread();
            let one = it.u32(1);
            let i = it.binary(BinaryOp::Add, t, one);
            let v = it.f32(1.5);
            it.store(Y, i, F32, v);
        }, ..CLEAN },
        Case { name: "a 64-bit index far outside", kind: OutOfBoundsRead, lane: Some(0), index: Some(1 << 40), memory: "x", record: |it| {
            let t = it.thread();
            let i = it.u64(1 << 40);
            let v = it.load(X, i, F32);
            it.store(Y, t, F32, v);
        }, ..CLEAN },
        Case { name: "shared access behind the end", kind: OutOfBoundsShared, lane: Some(32), index: Some(32), memory: "tile", record: |it| {
            let tile = it.shared("tile", Scalar::F32, 32);
            let t = it.thread();
            let v = it.f32(1.5);
            it.store(tile, t, F32, v);
        }, ..CLEAN },
        Case { name: "misaligned vector", kind: Misaligned, lane: Some(1), index: Some(1), memory: "x", record: |it| {
            let t = it.thread();
            let fifteen = it.u32(15);
            let i = it.binary(BinaryOp::And, t, fifteen);
            let v = it.load(X, i, Type::Vector(Scalar::F32, 4));
            let c = it.value(F32, Op::Component(v, 2));
            it.store(Y, t, F32, c);
        }, ..CLEAN },
        Case { name: "missing barrier", kind: SharedRace, lane: Some(0), index: Some(1), memory: "tile", record: |it| {
            let tile = it.shared("tile", Scalar::F32, 64);
            let t = it.thread();
            let v = it.load(X, t, F32);
            it.store(tile, t, F32, v);
            let one = it.u32(1);
            let mate = it.binary(BinaryOp::Xor, t, one);
            let w = it.load(tile, mate, F32);
            it.store(Y, t, F32, w);
        }, ..CLEAN },
        Case { name: "a warp barrier does not order two warps", kind: SharedRace, memory: "tile", record: |it| {
            let tile = it.shared("tile", Scalar::F32, 64);
            let t = it.thread();
            let v = it.load(X, t, F32);
            it.store(tile, t, F32, v);
            it.stmt(StmtKind::WarpBarrier);
            let far = it.u32(32);
            let mate = it.binary(BinaryOp::Xor, t, far);
            let w = it.load(tile, mate, F32);
            it.store(Y, t, F32, w);
        }, ..CLEAN },
        Case { name: "a group barrier does not order two groups", kind: SharedRace, threads: 128, memory: "tile", record: |it| {
            exchange_over(it, 64);
        }, ..CLEAN },
        Case { name: "a group barrier does not order what follows it", kind: SharedRace, threads: 128, memory: "tile", record: |it| {
            let (tile, t) = exchange_over(it, 32);
            let v = it.f32(2.5);
            it.store(tile, t, F32, v);
        }, ..CLEAN },
        Case { name: "group barrier in a branch that a group takes", kind: DivergentBarrier, threads: 128, record: |it| {
            let low = is_low(it, 64);
            it.when(low, |it| it.stmt(StmtKind::GroupBarrier { warps: 2 }));
        }, ..CLEAN },
        Case { name: "all lanes store to one element", kind: SharedRace, lane: Some(1), index: Some(3), memory: "tile", record: |it| {
            let tile = it.shared("tile", Scalar::F32, 64);
            let t = it.thread();
            let i = it.u32(3);
            let v = it.load(X, t, F32);
            it.store(tile, i, F32, v);
        }, ..CLEAN },
        Case { name: "store after load without barrier", kind: SharedRace, memory: "tile", record: |it| {
            let tile = it.shared("tile", Scalar::F32, 64);
            let t = it.thread();
            let v = it.load(X, t, F32);
            it.store(tile, t, F32, v);
            it.stmt(StmtKind::Barrier);
            let one = it.u32(1);
            let mate = it.binary(BinaryOp::Xor, t, one);
            let w = it.load(tile, mate, F32);
            it.store(tile, t, F32, w);
        }, ..CLEAN },
        Case { name: "uninitialised shared read", kind: UninitialisedShared, lane: Some(0), index: Some(0), memory: "tile", record: |it| {
            let tile = it.shared("tile", Scalar::F32, 64);
            let t = it.thread();
            let v = it.load(tile, t, F32);
            it.store(Y, t, F32, v);
        }, ..CLEAN },
        Case { name: "uninitialised register", kind: UninitialisedRegister, lane: Some(0), index: Some(2), memory: "acc", record: |it| {
            let acc = it.registers("acc", Scalar::F32, &[4], None);
            let (one, two) = (it.u32(1), it.u32(2));
            let v = it.f32(0.25);
            it.write_register(acc, &[one], v);
            let w = it.read_register(acc, &[two]);
            let t = it.thread();
            it.store(Y, t, F32, w);
        }, ..CLEAN },
        Case { name: "register index too large", kind: OutOfBoundsRegister, index: Some(4), memory: "acc", record: |it| {
            let acc = it.registers("acc", Scalar::F32, &[4], Some(Literal::F32(1.0)));
            let four = it.u32(4);
            let w = it.read_register(acc, &[four]);
            let t = it.thread();
            it.store(Y, t, F32, w);
        }, ..CLEAN },
        Case { name: "table index too large", kind: OutOfBoundsTable, lane: Some(2), index: Some(2), memory: "levels", record: |it| {
            it.body.tables.push(Table { name: "levels".into(), entries: vec![Literal::F32(0.5), Literal::F32(1.5)] });
            let t = it.thread();
            let v = it.value(F32, Op::Lookup { table: TableId(0), index: t });
            it.store(Y, t, F32, v);
        }, ..CLEAN },
        Case { name: "copy not waited for", kind: AsyncNotWaited, lane: Some(0), index: Some(0), memory: "tile", threads: 32, record: |it| {
            let tile = it.shared("tile", Scalar::F32, 128);
            let t = it.thread();
            let four = it.u32(4);
            let i = it.binary(BinaryOp::Mul, t, four);
            let low = is_low(it, 16);
            it.when(low, |it| it.stmt(StmtKind::AsyncCopy {
                to: Place { memory: tile, index: i, access: Type::Vector(Scalar::F32, 4) },
                from: Place { memory: X, index: i, access: Type::Vector(Scalar::F32, 4) },
            }));
            it.stmt(StmtKind::AsyncCommit);
            it.stmt(StmtKind::AsyncWait { pending: 1 });
            it.stmt(StmtKind::Barrier);
            let v = it.load(tile, t, F32);
            it.store(Y, t, F32, v);
        }, ..CLEAN },
        Case { name: "copy waited for, barrier before the wait only", kind: SharedRace, memory: "tile", threads: 32, record: |it| {
            let tile = it.shared("tile", Scalar::F32, 128);
            let t = it.thread();
            let four = it.u32(4);
            let i = it.binary(BinaryOp::Mul, t, four);
            let low = is_low(it, 16);
            it.when(low, |it| it.stmt(StmtKind::AsyncCopy {
                to: Place { memory: tile, index: i, access: Type::Vector(Scalar::F32, 4) },
                from: Place { memory: X, index: i, access: Type::Vector(Scalar::F32, 4) },
            }));
            it.stmt(StmtKind::AsyncCommit);
            it.stmt(StmtKind::Barrier);
            it.stmt(StmtKind::AsyncWait { pending: 0 });
            let v = it.load(tile, t, F32);
            it.store(Y, t, F32, v);
        }, ..CLEAN },
        Case { name: "two lanes store different values", kind: GlobalRace, lane: Some(1), index: Some(5), memory: "y", record: |it| {
            let t = it.thread();
            let v = it.load(X, t, F32);
            let i = it.u32(5);
            it.store(Y, i, F32, v);
        }, ..CLEAN },
        Case { name: "two blocks store different values", kind: GlobalRace, lane: Some(0), memory: "y", grid: 2, record: |it| {
            let t = it.thread();
            let b = it.builtin(Builtin::BlockIndex(0));
            let v = it.convert(b, F32);
            it.store(Y, t, F32, v);
        }, ..CLEAN },
        Case { name: "a block reads what another writes", kind: GlobalRace, memory: "y", threads: 16, grid: 2, record: |it| {
            let i = it.global_thread(16);
            let v = it.f32(3.5);
            it.store(Y, i, F32, v);
            let t = it.thread();
            let w = it.load(Y, t, F32);
            let i2 = it.u32(32);
            let place = it.binary(BinaryOp::Add, i, i2);
            it.store(Y, place, F32, w);
        }, ..CLEAN },
        Case { name: "divergent barrier", kind: DivergentBarrier, lane: Some(40), record: |it| {
            let low = is_low(it, 40);
            it.when(low, |it| it.stmt(StmtKind::Barrier));
        }, ..CLEAN },
        Case { name: "barrier after some lanes returned", kind: DivergentBarrier, lane: Some(0), record: |it| {
            let low = is_low(it, 8);
            it.when(low, |it| it.stmt(StmtKind::Return(None)));
            it.stmt(StmtKind::Barrier);
        }, ..CLEAN },
        Case { name: "lane-dependent shuffle in a divergent branch", kind: DivergentWarpOperation, lane: Some(32), record: |it| {
            let t = it.thread();
            let low = is_low(it, 40);
            it.when(low, |it| {
                let v = it.load(X, t, F32);
                let s = it.value(F32, Op::Shuffle { kind: ShuffleKind::Xor(1), value: v });
                it.store(Y, t, F32, s);
            });
        }, ..CLEAN },
        Case { name: "reduction in a divergent branch", kind: DivergentWarpOperation, record: |it| {
            let t = it.thread();
            let low = is_low(it, 5);
            it.when(low, |it| {
                let v = it.load(X, t, F32);
                let s = it.value(F32, Op::WarpReduce { op: ReduceOp::Sum, value: v, width: 32 });
                it.store(Y, t, F32, s);
            });
        }, ..CLEAN },
        Case { name: "ballot in a divergent branch", kind: DivergentWarpOperation, record: |it| {
            let low = is_low(it, 5);
            it.when(low, |it| { it.value(U32, Op::Ballot(low)); });
        }, ..CLEAN },
        Case { name: "warp barrier in a divergent branch", kind: DivergentWarpOperation, record: |it| {
            let low = is_low(it, 5);
            it.when(low, |it| it.stmt(StmtKind::WarpBarrier));
        }, ..CLEAN },
        Case { name: "a promise of uniformity broken", kind: NotUniform, lane: Some(1), record: |it| {
            let t = it.thread();
            let u = it.value(U32, Op::AssumeUniform(t));
            let v = it.f32(1.0);
            let zero = it.u32(0);
            let i = it.binary(BinaryOp::And, u, zero);
            it.store(Y, i, F32, v);
        }, ..CLEAN },
        Case { name: "division by zero", kind: DivisionByZero, lane: Some(0), record: |it| {
            let t = it.thread();
            let seven = it.u32(7);
            let q = it.binary(BinaryOp::Div, seven, t);
            let v = it.convert(q, F32);
            it.store(Y, t, F32, v);
        }, ..CLEAN },
        Case { name: "shift by the width", kind: ShiftTooWide, lane: Some(32), record: |it| {
            let t = it.thread();
            let one = it.u32(1);
            let q = it.binary(BinaryOp::Shl, one, t);
            let v = it.convert(q, F32);
            it.store(Y, t, F32, v);
        }, ..CLEAN },
        Case { name: "endless loop", kind: StepLimit, lane: Some(0), record: |it| {
            let t = it.thread();
            it.repeat(|it| {
                let limit = it.u32(100);
                it.compare(CompareOp::Lt, t, limit)
            }, |_| {});
        }, ..CLEAN },
    ]
}

#[test]
fn group_barriers_order_their_groups() {
    let kernel = kernel(128, xy(), |it| {
        let (tile, t) = exchange_over(it, 32);
        it.stmt(StmtKind::GroupBarrier { warps: 2 });
        let v = it.f32(2.5);
        it.store(tile, t, F32, v);
        it.stmt(StmtKind::Barrier);
        let far = it.u32(64);
        let mate = it.binary(BinaryOp::Xor, t, far);
        let w = it.load(tile, mate, F32);
        let low = is_low(it, 64);
        it.when(low, |it| it.store(Y, t, F32, w));
    });
    let report = Bench::new(HostDevice::sanitizing(), kernel, 1, data(64))
        .unwrap()
        .report();
    assert!(report.is_clean(), "{report}");
}

#[test]
fn every_planted_defect_is_found() {
    for case in cases() {
        let kernel = kernel(case.threads, xy(), case.record);
        let device = HostDevice::sanitizing().with_step_limit(20_000);
        let bench = Bench::new(device, kernel, case.grid, data(64)).unwrap();
        let report = bench.report();
        let found = report.findings.iter().find(|found| found.kind == case.kind);
        let Some(found) = found else {
            panic!("{}: not found in\n{report}", case.name)
        };
        assert_eq!(
            report.findings.len(),
            1,
            "{}: more than one finding\n{report}",
            case.name
        );
        assert!(found.at.file.ends_with("host_findings.rs"), "{report}");
        if let Some(lane) = case.lane {
            assert_eq!(found.lane, lane, "{}\n{report}", case.name);
        }
        if let Some(index) = case.index {
            assert_eq!(found.index, Some(index), "{}\n{report}", case.name);
        }
        assert_eq!(found.memory, case.memory, "{}\n{report}", case.name);
        let race = matches!(
            case.kind,
            FindingKind::SharedRace | FindingKind::GlobalRace | FindingKind::AsyncNotWaited
        );
        assert_eq!(found.other.is_some(), race, "{}\n{report}", case.name);
        assert_eq!(
            report.to_string(),
            bench.report().to_string(),
            "{}: reports differ",
            case.name
        );
        let DeviceError::Fault(text) = bench.run().unwrap_err() else {
            panic!("{}: not a fault", case.name)
        };
        assert!(text.contains(&format!("--> {}", found.at)), "{text}");
    }
}

#[test]
fn the_fast_device_faults_instead_of_reading_elsewhere() {
    let always = [
        FindingKind::OutOfBoundsRead,
        FindingKind::OutOfBoundsWrite,
        FindingKind::OutOfBoundsShared,
        FindingKind::OutOfBoundsRegister,
        FindingKind::OutOfBoundsTable,
        FindingKind::Misaligned,
        FindingKind::DivisionByZero,
    ];
    for case in cases().into_iter().filter(|case| always.contains(&case.kind)) {
        let bench = Bench::new(
            HostDevice::new(),
            kernel(case.threads, xy(), case.record),
            case.grid,
            data(64),
        )
        .unwrap();
        match bench.run() {
            Err(DeviceError::Fault(text)) => {
                assert!(text.contains("host_findings.rs"), "{}: {text}", case.name)
            }
            other => panic!("{}: {other:?}", case.name),
        }
    }
}

#[test]
fn reads_of_what_nobody_wrote() {
    for (access, written) in [(Access::Read, false), (Access::Write, true)] {
        let parameters = vec![
            memory("x", Scalar::F32, access),
            memory("y", Scalar::F32, Access::Write),
        ];
        let kernel = kernel(32, parameters, |it| {
            let t = it.thread();
            let v = it.load(X, t, F32);
            it.store(Y, t, F32, v);
        });
        let x = if written {
            Data::Bytes(vec![1; 128])
        } else {
            Data::Fresh(128)
        };
        let bench = Bench::new(HostDevice::sanitizing(), kernel, 1, vec![x, Data::Fresh(128)]).unwrap();
        let report = bench.report();
        assert_eq!(report.findings.len(), 1, "{report}");
        assert_eq!(report.findings[0].kind, FindingKind::UninitialisedGlobal, "{report}");
        assert_eq!(report.findings[0].count, 32);
    }
}

#[test]
fn replicated_fragments_must_agree() {
    let target = Target::named("gfx1150").unwrap();
    for same in [true, false] {
        let kernel = kernel_for(target, 32, xy(), |it| {
            let a = it.registers("a", Scalar::U32, &[8], Some(Literal::U32(0x3c00_3c00)));
            let b = it.registers("b", Scalar::U32, &[8], Some(Literal::U32(0x3c00_3c00)));
            let c = it.registers("c", Scalar::F32, &[8], Some(Literal::F32(0.0)));
            let lane = it.builtin(Builtin::Lane);
            let three = it.u32(3);
            if !same {
                it.write_register(a, &[three], lane);
            }
            let whole = |registers| RegisterRef {
                registers,
                index: vec![],
            };
            it.stmt(StmtKind::Mma {
                accumulator: whole(c),
                a: whole(a),
                b: whole(b),
                element: Scalar::F16,
                shape: MmaShape::Square,
            });
            let v = it.read_register(c, &[three]);
            it.store(Y, lane, F32, v);
        });
        let bench = Bench::new(HostDevice::sanitizing(), kernel, 1, data(64)).unwrap();
        let report = bench.report();
        assert_eq!(report.is_clean(), same, "{report}");
        if same {
            assert_eq!(bench.floats(1)[..32], [16.0; 32]);
        } else {
            assert_eq!(report.findings[0].kind, FindingKind::FragmentMismatch);
            assert_eq!(report.findings[0].memory, "a");
        }
    }
}

#[test]
fn a_message_says_what_where_and_what_would_be_right() {
    let case = cases().into_iter().find(|case| case.name == "missing barrier").unwrap();
    let bench = Bench::new(HostDevice::sanitizing(), kernel(64, xy(), case.record), 1, data(64)).unwrap();
    let text = bench.report().to_string();
    for part in [
        "race in shared memory",
        "--> ",
        "block (0,0,0), lane 0, index 1 of `tile` [64 elements]",
        "put a barrier between the store at",
        "the other: block (0,0,0), lane 1",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn launches_that_do_not_fit() {
    let parameters = || vec![memory("x", Scalar::F32, Access::Read), scalar("n", Scalar::U32)];
    let device = HostDevice::new();
    let (big, odd) = (device_buffer(&device, 64), device_buffer(&device, 64));
    let table: Vec<(Vec<Given>, [u32; 3], &str)> = vec![
        (
            vec![Given::Buffer(big.clone(), 0)],
            [1, 1, 1],
            "1 arguments are given, it takes 2 (x, n)",
        ),
        (
            vec![Given::U32(1), Given::U32(1)],
            [1, 1, 1],
            "argument 0 (`x`) is a u32; a buffer of f32 is needed",
        ),
        (
            vec![Given::Buffer(big.clone(), 0), Given::F32(1.0)],
            [1, 1, 1],
            "argument 1 (`n`) is an f32; a scalar of type u32 is needed",
        ),
        (
            vec![Given::Buffer(odd, 2), Given::U32(1)],
            [1, 1, 1],
            "starts at byte 2",
        ),
        (
            vec![Given::Buffer(big.clone(), 68), Given::U32(1)],
            [1, 1, 1],
            "starts at byte 68 of a buffer of 64 bytes",
        ),
        (
            vec![Given::Buffer(big, 0), Given::U32(1)],
            [0, 1, 1],
            "a grid of (0,1,1) blocks",
        ),
    ];
    for (arguments, grid, expected) in table {
        let mut bench = Bench::new(HostDevice::new(), kernel(32, parameters(), |_| {}), 1, vec![]).unwrap();
        bench.launch.arguments = arguments;
        bench.launch.grid = grid;
        let text = bench.run().unwrap_err().to_string();
        assert!(text.contains(expected), "{expected:?} is not in {text:?}");
    }
}

fn device_buffer(device: &HostDevice, bytes: usize) -> tilekiln_runtime::device::Buffer {
    use tilekiln_runtime::device::Device;
    device.allocate(bytes).unwrap()
}
