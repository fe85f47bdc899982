//! Lanes, warps and blocks: coordinates, exchange between lanes, barriers, launch dependencies.

use super::*;
use crate::ir::{Builtin, Location, Op, ReduceOp, ShuffleKind, StmtKind, Unroll};
use crate::record::{DeviceLoop, error, statement};

macro_rules! coordinates {
    ($($(#[$doc:meta])* $name:ident = $builtin:expr;)*) => {$(
        $(#[$doc])*
        #[track_caller]
        pub fn $name() -> Val<u32> {
            Val::record(Op::Builtin($builtin), Location::caller())
        }
    )*};
}
coordinates! {
    /// Index of this block along x.
    block_index = Builtin::BlockIndex(0);
    /// Index of this block along y.
    block_index_y = Builtin::BlockIndex(1);
    /// Index of this block along z.
    block_index_z = Builtin::BlockIndex(2);
    /// Blocks along x.
    grid_size = Builtin::GridSize(0);
    /// Blocks along y.
    grid_size_y = Builtin::GridSize(1);
    /// Index of this thread in its block.
    thread_index = Builtin::ThreadIndex;
    /// Index of this thread in its warp, 0 to 31.
    lane_index = Builtin::Lane;
    /// Index of this thread's warp in its block.
    warp_index = Builtin::Warp;
}

/// A 32-bit scalar that lanes can exchange.
#[diagnostic::on_unimplemented(
    message = "lanes cannot exchange a `{Self}`",
    label = "not a 32-bit scalar",
    note = "supported: i32, u32, f32; convert with `.to::<f32>()` or `.bitcast::<u32>()`"
)]
pub trait Exchange: Numeric {}
impl Exchange for i32 {}
impl Exchange for u32 {}
impl Exchange for f32 {}

fn shuffle_of<T: Exchange>(kind: ShuffleKind, value: Val<T>, at: Location) -> Val<T> {
    let value = value.id(at);
    Val::record(Op::Shuffle { kind, value }, at)
}

fn checked_distance(distance: usize, what: &str, at: Location) -> u32 {
    if (1..32).contains(&distance) {
        return distance as u32;
    }
    error(
        at,
        format!("{what} of {distance} lanes in a warp of 32"),
        "1 to 31",
        "exchange through shared memory between warps",
    );
    1
}

/// The value of lane `lane ^ mask` (mask 1 to 31).
#[track_caller]
pub fn shuffle_xor<T: Exchange>(value: Val<T>, mask: usize) -> Val<T> {
    let at = Location::caller();
    let mask = checked_distance(mask, "shuffle_xor", at);
    shuffle_of(ShuffleKind::Xor(mask), value, at)
}

/// The value of lane `lane - delta`; the first `delta` lanes keep theirs.
#[track_caller]
pub fn shuffle_up<T: Exchange>(value: Val<T>, delta: usize) -> Val<T> {
    let at = Location::caller();
    let delta = checked_distance(delta, "shuffle_up", at);
    shuffle_of(ShuffleKind::Up(delta), value, at)
}

/// The value of lane `lane + delta`; the last `delta` lanes keep theirs.
#[track_caller]
pub fn shuffle_down<T: Exchange>(value: Val<T>, delta: usize) -> Val<T> {
    let at = Location::caller();
    let delta = checked_distance(delta, "shuffle_down", at);
    shuffle_of(ShuffleKind::Down(delta), value, at)
}

/// The value of lane `lane` (modulo 32), which may differ per lane.
#[track_caller]
pub fn shuffle<T: Exchange>(value: Val<T>, lane: impl IntoVal<u32>) -> Val<T> {
    let at = Location::caller();
    let lane = lane.into_val(1, at).id(at);
    shuffle_of(ShuffleKind::Lane(lane), value, at)
}

fn reduce_of<T: Exchange>(op: ReduceOp, value: Val<T>, width: usize, at: Location) -> Val<T> {
    if ![2, 4, 8, 16, 32].contains(&width) {
        error(
            at,
            format!("a reduction over groups of {width} lanes"),
            "groups of 2, 4, 8, 16 or 32 lanes",
            "round up to a power of two and let the extra lanes hold the neutral element",
        );
        return value;
    }
    let value = value.id(at);
    let width = width as u32;
    Val::record(Op::WarpReduce { op, value, width }, at)
}

/// Sum over the 32 lanes of the warp; every lane gets it.
#[track_caller]
pub fn warp_sum<T: Exchange>(value: Val<T>) -> Val<T> {
    reduce_of(ReduceOp::Sum, value, 32, Location::caller())
}

/// Largest value of the warp; every lane gets it.
#[track_caller]
pub fn warp_max<T: Exchange>(value: Val<T>) -> Val<T> {
    reduce_of(ReduceOp::Max, value, 32, Location::caller())
}

/// Smallest value of the warp; every lane gets it.
#[track_caller]
pub fn warp_min<T: Exchange>(value: Val<T>) -> Val<T> {
    reduce_of(ReduceOp::Min, value, 32, Location::caller())
}

/// Sum over groups of `width` consecutive lanes (2, 4, 8, 16 or 32).
#[track_caller]
pub fn group_sum<T: Exchange>(value: Val<T>, width: usize) -> Val<T> {
    reduce_of(ReduceOp::Sum, value, width, Location::caller())
}

/// Largest value over groups of `width` consecutive lanes (2, 4, 8, 16 or 32).
#[track_caller]
pub fn group_max<T: Exchange>(value: Val<T>, width: usize) -> Val<T> {
    reduce_of(ReduceOp::Max, value, width, Location::caller())
}

/// Bit l is lane l's condition.
#[track_caller]
pub fn ballot(condition: Val<bool>) -> Val<u32> {
    let at = Location::caller();
    let id = condition.id(at);
    Val::record(Op::Ballot(id), at)
}

/// All lanes of the block meet here.
#[track_caller]
pub fn barrier() {
    statement(StmtKind::Barrier);
}

/// All lanes of the warp meet here.
#[track_caller]
pub fn warp_barrier() {
    statement(StmtKind::WarpBarrier);
}

/// Groups of `warps` warps that follow each other meet, each group by itself: for what only its lanes share. All threads
/// of the block reach it or none does: on a target without barriers for a part of a block, the whole block meets. Blocks
/// are whole groups, 15 at most, and a kernel's groups are all of one size.
#[track_caller]
pub fn group_barrier(warps: usize) {
    statement(StmtKind::GroupBarrier { warps });
}

/// Lets the next launch in the stream start now. Nothing on targets without dependent launches.
#[track_caller]
pub fn trigger_dependents() {
    statement(StmtKind::TriggerDependents);
}

/// Waits until what earlier launches stored can be read. Nothing on targets without dependent launches.
#[track_caller]
pub fn wait_for_prerequisites() {
    statement(StmtKind::WaitForPrerequisites);
}

/// This thread's share of `0..n`: `thread_index()`, then every `threads`-th.
#[track_caller]
pub fn strided(n: impl IntoVal<u32>, threads: usize) -> DeviceLoop<u32> {
    let at = Location::caller();
    let start = Val::record(Op::Builtin(Builtin::ThreadIndex), at);
    let end = n.into_val(1, at);
    let step = IntoVal::<u32>::into_val(threads, 1, at);
    DeviceLoop::new(start, end, step, Unroll::Free, at)
}

/// This lane's share of `0..n`: `lane_index()`, then every 32nd.
#[track_caller]
pub fn lane_strided(n: impl IntoVal<u32>) -> DeviceLoop<u32> {
    let at = Location::caller();
    let start = Val::record(Op::Builtin(Builtin::Lane), at);
    let end = n.into_val(1, at);
    let step = IntoVal::<u32>::into_val(32u32, 1, at);
    DeviceLoop::new(start, end, step, Unroll::Free, at)
}

/// `start`, `start + step`, … below `end`, as a loop on the device.
#[track_caller]
pub fn stepped(start: impl IntoVal<u32>, end: impl IntoVal<u32>, step: impl IntoVal<u32>) -> DeviceLoop<u32> {
    let at = Location::caller();
    let start = start.into_val(0, at);
    let end = end.into_val(1, at);
    let step = step.into_val(1, at);
    DeviceLoop::new(start, end, step, Unroll::Free, at)
}

/// A loop that the vendor compiler unrolls by `factor` rounds only: full unrolling would cost too many registers.
#[track_caller]
pub fn unrolled_by(factor: usize, range: std::ops::Range<usize>) -> DeviceLoop<u32> {
    let at = Location::caller();
    if factor == 0 {
        error(
            at,
            "a loop unrolled by 0 rounds",
            "1 round (not unrolled) or more",
            "`unrolled_by(1, …)`",
        );
    }
    counted(range, Unroll::By(factor.max(1) as u32), at)
}

/// A loop that stays a loop in the generated text and that the vendor compiler unrolls fully:
/// its variable may index register arrays.
#[track_caller]
pub fn unrolled(range: std::ops::Range<usize>) -> DeviceLoop<u32> {
    let at = Location::caller();
    counted(range, Unroll::Full, at)
}

/// A loop over comptime bounds that the vendor compiler is told how to unroll.
fn counted(range: std::ops::Range<usize>, unroll: Unroll, at: Location) -> DeviceLoop<u32> {
    let start = IntoVal::<u32>::into_val(range.start, 1, at);
    let end = IntoVal::<u32>::into_val(range.end, 1, at);
    let step = IntoVal::<u32>::into_val(1u32, 1, at);
    DeviceLoop::new(start, end, step, unroll, at)
}
